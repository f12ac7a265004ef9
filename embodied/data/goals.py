"""Goals in hindsight: which frame of the recorded data each window is told to reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Frames(Protocol):
    """What goals are drawn from; see `embodied.data.windows.Windows`."""

    last: Tensor

    def labelled(self, index: Tensor) -> Tensor: ...
    def any_frame(self, index: Tensor, place: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Goals:
    """OGBench's mixture of goals (Park et al. 2025, arXiv:2410.20092), drawn for each row anew.

    Its values are p_curgoal 0.2, p_trajgoal 0.5, p_randomgoal 0.3 and geom_sample for value
    functions, and p_trajgoal 1 for policies, with discount 0.99.

    Attributes:
        p_curgoal: probability of the frame itself.
        p_trajgoal: of a later frame of its episode.
        p_finalgoal: of the last frame of its episode; not in OGBench.
        p_randomgoal: of any frame of its data set.
        geom_sample: draws the later frame k >= 1 steps ahead with probability (1 - discount) *
            discount^(k - 1), beyond the end being the last frame; otherwise all later frames are
            equally likely. (OGBench rounds, which halves the chance of the next and last frame.)
        discount: in (0, 1).
        labelled_final: where a frame's instruction is known its goal is the last frame of its
            episode, to which the words belong (GRIF, Myers et al. 2023, arXiv:2307.00117).
        state, images: which parts of the goal frame become the condition.
    """

    p_curgoal: float = 0.0
    p_trajgoal: float = 1.0
    p_finalgoal: float = 0.0
    p_randomgoal: float = 0.0
    geom_sample: bool = False
    discount: float = 0.99
    labelled_final: bool = False
    state: bool = True
    images: bool = True

    def __post_init__(self) -> None:
        shares = self.shares
        if min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            raise ValueError(
                f"the probabilities of goals must be 0 or more and add up to 1, got {shares}"
            )
        if not 0 < self.discount < 1:
            raise ValueError(f"discount must lie in (0, 1), got {self.discount}")
        if not (self.state or self.images):
            raise ValueError("goals need state, images or both")

    @property
    def shares(self) -> dict[str, float]:
        """The probability of each kind of goal."""
        names = ("p_curgoal", "p_trajgoal", "p_finalgoal", "p_randomgoal")
        return {name: getattr(self, name) for name in names}

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of "state" and "images" are given."""
        return ("state",) * self.state + ("images",) * self.images

    def draw(self, frames: Frames, index: Tensor, generator: torch.Generator) -> Tensor:
        """The goal frames (B,) of the frames `index` (B,); a CPU generator."""
        kind, place = torch.rand(2, len(index), generator=generator, dtype=torch.float64)
        last = frames.last[index]
        goals = torch.stack(
            [index, self._later(index, last, place), last, frames.any_frame(index, place)]
        )
        ends = torch.tensor(list(self.shares.values()), dtype=torch.float64).cumsum(0)
        chosen = torch.searchsorted(ends, kind * ends[-1], right=True).clamp(max=len(ends) - 1)
        found = goals.gather(0, chosen[None])[0]
        return torch.where(frames.labelled(index), last, found) if self.labelled_final else found

    def _later(self, index: Tensor, last: Tensor, place: Tensor) -> Tensor:
        if self.geom_sample:
            ahead = 1 + (torch.log1p(-place) / math.log(self.discount)).long()
        else:
            ahead = 1 + (place * (last - index)).long()
        return torch.minimum(index + ahead, last)
