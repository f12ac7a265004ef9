"""Step-aware SPO: what is known of its steps, and what comes of learning from them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from embodied.algorithms.spo import SPO
from embodied.build import instantiate
from embodied.experiment import train
from embodied.feedback import Pairs
from embodied.heads.base import Denoiser
from embodied.heads.ddpm import PREDICTIONS, DDPMHead
from embodied.heads.edm import EDMHead
from embodied.heads.forks import Fork, forks
from embodied.heads.gaussian import GaussianHead
from embodied.heads.samplers import ancestral_step
from embodied.noise import BatchNoise
from embodied.objectives.diffusion import step_aware
from embodied.policies.chunk import ChunkPolicy
from embodied.preference_task import agreement
from embodied.structs import Batch, Condition, Observation
from embodied.testing.algorithms import check_algorithm
from scripts.drill import differences
from tests.conftest import NARROW, SERIAL, compose_config
from tests.test_preference_learners import (
    SPEC,
    WORLD,
    batch,
    chunk_policy,
    hindsight,
    random_batch,
    segments,
)
from tests.test_rewarded_runs import Killed, kill_after

__all__ = ["kill_after"]
MEAN, STD = 0.3, 0.5
MODE, SPREAD = 0.6, 0.1


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[a | a + sigma n = x] of a ~ N(MEAN, STD^2)."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


class TwoModes(EDMHead):
    """Knows the exact denoiser of actions near +-MODE, and learns how often they are near +MODE."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes, num_layers=1, num_heads=2, sigma_max=5.0)
        self.requires_grad_(False)
        self.log_odds = torch.nn.Parameter(torch.zeros(()))

    def network(self, x: Tensor, sigma: Tensor, memories: Any) -> Tensor:
        c_skip, c_out, c_in = (each[:, None, None] for each in self.scalings(sigma))
        x = x / c_in
        variance = (SPREAD**2 + sigma**2)[:, None, None, None]
        apart = x[..., None] - torch.tensor([-MODE, MODE])
        prior = torch.stack([-self.log_odds, self.log_odds]) / 2
        share = torch.softmax(prior - apart.square() / (2 * variance), -1)
        clean = (share * (x[..., None] - apart * sigma[:, None, None, None] ** 2 / variance)).sum(
            -1
        )
        return (clean - c_skip * x) / c_out


def learner(policy: Any = None, *, clip: float = 0.1, beta: float = 10.0, **options: Any) -> SPO:
    """One of few steps and small rewards, which learn for one step."""
    small = {"reward_steps": 1, "num_steps": 12, "skipped_steps": 3, "hidden": [16], "min_gap": 0.0}
    return SPO(
        policy or chunk_policy(TwoModes),
        world=WORLD,
        steps=1000,
        loss=functools.partial(step_aware, beta=beta, clip=clip),
        imitation_steps=0,
        learning_rate=0.03,
        warmup_steps=0,
        **{**small, **options},
    )


def log_odds(policy: ChunkPolicy) -> float:
    assert isinstance(policy.head, TwoModes)
    return float(policy.head.log_odds.detach())


def shifted(x: Tensor, sigma: Tensor) -> Tensor:
    return gaussian(x, sigma) + 0.1


def forked(spo: SPO, rows: int, own: Denoiser = gaussian, skipped: int = 0) -> list[Fork]:
    start = noise(1).normal(rows, 1, 1, device=WORLD.device)
    return list(
        forks(
            own,
            shifted,
            spo.sigmas,
            start,
            noise(2),
            num_candidates=spo.num_candidates,
            skipped=skipped,
        )
    )


class Higher(torch.nn.Module):
    """Rewards that like high actions, by the same amount at all levels."""

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return 5 * action.sum(-1)[None]


def compared_modes() -> Batch:
    """Actions near both modes, equally often; of two the higher one is preferred."""
    draw = torch.Generator().manual_seed(0)
    sign = torch.randint(2, (2, 64, 1), generator=draw) * 2 - 1
    action = MODE * sign + SPREAD * torch.randn(2, 64, 1, generator=draw)
    pairs = Pairs(segments(action[0]), segments(action[1]), (action[1] > action[0])[:, 0].float())
    return batch(pairs, action.flatten())


