"""A chunk policy whose ways of being asked are aligned with one another in one task space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from embodied.encoders.base import given as given_in
from embodied.encoders.task import TaskEncoder
from embodied.noise import Noise
from embodied.objectives.alignment import hits, multi_positive_info_nce
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Metrics, Observation

Stage = Literal["align", "act", "joint"]
Then = Literal["frozen", "joint", "free"]
_TEMPERATURES = (0.01, 100.0)  # GRIF's code keeps the learned one within these


class AlignedPolicy(ChunkPolicy):
    """GRIF (Myers et al. 2023, arXiv:2307.00117), for any pairs of modalities.

    Training begins with the alignment alone and goes on with the actions.

    Attributes:
        stage: what the loss is of: "align" of the alignment alone, "act" of the actions alone,
            "joint" of both.

    Args:
        pairs: modalities to align, two by two; of rows that have both, in a `TaskEncoder` that
            `encoder` holds.
        align_steps: training steps of the alignment alone; 0 begins with the actions.
        then: "frozen" keeps the task space as it was aligned (GRIF-Frozen), "joint" goes on
            aligning beside the actions (GRIF-Joint), "free" lets the actions alone shape it (with
            no `align_steps`, the ablation without alignment).
        weight: of the alignment in the "joint" stage.
        temperature: at first; it is learned.
        chunk: settings of `ChunkPolicy`.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[str]] = (("language", "goal_image"),),
        align_steps: int = 1000,
        then: Then = "frozen",
        weight: float = 1.0,
        temperature: float = 0.07,
        **chunk: Any,
    ) -> None:
        super().__init__(**chunk)
        self.pairs = tuple((str(a), str(b)) for a, b in pairs)
        known = list(self.task_encoder.parts)
        if unknown := sorted({name for pair in self.pairs for name in pair} - set(known)):
            raise ValueError(f"pairs name {unknown}; the task encoder has {known}")
        if not self.pairs or weight < 0 or temperature <= 0:
            raise ValueError(
                "need pairs, weight >= 0 and temperature > 0, "
                f"got {self.pairs}, {weight} and {temperature}"
            )
        if then not in get_args(Then) or align_steps < 0:
            raise ValueError(
                f"then must be one of {get_args(Then)} and align_steps 0 or more, "
                f"got {then!r} and {align_steps}"
            )
        self.align_steps, self.then, self.weight = align_steps, then, weight
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.stage: Stage = "joint"
        self.trains_in_stages = True

    @property
    def task_encoder(self) -> TaskEncoder:
        """Where the modalities meet."""
        found = [each for each in self.encoder.modules() if isinstance(each, TaskEncoder)]
        if len(found) != 1:
            raise ValueError(
                f"AlignedPolicy needs one TaskEncoder in its encoder, got {len(found)}"
            )
        return found[0]

    def begin_step(self, step: int) -> None:
        if step < self.align_steps:
            self.stage = "align"
        else:
            self.stage = "joint" if self.then == "joint" else "act"
        self.task_encoder.requires_grad_(self.then != "frozen" or step < self.align_steps)

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        if self.stage == "act":
            return super().loss(batch, noise=noise)
        aligned, metrics = self.alignment(batch, noise=noise)
        if self.stage == "align":
            return aligned, {**metrics, "loss": aligned.detach()}
        loss, acted = super().loss(batch, noise=noise)
        return loss + self.weight * aligned, {**acted, **metrics}

    def alignment(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        """The mean loss over the pairs, and how well each modality finds the other's row."""
        points = self.task_encoder.points(batch.observation, batch.condition, noise=noise)
        rows, device = len(batch.action), batch.action.device
        given = {name: given_in(batch.condition, name, rows, device) for name in points}
        losses, metrics = [], dict[str, float | Tensor]()
        for a, b in self.pairs:
            valid = given[a] & given[b] & batch.mask.any(1)
            similarity = self.similarity(points[a].float(), points[b].float())
            same = _same(batch)
            losses.append(multi_positive_info_nce(similarity, same, valid))
            hidden = ~(valid[:, None] & valid[None, :])
            found = similarity.detach().masked_fill(hidden, -torch.inf)
            metrics[f"align/{a}-{b}"] = losses[-1].detach()
            metrics[f"retrieval/{a}-{b}"] = _recall_of(found, same & ~hidden, valid)
            metrics[f"retrieval/{b}-{a}"] = _recall_of(found.T, same & ~hidden, valid)
        return torch.stack(losses).mean(), metrics

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, M) cosines of points (N, Z) and (M, Z), over the temperature."""
        low, high = _TEMPERATURES
        temperature = self.log_temperature.exp().clamp(low, high)
        unit_a, unit_b = (nn.functional.normalize(x, dim=-1, eps=1e-6) for x in (a, b))
        similarity: Tensor = unit_a @ unit_b.T / temperature
        return similarity

    @torch.no_grad()
    def points(self, modality: str, observation: Observation, condition: Condition) -> Tensor:
        """(B, Z), where the task space has what each row asks for by one modality."""
        return self.task_encoder.points(observation, condition)[modality]


def _same(batch: Batch) -> Tensor:
    """(B, B) bool, which rows mean the same; without words for it, each only itself."""
    if batch.meaning is None:
        return torch.eye(len(batch.action), dtype=torch.bool, device=batch.action.device)
    return batch.meaning[:, None] == batch.meaning[None, :]


def _recall_of(similarity: Tensor, correct: Tensor, valid: Tensor) -> Tensor:
    """Top-1 recall of the valid rows."""
    return (hits(similarity, correct, 1) & valid).sum() / valid.sum().clamp(min=1)
