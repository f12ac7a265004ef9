"""Goals in hindsight: the laws that they are drawn by, and what windows make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.data.goals import Goals
from embodied.data.windows import Windows
from embodied.sources import Offline
from tests.test_windows import Recorded

DRAWS = 40_000


def drawn(goals: Goals, lengths: list[int], frame: int, size: int = DRAWS) -> torch.Tensor:
    windows = Windows.load(Recorded(lengths), label="action")
    index = torch.full((size,), frame)
    return goals.draw(windows, index, torch.Generator().manual_seed(0))


def check_law(found: torch.Tensor, expected: dict[int, float]) -> None:
    """Frequencies within five standard deviations, and nothing else."""
    counts = torch.bincount(found, minlength=max(expected) + 1).tolist()
    assert {i for i, count in enumerate(counts) if count} == {i for i, p in expected.items() if p}
    for frame, p in expected.items():
        deviation = (DRAWS * p * (1 - p)) ** 0.5
        assert abs(counts[frame] - DRAWS * p) <= 5 * deviation + 1


def test_later_frames_are_equally_likely() -> None:
    # Episode 1 is frames 3 to 8; from frame 4 on, 5, 6, 7 and 8 are left.
    check_law(drawn(Goals(), [3, 6, 2], 4), dict.fromkeys(range(5, 9), 0.25))


def test_geometric_goals_are_geometric_and_pile_up_at_the_end() -> None:
    goals = Goals(geom_sample=True, discount=0.5)
    # One step ahead 1/2, two 1/4, three 1/8; and all that would be beyond the end at the end.
    check_law(drawn(goals, [3, 6], 4), {5: 1 / 2, 6: 1 / 4, 7: 1 / 8, 8: 1 / 8})


def test_the_mean_distance_of_geometric_goals_is_the_horizon_of_the_discount() -> None:
    goals = Goals(geom_sample=True, discount=0.9)
    distance = drawn(goals, [1000], 0).double()
    # Mean 1 / (1 - 0.9) = 10, deviation sqrt(0.9) / 0.1 = 9.5 for one, 0.047 for the mean.
    assert abs(float(distance.mean()) - 10) < 0.24


def test_current_final_and_random_goals() -> None:
    check_law(drawn(Goals(p_curgoal=1, p_trajgoal=0), [3, 6], 4), {4: 1.0})
    check_law(drawn(Goals(p_finalgoal=1, p_trajgoal=0), [3, 6], 4), {8: 1.0})
    everywhere = dict.fromkeys(range(9), 1 / 9)
    check_law(drawn(Goals(p_randomgoal=1, p_trajgoal=0), [3, 6], 4), everywhere)


def test_kinds_mix_in_their_probabilities() -> None:
    goals = Goals(p_curgoal=0.2, p_trajgoal=0.5, p_randomgoal=0.3)
    # Frame 0 of 2 episodes with 2 and 3 frames: itself, frame 1 as the only later one, or any.
    found = {0: 0.2 + 0.06, 1: 0.5 + 0.06, 2: 0.06, 3: 0.06, 4: 0.06}
    check_law(drawn(goals, [2, 3], 0), found)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    geom_sample=st.booleans(),
    discount=st.floats(0.01, 0.999),
)
@settings(max_examples=15, deadline=None)
def test_no_goal_of_a_trajectory_leaves_it(
    lengths: list[int], geom_sample: bool, discount: float
) -> None:
    windows = Windows.load(Recorded(lengths), label="action")
    index = torch.arange(len(windows)).repeat(50)
    goals = Goals(geom_sample=geom_sample, discount=discount)
    found = goals.draw(windows, index, torch.Generator().manual_seed(1))
    last = windows.last[index]
    assert bool(((found > index) | (index == last)).all())
    assert bool((found <= last).all())


def test_random_goals_stay_among_the_episodes_drawn_from() -> None:
    windows = Windows.load(Recorded([2, 3, 4]), label="action").select([0, 2])
    goals = Goals(p_randomgoal=1, p_trajgoal=0)
    index = torch.zeros(DRAWS, dtype=torch.int64)
    found = goals.draw(windows, index, torch.Generator().manual_seed(0))
    check_law(found, dict.fromkeys((0, 1, 5, 6, 7, 8), 1 / 6))


@pytest.mark.parametrize(
    "wrong",
    [{"p_trajgoal": 0.5}, {"p_curgoal": 0.1}, {"p_curgoal": -0.5, "p_randomgoal": 0.5}],
)
def test_probabilities_must_add_up_to_one(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"0 or more and add up to 1, got .*p_trajgoal"):
        Goals(**wrong)  # type: ignore[arg-type]


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discount must lie in \(0, 1\), got 1"):
        Goals(discount=1.0)
    with pytest.raises(ValueError, match="state, images or both"):
        Goals(state=False, images=False)


def test_the_goal_is_what_was_seen_at_its_frame() -> None:
    episodes = Recorded([4, 3], images=True)
    windows = Windows.load(episodes)
    batch = windows.gather(
        torch.tensor([1, 5]), obs_horizon=2, pred_horizon=1, goal=torch.tensor([3, 6])
    )
    goal = batch.condition.goal
    assert goal is not None
    assert goal.state.tolist() == [[[0.0, 3.0]], [[1.0, 2.0]]]
    expected = np.moveaxis(episodes[1].images["top"][2:3], -1, 1)
    np.testing.assert_array_equal(goal.images["top"][1].numpy(), expected)
    assert all(present.tolist() == [True, True] for present in batch.condition.present.values())
    assert batch.condition.present.keys() == {"goal_state", "goal_image"}


def test_parts_of_a_goal_that_are_not_given_are_not_seen() -> None:
    windows = Windows.load(Recorded([4], images=True))
    index, horizons = torch.tensor([1]), {"obs_horizon": 1, "pred_horizon": 1}
    for parts, state_dim, cameras in ((("state",), 2, set()), (("images",), 0, {"top"})):
        batch = windows.gather(index, **horizons, goal=index, goal_parts=parts)
        assert batch.condition.goal is not None
        assert batch.condition.goal.state.shape == (1, 1, state_dim)
        assert batch.condition.goal.images.keys() == cameras
        present = {name: bool(x) for name, x in batch.condition.present.items()}
        assert present == {"goal_state": state_dim > 0, "goal_image": bool(cameras)}


def test_goals_depend_on_seed_and_position_alone() -> None:
    windows = Windows.load(Recorded([5, 7]), label="action")

    def source(seed: int = 0) -> Offline:
        horizons = {"obs_horizon": 1, "pred_horizon": 1}
        return Offline(windows, batch_size=8, goals=Goals(), seed=seed, **horizons)

    def goals(each: Offline) -> list[float]:
        goal = next(each).condition.goal
        assert goal is not None
        return goal.state.flatten().tolist()

    first, second = source(), source()
    before = [goals(first) for _ in range(3)]
    second.load_state_dict({"position": 2, "seed": 0})
    assert goals(second) == before[2]
    assert goals(source(1)) != before[0]
    halves = [source().split(rank, 2) for rank in range(2)]
    assert goals(halves[0]) + goals(halves[1]) == before[0]
