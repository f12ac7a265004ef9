"""A trusted policy begins, and the learning one takes over where a lower bound lets it."""

import functools
import json

import numpy as np
import pytest
import torch

from embodied.data.transitions import Layout, Reward
from embodied.handover import HandOver
from embodied.interaction import Interaction
from embodied.policies.actor import ActorPolicy
from embodied.rewarded_task import assign
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied_envs.reach import Reach
from embodied_envs.vector import make_vec

SUITE = Reach(max_steps=6)
SPEC = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), rate_hz=10.0)


class Constant(ActorPolicy):
    """Always the same action, with noise while it explores."""

    def __init__(self, action):
        super().__init__(spec=SPEC, hidden=(4,), normalize=False)
        self.fit_normalizers(Observation(torch.zeros(0, 1, 4)), Condition(), torch.zeros(0, 2))
        self.constant = action

    def explore(self, observation, condition, *, noise):
        rows = len(observation.state)
        jitter = noise.normal(rows, 2, device=observation.state.device)
        return (self.constant + 0.01 * jitter)[:, None]


def make(values, trusted_values, *, num_envs=2, threshold=None, **options):
    def controller(action):
        return Controller(
            Constant(action), num_envs, action_horizon=1, inference_batch=num_envs, explores=True
        )

    actor = HandOver(
        controller(0.5), controller(-0.5), values=values, trusted_values=trusted_values, **options
    )
    return Interaction(
        actor,
        make_vec(SUITE, num_envs),
        assign=functools.partial(assign, SUITE, 0, 1),
        layout=Layout(4, 2),
        reward=Reward(),
        record=None,
        told=("go to the mark",),
        max_steps=SUITE.max_steps,
        threshold=threshold,
    )


def always(*members):
    """Critics that give these values everywhere."""
    return lambda s, a: torch.tensor(members)[:, None].expand(-1, len(s))


def run(interaction, decisions=6):
    """Signs of the first action component, (decisions, N): 1 is the learning policy."""
    signs = []
    for _ in range(decisions):
        interaction.advance()
        signs.append([np.sign(e.actions[-1][0]) if e else 0 for e in interaction.episodes])
    return np.array(signs)


@pytest.mark.parametrize(
    ("members", "trusted", "handed"),
    [
        ((10.0, 10.0), 10.0, True),
        ((9.1, 9.1), 10.0, True),  # a tenth may be lost
        ((8.9, 8.9), 10.0, False),
        ((12.0, 8.0), 10.0, False),  # 10 - 2 < 9
        ((14.0, 8.0), 10.0, False),  # 11 - 3 < 9
        ((14.0, 10.0), 10.0, True),  # 12 - 2 >= 9
        ((-10.5, -10.5), -10.0, True),  # of a negative value, too, a tenth is a loss
        ((-11.5, -11.5), -10.0, False),
    ],
)
def test_it_is_handed_over_where_the_bound_is_enough(members, trusted, handed):
    interaction = make(always(*members), always(trusted), alpha=0.1, width=1.0)
    found = run(interaction, 5)
    assert (found == (1 if handed else -1)).all()


def test_what_is_handed_over_is_not_taken_back_within_the_episode():
    answers = iter([0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0])
    interaction = make(lambda s, a: torch.full((1, len(s)), next(answers)), always(5.0))
    found = run(interaction, 5)
    assert found[:, 0].tolist() == [-1, -1, 1, 1, 1]
    interaction.advance()  # the last step of the episodes
    interaction.advance()
    assert interaction.episodes[0].actions[-1][0] < 0


def test_the_bound_is_of_what_each_policy_would_do():
    """Values are the actions: the learning one's 0.5 beats -0.5, seen through its own critics."""
    interaction = make(lambda s, a: a[None, :, 0], lambda s, a: a[None, :, 0])
    assert (run(interaction, 3) == 1).all()
    swapped = make(lambda s, a: -a[None, :, 0], lambda s, a: -a[None, :, 0])
    assert (run(swapped, 3) == -1).all()


def test_interventions_and_violations_are_told_of_each_episode():
    answers = iter([0.0, 0.0, 10.0])
    interaction = make(
        lambda s, a: torch.full((1, len(s)), next(answers)), always(5.0), threshold=1e9
    )
    for _ in range(6):
        interaction.advance()
    metrics = interaction.take_metrics()
    assert metrics["online/intervention"] == pytest.approx(2 / 6)
    assert metrics["online/violation"] == 1
    calm = make(always(10.0), always(5.0), threshold=-1e9)
    for _ in range(6):
        calm.advance()
    assert calm.take_metrics()["online/violation"] == 0


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_hand_over_goes_on_to_the_last_bit(stop):
    def over(s, a):
        return s[None, :, 0] - s[None, :, 2]  # some are handed over at once, and some never

    first = make(over, always(0.0), num_envs=4)
    for _ in range(stop):
        first.advance()
    saved = json.loads(json.dumps(first.state_dict()))
    second = make(over, always(0.0), num_envs=4)
    second.load_state_dict(saved)
    for _ in range(8):
        first.advance()
        second.advance()
    assert second.state_dict() == first.state_dict()


@pytest.mark.parametrize(("alpha", "width"), [(-0.1, 1.0), (1.5, 1.0), (0.1, -1.0)])
def test_settings_out_of_range_are_refused(alpha, width):
    with pytest.raises(ValueError, match="alpha must lie in"):
        make(always(0.0), always(0.0), alpha=alpha, width=width)
