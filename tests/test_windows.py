"""Windows: the fast gather against a slow obvious one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.data.windows import Windows
from embodied.structs import Episode, Spec
from embodied.testing import check_episodes


class Recorded:
    """Episodes in memory; each frame's state and action tell where it comes from."""

    def __init__(self, lengths: list[int], fingerprint: str = "a", images: bool = False) -> None:
        cameras = {"top": (2, 3)} if images else {}
        self.spec = Spec(2, 1, (-100.0,), (100.0,), 10.0, cameras)
        self.fingerprint = fingerprint
        self.episodes = [_episode(i, length, images) for i, length in enumerate(lengths)]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)


def _episode(number: int, length: int, images: bool) -> Episode:
    time = np.arange(length, dtype=np.float32)
    state = np.stack([np.full(length, number, np.float32), time], axis=1)
    frames = np.random.default_rng(number).integers(0, 255, (length, 2, 3, 3), np.uint8)
    return Episode(
        state=state,
        action=10 * number + time[:, None],
        expert_action=-(10 * number + time[:, None]),
        instruction=f"text {number % 2}",
        images={"top": frames} if images else {},
        success=number != 1,
    )


def slow_gather(
    lengths: list[int], index: int, obs_horizon: int, pred_horizon: int
) -> tuple[list[list[float]], list[float], list[bool]]:
    """One window, step by step: states, actions, mask."""
    number = 0
    while index >= lengths[number]:
        index -= lengths[number]
        number += 1
    states, actions, mask = [], [], []
    for back in range(obs_horizon - 1, -1, -1):
        states.append([float(number), float(max(index - back, 0))])
    for ahead in range(pred_horizon):
        time = index + ahead
        actions.append(float(10 * number + min(time, lengths[number] - 1)))
        mask.append(time < lengths[number])
    return states, actions, mask


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    obs_horizon=st.integers(1, 4),
    pred_horizon=st.integers(1, 8),
)
def test_no_window_crosses_an_episode(
    lengths: list[int], obs_horizon: int, pred_horizon: int
) -> None:
    windows = Windows.load(Recorded(lengths), label="action")
    index = torch.arange(len(windows))
    batch = windows.gather(index, obs_horizon=obs_horizon, pred_horizon=pred_horizon)
    for i in range(sum(lengths)):
        states, actions, mask = slow_gather(lengths, i, obs_horizon, pred_horizon)
        assert batch.observation.state[i].tolist() == states
        assert batch.action[i, :, 0].tolist() == actions
        assert batch.mask[i].tolist() == mask


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    obs_horizon=st.integers(1, 4),
    pred_horizon=st.integers(1, 8),
)
def test_windows_laid_out_are_the_same(
    lengths: list[int], obs_horizon: int, pred_horizon: int
) -> None:
    horizons = {"obs_horizon": obs_horizon, "pred_horizon": pred_horizon}
    chosen = sorted({0, len(lengths) - 1})
    plain = Windows.load(Recorded(lengths), label="action").select(chosen)
    index = plain.frames()
    ours = plain.laid_out(**horizons).gather(index, **horizons)
    theirs = plain.gather(index, **horizons)
    assert torch.equal(ours.observation.state, theirs.observation.state)
    assert torch.equal(ours.action, theirs.action)
    # Other horizons than those that were laid out are no trouble.
    other = plain.laid_out(**horizons).gather(index, obs_horizon=7, pred_horizon=9)
    assert other.observation.state.shape[1] == 7


