"""A policy that acts while it learns: what is recorded, and that a resumed run is the same."""

import functools
import json

import numpy as np
import pytest
import torch

from embodied.checkpoint import CheckpointError
from embodied.data.transitions import Layout, Reward, Trajectory
from embodied.experience import Experience, Mix
from embodied.interaction import Interaction
from embodied.policies.actor import ActorPolicy
from embodied.replay import Replay
from embodied.rewarded_task import assign
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied_envs.point import PointSuite
from embodied_envs.vector import make_vec

SUITE = PointSuite(tasks=("reach-red", "reach-blue"), max_steps=7)
SPEC = Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), rate_hz=10.0)
TOLD = tuple(SUITE.texts(task).canonical for task in SUITE.tasks)


def make_policy():
    torch.manual_seed(0)
    policy = ActorPolicy(spec=SPEC, hidden=(8,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 10)), Condition(), torch.zeros(0, 2))
    return policy


def make_interaction(record, layout, *, num_envs=3, **options):
    policy = make_policy()
    envs = make_vec(SUITE, num_envs)
    actor = Controller(
        policy,
        num_envs,
        action_horizon=layout.action_horizon,
        inference_batch=num_envs,
        explores=True,
    )
    return Interaction(
        actor,
        envs,
        assign=functools.partial(assign, SUITE, 0, 1),
        layout=layout,
        reward=Reward(),
        record=record,
        told=TOLD,
        max_steps=SUITE.max_steps,
        **options,
    )


def test_what_is_recorded_step_by_step_is_what_whole_episodes_hold():
    layout = Layout(10, 2, obs_horizon=2, discount=0.9)
    rows: list[np.ndarray] = []
    interaction = make_interaction(lambda x: rows.append(x.copy()), layout)
    whole: list[np.ndarray] = []
    finish = interaction._finish

    def keep(slot, *, terminated):
        episode = interaction.episodes[slot]
        trajectory = Trajectory(
            np.asarray(episode.states),
            np.asarray(episode.actions),
            np.asarray(episode.rewards, np.float32),
            terminated,
            interaction.told[episode.assignment.instruction],
        )
        whole.append(layout.pack(trajectory, 0, len(trajectory)))
        finish(slot, terminated=terminated)

    interaction._finish = keep
    for _ in range(20):
        interaction.advance()
    found = {row.tobytes() for each in rows for row in each}
    assert len(whole) >= 6
    assert {row.tobytes() for each in whole for row in each} <= found


def test_every_decision_is_recorded_once():
    count = 0

    def record(rows):
        nonlocal count
        count += len(rows)

    interaction = make_interaction(record, Layout(10, 2))
    for _ in range(15):
        interaction.advance()
    assert count == interaction.steps == 45


def test_random_steps_lie_in_the_bounds_and_differ():
    rows: list[np.ndarray] = []
    layout = Layout(10, 2)
    interaction = make_interaction(lambda x: rows.append(x.copy()), layout, random_steps=30)
    for _ in range(10):
        interaction.advance()
    action = layout.batch(torch.from_numpy(np.concatenate(rows)), TOLD).action
    assert action.abs().max() <= 1
    assert len(action[:, 0, 0].unique()) == len(action) == 30


@pytest.mark.parametrize(("num_envs", "stop"), [(1, 4), (3, 5), (3, 12)])
def test_a_resumed_interaction_goes_on_to_the_last_bit(num_envs, stop):
    layout = Layout(10, 2, obs_horizon=2)
    unbroken: list[bytes] = []
    first = make_interaction(lambda x: unbroken.append(x.tobytes()), layout, num_envs=num_envs)
    for _ in range(stop):
        first.advance()
    saved = json.loads(json.dumps(first.state_dict()))
    done = len(unbroken)
    for _ in range(10):
        first.advance()
    resumed: list[bytes] = []
    second = make_interaction(lambda x: resumed.append(x.tobytes()), layout, num_envs=num_envs)
    second.load_state_dict(saved)
    for _ in range(10):
        second.advance()
    assert resumed == unbroken[done:]
    assert second.state_dict() == first.state_dict()


