"""Early fusion and FiLM: a network with them begins as the one without, and absence is zeros."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.image import ImageEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.heads.edm import EDMHead
from embodied.networks.vision import ResNet
from embodied.noise import BatchNoise, seeded
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_policy

CPU = torch.device("cpu")
SPEC = Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"top": (24, 32), "wrist": (16, 16)})
BOTH = {"sketch": "top", "goal_image": "top"}
SMALL = (8, 16, 16)
ROWS = 3


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.randint(256, shape, generator=seeded(0, seed, CPU), dtype=torch.uint8)


def observe(steps: int = 1) -> Observation:
    images = {
        name: pixels(i, ROWS, steps, 3, *size)
        for i, (name, size) in enumerate(SPEC.cameras.items())
    }
    return Observation(torch.zeros(ROWS, steps, 1), images)


def goal() -> Observation:
    return Observation(torch.zeros(ROWS, 1, 0), {"top": pixels(8, ROWS, 1, 3, 24, 32)})


SKETCH = pixels(7, ROWS, 3, 24, 32)
ASKED = Condition(language=("left", "right", "up"), goal=goal(), sketch=SKETCH)


def encoder(*, trained: bool = False, **options: Any) -> ImageEncoder:
    """With `trained`, what begins at zero has got other weights."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"spec": SPEC, "obs_horizon": 1, "dim": 8, "channels": SMALL}
    built = ImageEncoder(**settings | options)
    if trained:
        for i, (name, x) in enumerate(built.named_parameters()):
            if "extra" in name or "films" in name:
                torch.nn.init.normal_(x, std=0.2, generator=seeded(1, i, CPU))
    return built


def noise() -> BatchNoise:
    return BatchNoise(seeded(3, 0, CPU))


@pytest.mark.parametrize("early", [{"sketch": "top"}, {"goal_image": "top"}, BOTH])
def test_the_first_forward_pass_equals_that_of_the_network_without_sketches(
    early: dict[str, str],
) -> None:
    plain, fused = encoder(), encoder(early=early)
    assert torch.equal(fused(observe(), ASKED), plain(observe(), Condition()))
    moved = plain(observe(), Condition(), noise=noise())
    assert torch.equal(fused(observe(), ASKED, noise=noise()), moved)


def test_the_first_loss_of_a_whole_policy_equals_that_without_sketches() -> None:
    batch = Batch(observe(), ASKED, torch.zeros(ROWS, 4, 2), torch.ones(ROWS, 4).bool())
    losses = [policy(early=early).loss(batch, noise=noise())[0] for early in (None, BOTH)]
    assert torch.equal(*losses)


def test_the_new_weights_learn_from_the_first_step_on() -> None:
    fused = encoder(early=BOTH)
    fused(observe(), ASKED).square().sum().backward()
    extra = fused.networks[0].extra
    assert isinstance(extra, Tensor)
    assert extra.grad is not None
    assert (extra.grad.flatten(2).abs().amax((0, 2)) > 0).tolist() == [True] * 6


def test_each_drawing_enters_beside_the_camera_that_it_is_told_to() -> None:
    fused = encoder(trained=True, early={"sketch": "top"}, obs_horizon=2)
    other = Condition(sketch=255 - SKETCH)
    tokens, changed = fused(observe(2), Condition(sketch=SKETCH)), fused(observe(2), other)
    same = torch.isclose(tokens, changed).all(-1)
    assert same.tolist() == [[False, False, True, True]] * ROWS  # two steps of top, two of wrist


def test_absence_is_zeros_however_it_is_told() -> None:
    fused = encoder(trained=True, early=BOTH)
    nothing = fused(observe(), Condition())
    false = torch.zeros(ROWS).bool()
    told = Condition(goal=goal(), sketch=SKETCH, present={"sketch": false, "goal_image": false})
    assert torch.equal(fused(observe(), told), nothing)
    grey = encoder(trained=True, early={"sketch": "top"})
    blank = grey(observe(), Condition(sketch=torch.zeros_like(SKETCH)))
    assert torch.equal(blank, grey(observe(), Condition()))


