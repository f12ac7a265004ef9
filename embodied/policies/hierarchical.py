"""Two levels: which phrase describes what to do next, and which actions do what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.encoders.base import Encoder
from embodied.heads.base import ActionHead
from embodied.heads.phrases import PhraseHead
from embodied.noise import Noise
from embodied.normalize import MinMax
from embodied.policies.base import Plan, Policy, by_source
from embodied.policies.codes import Codes
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class PhraseLevel(nn.Module):
    """p(phrase | observation, condition) over the candidates.

    Args:
        codes: factory called with (action_dim=).
        head: factory called with (dim=, vector_dim=).
        encoder: factory called with (spec=, obs_horizon=, dim=); None reads the action level's
            tokens (RT-H: one trunk for both), otherwise the levels share nothing (YAY Robot).
        obs_horizon, spacing: of an encoder of its own: so many observations, so many steps apart,
            the last one of the present (YAY: 4, 1 s apart).
    """

    def __init__(
        self,
        *,
        spec: Spec,
        dim: int,
        codes: Callable[..., Codes],
        head: Callable[..., PhraseHead] = PhraseHead,
        encoder: Callable[..., Encoder] | None = None,
        obs_horizon: int = 1,
        spacing: int = 1,
    ) -> None:
        super().__init__()
        if encoder is None and obs_horizon != 1:
            raise ValueError("phrase_level.obs_horizon needs an encoder of its own; give one")
        self.spacing, self.obs_horizon = spacing, obs_horizon
        self.codes = codes(action_dim=spec.action_dim)
        self.head = head(dim=dim, vector_dim=self.codes.dim)
        self.encoder = (
            None if encoder is None else encoder(spec=spec, obs_horizon=obs_horizon, dim=dim)
        )

    @property
    def history(self) -> int:
        """How many of the latest observations it needs."""
        return 1 + (self.obs_horizon - 1) * self.spacing

    def forward(
        self,
        observation: Observation,
        condition: Condition,
        shared: Tensor,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """Logits (B, K); `shared` (B, L, D) are the action level's tokens."""
        if self.encoder is not None:
            recent = _latest(observation, self.obs_horizon, self.spacing)
            shared = self.encoder(recent, condition, noise=noise)
        logits: Tensor = self.head(shared, self.vectors(shared.device))
        return logits

    def vectors(self, device: torch.device) -> Tensor:
        """Of the candidates, (K, E)."""
        return self.codes.vectors(self.codes.candidates, device)


