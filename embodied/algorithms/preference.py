"""Policies from comparisons alone: imitation first, then any loss of pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.saved import Saved
from embodied.algorithms.segment_answers import agreement, answer, denoises, divergence
from embodied.distributed import World
from embodied.feedback import Pairs, SegmentBatch
from embodied.noise import BatchNoise, Noise, seeded
from embodied.objectives.answers import Answers, PairLoss, labelled
from embodied.policies.base import Policy
from embodied.structs import Batch, Metrics

FRESH = 1 << 40
"""Noise of measurements, apart from that of any step."""


def pairs_in(batch: Batch) -> Pairs:
    """A batch's comparisons. Raises ValueError where it has none."""
    if batch.pairs is None:
        raise ValueError(
            "this algorithm learns from comparisons, and the batch has none: choose "
            "source=preferences"
        )
    return batch.pairs


class Preference(Saved):
    """Imitates all recorded steps for a while, keeps what came of it as the reference, and goes on
    by a loss of pairs (`conf/preference`): CPL (Hejna et al. 2023, arXiv:2310.13639), DPO, IPO,
    SPPO, imitation of what was preferred, or Diffusion-DPO where the policy denoises.

    Args:
        policy: any that knows how likely actions are, or denoises; see `segment_answers`.
        loss: of pairs; soft labels and ties count in both directions.
        imitation_steps: before it; 0 takes the policy as it comes, with `init_from`, as reference.
        judge: what must be higher of the preferred segment to agree with a label: "ratio", log pi -
            log pi_ref, or "likelihood", log pi, for losses without a reference.
        learning_rate: of Adam, which begins anew with the loss of pairs.
        imitation_learning_rate: before that.
        warmup_steps: of the loss of pairs, over which its rate rises.
        max_grad_norm: None leaves gradients as they are.
        seed: of the noise in the losses; that of step s depends on (seed, s) alone.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        world: World,
        steps: int,
        loss: PairLoss,
        imitation_steps: int,
        judge: str = "ratio",
        learning_rate: float = 1e-4,
        imitation_learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        max_grad_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        self._check(policy, steps, imitation_steps, judge)
        self.policy, self.world, self.loss, self.seed = policy, world, loss, seed
        self.imitation_steps, self.judge = imitation_steps, judge
        self.begins = imitation_steps  # the loss of pairs
        self.rates = (imitation_learning_rate, learning_rate)
        self.warmup_steps, self.max_grad_norm = warmup_steps, max_grad_norm
        self.reference = copy.deepcopy(policy).requires_grad_(False).eval()
        learned = {"loss": loss} if isinstance(loss, nn.Module) else {}
        self.parts = nn.ModuleDict({"reference": self.reference, **learned}).to(world.device)
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, fused=True)
        self._last: Batch | None = None
        self._step = 0

    def _check(self, policy: Policy, steps: int, imitation_steps: int, judge: str) -> None:
        if judge not in ("ratio", "likelihood"):
            raise ValueError(f"algorithm.judge must be 'ratio' or 'likelihood', got {judge!r}")
        if not 0 <= imitation_steps <= steps:
            raise ValueError(
                f"algorithm.imitation_steps must lie in [0, {steps}] (train.steps), got "
                f"{imitation_steps}"
            )
        if denoises(policy) and judge == "likelihood":
            raise ValueError(
                "a policy that denoises has log-ratios to its reference and no likelihoods: choose "
                "a loss with a reference, such as algorithm=diffusion_dpo"
            )

    def update(self, batch: Batch, step: int) -> Metrics:
        self._last, self._step = batch, step
        if step == self.imitation_steps:
            self.reference.load_state_dict(self.policy.state_dict())
            self.optimizer.state.clear()
        self.policy.train()
        self.policy.begin_step(step)
        imitates = step < self.imitation_steps
        loss, metrics = self._imitate(batch, step) if imitates else self._compare(batch, step)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return metrics

    def _rate(self, step: int) -> float:
        if step < self.imitation_steps:
            return self.rates[0]
        since = max(0, step - self.begins)
        return self.rates[1] * min(1.0, (since + 1) / max(1, self.warmup_steps))

    def _imitate(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        loss, _ = self.policy.loss(batch, noise=self._noise(step)())
        return loss, {"imitation/loss": loss.detach()}

    def _compare(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The mean loss of the batch's pairs."""
        pairs, noise = pairs_in(batch), self._noise(step)
        first, second = (
            answer(self.policy, self.reference, side, noise) for side in (pairs.first, pairs.second)
        )
        label = pairs.second_better
        loss = labelled(self.loss, first, second, label).mean()
        margin = self._score(second) - self._score(first)
        return loss, {
            "preference/loss": loss.detach(),
            "preference/margin": (margin * (2 * label - 1)).mean().detach(),
        }

    def _noise(self, step: int) -> Callable[[], Noise]:
        return lambda: BatchNoise(seeded(self.seed, step, self.world.device))

    def _score(self, answers: Answers) -> Tensor:
        return answers.delta() if self.judge == "ratio" else answers.log_likelihood()

    def score(self, segments: SegmentBatch) -> Tensor:
        """(B,) what is higher of the segment that the policy prefers."""
        noise = self._noise(FRESH)
        return self._score(answer(self.policy, self.reference, segments, noise))

    @torch.no_grad()
    def take_metrics(self) -> Metrics:
        """Agreement with comparisons held out, and the divergence from the reference."""
        batch = self._last
        if batch is None or batch.held_out is None or self._step < self.begins:
            return {}
        self.policy.eval()
        noise = self._noise(FRESH)()
        kl = divergence(self.policy, self.reference, batch, noise)
        return {**agreement(self.score, batch.held_out), "reference/kl": kl}

    def load_state_dict(
        self, tensors: dict[str, dict[str, Tensor]], document: dict[str, Any]
    ) -> None:
        super().load_state_dict(tensors, document)
        self.reference.eval()