def test_rows_with_and_without_a_sketch_mix() -> None:
    fused = encoder(trained=True, early=BOTH)
    some = torch.tensor([True, False, True])
    mixed = fused(observe(), Condition(goal=goal(), sketch=SKETCH, present={"sketch": some}))
    every = fused(observe(), Condition(goal=goal(), sketch=SKETCH))
    none = fused(observe(), Condition(goal=goal()))
    torch.testing.assert_close(mixed, torch.where(some[:, None, None], every, none))
    assert not torch.allclose(every[1], none[1])


def test_sketch_and_image_move_together() -> None:
    """What was moved together needs no other answer than the same scene seen from elsewhere."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor, extra: Tensor, words: None) -> Tensor:
            seen.append((x, extra))
            return torch.zeros(len(x), SMALL[-1], 2, 2)

    fused = encoder(early=BOTH, cameras=["top"], shift=4)
    fused.networks[0] = Spy()
    image = pixels(5, ROWS, 1, 3, 24, 32)
    alike = Condition(goal=Observation(torch.zeros(ROWS, 1, 0), {"top": image}), sketch=image[:, 0])
    fused(Observation(torch.zeros(ROWS, 1, 1), {"top": image}), alike, noise=noise())
    ((x, extra),) = seen
    sketch, target = extra.split(3, dim=1)
    assert not torch.equal(x, image[:, 0].float() / 127.5 - 1)
    assert torch.equal(target, x)
    torch.testing.assert_close(2 * sketch - 1, x, atol=1e-6, rtol=0)


def test_a_policy_that_takes_sketches_keeps_the_contract() -> None:
    fused = policy(early=BOTH)
    batch = Batch(observe(), ASKED, torch.rand(ROWS, 4, 2) - 0.5, torch.ones(ROWS, 4).bool())
    check_policy(fused, batch)


def policy(**options: Any) -> ChunkPolicy:
    parts: dict[str, Any] = {
        "image": functools.partial(ImageEncoder, channels=SMALL, shift=2, **options),
        "state": StateEncoder,
    }
    torch.manual_seed(0)
    built = ChunkPolicy(
        spec=SPEC,
        encoder=functools.partial(TokenEncoder, parts),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        dim=16,
    )
    states = Observation(torch.rand(9, 1, 1))
    built.fit_normalizers(states, Condition(language=ASKED.language), torch.rand(9, 2) * 2 - 1)
    return built


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"early": {"sketch": "side"}}, r"one of the cameras \['top', 'wrist'\]"),
        ({"early": {"depth": "top"}}, r"early must map any of \('sketch', 'goal_image'\)"),
    ],
)
def test_what_cannot_be_fused_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(**options)


def test_a_sketch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the sketch must be \(24, 32\) pixels"):
        encoder(early={"sketch": "top"})(observe(), Condition(sketch=SKETCH[..., :16]))


class TestFiLM:
    @pytest.fixture(autouse=True)
    def words(self, fake_language: None) -> None: ...

    def built(self, *, trained: bool = False) -> ImageEncoder:
        built = encoder(trained=trained, film=LanguageEncoder)
        built.fit_normalizers(observe(), ASKED)
        return built

    def test_the_first_forward_pass_does_not_hear_the_words(self) -> None:
        assert torch.equal(self.built()(observe(), ASKED), encoder()(observe(), Condition()))

    def test_words_change_their_own_row_alone(self) -> None:
        film = self.built(trained=True)
        told = film(observe(), Condition(language=("left", "right", "up")))
        other = film(observe(), Condition(language=("left", "down", "up")))
        same = torch.isclose(told, other, atol=1e-6).flatten(1).all(1)
        assert same.tolist() == [True, False, True]

    def test_a_policy_with_words_in_its_stages_keeps_the_contract(self) -> None:
        batch = Batch(observe(), ASKED, torch.rand(ROWS, 4, 2) - 0.5, torch.ones(ROWS, 4).bool())
        check_policy(policy(film=LanguageEncoder), batch)

    def test_scale_and_shift_are_linear_in_the_words(self) -> None:
        network = ResNet((8, 8), film_dim=1)
        plain = network(torch.ones(1, 3, 8, 8), None, torch.zeros(1, 1))
        with torch.no_grad():
            network.films[0].weight.copy_(torch.tensor([[2.0]] * 8 + [[5.0]] * 8))
        found = network(torch.ones(1, 3, 8, 8), None, torch.full((1, 1), 0.5))
        torch.testing.assert_close(found, (1 + 2.0 * 0.5) * plain + 5.0 * 0.5)
