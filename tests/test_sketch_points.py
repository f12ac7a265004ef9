"""Sketches as points: what of a drawing is read, and what a policy is told of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embodied.data.sketches import Trace, draw
from embodied.encoders import sketch_points
from embodied.encoders.base import hidden
from embodied.encoders.sketch_points import SketchPointsEncoder, read_sketch
from embodied.structs import Condition, Observation, Spec

SPEC = Spec(state_dim=3, action_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), rate_hz=10)
SIZES = {"num_points": 8, "num_tokens": 3, "num_heads": 2}


def encoder(**sizes: int) -> SketchPointsEncoder:
    torch.manual_seed(0)
    made = SketchPointsEncoder(spec=SPEC, obs_horizon=1, dim=16, **{**SIZES, **sizes})
    with torch.no_grad():  # tokens that start as zeros would hide who uses them
        made.absent.normal_()
        made.blank.normal_()
    made.fit_normalizers(Observation(torch.randn(50, 1, 3)), Condition())
    return made


def sketched(
    points: list[list[float]],
    heights: list[float] | None = None,
    size: tuple[int, int] = (64, 64),
    **marks: int,
) -> Tensor:
    """A drawn path as a batch of one, (1, 3, h, w)."""
    levels = np.linspace(0, 1, len(points)) if heights is None else np.array(heights)
    trace = Trace(np.array(points, np.float64), levels, size, **marks)
    return torch.from_numpy(draw(trace).copy()).permute(2, 0, 1)[None]


def paths(count: int, seed: int = 0) -> Tensor:
    """Random walks, (count, 3, 64, 64)."""
    random = np.random.default_rng(seed)
    walks = 32 + random.normal(0, 3, (count, 30, 2)).cumsum(1)
    return torch.cat([sketched(np.clip(walk, 2, 61).tolist()) for walk in walks])


LINE = [[float(x), 20.0] for x in range(10, 51, 10)]  # four segments, to the right


def test_a_line_is_read_as_the_middles_of_its_segments_in_order_of_time() -> None:
    points, kinds, drawn = read_sketch(sketched(LINE, [0.0, 0.1, 0.2, 0.3, 0.4]), num_points=4)
    x, y, time, height = points[0, :4].T
    # Pixel i lies at (2 i + 1) / 64 - 1. Segments are 10 pixels long; lines are 2 wide, and a
    # segment's ends are drawn over by its neighbour, so that a mean may be off by a pixel.
    middles = torch.tensor([15.0, 25.0, 35.0, 45.0])
    torch.testing.assert_close(x, (2 * middles + 1) / 64 - 1, atol=2.1 / 64, rtol=0)
    torch.testing.assert_close(y, torch.full((4,), 41 / 64 - 1), atol=2.1 / 64, rtol=0)
    # Red is (t + 1) / 5 for the segment from point t on, green is the height of its end.
    torch.testing.assert_close(time, torch.tensor([0.2, 0.4, 0.6, 0.8]), atol=2e-3, rtol=0)
    torch.testing.assert_close(height, torch.tensor([0.25, 0.5, 0.75, 1.0]), atol=2e-3, rtol=0)
    assert kinds.tolist() == [0, 0, 0, 0, 1, 2]
    assert drawn[0, :, 0].tolist() == [True] * 4 + [False] * 2


def test_pixels_of_one_moment_become_their_mean() -> None:
    sketch = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    for x, y, red, green in ((1, 0, 100, 51), (3, 2, 100, 153), (7, 3, 200, 255)):
        sketch[0, 0, y, x], sketch[0, 1, y, x] = red, green
    points, _, _ = read_sketch(sketch, num_points=2)
    expected = [
        [(2 * 2 + 1) / 8 - 1, (2 * 1 + 1) / 4 - 1, 100 / 255, 0.4],
        [(2 * 7 + 1) / 8 - 1, (2 * 3 + 1) / 4 - 1, 200 / 255, 1.0],
    ]
    torch.testing.assert_close(points[0, :2], torch.tensor(expected))


def test_points_are_evenly_spread_over_the_moments_and_keep_both_ends() -> None:
    sketch = torch.zeros(1, 3, 1, 9, dtype=torch.uint8)
    sketch[0, 0, 0] = torch.arange(10, 100, 10)
    points, _, _ = read_sketch(sketch, num_points=3)
    torch.testing.assert_close(points[0, :3, 2] * 255, torch.tensor([10.0, 50.0, 90.0]))


def test_a_path_of_few_moments_repeats_them_in_order() -> None:
    points, _, drawn = read_sketch(sketched(LINE), num_points=12)
    time = points[0, :12, 2]
    assert (time.diff() >= 0).all()
    assert set((time * 255).round().int().tolist()) == {51, 102, 153, 204}
    assert drawn[0, :12].all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_time_never_goes_back_and_all_numbers_lie_in_range(seed: int, num_points: int) -> None:
    points, _, drawn = read_sketch(paths(2, seed), num_points)
    assert (points[:, :num_points, 2].diff(dim=1) >= 0).all()
    assert points[..., :2].abs().max() <= 1
    assert points[..., 2:].min() >= 0
    assert points[..., 2:].max() <= 1
    assert drawn[:, :num_points].all()


def test_marks_are_read_where_they_are_and_apart_from_the_path() -> None:
    points, _, drawn = read_sketch(sketched(LINE, closes=0, opens=4), num_points=4)
    assert drawn[0, 4:, 0].tolist() == [True, True]
    # Circles lie about the path's first point (10, 20) and its last, (50, 20).
    expected = torch.tensor([[21 / 64 - 1, 41 / 64 - 1], [101 / 64 - 1, 41 / 64 - 1]])
    torch.testing.assert_close(points[0, 4:, :2], expected, atol=1e-6, rtol=0)
    assert not points[0, 4:, 2:].any()
    only, _, found = read_sketch(sketched(LINE, opens=4), num_points=4)
    assert found[0, 4:, 0].tolist() == [False, True]
    torch.testing.assert_close(only[0, 5], points[0, 5])


def test_a_sketch_without_heights_lies_at_height_zero() -> None:
    flat = draw(Trace(np.array(LINE), np.arange(5.0), (64, 64)), with_height=False)
    points, _, drawn = read_sketch(torch.from_numpy(flat.copy()).permute(2, 0, 1)[None], 4)
    assert not points[0, :4, 3].any()
    assert drawn[0, :4].all()


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (200, 120)])
def test_a_path_drawn_in_an_image_of_any_size_has_the_same_points(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    trace = Trace(20 + 24 * random.random((12, 2)), random.random(12), (64, 64))
    read = [
        read_sketch(torch.from_numpy(draw(each).copy()).permute(2, 0, 1)[None], 11)[0][0, :11]
        for each in (trace.scaled((256, 256)), trace.scaled(size))
    ]
    torch.testing.assert_close(*(x[:, 2:] for x in read))
    gaps = (read[0][:, :2] - read[1][:, :2]).norm(dim=1)
    assert gaps.median() < 2 * 2 / min(size), "two pixels: what is drawn over differs a little"


def test_a_sketch_of_another_memory_layout_gives_the_same() -> None:
    sketch = paths(2)
    wide = torch.zeros(2, 64, 64, 5, dtype=torch.uint8)
    wide[..., 1:4] = sketch.movedim(1, -1)
    view = wide[..., 1:4].movedim(-1, 1)
    assert not view.is_contiguous()
    for one, other in zip(read_sketch(sketch, 8), read_sketch(view, 8), strict=True):
        assert torch.equal(one, other)


def test_mixed_precision_moves_no_point() -> None:
    sketch = sketched([[3.0, 5.0], [201.0, 187.0], [90.0, 33.0]], size=(240, 250), closes=1)
    exact = read_sketch(sketch, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(read_sketch(sketch, 8), exact, strict=True):
            assert torch.equal(one, other)


def test_rows_do_not_see_one_another() -> None:
    made, state = encoder(), torch.randn(4, 1, 3)
    sketch = paths(4)
    sketch[1] = 0  # empty
    present = torch.tensor([True, True, False, True])
    both = Condition(sketch=sketch, present={"sketch": present})
    tokens = made(Observation(state), both)
    assert tokens.shape == (4, 3, 16)
    for row in range(4):
        alone = made(Observation(state[row : row + 1]), both.rows(row, row + 1))
        torch.testing.assert_close(alone[0], tokens[row], atol=1e-5, rtol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    moved = Condition(sketch=sketch[order], present={"sketch": present[order]})
    torch.testing.assert_close(made(Observation(state[order]), moved), tokens[order])


def test_no_sketch_an_empty_one_and_a_hidden_one_say_the_same() -> None:
    made, observation = encoder(), Observation(torch.randn(2, 1, 3))
    told = Condition(sketch=paths(2))
    untold = made(observation, Condition())
    assert torch.equal(untold, made.absent.expand(2, 3, -1))
    empty = Condition(sketch=torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert torch.equal(made(observation, empty), untold)
    assert torch.equal(made(observation, hidden(told, torch.tensor([True, True]))), untold)
    half = made(observation, hidden(told, torch.tensor([True, False])))
    assert torch.equal(half[0], untold[0])
    assert not torch.allclose(half[1], untold[1])


def test_the_order_in_which_points_are_read_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, observation = encoder(), Observation(torch.randn(2, 1, 3))
    told = Condition(sketch=paths(2))
    before = made(observation, told)

    def backwards(sketch: Tensor, num_points: int) -> tuple[Tensor, Tensor, Tensor]:
        points, kinds, drawn = read_sketch(sketch, num_points)
        order = torch.cat([torch.arange(num_points).flip(0), torch.tensor([8, 9])])
        return points[:, order], kinds[order], drawn[:, order]

    monkeypatch.setattr(sketch_points, "read_sketch", backwards)
    torch.testing.assert_close(made(observation, told), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("what", ["time", "height", "place", "mark", "state"])
def test_tokens_tell(what: str) -> None:
    """What differs in one thing alone does not give the same tokens."""
    levels = [0.0, 0.1, 0.2, 0.3, 0.4]
    state = torch.zeros(1, 1, 3)
    told = {
        "time": sketched(LINE[::-1], levels[::-1]),
        "height": sketched(LINE, levels[::-1]),
        "place": sketched([[x, y + 8] for x, y in LINE], levels),
        "mark": sketched(LINE, levels, opens=4),
        "state": sketched(LINE, levels),
    }
    made = encoder()
    seen = made(Observation(state), Condition(sketch=sketched(LINE, levels)))
    other = made(Observation(state + (what == "state")), Condition(sketch=told[what]))
    assert not torch.allclose(seen, other, atol=1e-3)


def test_gradients_reach_every_parameter() -> None:
    made, state = encoder(), torch.randn(3, 1, 3)
    sketch = paths(3)
    sketch[2] = 0
    made(Observation(state), Condition(sketch=sketch)).square().sum().backward()
    for name, parameter in made.named_parameters():
        if name != "kind":
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    made.zero_grad()
    marked = Condition(sketch=sketched(LINE, closes=0, opens=4))
    made(Observation(state[:1]), marked).square().sum().backward()
    assert made.kind.grad is not None
    assert (made.kind.grad.abs().sum(1) > 0).all()


def test_the_newest_state_counts() -> None:
    made, told = encoder(), Condition(sketch=paths(1))
    window = torch.randn(1, 3, 3)
    tokens = made(Observation(window), told)
    assert torch.equal(tokens, made(Observation(window[:, -1:]), told))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_points": 0}, "num_points must be 1 or more, got 0"),
        ({"num_tokens": 0}, "num_tokens must be 1 or more, got 0"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"frequencies": -1}, "frequencies must be 0 or more, got -1"),
        ({"num_heads": 3}, "multiple of num_heads, got 16 and 3"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**sizes)
