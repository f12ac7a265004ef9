"""Fresh segments: what is handed out, whole runs on them, and that they resume to the last bit."""

import functools
import json

import numpy as np
import pytest
import torch

from embodied.data.transitions import Layout, Reward
from embodied.experiment import train
from embodied.interaction import Interaction
from embodied.loggers import read_jsonl
from embodied.policies.actor import ActorPolicy
from embodied.rewarded_task import assign
from embodied.rollout import Controller
from embodied.segments import Segments
from embodied.structs import Condition, Observation, Spec
from embodied.targets import ConfigError
from embodied.trainer import Trainer
from embodied_envs.reach import STEP, Reach
from embodied_envs.vector import make_vec
from scripts.drill import differences
from tests.conftest import POINT, compose_config

SUITE = Reach(max_steps=5)
SPEC = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), rate_hz=10.0)


def make_segments(*, num_envs=2, num_steps=8, envs=None, **options):
    torch.manual_seed(0)
    policy = ActorPolicy(spec=SPEC, kind="clipped", hidden=(8,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 4)), Condition(), torch.zeros(0, 2))

    def interact(watch):
        return Interaction(
            Controller(policy, num_envs, action_horizon=1, inference_batch=num_envs, explores=True),
            envs or make_vec(SUITE, num_envs),
            assign=functools.partial(assign, SUITE, 0, 1),
            layout=Layout(4, 2),
            reward=Reward(),
            record=None,
            told=("go to the mark",),
            max_steps=SUITE.max_steps,
            watch=watch,
            **options,
        )

    return Segments(
        num_envs=num_envs,
        num_steps=num_steps,
        discount=0.9,
        device=torch.device("cpu"),
        interact=interact,
    )


def test_rows_are_the_steps_of_each_environment_in_order():
    batch = next(make_segments())
    state, after = batch.observation.state[:, 0], batch.next_observation.state[:, 0]
    assert len(state) == 16
    # Episodes of five steps: five, and three of the next, twice.
    assert batch.continues.tolist() == ([True] * 4 + [False] + [True] * 2 + [False]) * 2
    follows = batch.continues.nonzero()[:, 0]
    assert after[follows].equal(state[follows + 1])
    assert batch.discount.tolist() == pytest.approx([0.9] * 16)  # cut off, and not terminated
    moved = state[:, :2] + STEP * batch.action[:, 0].clamp(-1, 1)
    assert torch.allclose(after[:, :2], moved.clamp(-1, 1), atol=1e-6)
    assert torch.allclose(batch.reward, -(after[:, :2] - after[:, 2:]).norm(dim=-1), atol=1e-5)


def test_actions_are_handed_out_as_they_were_drawn():
    action = next(make_segments(num_steps=40)).action
    assert action.abs().max() > 1.5  # of a standard normal, 80 draws of two


def test_a_success_that_ends_an_episode_has_no_value_after_it():
    source = make_segments(num_envs=4, num_steps=200, ends_at_success=True)
    batch = next(source)
    after = batch.next_observation.state[:, 0]
    near = (after[:, :2] - after[:, 2:]).norm(dim=-1) <= 0.1
    assert near.any()
    assert batch.discount.equal(0.9 * (~near).float())
    assert not batch.continues[near].any()


class Flaky:
    """Environments of which one slot is unstable at the third step."""

    def __init__(self, envs):
        self._envs, self._count = envs, 0

    def __getattr__(self, name):
        return getattr(self._envs, name)

    def step(self, action):
        self._count += 1
        *result, info = self._envs.step(action)
        if self._count == 3:
            info = {**info, "unstable": np.array([True, False])}
        return (*result, info)


def test_an_episode_that_was_given_up_is_not_joined_to_the_next():
    batch = next(make_segments(num_steps=4, envs=Flaky(make_vec(SUITE, 2))))
    assert batch.continues.tolist() == [True, False, False, True, True, True, False]


def test_a_resumed_source_goes_on_to_the_last_bit():
    first = make_segments(num_steps=3)
    next(first)
    saved = json.loads(json.dumps(first.state_dict()))
    second = make_segments(num_steps=3)
    second.load_state_dict(saved)
    for _ in range(3):
        a, b = next(first), next(second)
        assert a.observation.state.equal(b.observation.state)
        assert a.action.equal(b.action)
        assert a.continues.equal(b.continues)


def test_an_objective_that_is_not_measured_is_named():
    with pytest.raises(KeyError, match=r"not \['speed'\].*source\.objectives"):
        next(make_segments(objectives=["speed"]))


# Whole runs

TINY = (
    *POINT,
    "~policy.dim",
    "~policy.encoder",
    "~policy.head",
    "policy.hidden=[8]",
    "algorithm.value_hidden=[8]",
    "source.num_envs=2",
    "source.num_steps=7",
    "train.batch_size=4",
    "eval.every=2",
    "eval.episodes=2",
)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("name", ["ppo", "mdpo"])
def test_a_killed_run_goes_on_to_the_last_bit(name, tmp_path, monkeypatch):
    def composed(run):
        return compose_config(*TINY, f"algorithm={name}", f"run_dir={tmp_path / run}")

    train(composed("unbroken"))
    save = Trainer.save

    def save_and_die(self):
        save(self)
        if self.step == 4:
            monkeypatch.setattr(Trainer, "save", save)
            raise Killed

    monkeypatch.setattr(Trainer, "save", save_and_die)
    with pytest.raises(Killed):
        train(composed("killed"))
    assert train(composed("killed")) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
    rows = read_jsonl(tmp_path / "killed" / "metrics.jsonl")
    assert [row["online/steps"] for row in rows if "online/steps" in row] == [
        14.0 * k for k in range(1, 7)
    ]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("source.num_steps=0", r"source\.num_steps must be at least 1.*0"),
        ("eval.action_horizon=2", r"eval\.action_horizon=1, got 2"),
        ("source.reward.of=joy", "reward.of.*'joy'"),
        ("algorithm.min_step_size=0", r"min_step_size.*\(0, 1\], got 0"),
    ],
)
def test_a_mistake_is_named_with_its_value(override, named, tmp_path):
    config = compose_config(*TINY, "algorithm=mdpo", f"run_dir={tmp_path}", override)
    with pytest.raises((ConfigError, ValueError), match=named):
        train(config)


@pytest.mark.slow  # a training
def test_a_point_learns_to_come_to_its_mark(tmp_path):
    """16,000 steps: from about -40 to better than -20; a perfect controller has about -12."""
    config = compose_config(
        "task=reach",
        "algorithm=ppo",
        f"run_dir={tmp_path}",
        "device=cpu",
        "policy.hidden=[32]",
        "algorithm.value_hidden=[32]",
        "algorithm.learning_rate=0.003",
        "algorithm.epochs=5",
        "source.num_envs=16",
        "source.num_steps=40",
        "source.discount=0.95",
        "train.batch_size=160",
        "train.steps=25",
        "train.save_every=100",
        "protocol.goals_per_task=20",
        "env.workers=0",
        "video.per_task=0",
    )
    train(config)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    curve = [row["online/return"] for row in rows if "online/return" in row]
    assert curve[0] < -30
    assert curve[-1] > -20
