"""How a phrase becomes numbers: the text's embedding, one of many, or a cluster of actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.encoders.language import MINILM, SentenceEncoder
from embodied.networks.vocabulary import Vocabulary
from embodied.normalize import Statistics, ZScore
from embodied.structs import Batch


class Codes(nn.Module, ABC):
    """The candidate phrases of a policy, and the vectors (E,) that its two levels know them by.

    It has no weights: what is trained reads its vectors.

    Attributes:
        dim: E.
        vocabulary: the candidates; it may grow.
    """

    dim: int
    vocabulary: Vocabulary

    @property
    def candidates(self) -> tuple[str, ...]:
        """The phrases that can be chosen. Raises RuntimeError where there are none yet."""
        if not self.vocabulary.phrases:
            raise RuntimeError(
                "there are no candidate phrases: call policy.fit_normalizers(...) with the phrases "
                "of the training data as condition.motion, or load a checkpoint"
            )
        return self.vocabulary.phrases

    @abstractmethod
    def vectors(self, phrases: Sequence[str], device: torch.device) -> Tensor:
        """n phrases -> (n, E)."""

    @abstractmethod
    def fit(self, phrases: Sequence[str], action: Tensor) -> None:
        """Takes the distinct phrases of the training data and its normalised actions (N, A)."""

    def extend(self, phrases: Sequence[str]) -> None:
        """Adds candidates; no statistic and no weight changes."""
        self.vocabulary.extend(phrases)

    def understands(self, phrase: str) -> bool:
        """Whether a person can say so: whether it has a vector."""
        return phrase in self.vocabulary.phrases

    def label(self, batch: Batch, action: Tensor) -> Batch:
        """The batch with the phrases to learn from: as recorded, unless they are made of the
        normalised actions (B, H, A)."""
        return batch


class TextCodes(Codes):
    """Frozen sentence embeddings, standardised over the training phrases.

    Args:
        capacity: bytes for the phrases, see `Vocabulary`.
        model: see `SentenceEncoder`.
    """

    def __init__(self, *, action_dim: int, capacity: int = 2**17, model: str = MINILM) -> None:
        super().__init__()
        self.sentences = SentenceEncoder(model)
        self.dim = self.sentences.dim
        self.vocabulary = Vocabulary(capacity)
        self.normalizer = ZScore(self.dim)

    def fit(self, phrases: Sequence[str], action: Tensor) -> None:
        self.vocabulary.extend(phrases)
        self.normalizer.fit(self.sentences(self.candidates, self.normalizer.mean.device))

    def understands(self, phrase: str) -> bool:
        return bool(phrase)

    def vectors(self, phrases: Sequence[str], device: torch.device) -> Tensor:
        found: Tensor = self.normalizer(self.sentences(phrases, device))
        return found


class OneHotCodes(Codes):
    """A number for each phrase, which says nothing of its words (RT-H-OneHot, Sec. V).

    Args:
        size: the most candidates that there can be.
    """

    def __init__(self, *, action_dim: int, size: int = 256, capacity: int = 2**17) -> None:
        super().__init__()
        self.dim = size
        self.vocabulary = Vocabulary(capacity)

    def fit(self, phrases: Sequence[str], action: Tensor) -> None:
        self.extend(phrases)

    def extend(self, phrases: Sequence[str]) -> None:
        together = {*self.vocabulary.phrases, *phrases}
        if len(together) > self.dim:
            raise ValueError(f"{len(together)} phrases, but size is {self.dim}; raise size")
        super().extend(phrases)

    def vectors(self, phrases: Sequence[str], device: torch.device) -> Tensor:
        index = torch.tensor(self.vocabulary.index(phrases), dtype=torch.int64)
        return F.one_hot(index, self.dim).float().to(device, non_blocking=True)


class ClusterCodes(OneHotCodes):
    """Clusters of actions in the place of phrases (RT-H-Cluster, Sec. V): "cluster 0" and so on.

    Args:
        size: how many there are.
        ahead: which action of a chunk, counted from 0, is of the cluster to be predicted; see
            `Batch.phrase`.
    """

    def __init__(
        self, *, action_dim: int, size: int = 256, ahead: int = 0, capacity: int = 2**17
    ) -> None:
        super().__init__(action_dim=action_dim, size=size, capacity=capacity)
        self.ahead = ahead
        self.centres = Centres(size, action_dim)

    @property
    def candidates(self) -> tuple[str, ...]:
        self.centres.require()
        return super().candidates

    def fit(self, phrases: Sequence[str], action: Tensor) -> None:
        self.centres.fit(action)
        self.vocabulary.extend(f"cluster {i}" for i in range(self.dim))

    def extend(self, phrases: Sequence[str]) -> None:
        """Nothing: recorded phrases are no clusters."""

    def label(self, batch: Batch, action: Tensor) -> Batch:
        last = batch.mask.sum(1).clamp(min=1) - 1  # valid steps come first
        ahead = last.clamp(max=self.ahead)
        rows = torch.arange(len(action), device=action.device)
        now, then = (self._names(action[rows, step]) for step in (torch.zeros_like(ahead), ahead))
        present = {name: x for name, x in batch.condition.present.items() if name != "motion"}
        condition = replace(batch.condition, motion=now, present=present)
        return replace(batch, condition=condition, phrase=then)

    def _names(self, action: Tensor) -> tuple[str, ...]:
        names = self.candidates
        return tuple(names[i] for i in self.centres(action).tolist())


class Centres(Statistics):
    """k-means: K centres of actions, kept as one row of K * A numbers."""

    centres: Tensor

    def __init__(self, number: int, action_dim: int) -> None:
        super().__init__("centres", dim=number * action_dim)
        self.number = number

    def require(self) -> None:
        """Raises RuntimeError unless fitted."""
        self._require(self.centres)

    def fit(self, x: Tensor, *, rounds: int = 20, most: int = 20_000) -> None:
        """Lloyd's algorithm on at most `most` of the rows of x (N, A), from k-means++ seeds
        (Arthur & Vassilvitskii 2007); always the same for the same rows."""
        random = torch.Generator().manual_seed(0)
        x = x.float().cpu()
        x = x[torch.randperm(len(x), generator=random)[:most]]
        centres = _spread(x, self.number, random)
        for _ in range(rounds):
            nearest = torch.cdist(x, centres).argmin(1)
            count = torch.bincount(nearest, minlength=self.number)[:, None]
            sums = torch.zeros_like(centres).index_add(0, nearest, x)
            centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
        self._set(centres=centres.flatten().to(self.centres.device))

    def forward(self, x: Tensor) -> Tensor:
        """The nearest centre of each row of x (B, A), (B,)."""
        self.require()
        return torch.cdist(x.float(), self.centres.view(self.number, -1)).argmin(1)


def _spread(x: Tensor, number: int, random: torch.Generator) -> Tensor:
    """Rows of x drawn one by one, by their squared distance to those drawn before."""
    chosen = [int(torch.randint(len(x), (1,), generator=random))]
    distance = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < number:
        # Where all rows are taken the distances are zero, and any row will do.
        weight = distance if bool(distance.any()) else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weight, 1, generator=random)))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]