class HierarchicalPolicy(Policy):
    """pi(a, m | o, g) = p(m | o, g) p(a | o, g, m): language motions m (RT-H, Belkhale et al. 2024,
    arXiv:2403.01823, Eq. 1) or sub-tasks (YAY Robot, Shi et al. 2024, arXiv:2403.12910).

    The action level is told the phrase in `condition.motion` where that is present: in training the
    recorded one, in use a person's. Elsewhere it is told what the phrase level chooses. Departing
    from RT-H, where both levels are queries to one language model, they are an encoder and a head.

    Args:
        encoder, head: as of `ChunkPolicy`; the head also gets a token of the phrase.
        phrase_level: factory called with (spec=, dim=); None makes a flat policy of the same form.
        phrase_weight: of the phrase's cross-entropy beside the action's loss (RT-H asks both
            queries equally often).
        pipelined: `plan` acts on the phrase of the planning before and predicts the next one in the
            same call (RT-H, Sec. IV); needs phrases of one planning ahead to learn from.
        hold_steps: steps for which `plan` keeps to a phrase, unless pipelined (YAY: 4 s).
    """

    def __init__(
        self,
        *,
        spec: Spec,
        encoder: Callable[..., Encoder],
        head: Callable[..., ActionHead],
        phrase_level: Callable[..., PhraseLevel] | None,
        obs_horizon: int = 1,
        pred_horizon: int = 4,
        dim: int = 128,
        phrase_weight: float = 1.0,
        pipelined: bool = False,
        hold_steps: int = 1,
    ) -> None:
        super().__init__()
        if hold_steps < 1 or (pipelined and hold_steps != 1):
            raise ValueError(
                f"hold_steps must be 1 or more, and 1 where pipelined, got {hold_steps}"
            )
        self.spec, self.pred_horizon, self.action_obs = spec, pred_horizon, obs_horizon
        self.phrase_weight, self.pipelined = phrase_weight, pipelined
        self.hold_steps = sys.maxsize if pipelined else hold_steps
        self.encoder = encoder(spec=spec, obs_horizon=obs_horizon, dim=dim)
        self.phrase_level = None if phrase_level is None else phrase_level(spec=spec, dim=dim)
        num_tokens, self.obs_horizon = self.encoder.num_tokens, obs_horizon
        if self.phrase_level is not None:
            self.obs_horizon = max(obs_horizon, self.phrase_level.history)
            self.read_phrase = nn.Sequential(
                nn.Linear(self.phrase_level.codes.dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            )
            num_tokens += 1
        self.head = head(
            action_dim=spec.action_dim, pred_horizon=pred_horizon, num_tokens=num_tokens, dim=dim
        )
        self.action_normalizer = MinMax(spec.action_dim)
        self.register_buffer("action_low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("action_high", torch.tensor(spec.action_high), persistent=False)

    action_low: Tensor
    action_high: Tensor

    # Phrases

    @property
    def candidates(self) -> tuple[str, ...]:
        """The phrases that it can choose among."""
        return self._level.codes.candidates

    def extend(self, phrases: Sequence[str]) -> None:
        """Adds candidates, which its choice is among from now on; weights stay as they are. A flat
        policy knows no phrases and takes no notice."""
        if self.phrase_level is not None:
            self.phrase_level.codes.extend(phrases)

    def phrase_log_probs(self, observation: Observation, condition: Condition) -> Tensor:
        """(B, K), of `candidates`; what `condition.motion` says does not matter."""
        shared = self._tokens(observation, condition)
        logits: Tensor = self._level(observation, _untold(condition), shared)
        return logits.log_softmax(-1)

    def phrases(self, observation: Observation, condition: Condition) -> tuple[str, ...]:
        """What the phrase level itself would choose in each row."""
        return self._named(self.phrase_log_probs(observation, condition))

    def labelled(self, batch: Batch) -> Batch:
        """The batch with the phrases that this policy learns from; see `Codes.label`."""
        if self.phrase_level is None:
            return batch
        return self.phrase_level.codes.label(batch, self.action_normalizer(batch.action))

    @property
    def _level(self) -> PhraseLevel:
        if self.phrase_level is None:
            raise ValueError("a flat policy chooses no phrases; give it a phrase_level")
        return self.phrase_level

    def _named(self, scores: Tensor) -> tuple[str, ...]:
        return tuple(self.candidates[i] for i in scores.argmax(-1).tolist())

    # Training

    def fit_normalizers(
        self,
        observation: Observation,
        condition: Condition,
        action: Tensor,
        *,
        lengths: Tensor | None = None,
    ) -> None:
        """Takes the phrases of the training data as `condition.motion`, however many."""
        self.action_normalizer.fit(action)
        self.encoder.fit_normalizers(observation, _untold(condition))
        if (level := self.phrase_level) is not None:
            level.codes.fit(condition.motion or (), self.action_normalizer(action))
            if level.encoder is not None:
                level.encoder.fit_normalizers(observation, _untold(condition))

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        """The action's loss plus the weighted cross-entropy, both means over valid steps.

        A row's cross-entropy counts at each of its valid steps, so that a loss over parts of a
        batch adds up; rows with an empty `batch.phrase` have none.
        """
        batch = self.labelled(batch)
        action = self.action_normalizer(batch.action)
        mask = batch.mask.float()
        total = mask.sum().clamp(min=1)
        if self.phrase_level is None:
            context = self._tokens(batch.observation, batch.condition, noise=noise)
            errors = self.head.loss(context, action, noise=noise)
            loss = (errors * mask).sum() / total
            return loss, {"loss": loss.detach(), **by_source(errors.detach(), batch)}
        context, logits = self._context(batch.observation, batch.condition, noise=noise)
        errors = self.head.loss(context, action, noise=noise)  # (B, H)
        action_loss = (errors * mask).sum() / total
        entropy, metrics = self._phrase_loss(logits, batch)
        phrase_loss = (entropy * mask.sum(1)).sum() / total
        loss = action_loss + self.phrase_weight * phrase_loss
        return loss, {
            "loss": loss.detach(),
            "action_loss": action_loss.detach(),
            "phrase_loss": phrase_loss.detach(),
            **metrics,
            **by_source(errors.detach(), batch),
        }

    def _phrase_loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy of each row, (B,), and the share of rows whose phrase is chosen."""
        phrases = batch.phrase or ("",) * len(logits)
        first = self.candidates[0]  # stands for what is not known
        index = self._level.codes.vocabulary.index([each or first for each in phrases])
        target = torch.tensor(index).to(logits.device, non_blocking=True)
        known = torch.tensor([bool(each) for each in phrases]).to(logits.device, non_blocking=True)
        entropy = F.cross_entropy(logits, target, reduction="none") * known
        counted = known & batch.mask.any(1)
        right = (logits.argmax(-1) == target) & counted
        return entropy, {"motion_accuracy": right.sum() / counted.sum().clamp(min=1)}

    # Acting

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        if self.phrase_level is None:
            return self._sample(self._tokens(observation, condition), noise)
        return self._sample(self._context(observation, condition)[0], noise)

    def plan(
        self,
        observation: Observation,
        condition: Condition,
        previous: Sequence[str | None],
        *,
        noise: Noise,
    ) -> Plan:
        """As `act`, but a row without `condition.motion` keeps to its `previous` phrase. A flat
        policy says nothing."""
        if self.phrase_level is None:
            rows = len(observation.state)
            silent, action = ("",) * rows, self.act(observation, condition, noise=noise)
            return Plan(action, silent, silent, (None,) * rows)
        told = _told(condition, len(observation.state), observation.state.device)
        phrases = tuple(mine or kept for mine, kept in zip(told, previous, strict=True))
        given = replace(
            condition,
            motion=tuple(each or "" for each in phrases),
            present={k: x for k, x in condition.present.items() if k != "motion"},
        )
        context, logits = self._context(observation, given)
        proposed = self._named(logits)
        acted = tuple(each or own for each, own in zip(phrases, proposed, strict=True))
        if self.pipelined:
            carried: tuple[str | None, ...] = proposed
        else:  # after a person has spoken the phrase level is asked anew
            carried = tuple(None if mine else each for mine, each in zip(told, acted, strict=True))
        return Plan(self._sample(context, noise), acted, proposed, carried)

    def _tokens(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        recent = _latest(observation, self.action_obs)
        tokens: Tensor = self.encoder(recent, _untold(condition), noise=noise)
        return tokens

    def _context(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens for the action head, the phrase's last, and the logits of all phrases."""
        level, shared = self._level, self._tokens(observation, condition, noise=noise)
        logits = level(observation, _untold(condition), shared, noise=noise)
        candidates, device = level.codes.candidates, logits.device
        own = level.codes.vectors(candidates, device)[logits.argmax(-1)]
        said = [each or candidates[0] for each in condition.motion or ("",) * len(shared)]
        told = level.codes.vectors(said, device)
        vector = torch.where(_is_told(condition, len(shared), device)[:, None], told, own)
        return torch.cat([shared, self.read_phrase(vector)[:, None]], dim=1), logits

    def _sample(self, context: Tensor, noise: Noise) -> Tensor:
        action = self.action_normalizer.inverse(self.head.sample(context, noise=noise))
        return action.clamp(self.action_low, self.action_high)


def _latest(observation: Observation, count: int, spacing: int = 1) -> Observation:
    """The last `count` of the steps, `spacing` apart and ending with the present."""
    steps = slice(-1 - (count - 1) * spacing, None, spacing)
    return observation.map(lambda x: x[:, steps])


def _untold(condition: Condition) -> Condition:
    """Without the phrase, which neither the phrase level nor an encoder may see."""
    present = {name: x for name, x in condition.present.items() if name != "motion"}
    return replace(condition, motion=None, present=present)


def _is_told(condition: Condition, rows: int, device: torch.device) -> Tensor:
    """(B,) whether a phrase is given."""
    spoken = torch.tensor([bool(each) for each in condition.motion or ("",) * rows])
    spoken = spoken.to(device, non_blocking=True)
    present = condition.present.get("motion")
    return spoken if present is None else spoken & present


def _told(condition: Condition, rows: int, device: torch.device) -> tuple[str | None, ...]:
    """The phrase given in each row; None where there is none."""
    flags = _is_told(condition, rows, device).tolist()
    motion = condition.motion or ("",) * rows
    return tuple(each if flag else None for each, flag in zip(motion, flags, strict=True))
