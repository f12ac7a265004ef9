"""Learning what is good from comparisons of what the policy itself did: PEBBLE, and its heirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from embodied.algorithms.actor_critic import ValueLearner
from embodied.algorithms.base import Algorithm
from embodied.algorithms.pseudo_labels import PseudoLabels
from embodied.algorithms.reward_fit import Compared, Crop, Term, fit, judge
from embodied.algorithms.saved import moments, restore
from embodied.algorithms.upper import Upper
from embodied.feedback import Pairs, Session
from embodied.networks.moments import RunningMoments
from embodied.networks.rewards import RewardEnsemble
from embodied.noise import seeded
from embodied.objectives.bradley_terry import preference_logits
from embodied.objectives.state_entropy import neighbour_distance
from embodied.policies.base import Policy
from embodied.structs import Batch, Metrics

_STREAM = 0xBEB
"""Keeps orders and beginnings apart from the learner's noise, which has the same seed."""


class PEBBLE(Algorithm):
    """A learner from rewards, told by a teacher which of its segments were better (Lee et al. 2021,
    arXiv:2106.05091, Algorithm 2; B-Pref's procedure, arXiv:2111.03026).

    Until the first session it learns to go where it has not been. At each session an ensemble of
    rewards is fitted to all answers so far; at the first one critics begin anew.

    Relabelling is by what is drawn: each batch's rewards are those of the ensemble as it is now.
    So they are never old, nothing has to be stored with the buffer, and a run that is resumed is
    the same to the last bit; it costs one pass of the ensemble for each batch.

    Departures: inputs of the rewards are z-scored by the first session's candidates; the learner's
    losses are its own (see `actor_critic`).

    Args:
        learner: any with critics.
        num_members, hidden: of the ensemble.
        learning_rate: of its Adam, whose moments are kept between sessions.
        epochs: at most, of each session.
        target_accuracy: of the labels, above which a session ends.
        neighbours: k of `neighbour_distance`.
        crop: parts of segments that stand for the whole, as [low, high] steps; None learns whole
            ones. The source's segments must be as long as the high one.
        pseudo_labels: of pairs that nobody compared; None learns labels alone. With the crop it is
            SURF.
        upper: PARL's term or MRN's step; None has none.
        seed: what is drawn at step s depends on (seed, s) alone.
    """

    def __init__(
        self,
        learner: ValueLearner,
        *,
        num_members: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
        learning_rate: float = 3e-4,
        epochs: int = 50,
        batch_size: int = 128,
        target_accuracy: float = 0.97,
        neighbours: int = 5,
        crop: tuple[int, int] | None = None,
        pseudo_labels: Mapping[str, float] | None = None,
        upper: Upper | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(learner, ValueLearner):
            raise TypeError(
                "reward_learning needs a learner with critics, such as algorithm=sac, got "
                f"{type(learner).__name__}"
            )
        self.learner, self.seed, self.upper = learner, seed, upper or Upper()
        self.epochs, self.batch_size = epochs, batch_size
        self.target_accuracy, self.neighbours = target_accuracy, neighbours
        self.crop = None if crop is None else Crop(*crop)
        self.pseudo_labels = None if pseudo_labels is None else PseudoLabels(**pseudo_labels)  # type: ignore[arg-type]
        spec = learner.policy.spec
        with torch.random.fork_rng():
            torch.manual_seed(seed ^ _STREAM)
            self.rewards = RewardEnsemble(
                spec.state_dim, spec.action_dim, num_members=num_members, hidden=hidden
            )
        self.novelty = RunningMoments(1)
        self.parts = nn.ModuleDict({"rewards": self.rewards, "novelty": self.novelty})
        self.parts.to(learner.world.device)
        self.optimizer = torch.optim.Adam(self.rewards.parameters(), lr=learning_rate)
        self.facts: dict[str, float] = {}

    @property
    def policy(self) -> Policy:  # type: ignore[override]
        """The learner's."""
        return self.learner.policy

    def update(self, batch: Batch, step: int) -> Metrics:
        if batch.session is not None:
            self._hold(batch.session, batch.pairs, step)
        moved = self.upper.update(self.learner, self.rewards, self.optimizer, batch, step)
        self._note({name: float(x) for name, x in moved.items()})
        reward = self._reward(batch)
        metrics = self.learner.update(replace(batch, reward=reward), step)
        return {**metrics, "reward/mean": reward.mean()}

    @torch.no_grad()
    def _reward(self, batch: Batch) -> Tensor:
        """(B,) what is learned from: novelty at first, then the ensemble's mean."""
        state = batch.observation.state[:, -1]
        if batch.visited is None:
            found: Tensor = self.rewards(state, batch.action[:, 0]).mean(0)
            return found
        distance = neighbour_distance(state, batch.visited, neighbours=self.neighbours)
        self.novelty.add(distance[:, None])
        return distance / self.novelty.std.float().clamp(min=1e-6)

    # Sessions

    def _hold(self, session: Session, before: Pairs | None, step: int) -> None:
        """Asks, and learns from all answers so far."""
        candidates = Compared.of(session.candidates)
        if before is None:
            sides = (candidates.state, candidates.action)
            self.rewards.fit_normalizer(*(x.flatten(0, 2) for x in sides))
        pairs = session.ask(self.probability(candidates))
        if pairs is None:  # all was skipped
            return
        generator = seeded(self.seed ^ _STREAM, step, torch.device("cpu"))
        learned = fit(
            self.rewards,
            Compared.of(pairs),
            optimizer=self.optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            target_accuracy=self.target_accuracy,
            generator=generator,
            crop=self.crop,
            terms=self._terms(session, step),
        )
        held_out = Compared.of(session.held_out)
        judged = judge(self.rewards, held_out)
        decided = float((held_out.label != 0.5).sum())
        agreement = judged["reward/held_out_accuracy"]
        self._note(
            {**learned, **judged, "held_out/agreement": agreement, "held_out/pairs": decided}
        )
        if before is None:
            self.learner.reset_critics(int(torch.randint(2**62, (), generator=generator)))

    @torch.no_grad()
    def probability(self, compared: Compared) -> Tensor:
        """(E, N) what each member thinks: that the second is better."""
        return torch.sigmoid(preference_logits(self.rewards(compared.state, compared.action)))

    def _terms(self, session: Session, step: int) -> list[Term]:
        found: list[Term] = []
        if self.pseudo_labels is not None:
            if session.unlabelled is None:
                raise ValueError(
                    "reward_learning.pseudo_labels are of pairs that nobody compared, and there "
                    "are none: set source.unlabelled, such as to 10"
                )
            found.append(self.pseudo_labels.term(Compared.of(session.unlabelled), self.crop))
        term = self.upper.term(self.learner, step)
        return found if term is None else [*found, term]

    def _note(self, facts: Mapping[str, float]) -> None:
        """Remembers what to log; where all were ties, nothing was right or wrong."""
        self.facts |= {name: x for name, x in facts.items() if math.isfinite(x)}

    # What every algorithm has

    def inference_state(self) -> dict[str, Tensor]:
        return self.learner.inference_state()

    def take_metrics(self) -> Metrics:
        return {**self.learner.take_metrics(), **self.facts}

    def state_dict(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        tensors, document = self.learner.state_dict()
        mine = {name: x.detach() for name, x in self.parts.state_dict().items()}
        return (
            {**tensors, "reward_learning": mine, "reward_optimizer": moments(self.optimizer)},
            {"learner": document, "facts": self.facts},
        )

    def load_state_dict(
        self, tensors: dict[str, dict[str, Tensor]], document: dict[str, Any]
    ) -> None:
        self.learner.load_state_dict(tensors, document["learner"])
        self.parts.load_state_dict(tensors["reward_learning"])
        restore(self.optimizer, tensors.get("reward_optimizer", {}))
        self.facts = dict(document["facts"])