# The steps


def test_what_is_compared_are_the_densities_of_what_was_drawn() -> None:
    for fork in forked(learner(), rows=5):
        number = torch.tensor([0, 3, 2, 1, 0])
        found = fork.answers(number)
        x = torch.stack([fork.candidates[row, i] for row, i in enumerate(number.tolist())])
        expected, reference = (
            torch.distributions.Normal(mean, fork.std).log_prob(x)[..., 0]
            for mean in (fork.mean, fork.other_mean)
        )
        torch.testing.assert_close(found.log_prob, expected)
        torch.testing.assert_close(found.reference, reference)


def test_the_first_steps_and_the_last_one_are_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spo = learner(num_steps=12, skipped_steps=4)
    found: list[Fork] = []

    def score(observation: Observation, fork: Fork) -> Tensor:
        found.append(fork)
        return torch.zeros(2, 4)

    monkeypatch.setattr(spo, "score_candidates", score)
    spo.step_loss(batch(None, torch.zeros(2)), noise())
    assert [float(fork.sigma) for fork in found] == spo.sigmas[4:11].tolist()
    assert [float(fork.next_sigma) for fork in found] == spo.sigmas[5:12].tolist()
    assert float(found[-1].next_sigma) == pytest.approx(0.005)  # then 0, where all draws are equal


def test_no_step_has_the_gradient_of_another() -> None:
    shift = torch.zeros((), requires_grad=True)
    found = forked(learner(), rows=2, own=lambda x, sigma: gaussian(x, sigma) + shift, skipped=4)
    for fork in found:
        assert not fork.x.requires_grad
        (gradient,) = torch.autograd.grad(fork.mean.sum() / 2, shift)
        weight = 1 - (fork.next_sigma / fork.sigma) ** 2
        assert float(gradient) == pytest.approx(float(weight), rel=1e-4)


