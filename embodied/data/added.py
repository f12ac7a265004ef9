"""Further episodes beside a task's own, such as those in which a person corrected the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embodied.data.mixture import mix
from embodied.data.windows import Windows

OWN = "task"
"""What the task's own episodes are called among the sources of a mixture."""


@dataclass(frozen=True)
class Amount:
    """How much of each batch a set is. Exactly one must be given.

    Attributes:
        share: that part of all rows, in (0, 1); YAY Robot (Shi et al. 2024, arXiv:2403.12910) has
            0.1 for its newest corrections.
        times: each of its episodes is drawn so many times as often as one of the task's own; RT-H
            (Belkhale et al. 2024, arXiv:2403.01823) weighs corrections about 50 to 1.
    """

    share: float | None = None
    times: float | None = None

    def __post_init__(self) -> None:
        if (self.share is None) is (self.times is None):
            raise ValueError("a set of source.sets needs either `share` or `times`")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share must lie in (0, 1), got {self.share}")
        if self.times is not None and not self.times > 0:
            raise ValueError(f"times must be above 0, got {self.times}")


def add(own: Windows, sets: Mapping[str, tuple[Windows, Amount]]) -> Windows:
    """The task's windows and those of further sets, drawn in these amounts.

    Raises ValueError where no share is left for the task's own.
    """
    if not sets:
        return own
    shares = {name: amount.share for name, (_, amount) in sets.items() if amount.share is not None}
    rest = 1 - sum(shares.values())
    if not rest > 0:
        raise ValueError(f"the shares {shares} leave nothing for the task's own episodes")
    weights = {OWN: 1.0} | {
        name: amount.times * len(windows.lengths) / len(own.lengths)
        for name, (windows, amount) in sets.items()
        if amount.times is not None
    }
    total = sum(weights.values()) / rest
    weights |= {name: share * total for name, share in shares.items()}
    windows = {OWN: own} | {name: each for name, (each, _) in sets.items()}
    return mix({name: (each, weights[name]) for name, each in windows.items()})