def test_a_window_by_hand() -> None:
    windows = Windows.load(Recorded([2, 3]), label="action")
    batch = windows.gather(torch.tensor([3, 0]), obs_horizon=3, pred_horizon=3, past_actions=True)
    # Frame 3 is time 1 of episode 1: one state before it, so the first is repeated once.
    assert batch.observation.state[0].tolist() == [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    assert batch.action[0, :, 0].tolist() == [11.0, 12.0, 12.0]
    assert batch.mask.tolist() == [[True, True, False], [True, True, False]]
    assert batch.observation.action is not None
    assert batch.observation.steps is not None
    assert batch.observation.action[..., 0].tolist() == [[0.0, 10.0], [0.0, 0.0]]
    assert batch.observation.steps.tolist() == [2, 1]
    assert batch.condition.language == ("text 1", "text 0")
    assert batch.action.dtype == batch.observation.state.dtype == torch.float32


def test_texts_are_kept_once() -> None:
    windows = Windows.load(Recorded([1, 2, 1]))
    assert windows.texts == ("text 0", "text 1")
    assert windows.text_index.tolist() == [0, 1, 1, 0]


def test_the_label_chooses_the_target() -> None:
    windows = Windows.load(Recorded([3]), label="expert_action")
    assert windows.columns["action"].flatten().tolist() == [0.0, -1.0, -2.0]
    with pytest.raises(ValueError, match="label must be 'action' or 'expert_action', got 'act'"):
        Windows.load(Recorded([3]), label="act")
    unlabelled = Recorded([3])
    unlabelled.episodes = [replace(unlabelled[0], expert_action=None)]
    with pytest.raises(ValueError, match=r"'expert_action' is not recorded .* label='action'"):
        Windows.load(unlabelled)


def test_episodes_are_drawn_equally_often_and_so_are_the_frames_of_one() -> None:
    windows = Windows.load(Recorded([2, 6]))
    frames = windows.draw(24000, torch.Generator().manual_seed(0))
    # Half of the draws for each episode: 6000 for each frame of the first, 2000 of the second.
    expected = torch.tensor([6000] * 2 + [2000] * 6)
    # Four standard deviations of the likelier count, sqrt(24000 / 4 * 3 / 4) = 67.
    assert (torch.bincount(frames, minlength=8) - expected).abs().max() < 270


def test_empty_episodes_leave_no_trace() -> None:
    windows = Windows.load(Recorded([2, 0, 1]), label="action")
    assert windows.columns["action"].flatten().tolist() == [0.0, 1.0, 20.0]
    assert windows.last.tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="none of 1 episodes can be trained on"):
        Windows.load(Recorded([0]))


def test_images_come_channels_first_and_from_the_same_frames_as_the_state() -> None:
    episodes = Recorded([4], images=True)
    batch = Windows.load(episodes).gather(torch.tensor([2]), obs_horizon=2, pred_horizon=1)
    assert batch.observation.images["top"].shape == (1, 2, 3, 2, 3)
    expected = np.moveaxis(episodes[0].images["top"][1:3], -1, 1)
    np.testing.assert_array_equal(batch.observation.images["top"][0].numpy(), expected)


def test_lengths_and_instructions_must_pair() -> None:
    with pytest.raises(ValueError, match="2 episodes but 1 instructions"):
        Windows({"state": torch.zeros(3, 1)}, torch.tensor([1, 2]), ["go"])


def test_recorded_episodes_keep_the_contract() -> None:
    check_episodes(Recorded([3, 1], images=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full((3, 1), 101, np.float32)}, "actions leave the spec's bounds"),
        ({"state": np.zeros((3, 2))}, "state must be float32, got float64"),
        ({"state": np.zeros((2, 2), np.float32)}, r"must have shape \(3, 2\), got \(2, 2\)"),
        ({"reward": np.full(3, np.nan, np.float32)}, "reward holds values that are not finite"),
        ({"instruction": ""}, "has no instruction"),
        ({"images": {"side": np.zeros((3, 2, 3, 3), np.uint8)}}, "cameras {'side'}"),
    ],
)
def test_the_contract_catches_an_episode_that_breaks_it(
    change: dict[str, object], message: str
) -> None:
    episodes = Recorded([3])
    episodes.episodes = [replace(episodes[0], **change)]  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=message):
        check_episodes(episodes)


def test_any_rewording_may_be_given_and_by_default_the_recorded_one() -> None:
    words = {"text 0": ("text 0", "go", "move"), "text 1": ("stop",)}
    windows = Windows.load(Recorded([2, 2]), rewordings=words)
    assert windows.texts == ("text 0", "text 1", "go", "move", "stop")
    index, horizons = torch.tensor([0, 1, 0, 2, 3]), {"obs_horizon": 1, "pred_horizon": 1}
    recorded = windows.gather(index, **horizons)
    assert recorded.condition.language == ("text 0", "text 0", "text 0", "text 1", "text 1")
    drawn = windows.gather(index, wording=torch.tensor([0.0, 0.5, 0.999, 0.0, 0.999]), **horizons)
    assert drawn.condition.language == ("text 0", "go", "move", "stop", "stop")