def test_a_simulator_that_does_not_repeat_itself_is_noticed():
    layout = Layout(10, 2)
    first = make_interaction(lambda x: None, layout, num_envs=1)
    for _ in range(3):
        first.advance()
    saved = first.state_dict()
    second = make_interaction(lambda x: None, layout, num_envs=1)
    second.max_steps = 2
    with pytest.raises(RuntimeError, match="E_REPLAY_DIVERGED"):
        second.load_state_dict(saved)


def test_a_replay_buffer_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "replay.f32"
    replay = Replay(3, 10, path=path)
    replay.append(np.ones((2, 3), np.float32))
    saved = replay.state_dict()
    replay.append(np.full((4, 3), 2.0, np.float32))
    again = Replay(3, 10, path=path)
    again.load_state_dict(saved)
    assert len(again) == 2
    again.append(np.full((1, 3), 5.0, np.float32))
    assert again.take(torch.tensor([1, 2])).tolist() == [[1.0] * 3, [5.0] * 3]


def test_a_changed_replay_buffer_is_refused(tmp_path):
    path = tmp_path / "replay.f32"
    replay = Replay(3, 10, path=path)
    replay.append(np.ones((2, 3), np.float32))
    saved = replay.state_dict()
    with path.open("r+b") as file:
        file.seek(5)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match="E_REPLAY_CHANGED"):
        Replay(3, 10, path=path).load_state_dict(saved)


def test_only_the_newest_rows_count_beyond_the_capacity():
    replay = Replay(1, 10, capacity=3)
    replay.append(np.arange(5, dtype=np.float32)[:, None])
    assert len(replay) == 3
    assert replay.take(torch.arange(3))[:, 0].tolist() == [2, 3, 4]


def make_experience(**options):
    layout = Layout(10, 2)
    recorded = torch.full((50, layout.width), 7.0)
    recorded[:, -1] = 0
    return Experience(
        layout,
        TOLD,
        batch_size=8,
        device=torch.device("cpu"),
        recorded=recorded,
        replay=Replay(layout.width, 200),
        interact=lambda record: make_interaction(record, layout, num_envs=1),
        **options,
    )


def share(batch):
    """How many rows are recorded ones, whose states are 7."""
    return int((batch.observation.state[:, 0, 0] == 7).sum())


def test_nothing_new_is_drawn_before_the_policy_acts():
    source = make_experience(offline_steps=3)
    assert [share(next(source)) for _ in range(3)] == [8, 8, 8]
    assert source.interaction is None
    next(source)
    assert source.interaction.steps == 1


def test_half_of_each_batch_is_recorded_in_rlpd():
    source = make_experience(offline_steps=0, mix=Mix(0.5), warmup_steps=5)
    assert [share(next(source)) for _ in range(5)] == [4] * 5


def test_an_annealed_share_falls_in_a_straight_line():
    mix = Mix(1.0, 0.0, 4)
    assert [mix.share(p) for p in (0, 1, 2, 4, 9)] == [1, 0.75, 0.5, 0, 0]


def test_one_buffer_draws_recorded_and_new_alike():
    source = make_experience(offline_steps=0, warmup_steps=50)
    shares = [share(next(source)) for _ in range(60)]
    assert 0.3 < np.mean(shares) / 8 < 0.6  # 50 recorded, 51 to 110 new: 0.38 in the mean


@pytest.mark.parametrize(("updates_per_step", "steps"), [(1, 6), (2, 3), (0.5, 12), (20, 1)])
def test_updates_per_step_are_kept(updates_per_step, steps):
    source = make_experience(offline_steps=0, updates_per_step=updates_per_step)
    for _ in range(6):
        next(source)
    assert source.interaction.steps == steps


def test_a_resumed_source_draws_the_same_batches():
    first = make_experience(offline_steps=2, mix=Mix(0.5))
    for _ in range(6):
        next(first)
    saved = json.loads(json.dumps(first.state_dict()))
    second = make_experience(offline_steps=2, mix=Mix(0.5))
    second.replay.append(first.replay.rows[: first.replay.count].numpy())
    second.load_state_dict(saved)
    for _ in range(5):
        a, b = next(first), next(second)
        assert a.observation.state.equal(b.observation.state)
        assert a.reward.equal(b.reward)


def test_without_data_the_policy_has_to_act_at_once():
    with pytest.raises(ValueError, match="offline_steps=0"):
        Experience(Layout(1, 1), ("go",), batch_size=1, device=torch.device("cpu"))
