"""What learners from comparisons compute, where the answer is known."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.algorithms.ipl import IPL
from embodied.algorithms.oppo import OPPO
from embodied.algorithms.preference import Preference
from embodied.algorithms.segment_answers import agreement, answer, chunks, denoises, divergence
from embodied.build import instantiate
from embodied.data.transitions import Layout
from embodied.distributed import World
from embodied.encoders.observation import StateEncoder
from embodied.feedback import Pairs, SegmentBatch
from embodied.heads.bins import BinsHead
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise, seeded
from embodied.policies.actor import ActorPolicy
from embodied.policies.chunk import ChunkPolicy
from embodied.policies.hindsight import HindsightPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing.algorithms import check_algorithm
from tests.conftest import compose_config

SPEC = Spec(1, 1, (-1.0,), (1.0,), rate_hz=10.0)
WORLD = World(0, 1, torch.device("cpu"))
LEARNERS = ("sft", "cpl", "cpl_kl", "dpo", "ipo", "sppo", "diffusion_dpo", "ipl", "oppo")


def segments(action: Any, state: Any = 0.0, mask: Any = None) -> SegmentBatch:
    """Segments (B, L) of one-dimensional actions and states."""
    a = torch.as_tensor(action, dtype=torch.float32)[..., None]
    s = torch.as_tensor(state, dtype=torch.float32).expand(a.shape[:2])[..., None]
    valid = torch.ones(a.shape[:2], dtype=torch.bool) if mask is None else torch.as_tensor(mask)
    return SegmentBatch(s, a, valid, ("go",) * len(a))


def batch(pairs: Pairs | None, action: Tensor, state: Tensor | float = 0.0) -> Batch:
    """Single steps beside comparisons, which are also those held out."""
    layout, n = Layout(1, 1, discount=0.9), len(action)
    columns = (state, action, state, 0.0, 0.9, 0.0, 1.0, 0.0)
    filled = [torch.as_tensor(x, dtype=torch.float32).expand(n) for x in columns]
    found = layout.batch(torch.stack(filled, 1), ("go",))
    loose = None if pairs is None else pairs.first
    return replace(found, pairs=pairs, held_out=pairs, segments=loose)


def random_batch(n: int = 12, length: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    a, s = (
        torch.rand(4, n, length, generator=generator) * 2 - 1,
        torch.randn(2, n, length, generator=generator),
    )
    label = torch.tensor([0.0, 1.0, 0.5]).repeat(n // 3)
    pairs = Pairs(segments(a[0], s[0]), segments(a[1], s[1]), label)
    return batch(pairs, a[2, :, 0], s[0, :, 0])


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    return compose_config("task=reach", "run_dir=none", *overrides)


def make(name: str, *overrides: str, steps: int = 100) -> Any:
    """A learner as its YAML describes it, but small."""
    small = {
        "oppo": ("policy.hidden=[16,16]",),
        "ipl": ("policy.hidden=[16]", "algorithm.critic_hidden=[16]"),
        "diffusion_dpo": (
            "policy.dim=16",
            "policy.pred_horizon=1",
            "policy.head.patch=1",
            "policy.head.num_layers=1",
            "policy.head.num_heads=2",
            "~policy.encoder.parts.language",
        ),
    }.get(name, ("policy.hidden=[16]",))
    config = composed(f"algorithm={name}", *small, *overrides)
    torch.manual_seed(0)
    policy = instantiate(config["policy"], spec=SPEC)
    observation, action = (
        Observation(torch.tensor([[[-1.0]], [[1.0]]])),
        torch.tensor([[-1.0], [1.0]]),
    )
    policy.fit_normalizers(observation, Condition(), action)
    return instantiate(config["algorithm"])(policy, world=WORLD, steps=steps, seed=0)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("imitates", [True, False])
def test_a_learner_keeps_the_contract(name: str, imitates: bool) -> None:
    if name in ("ipl", "oppo"):
        extra: tuple[str, ...] = ()
    else:
        extra = (f"algorithm.imitation_steps={1 if imitates else 0}",)
    check_algorithm(functools.partial(make, name, *extra), random_batch())


class At(ActorPolicy):
    """Acts the same in every state: the mean is one number, so that optima can be worked out."""

    def __init__(self, mean: float = 0.0) -> None:
        super().__init__(spec=SPEC, kind="deterministic", hidden=[1], normalize=False)
        self.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
        self.actor.requires_grad_(False)
        self.at = torch.nn.Parameter(torch.tensor(math.atanh(mean)))

    def gaussian(
        self, features: Tensor, coefficient: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mean = self.at.tanh().expand(len(features), 1)
        return mean, torch.zeros_like(mean)

    @property
    def mean(self) -> float:
        return float(self.at.tanh())


def one_step(share: float) -> Batch:
    """Acting +0.5 is preferred to -0.5 in a share of the comparisons; both are equally recorded."""
    pairs = Pairs(segments([[-0.5]]), segments([[0.5]]), torch.tensor([share]))
    return batch(pairs, torch.tensor([-0.5, 0.5]))


def trained(loss: Any, data: Batch, *, start: float = 0.0, steps: int = 400) -> At:
    policy = At(start)
    learner = Preference(
        policy,
        world=WORLD,
        steps=steps,
        loss=loss,
        imitation_steps=0,
        learning_rate=0.01,
        warmup_steps=0,
    )
    for step in range(steps):
        learner.update(data, step)
    return policy


def loss_of(name: str, **numbers: float) -> Any:
    overrides = [f"algorithm.loss.{key}={value}" for key, value in numbers.items()]
    config = composed(f"algorithm={name}", *overrides)
    return instantiate(config["algorithm"]["loss"])


def test_dpo_of_two_actions_has_its_closed_form() -> None:
    """beta m = logit p, and of -||a - mu||^2 m = 2 (a1 - a0)(mu - mu_ref)."""
    p, beta, reference = 0.7, 1.0, -0.1
    policy = trained(loss_of("dpo", beta=beta), one_step(p), start=reference)
    expected = reference + math.log(p / (1 - p)) / (2 * beta * 1.0)
    assert policy.mean == pytest.approx(expected, abs=1e-3)


def test_ipo_stops_at_its_target() -> None:
    """m = 1 / (2 beta) whatever the reference, where all agree."""
    policy = trained(loss_of("ipo", beta=2.0), one_step(1.0), start=0.2)
    assert policy.mean == pytest.approx(0.2 + 1 / (2 * 2.0) / 2, abs=1e-3)


def test_imitating_what_was_preferred_finds_the_mean_of_it() -> None:
    policy = trained(loss_of("sft"), one_step(0.7))
    assert policy.mean == pytest.approx(0.7 * 0.5 - 0.3 * 0.5, abs=1e-3)


def test_sppo_finds_the_root_of_its_own_equation() -> None:
    """With mu_ref = 0: (mu - mu^2 - t)^2 + (mu + mu^2 - t)^2 is least at mu - t + 2 mu^3 = 0."""
    target = 1 / (2 * 1.0)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - target + 2 * middle**3 < 0 else (low, middle)
    policy = trained(loss_of("sppo", beta=1.0), one_step(1.0))
    assert policy.mean == pytest.approx(low, abs=1e-3)


def test_a_tie_moves_nobody() -> None:
    assert trained(loss_of("dpo"), one_step(0.5), start=0.3, steps=3).mean == pytest.approx(0.3)


def test_the_reference_is_what_imitation_came_to() -> None:
    policy = At(0.9)
    learner = Preference(
        policy,
        world=WORLD,
        steps=300,
        loss=loss_of("dpo", beta=1.0),
        imitation_steps=299,
        imitation_learning_rate=0.02,
    )
    for step in range(299):
        learner.update(one_step(0.7), step)
        assert learner.take_metrics() == {}
    assert policy.mean == pytest.approx(0.0, abs=1e-2)
    learner.update(one_step(0.7), 299)
    assert float(learner.reference.at.tanh()) == pytest.approx(0.0, abs=1e-2)
    assert learner.take_metrics()["held_out/pairs"] == 1


class Constant(StateEncoder):
    """Sees nothing: then a head has one distribution, whatever the state."""

    def forward(self, *args: Any, **options: Any) -> Tensor:
        return super().forward(*args, **options) * 0 + 1


def chunk_policy(head: Any, pred_horizon: int = 1) -> ChunkPolicy:
    torch.manual_seed(0)
    policy = ChunkPolicy(spec=SPEC, encoder=Constant, head=head, pred_horizon=pred_horizon, dim=16)
    policy.fit_normalizers(
        Observation(torch.tensor([[[-1.0]], [[1.0]]])), Condition(), torch.tensor([[-1.0], [1.0]])
    )
    return policy


def test_cpl_recovers_the_softmax_optimal_policy_of_a_bandit() -> None:
    """Four arms with advantages A; people prefer i to j with sigmoid(A_i - A_j). With bias 1 the
    loss of all pairs is least at pi proportional to exp(A / alpha)."""
    advantage, alpha = torch.tensor([0.0, 0.3, -0.2, 0.6]), 0.5
    arms = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    label = torch.sigmoid(advantage[j] - advantage[i])
    pairs = Pairs(segments(arms[i][:, None]), segments(arms[j][:, None]), label)
    policy = chunk_policy(functools.partial(BinsHead, num_bins=4, num_layers=1, num_heads=2))
    learner = Preference(
        policy,
        world=WORLD,
        steps=300,
        loss=loss_of("cpl", alpha=alpha, bias=1.0),
        imitation_steps=0,
        judge="likelihood",
        learning_rate=3e-3,
        warmup_steps=0,
    )
    data = batch(pairs, arms)
    for step in range(300):
        learner.update(data, step)
    found = answer(policy.eval(), policy, segments(arms[:, None]), None).log_likelihood().exp()  # type: ignore[arg-type]
    expected = torch.softmax(advantage / alpha, 0)
    torch.testing.assert_close(found.detach(), expected, atol=5e-3, rtol=0)


def test_a_denoiser_learns_what_is_preferred_and_leaves_its_reference() -> None:
    policy = chunk_policy(functools.partial(EDMHead, num_layers=1, num_heads=2), pred_horizon=2)
    assert denoises(policy)
    high, low = torch.full((8, 4), 0.6), torch.full((8, 4), -0.6)
    pairs = Pairs(segments(low), segments(high), torch.ones(8))
    learner = Preference(
        policy,
        world=WORLD,
        steps=60,
        loss=loss_of("dpo", beta=0.3),
        imitation_steps=0,
        learning_rate=1e-3,
        warmup_steps=0,
    )
    layout = Layout(1, 1, pred_horizon=2)
    rows = torch.zeros(4, layout.width)
    data = replace(layout.batch(rows, ("go",)), pairs=pairs, held_out=pairs)
    first = learner.update(data, 0)["preference/loss"]
    assert float(first) == pytest.approx(math.log(2), abs=1e-5)  # it is its own reference
    for step in range(1, 60):
        last = learner.update(data, step)["preference/loss"]
    assert float(last) < 0.5
    metrics = learner.take_metrics()
    assert metrics["held_out/agreement"] == 1
    assert metrics["reference/kl"] > 0


@pytest.mark.parametrize("kind", ["gaussian", "squashed", "deterministic"])
def test_the_divergence_is_that_of_gaussians(kind: str) -> None:
    torch.manual_seed(0)
    policy, other = (ActorPolicy(spec=SPEC, kind=kind, hidden=[4], normalize=False) for _ in "ab")
    for each in (policy, other):
        each.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
    data = batch(None, torch.zeros(5), torch.randn(5))
    features = policy.features(data.observation)
    (m, s), (n, t) = policy.gaussian(features), other.gaussian(features)
    if kind == "deterministic":
        expected = (m - n).square()
    else:
        p, q = (torch.distributions.Normal(x, y.exp()) for x, y in ((m, s), (n, t)))
        expected = torch.distributions.kl_divergence(p, q)
    noise = BatchNoise(seeded(0, 0, WORLD.device))
    found = divergence(policy, other, data, noise)
    assert float(found) == pytest.approx(float(expected.sum(-1).mean()), rel=1e-4)


def test_segments_are_cut_into_the_chunks_that_a_policy_predicts() -> None:
    policy = chunk_policy(functools.partial(BinsHead, num_layers=1, num_heads=2), pred_horizon=2)
    policy.obs_horizon = 2
    cut = chunks(segments([[0.0, 0.1, 0.2, 0.3, 0.4]], [[5.0, 6, 7, 8, 9]]), policy)
    torch.testing.assert_close(
        cut.action[..., 0], torch.tensor([[0.0, 0.1], [0.2, 0.3], [0.4, 0.4]])
    )
    assert cut.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert cut.observation.state[..., 0].tolist() == [[5, 5], [6, 7], [8, 9]]
    assert cut.condition.language == ("go",) * 3


def test_agreement_leaves_out_ties() -> None:
    pairs = Pairs(segments([[0.0]] * 3), segments([[1.0]] * 3), torch.tensor([1.0, 0.5, 0.0]))
    found = agreement(lambda side: side.action[:, 0, 0], pairs)
    assert {k: float(v) for k, v in found.items()} == {
        "held_out/agreement": 0.5,
        "held_out/pairs": 2,
    }


def hindsight() -> HindsightPolicy:
    torch.manual_seed(0)
    policy = HindsightPolicy(spec=SPEC, latent_dim=2, hidden=[8, 8])
    policy.fit_normalizers(
        Observation(torch.tensor([[[-1.0]], [[1.0]]])), Condition(), torch.zeros(2, 1)
    )
    return policy


@given(st.integers(1, 4), st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_padding_has_no_say_in_how_a_segment_was_acted(kept: int, padding: list[float]) -> None:
    policy = hindsight()
    true = torch.linspace(-0.8, 0.8, 5)
    mask = torch.arange(5) < kept
    padded = torch.where(mask, true, torch.tensor(padding))
    found = policy.encode(segments(padded[None], padded[None], mask[None]))
    expected = policy.encode(segments(true[None, :kept], true[None, :kept]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_triplet_is_worked_out() -> None:
    """|z* - preferred| = 1, |z* - other| = 3: 0 where that is the label, 1 - 3 + 1 + 4 = 3 where
    not, and half the distance for a tie in each direction."""
    learner = OPPO(hindsight(), world=WORLD, steps=1, margin=1.0)
    optimal = torch.zeros(2)
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    found = [
        float(learner._triplet(optimal, near, far, torch.tensor([label])))
        for label in (0.0, 1.0, 0.5)
    ]
    assert found == pytest.approx([0.0, 3 - 1 + 1, 1.0])


def test_oppo_acts_as_was_preferred() -> None:
    """Segments act +0.6 or -0.6 throughout; + is preferred."""
    sign = torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    loose = segments((0.6 * sign).expand(-1, 4))
    pairs = Pairs(
        segments(torch.full((8, 4), -0.6)), segments(torch.full((8, 4), 0.6)), torch.ones(8)
    )
    learner = OPPO(
        hindsight(), world=WORLD, steps=400, learning_rate=1e-2, optimal_learning_rate=1e-2
    )
    data = replace(batch(pairs, torch.zeros(4)), segments=loose)
    for step in range(400):
        learner.update(data, step)
    assert learner.take_metrics()["held_out/agreement"] == 1
    noise = BatchNoise(seeded(0, 0, WORLD.device))
    acted = learner.policy.act(Observation(torch.zeros(1, 1, 1)), Condition(), noise=noise)
    assert float(acted) > 0.3  # what is recorded has the mean 0


def test_implied_rewards_are_the_inverse_bellman_operator() -> None:
    learner: IPL = make("ipl", "algorithm.discount=0.5")
    learner.q = lambda critic, s, a: torch.stack([10 * s[:, 0] + a[:, 0]] * 2)  # type: ignore[method-assign]
    learner.value = lambda s: s[None] * 100  # type: ignore[assignment]
    segment = segments([[0.1, 0.2, 0.3]], [[1.0, 2.0, 3.0]])
    expected = [10 + 0.1 - 0.5 * 200, 20 + 0.2 - 0.5 * 300]
    assert learner.implied(segment)[0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_ipl_prefers_what_was_preferred_and_acts_so() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 64, 3, generator=generator) * 2 - 1
    label = (a[1, :, :2].sum(-1) > a[0, :, :2].sum(-1)).float()  # the last step is left out
    pairs = Pairs(segments(a[0]), segments(a[1]), label)
    learner = make(
        "ipl",
        "algorithm.discount=0.0",
        "algorithm.regularization=0.01",
        "algorithm.learning_rate=0.01",
        "algorithm.coefficient=3",
        steps=200,
    )
    for step in range(200):
        learner.update(batch(pairs, a[0].flatten()), step)
    assert learner.take_metrics()["held_out/agreement"] > 0.9
    noise = BatchNoise(seeded(0, 0, WORLD.device))
    acted = learner.policy.act(Observation(torch.zeros(1, 1, 1)), Condition(), noise=noise)
    assert float(acted) > 0.3


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("cpl", ("algorithm.judge=taste",), "algorithm.judge.*'taste'"),
        ("cpl", ("algorithm.imitation_steps=101",), r"imitation_steps must lie in \[0, 100\]"),
        (
            "diffusion_dpo",
            ("algorithm.judge=likelihood", "algorithm.imitation_steps=1"),
            "no likelihoods",
        ),
        ("ipl", ("algorithm.regularization=-1",), "regularization must be >= 0"),
    ],
)
def test_a_mistake_is_named_with_its_value(
    name: str, overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make(name, *overrides)


@pytest.mark.parametrize("name", ["cpl", "ipl", "oppo"])
def test_a_batch_without_comparisons_is_refused(name: str) -> None:
    extra = ("algorithm.imitation_steps=0",) if name == "cpl" else ()
    with pytest.raises(ValueError, match="source=preferences"):
        make(name, *extra).update(batch(None, torch.zeros(3)), 0)


def test_a_policy_that_knows_no_likelihoods_is_refused() -> None:
    with pytest.raises(TypeError, match="HindsightPolicy"):
        Preference(hindsight(), world=WORLD, steps=1, loss=loss_of("dpo"), imitation_steps=0)
    with pytest.raises(TypeError, match="policy=hindsight"):
        OPPO(At(), world=WORLD, steps=1)
