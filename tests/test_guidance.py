"""Classifier-free guidance: what is dropped in training, and what acting makes of it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.encoders.base import Encoder, hidden
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.goal import GoalStateEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.heads.base import ActionHead, guided
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise, Noise
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_policy

SPEC = Spec(3, 2, (-9.0, -9.0), (9.0, 9.0), 10.0)
PARTS: dict[str, Any] = {
    "language": LanguageEncoder,
    "goal": GoalStateEncoder,
    "state": StateEncoder,
}
WORDS = ("left", "right", "stay")

pytestmark = pytest.mark.usefixtures("fake_language")


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def make(parts: dict[str, Any] | None = None, **options: Any) -> ChunkPolicy:
    """Equal weights for equal parts; what stands for nothing asked is not 0."""
    torch.manual_seed(0)
    policy = ChunkPolicy(
        spec=SPEC,
        encoder=functools.partial(TokenEncoder, parts or PARTS),
        **{"head": functools.partial(EDMHead, num_layers=1, num_heads=2), **options},
        pred_horizon=2,
        dim=16,
    )
    policy.fit_normalizers(
        Observation(torch.randn(64, 1, 3)), Condition(language=WORDS), torch.randn(64, 2)
    )
    for name, weight in policy.named_parameters():
        if name.endswith("absent"):
            torch.nn.init.normal_(weight)
    return policy


def batch_of(rows: int) -> Batch:
    random = torch.Generator().manual_seed(3)
    return Batch(
        Observation(torch.randn(rows, 1, 3, generator=random)),
        Condition(
            language=tuple(WORDS[i % 3] for i in range(rows)),
            goal=Observation(torch.randn(rows, 1, 3, generator=random)),
        ),
        torch.rand(rows, 2, 2, generator=random) * 2 - 1,
        torch.ones(rows, 2, dtype=torch.bool),
    )


def acted(policy: ChunkPolicy, batch: Batch, condition: Condition | None = None) -> Tensor:
    policy.eval()
    with torch.no_grad():
        asked = batch.condition if condition is None else condition
        return policy.act(batch.observation, asked, noise=noise(5))


def test_guidance_by_hand() -> None:
    x, level = torch.zeros(1), torch.ones(())
    told, untold = (lambda x, level: x + 3.0), (lambda x, level: x + 1.0)
    found = [float(guided(told, untold, scale)(x, level)) for scale in (0.0, 1.0, 1.5)]
    assert found == [1.0, 3.0, 4.0]


def test_guidance_1_is_the_plain_policy_and_evaluates_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    network = EDMHead.network

    def counted(self: EDMHead, *args: Any) -> Tensor:
        calls.append(1)
        return network(self, *args)

    monkeypatch.setattr(EDMHead, "network", counted)
    batch, plain = batch_of(4), make()
    context = plain.encoder(batch.observation, batch.condition)
    normalised = plain.head.sample(context, noise=noise(5))
    expected = plain.action_normalizer.inverse(normalised).clamp(-9, 9)
    calls.clear()
    assert torch.equal(acted(make(guidance=1.0), batch), expected)
    assert len(calls) == 3
    acted(make(guidance=2.0), batch)
    assert len(calls) == 3 + 6


def test_guidance_0_does_not_care_what_is_asked() -> None:
    batch = batch_of(4)
    free = acted(make(), batch, Condition())
    assert torch.equal(acted(make(guidance=0.0), batch), free)
    assert not torch.allclose(acted(make(), batch), free, atol=1e-3)


def test_guidance_goes_on_along_the_difference() -> None:
    head = functools.partial(EDMHead, num_layers=1, num_heads=2, num_steps=1)
    free, plain, strong = (
        acted(make(head=head, guidance=scale), batch_of(4)) for scale in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(strong - free, 3 * (plain - free), rtol=1e-3, atol=1e-4)


def test_guidance_changes_nothing_where_nothing_is_asked() -> None:
    batch = batch_of(4)
    unasked = hidden(batch.condition, torch.tensor([True, False, False, False]))
    strong, plain = (acted(make(guidance=s), batch, unasked) for s in (3.0, 1.0))
    assert torch.equal(strong[0], plain[0])
    assert not torch.allclose(strong[1], plain[1], atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"guidance": 2.0}, {"goal_dropout": 0.5, "element_dropout": 0.2, "guidance": 1.5}]
)
def test_a_guided_policy_keeps_the_contract(options: dict[str, float]) -> None:
    check_policy(make(**options), batch_of(5))


def test_hiding_leaves_the_other_rows() -> None:
    condition = Condition(
        language=("a", "b", "c"),
        goal=Observation(torch.zeros(3, 1, 3)),
        present={"goal_state": torch.tensor([True, True, False])},
    )
    found = hidden(condition, torch.tensor([False, True, False])).present
    assert {name: x.tolist() for name, x in found.items()} == {
        "language": [True, False, True],
        "goal_state": [True, False, False],
    }


class Recorder(Encoder):
    """Notes the conditions that it is given."""

    num_tokens = 1

    def __init__(self, *, dim: int, **_: object) -> None:
        super().__init__()
        self.dim, self.seen = dim, list[Condition]()

    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        self.seen.append(condition)
        return torch.zeros(len(observation.state), 1, self.dim)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_goal_dropout_hides_all_that_a_row_is_asked_at_its_rate(rate: float) -> None:
    policy = make({"recorder": Recorder}, goal_dropout=rate)
    batch = batch_of(4000)
    policy.loss(batch, noise=noise())
    acted(policy, batch)
    recorder = policy.encoder.get_submodule("parts.recorder")
    assert isinstance(recorder, Recorder)
    training, acting = (condition.present for condition in recorder.seen)
    assert torch.equal(training["language"], training["goal_state"])
    dropped = 1 - training["language"].float().mean().item()
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 4000) ** 0.5)
    assert not acting


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_element_dropout_takes_numbers_of_tokens_at_its_rate(rate: float) -> None:
    policy, batch = make(element_dropout=rate), batch_of(1000)
    for part in ("language", "goal"):
        encoder = policy.encoder.get_submodule(f"parts.{part}")
        encoder.noise = 0.0  # so that tokens can be compared
        plain = encoder(batch.observation, batch.condition)
        found = encoder(batch.observation, batch.condition, noise=noise())
        absent = encoder.get_parameter("absent").expand_as(found)
        dropped = (found == absent).float()
        assert torch.equal(found, torch.where(dropped.bool(), absent, plain))
        assert dropped.mean().item() == pytest.approx(rate, abs=0.02)
        assert 0 < dropped[0].sum() < 16  # by number, not by row


def test_without_dropout_training_draws_for_the_encoder_and_the_head_alone() -> None:
    batch, policy, draws = batch_of(6), make(), noise()
    context = policy.encoder(batch.observation, batch.condition, noise=draws)
    action = policy.action_normalizer(batch.action)
    expected = policy.head.loss(context, action, noise=draws).mean().detach()
    loss, _ = policy.loss(batch, noise=noise())
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0)
    dropped, _ = make(goal_dropout=0.9).loss(batch, noise=noise())
    assert not torch.isclose(dropped.detach(), expected, rtol=1e-3)


def test_a_policy_trained_with_goal_dropout_acts_with_and_without_a_goal() -> None:
    """The goal's sign is the action's: guidance 1 obeys, guidance 0 does either."""
    parts = {"goal": GoalStateEncoder, "state": StateEncoder}
    policy, draws = make(parts, goal_dropout=0.2), noise()
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    action = torch.tensor([0.6, -0.6]).repeat(64)[:, None, None].expand(128, 2, 2)
    goal = Condition(goal=Observation(torch.sign(action[:, :1, :1]).expand(128, 1, 3)))
    batch = Batch(Observation(torch.zeros(128, 1, 3)), goal, action, torch.ones(128, 2).bool())
    for _ in range(200):
        optimizer.zero_grad()
        policy(batch, draws)[0].backward()
        optimizer.step()
    right = {}
    for guidance in (0.0, 1.0, 2.0):
        policy.guidance = guidance
        same_sign = acted(policy, batch)[..., 0].mean(1).sign() == action[:, 0, 0].sign()
        right[guidance] = float(same_sign.float().mean())
    assert right[1.0] > 0.95
    assert right[2.0] > 0.95
    assert 0.3 < right[0.0] < 0.7


class Constant(ActionHead):
    """A head that does not denoise."""

    def __init__(self, **_: object) -> None:
        super().__init__()

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        return action[..., 0]

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        return torch.zeros(len(context), 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": Constant, "guidance": 2.0}, "guidance needs a head that denoises.*Constant"),
        ({"goal_dropout": 1.0}, r"goal_dropout must lie in \[0, 1\), got 1.0"),
        ({"element_dropout": -0.1}, r"element_dropout must lie in \[0, 1\), got -0.1"),
        (
            {"parts": {"state": StateEncoder}, "element_dropout": 0.1},
            "element_dropout needs an encoder of what is asked",
        ),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
