"""The chunk policy: what it normalises, masks and bounds, and the contract of policies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embodied.encoders.observation import StateEncoder
from embodied.heads.base import ActionHead
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise, Noise
from embodied.policies.chunk import ChunkPolicy, extremes
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_policy

MakePolicy = Callable[..., ChunkPolicy]


class Echo(ActionHead):
    """Its loss is the first normalised action of each step; it samples a constant."""

    def __init__(self, *, value: float, action_dim: int, pred_horizon: int, **_: int) -> None:
        super().__init__()
        self.value, self.shape = value, (pred_horizon, action_dim)

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        return action[..., 0]

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        return torch.full((len(context), *self.shape), self.value)


def echo_policy(value: float = 0.5) -> ChunkPolicy:
    policy = ChunkPolicy(
        spec=Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
        encoder=StateEncoder,
        head=functools.partial(Echo, value=value),
        pred_horizon=2,
        dim=4,
    )
    # Actions of dimension 0 span [0, 4], those of dimension 1 span [-1, 0].
    action = torch.tensor([[0.0, -1.0], [4.0, 0.0]])
    policy.fit_normalizers(Observation(torch.tensor([[[0.0]], [[2.0]]])), Condition(), action)
    return policy


def noise() -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(0))


def point_batch(rows: int = 5, *, obs_horizon: int = 1, pred_horizon: int = 4) -> Batch:
    random = torch.Generator().manual_seed(0)
    words = ("go to the red pad", "go to the blue pad", "stop", "turn", "go to the red pad")
    return Batch(
        observation=Observation(torch.rand(rows, obs_horizon, 10, generator=random)),
        condition=Condition(language=tuple(words[i % 5] for i in range(rows))),
        action=torch.rand(rows, pred_horizon, 2, generator=random) * 2 - 1,
        mask=torch.ones(rows, pred_horizon, dtype=torch.bool),
    )


def test_the_loss_is_the_mean_over_valid_steps_of_normalised_actions() -> None:
    batch = Batch(
        observation=Observation(torch.zeros(2, 1, 1)),
        condition=Condition(),
        action=torch.tensor([[[2.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]]]),
        mask=torch.tensor([[True, True], [True, False]]),
    )
    loss, metrics = echo_policy().loss(batch, noise=noise())
    # Normalised (a - 2) / 2: 0, 1 | -1/2, and 1/2 is masked.
    assert loss.item() == pytest.approx((0 + 1 - 0.5) / 3)
    assert metrics["loss"] == loss


def test_actions_come_back_in_environment_units_within_bounds() -> None:
    observation = Observation(torch.zeros(3, 1, 1))
    action = echo_policy(-0.75).act(observation, Condition(), noise=noise())
    # -0.75 is 2 - 0.75 * 2 = 0.5 in dimension 0 and -0.5 - 0.75 / 2 = -0.875 in dimension 1.
    assert action.shape == (3, 2, 2)
    assert action[0, 0].tolist() == [0.5, -0.875]
    action = echo_policy(0.5).act(observation, Condition(), noise=noise())
    assert action[0, 0].tolist() == [1.0, -0.25]  # 3.0 is cut at the bound


@pytest.mark.parametrize(("obs_horizon", "pred_horizon"), [(1, 4), (3, 1)])
def test_the_policy_keeps_the_contract(
    make_policy: MakePolicy, obs_horizon: int, pred_horizon: int
) -> None:
    policy = make_policy(obs_horizon=obs_horizon, pred_horizon=pred_horizon)
    check_policy(policy, point_batch(obs_horizon=obs_horizon, pred_horizon=pred_horizon))


def test_the_contract_leaves_the_policy_as_it_was(make_policy: MakePolicy) -> None:
    policy = make_policy().train()
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    check_policy(policy, point_batch())
    assert policy.training
    assert all(p.grad is None for p in policy.parameters())
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())


def test_words_and_states_change_the_action(make_policy: MakePolicy) -> None:
    policy, batch = make_policy(), point_batch()
    action = policy.act(batch.observation, batch.condition, noise=noise())
    said = replace(batch.condition, language=("stop",) * 5)
    assert not torch.equal(action, policy.act(batch.observation, said, noise=noise()))
    moved = Observation(batch.observation.state + 0.1)
    assert not torch.equal(action, policy.act(moved, batch.condition, noise=noise()))


def test_no_words_at_all_equal_words_absent_in_every_row(make_policy: MakePolicy) -> None:
    policy, batch = make_policy().eval(), point_batch()
    torch.nn.init.normal_(policy.get_parameter("encoder.parts.language.absent"))
    absent = replace(batch.condition, present={"language": torch.zeros(5, dtype=torch.bool)})
    found = [policy.act(batch.observation, c, noise=noise()) for c in (Condition(), absent)]
    assert torch.equal(*found)


def test_every_parameter_takes_part_though_no_instruction_is_absent(
    make_policy: MakePolicy,
) -> None:
    """Data-parallel training and the saved optimiser state both need a gradient everywhere."""
    policy = make_policy()
    policy(point_batch(), noise())[0].backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


def test_acting_leaves_nothing_that_training_stumbles_over(make_policy: MakePolicy) -> None:
    policy, batch = make_policy(), point_batch()
    with torch.inference_mode():  # embeddings that are remembered here are used below
        policy.act(batch.observation, batch.condition, noise=noise())
    policy(batch, noise())[0].backward()


def test_an_unfitted_policy_says_what_to_do() -> None:
    policy = ChunkPolicy(
        spec=Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
        encoder=StateEncoder,
        head=functools.partial(Echo, value=0.0),
    )
    with pytest.raises(RuntimeError, match=r"ZScore has no statistics .*fit_normalizers"):
        policy.act(Observation(torch.zeros(3, 1, 1)), Condition(), noise=noise())


class Peeking(Echo):
    """Mixes rows, as batch normalisation would."""

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        drawn = noise.normal(len(context), *self.shape, device=context.device)
        return drawn + drawn[:1]


class Restless(Echo):
    """Draws from somewhere else than the noise it is given."""

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        return torch.rand(len(context), *self.shape)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Peeking, "must not depend on its neighbours"), (Restless, "must not depend|same noise")],
)
def test_the_contract_catches_a_head_that_breaks_it(kind: type[Echo], message: str) -> None:
    policy = ChunkPolicy(
        spec=Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
        encoder=StateEncoder,
        head=functools.partial(kind, value=0.0),
        pred_horizon=4,
        dim=4,
    )
    action = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    policy.fit_normalizers(Observation(torch.rand(9, 1, 10)), Condition(), action)
    with pytest.raises(AssertionError, match=message):
        check_policy(policy, point_batch())


def test_the_contract_catches_a_parameter_without_gradient(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.register_parameter("idle", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(AssertionError, match=r"no gradient reaches the parameters \['idle'\]"):
        check_policy(policy, point_batch())


# Relative chunks. The state is [sensed, held], of which "held" is what actions are relative to.
RELATIVE = Spec(2, 1, (-2.0,), (9.0,), 10.0, state_parts={"sensed": 1, "held": 1})
# Two episodes: what is held, and what is done.
HELD = torch.tensor([0.0, 1.0, 3.0, 5.0, 6.0])
DONE = torch.tensor([1.0, 3.0, 4.0, 6.0, 8.0])
LENGTHS = torch.tensor([3, 2])


def relative_policy(
    relative_to: str | Sequence[int] = "held", value: float = 0.0, spec: Spec = RELATIVE
) -> ChunkPolicy:
    return ChunkPolicy(
        spec=spec,
        encoder=StateEncoder,
        head=functools.partial(Echo, value=value),
        obs_horizon=2,
        pred_horizon=2,
        dim=4,
        relative_to=relative_to,
    )


def fitted(policy: ChunkPolicy) -> ChunkPolicy:
    state = torch.stack([torch.arange(5.0), HELD], 1)[:, None]
    policy.fit_normalizers(Observation(state), Condition(), DONE[:, None], lengths=LENGTHS)
    return policy


def holding(*values: float) -> Observation:
    """Newest observations of robots that hold these, and held something else before."""
    state = torch.full((len(values), 2, 2), 7.0)
    state[:, -1, 1] = torch.tensor(values)
    return Observation(state)


def test_each_step_of_a_chunk_has_the_range_of_its_changes_within_episodes() -> None:
    policy = fitted(relative_policy())
    # h = 0: 1, 2, 1 | 1, 2. h = 1: 3 - 0, 4 - 1 | 8 - 5, and none from one episode to the next.
    assert policy.action_normalizer.low.tolist() == [1.0, 3.0]
    assert policy.action_normalizer.high.tolist() == [2.0, 3.0]


def test_ranges_of_changes_are_those_of_all_chunks_side_by_side() -> None:
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 7, 3, 12])
    start, action = (torch.randn(23, 3, generator=random) for _ in range(2))
    firsts = (lengths.cumsum(0) - lengths).tolist()
    for h in range(5):
        changes = torch.stack(
            [
                action[i + h] - start[i]
                for first, length in zip(firsts, lengths.tolist(), strict=True)
                for i in range(first, first + length - h)
            ]
        )
        low, high = extremes(start, action, lengths, 5)[:, 3 * h : 3 * h + 3]
        assert torch.equal(low, changes.amin(0))
        assert torch.equal(high, changes.amax(0))


def test_steps_that_no_episode_is_long_enough_for_have_the_last_range() -> None:
    found = extremes(HELD[:, None], DONE[:, None], LENGTHS, 5)
    # h = 2 is reached once, in the first episode, with 4 - 0.
    assert found.tolist() == [[1.0, 3.0, 4.0, 4.0, 4.0], [2.0, 3.0, 4.0, 4.0, 4.0]]


def test_the_loss_is_of_changes_since_the_newest_observation() -> None:
    batch = Batch(
        observation=holding(5.0, 2.0),
        condition=Condition(),
        action=torch.tensor([[[6.0], [9.0]], [[2.0], [4.5]]]),
        mask=torch.tensor([[True, True], [False, True]]),
    )
    loss, _ = fitted(relative_policy()).loss(batch, noise=noise())
    # Changes 1 | 0 (masked), normalised by (x - 3/2) / (1/2); 4 | 5/2, by x - 3, a constant.
    assert loss.item() == pytest.approx((-1 + 1 - 0.5) / 3)


def test_predicted_changes_are_added_to_what_is_held_within_bounds() -> None:
    policy = fitted(relative_policy(value=0.5))  # changes by 7/4, then 7/2
    action = policy.act(holding(1.0, -5.5, 7.0), Condition(), noise=noise())
    assert action[:, :, 0].tolist() == [[2.75, 4.5], [-2.0, -2.0], [8.75, 9.0]]


def test_relative_actions_move_along_with_what_is_held(make_policy: MakePolicy) -> None:
    """A policy that does not look at its state does the same everywhere, from where it is."""
    policy = fitted(relative_policy())
    there, here = policy.act(holding(4.0, 1.0), Condition(), noise=noise())
    assert (there - here).tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize("relative_to", ["held", [1]])
def test_a_part_may_be_named_or_given_by_indices(relative_to: str | list[int]) -> None:
    assert relative_policy(relative_to).reference == [1]


def test_the_state_may_be_a_part_or_all() -> None:
    one = Spec(1, 1, (-1.0,), (1.0,), 10.0)
    assert relative_policy("state", spec=one).reference == [0]
    named = replace(RELATIVE, state_parts={"held": 1, "state": 1})
    assert relative_policy("state", spec=named).reference == [1]


@pytest.mark.parametrize(
    ("relative_to", "message"),
    [
        ("speed", r"one of its parts \['sensed', 'held'\], or indices, got 'speed'; .*data\.state"),
        ("state", r"relative_to must be 1 numbers of the state, .*'state' is 2; name another"),
        ([0, 1], r"relative_to must be 1 numbers of the state, .*\[0, 1\] is 2"),
        ([2], r"relative_to must be indices of the state, in \[0, 2\), got \[2\]"),
    ],
)
def test_what_actions_cannot_be_relative_to_is_refused(
    relative_to: str | list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        relative_policy(relative_to)


def test_changes_cannot_be_measured_without_episodes() -> None:
    state = torch.zeros(5, 1, 2)
    with pytest.raises(ValueError, match="lengths must be given to a policy with relative_to"):
        relative_policy().fit_normalizers(Observation(state), Condition(), DONE[:, None])


def test_the_range_of_changes_travels_with_the_weights() -> None:
    policy, other = fitted(relative_policy()), relative_policy()
    other.load_state_dict(policy.state_dict())
    assert other.action_normalizer.high.tolist() == [2.0, 3.0]


def test_a_relative_policy_keeps_the_contract() -> None:
    torch.manual_seed(0)
    policy = ChunkPolicy(
        spec=Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
        encoder=StateEncoder,
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        obs_horizon=2,
        dim=16,
        relative_to=[4, 3],
    )
    batch = replace(point_batch(obs_horizon=2), condition=Condition())
    action = torch.rand(64, 2) * 2 - 1
    policy.fit_normalizers(
        Observation(torch.rand(64, 1, 10)), Condition(), action, lengths=torch.tensor([30, 34])
    )
    check_policy(policy, batch)