def test_the_divergence_is_a_sum_over_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means that differ by what a clean action of 0.1 more makes of them, everywhere."""
    spo = learner()
    data = batch(None, torch.zeros(2))
    assert float(spo.path_divergence(data, noise())) == 0
    found = forked(spo, rows=2)
    monkeypatch.setattr(spo, "chains", lambda batch, noise, *, skipped: found[skipped:])
    ratio = spo.sigmas[1:-1] / spo.sigmas[:-2]
    std = spo.sigmas[1:-1] * (1 - ratio**2).sqrt()
    expected = (0.1 * (1 - ratio**2) / std).square().sum() / 2
    assert float(spo.path_divergence(data, noise())) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("num_candidates", [2, 4])
def test_going_on_from_a_random_candidate_samples_as_ever(num_candidates: int) -> None:
    """Ancestral sampling of a Gaussian is a linear recursion of means and variances; going on from
    the best of four would raise the mean by more than STD."""
    spo = learner(num_candidates=num_candidates, num_steps=20)
    mean, variance = 0.0, float(spo.sigmas[0]) ** 2
    for fork in forked(spo, rows=20_000):
        x = fork.x
        assert float(x.mean()) == pytest.approx(mean, abs=4 * (variance / 20_000) ** 0.5)
        assert float(x.std()) == pytest.approx(variance**0.5, rel=0.02)
        kept = float(1 - (fork.next_sigma / fork.sigma) ** 2)
        gain = STD**2 / (STD**2 + float(fork.sigma) ** 2)
        mean = (1 - kept) * mean + kept * (MEAN + gain * (mean - MEAN))
        variance = (1 - kept + kept * gain) ** 2 * variance + float(fork.std) ** 2
    assert mean == pytest.approx(MEAN, abs=0.03)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("clip_sample", [True, False])
def test_a_step_of_ddpm_is_that_of_diffusers_ddim_with_eta_one(
    prediction_type: str, clip_sample: bool
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"action_dim": 2, "pred_horizon": 3, "num_tokens": 1, "dim": 8}
    head = DDPMHead(
        **sizes, num_layers=1, prediction_type=prediction_type, clip_sample=clip_sample
    ).requires_grad_(False)
    sigmas = head.noise_levels(20)
    assert len(sigmas) == 21
    assert sigmas[-1] == 0
    said = head.denoiser(torch.randn(4, 1, 8))
    make: Any = DDIMScheduler
    scheduler = make.from_config(head.scheduler.config)
    scheduler.set_timesteps(20)
    x = torch.randn(4, 3, 2)
    for i, t in list(enumerate(scheduler.timesteps))[:-1]:
        before, after = ((1 + sigmas[j] ** 2).sqrt() for j in (i, i + 1))
        mean, std = ancestral_step(head.clean(said), before * x, sigmas[i], sigmas[i + 1])
        drawn = torch.randn(4, 3, 2)
        x = scheduler.step(
            said(x, t), t, x, eta=1.0, use_clipped_model_output=True, variance_noise=drawn
        ).prev_sample
        torch.testing.assert_close((mean + std * drawn) / after, x, atol=1e-4, rtol=1e-4)


# The loss


def test_the_loss_is_that_of_the_best_and_the_worst_where_they_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three steps of two rows with scores given here; the slow way beside it."""
    spo = learner(num_steps=4, skipped_steps=0, min_gap=0.5, num_candidates=3)
    wide, narrow = [0.0, 2.0, -0.5], [0.3, 0.2, 0.1]  # tanh(2.5 / 2) > 0.5 > tanh(0.1)
    given = iter([[wide, narrow], [narrow, wide], [narrow, narrow]])
    seen: list[Fork] = []

    def score(observation: Observation, fork: Fork) -> Tensor:
        seen.append(fork)
        return torch.tensor(next(given))

    monkeypatch.setattr(spo, "score_candidates", score)
    with torch.no_grad():
        spo.policy.head.log_odds += 0.4
    found, metrics = spo.step_loss(batch(None, torch.zeros(2)), noise())
    losses = []
    for fork, row in ((seen[0], 0), (seen[1], 1)):
        assert not torch.allclose(fork.mean[row], fork.other_mean[row])
        ratio = []
        for number in (1, 2):
            x = fork.candidates[row, number]
            own, other = (
                torch.distributions.Normal(mean[row], fork.std).log_prob(x).sum()
                for mean in (fork.mean, fork.other_mean)
            )
            ratio.append((own - other).clamp(math.log(0.9), math.log(1.1)))
        losses.append(-torch.nn.functional.logsigmoid(10 * (ratio[0] - ratio[1])))
    torch.testing.assert_close(found, sum(losses) / 6)
    torch.testing.assert_close(metrics["preference/loss"], sum(losses).detach() / 2)
    assert float(metrics["preference/kept"]) == pytest.approx(2 / 6)


def test_nothing_is_learned_where_nothing_is_told_apart() -> None:
    spo = learner(min_gap=0.99)
    data = compared_modes()
    for step in range(4):
        metrics = spo.update(data, step)
    assert float(metrics["preference/kept"]) == 0
    assert float(metrics["preference/loss"]) == 0
    assert log_odds(spo.policy) == 0


def moved(clip: float, beta: float) -> float:
    """Log-odds of the better mode after some steps with rewards that like it."""
    spo = learner(clip=clip, beta=beta, num_chains=48)
    data = compared_modes()
    spo.update(data, 0)
    spo.rewards = Higher()  # type: ignore[assignment]
    for step in range(1, 81):
        spo.update(data, step)
    assert log_odds(spo.reference) == 0
    return log_odds(spo.policy)


def test_the_clip_keeps_the_policy_where_the_reference_was() -> None:
    near, far = (moved(clip, beta=1.0) for clip in (0.1, 0.9))
    assert 0.2 < near < 0.6 * far
    assert torch.sigmoid(torch.tensor(-near)) > 0.25  # the worse mode is still there


