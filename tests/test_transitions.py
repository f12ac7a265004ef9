import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.data.transitions import (
    Layout,
    Reward,
    Trajectory,
    recorded,
    returns_to_go,
    succeeded,
)
from embodied.structs import Episode

TOLD = ("go",)


def trajectory(length, *, terminated=False, final=True):
    """State t is [t, 10 t], action t is [t], reward t is 1 + t."""
    t = np.arange(length + final, dtype=np.float32)
    steps = np.arange(length, dtype=np.float32)
    return Trajectory(np.stack([t, 10 * t], 1), steps[:, None], 1 + steps, terminated)


def batch(layout, episode, **options):
    rows = layout.pack(episode, 0, layout.complete(episode), **options)
    return layout.batch(torch.from_numpy(rows), TOLD)


def test_a_step_is_state_action_reward_and_next_state():
    found = batch(Layout(2, 1, discount=0.9), trajectory(3))
    assert found.observation.state[:, 0, 0].tolist() == [0, 1, 2]
    assert found.action[:, 0, 0].tolist() == [0, 1, 2]
    assert found.reward.tolist() == [1, 2, 3]
    assert found.next_observation.state[:, 0, 1].tolist() == [10, 20, 30]
    assert found.condition.language == ("go",) * 3


def test_a_termination_stops_the_bootstrap_and_a_cut_does_not():
    layout = Layout(2, 1, discount=0.9)
    assert batch(layout, trajectory(3)).discount.tolist() == pytest.approx([0.9] * 3)
    ended = batch(layout, trajectory(3, terminated=True))
    assert ended.discount.tolist() == pytest.approx([0.9, 0.9, 0])


def test_a_cut_whose_last_state_nobody_recorded_loses_what_led_there():
    layout = Layout(2, 1)
    assert layout.complete(trajectory(3, final=False)) == 2
    assert layout.complete(trajectory(3, final=False, terminated=True)) == 3
    assert Layout(2, 1, pred_horizon=2).complete(trajectory(3, final=False)) == 2
    whole = Layout(2, 1, pred_horizon=2, action_horizon=2)
    assert whole.complete(trajectory(3, final=False)) == 1


def test_a_chunk_sums_discounted_rewards_and_bootstraps_after_its_last_step():
    found = batch(Layout(2, 1, pred_horizon=2, action_horizon=2, discount=0.5), trajectory(3))
    assert found.reward.tolist() == [1 + 0.5 * 2, 2 + 0.5 * 3, 3]
    assert found.discount.tolist() == [0.25, 0.25, 0.5]
    assert found.next_observation.state[:, 0, 0].tolist() == [2, 3, 3]
    assert found.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert found.action[:, :, 0].tolist() == [[0, 1], [1, 2], [2, 2]]


def test_a_chunk_of_which_one_action_is_executed_earns_what_that_one_did():
    found = batch(Layout(2, 1, pred_horizon=3, action_horizon=1, discount=0.5), trajectory(3))
    assert found.reward.tolist() == [1, 2, 3]
    assert found.discount.tolist() == [0.5] * 3
    assert found.action[:, :, 0].tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2]]
    assert found.mask.sum(1).tolist() == [3, 2, 1]


def test_no_more_actions_are_executed_than_predicted():
    with pytest.raises(ValueError, match=r"action_horizon must lie in \[1, 2\].*3"):
        Layout(2, 1, pred_horizon=2, action_horizon=3)


def test_windows_repeat_the_first_state():
    found = batch(Layout(2, 1, obs_horizon=3), trajectory(3))
    assert found.observation.state[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    assert found.next_observation.state[:, :, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3]]


@given(
    length=st.integers(1, 12),
    obs_horizon=st.integers(1, 3),
    pred_horizon=st.integers(1, 4),
    beyond=st.integers(0, 2),
    terminated=st.booleans(),
)
def test_values_of_any_chunking_obey_the_same_return(
    length, obs_horizon, pred_horizon, beyond, terminated
):
    """r + discount * G(next) must be G, whatever the chunk, if G is the return."""
    layout = Layout(2, 1, obs_horizon, pred_horizon + beyond, pred_horizon, discount=0.9)
    episode = trajectory(length, terminated=terminated)
    returns = np.append(returns_to_go(episode.reward, 0.9), 0.0)
    found = batch(layout, episode)
    now = found.observation.state[:, -1, 0].long()
    after = found.next_observation.state[:, -1, 0].long()
    value = found.reward + found.discount * torch.from_numpy(returns)[after]
    assert torch.allclose(value.float(), torch.from_numpy(returns)[now].float(), rtol=1e-5)


def test_returns_to_go_count_the_last_reward_forever_where_asked():
    # An episode of -1s that never reached its goal: -1 / (1 - 0.9) = -10 at every step.
    found = returns_to_go(np.full(4, -1, np.float32), 0.9, tail=-10.0)
    assert np.allclose(found, -10)


def episode(reward, *, success=False, extras=None, terminated=False, instruction="go"):
    length = len(reward)
    states = np.arange(length, dtype=np.float32)[:, None]
    return Episode(
        state=states,
        action=states,
        instruction=instruction,
        reward=np.asarray(reward, np.float32),
        success=success,
        terminated=terminated,
        extras=extras or {},
        final={"state": np.float32([length])},
    )


def test_success_is_the_recorded_one_or_that_of_the_last_step():
    assert succeeded(episode([0, 0, 0], success=True)).tolist() == [False, False, True]
    noted = episode([0, 0, 0], success=True, extras={"success": np.array([[0], [1], [0]])})
    assert succeeded(noted).tolist() == [False, True, False]


def test_rewards_are_scaled_so_that_returns_span_a_range():
    reward = Reward(return_range=1000.0, shift=-1.0).fitted([episode([1, 1]), episode([3, 3])])
    assert reward.scale == pytest.approx(1000 / 4)
    assert reward.earned(episode([1, 2])).tolist() == [249, 499]


def test_equal_returns_cannot_span_a_range():
    with pytest.raises(ValueError, match=r"E_DATA_REWARD.*return_range"):
        Reward(return_range=1.0).fitted([episode([1, 1]), episode([1, 1])])


def test_episodes_without_rewards_are_refused_unless_success_is_asked_for():
    bare = Episode(
        state=np.zeros((2, 1), np.float32),
        action=np.zeros((2, 1), np.float32),
        instruction="go",
        success=True,
    )
    with pytest.raises(ValueError, match="E_DATA_REWARD"):
        Reward().earned(bare)
    assert Reward(of="success", shift=-1.0).earned(bare).tolist() == [-1, 0]


def test_recorded_rows_keep_their_instructions():
    layout = Layout(1, 1)
    rows, told = recorded([episode([1, 1]), episode([1], instruction="stop")], layout, Reward())
    assert told == ("go", "stop")
    assert layout.batch(torch.from_numpy(rows), told).condition.language == ("go", "go", "stop")


def test_endless_returns_need_an_episode_that_was_cut_off():
    layout, reward = Layout(1, 1, discount=0.9), Reward(endless=True)
    cut, _ = recorded([episode([-1, -1])], layout, reward)
    ended, _ = recorded([episode([-1, -1], terminated=True)], layout, reward)
    returns = [layout.batch(torch.from_numpy(x), TOLD).return_to_go.tolist() for x in (cut, ended)]
    assert returns == [pytest.approx([-10, -10]), pytest.approx([-1.9, -1])]
