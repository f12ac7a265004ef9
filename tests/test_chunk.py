"""The chunk policy: what it normalises, masks and bounds, and the contract of policies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embodied.encoders.observation import StateEncoder
from embodied.heads.base import ActionHead
from embodied.noise import BatchNoise, Noise
from embodied.policies.chunk import ChunkPolicy
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