def test_a_learned_model_makes_what_is_preferred_more_frequent() -> None:
    """From comparisons to samples of the policy, with no knowledge of the rewards."""
    spo = learner(reward_steps=100, reward_learning_rate=3e-3, num_chains=48, min_gap=0.3)
    data = compared_modes()
    for step in range(100):
        spo.update(data, step)
        assert log_odds(spo.policy) == 0
    learned = spo.take_metrics()
    assert float(learned["reward/held_out_accuracy"]) > 0.8
    assert "held_out/agreement" not in learned
    for step in range(100, 150):
        spo.update(data, step)
    metrics = spo.take_metrics()
    assert float(metrics["held_out/agreement"]) > 0.7
    assert 0 < float(metrics["reference/kl"]) < 0.2
    observation = Observation(torch.zeros(2000, 1, 1))
    with torch.no_grad():
        before, after = (
            (each.act(observation, Condition(), noise=noise()) > 0).float().mean()
            for each in (spo.reference, spo.policy)
        )
    assert float(after) > float(before) + 0.05


# The model of rewards


def test_both_members_are_noised_to_one_level_that_candidates_have() -> None:
    spo = learner(chunk_policy(functools.partial(EDMHead, num_layers=1, num_heads=2), 2))
    action = torch.tensor([-0.5, 0.5]).repeat(400, 1)
    pairs = Pairs(segments(action.repeat(1, 2)), segments(action.repeat(1, 2)), torch.ones(400))
    found = spo.compared(pairs, noise())
    assert found.state.shape == (400, 2, 2, 2)  # pairs, members, chunks, the state and the level
    assert found.action.shape == (400, 2, 2, 2)
    level = found.state[..., 1].exp()
    assert (level == level[:, :1, :1]).all()
    known = spo.sigmas[spo.skipped_steps + 1 : -1]
    assert torch.isclose(level[:, 0, 0, None], known).any(1).all()
    assert torch.isclose(level[:, 0, 0, None], known).any(0).all()
    drawn = found.action * (1 + level[..., None].square()).sqrt() - action[:, None, None]
    drawn = drawn / level[..., None]
    assert float(drawn.mean()) == pytest.approx(0, abs=0.08)
    assert float(drawn.std()) == pytest.approx(1, abs=0.06)
    members = drawn.transpose(0, 1).flatten(1)
    assert float(torch.corrcoef(members)[0, 1].abs()) < 0.15


def test_rewards_learn_while_the_policy_waits_and_then_stay() -> None:
    spo = learner(reward_steps=2)
    data = compared_modes()

    def state() -> tuple[Tensor, Tensor]:
        return spo.policy.head.log_odds.clone(), next(spo.rewards.parameters()).clone()

    seen = [state()]
    for step in range(4):
        spo.update(data, step)
        seen.append(state())
    changed = [
        tuple(not torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(seen, seen[1:], strict=False)
    ]
    assert changed == [(False, True), (False, True), (True, False), (True, False)]


# The learner


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    small = (
        *NARROW,
        "policy.pred_horizon=1",
        "policy.head.patch=1",
        "~policy.encoder.parts.language",
        "algorithm.hidden=[8]",
        "algorithm.num_steps=6",
        "algorithm.skipped_steps=1",
    )
    return compose_config("task=reach", "run_dir=none", "algorithm=spo", *small, *overrides)


def make(*overrides: str) -> SPO:
    config = composed(*overrides)
    torch.manual_seed(0)
    policy = instantiate(config["policy"], spec=SPEC)
    states, actions = torch.tensor([[[-1.0]], [[1.0]]]), torch.tensor([[-1.0], [1.0]])
    policy.fit_normalizers(Observation(states), Condition(), actions)
    made: SPO = instantiate(config["algorithm"])(policy, world=WORLD, steps=100, seed=0)
    return made


@pytest.mark.parametrize("head", ["edm", "ddpm"])
@pytest.mark.parametrize("imitation_steps", [0, 1])
def test_a_learner_keeps_the_contract(head: str, imitation_steps: int) -> None:
    """Saved between rewards and policy, or in the midst of the policy's steps."""
    overrides = (
        f"head={head}",
        f"algorithm.imitation_steps={imitation_steps}",
        "algorithm.reward_steps=1",
        "algorithm.min_gap=0",
    )
    check_algorithm(functools.partial(make, *overrides), random_batch())


def test_at_first_the_policy_is_its_own_reference_also_with_dropout() -> None:
    spo = make(
        "policy.head.dropout=0.5",
        "algorithm.imitation_steps=0",
        "algorithm.reward_steps=1",
        "algorithm.min_gap=0",
    )
    spo.update(random_batch(), 0)
    metrics = spo.update(random_batch(), 1)
    assert float(metrics["preference/loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(metrics["preference/margin"]) == 0


def test_the_yaml_says_what_the_paper_does() -> None:
    config = compose_config("task=reach", "run_dir=none", "algorithm=spo")
    algorithm = config["algorithm"]
    assert (algorithm["loss"]["beta"], algorithm["loss"]["clip"]) == (10, 0.1)
    assert [algorithm[x] for x in ("num_candidates", "num_steps", "skipped_steps")] == [4, 20, 4]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("num_candidates=1", "num_candidates must be at least 2.*got 1"),
        ("num_chains=0", "num_chains at least 1.*and 0"),
        ("skipped_steps=5", r"skipped_steps must lie in \[0, 5\).*num_steps=6.*got 5"),
        ("min_gap=1.0", r"min_gap must lie in \[0, 1\), got 1.0"),
        ("reward_steps=0", r"reward_steps must lie in \[1, 90\].*got 0"),
        ("reward_steps=91", "got 91"),
        ("judge=likelihood", "no likelihoods"),
    ],
)
def test_a_mistake_is_named_with_its_value(option: str, says: str) -> None:
    few = () if "reward_steps" in option else ("algorithm.reward_steps=5",)
    with pytest.raises(ValueError, match=says):
        make("algorithm.imitation_steps=10", *few, f"algorithm.{option}")


def test_a_batch_without_comparisons_is_refused() -> None:
    with pytest.raises(ValueError, match="source=preferences"):
        learner().update(batch(None, torch.zeros(3)), 0)


def test_heads_without_random_steps_are_refused() -> None:
    for head in ("flow", "deterministic"):
        config = compose_config("task=reach", "run_dir=none", "algorithm=spo", f"head={head}")
        policy = instantiate(config["policy"], spec=SPEC)
        with pytest.raises(TypeError, match=r"head=edm, ddpm.*ChunkPolicy with \w+Head"):
            learner(policy)
    gaussian_policy = chunk_policy(functools.partial(GaussianHead, num_layers=1, num_heads=2))
    for policy in (gaussian_policy, hindsight()):
        with pytest.raises(TypeError, match="head=edm"):
            learner(policy)


def test_a_killed_run_goes_on_to_the_last_bit(
    tmp_path: Path,
    kill_after: Callable[[int], None],
) -> None:
    """Six steps: two of imitation, one of rewards, three of the policy, of which two are repeated;
    segments of five steps are a chunk of four and one of one."""

    def compose(name: str) -> dict[str, Any]:
        return compose_config(
            "task=reach",
            "algorithm=spo",
            *SERIAL,
            *NARROW,
            f"data_dir={tmp_path / 'data'}",
            f"run_dir={tmp_path / name}",
            "~policy.encoder.parts.language",
            "task.collect.episodes_per_task=12",
            "train.batch_size=16",
            "train.save_every=2",
            "train.log_every=1",
            "train.steps=6",
            "protocol.max_steps=5",
            "eval.every=3",
            "eval.episodes=2",
            "train.early_stop={measure: eval/return, patience: 9, after: 3, benchmark_seed: 1}",
            "source.num_pairs=2",
            "comparisons.length=5",
            "comparisons.num_pairs=20",
            "comparisons.of=return",
            "algorithm.imitation_steps=2",
            "algorithm.reward_steps=1",
            "algorithm.num_steps=5",
            "algorithm.skipped_steps=1",
            "algorithm.hidden=[8]",
            "algorithm.min_gap=0",
        )

    results = train(compose("unbroken"))
    assert results is not None
    assert "success" in json.loads(results.read_text())
    assert agreement(tmp_path / "unbroken").episodes == 4
    kill_after(4)
    with pytest.raises(Killed):
        train(compose("killed"))
    assert train(compose("killed")) is not None
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []
