"""One bar over the episodes of an evaluation, with the success so far under each of its names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

from embodied.results import Outcome


class Progress:
    """Shows how many episodes have ended, and the success rate of those that count.

    Args:
        totals: name -> number of episodes; one name for each protocol that runs.
    """

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._totals = totals
        self._ended = dict.fromkeys(totals, 0)
        self._wins = dict.fromkeys(totals, 0)
        self._invalid = dict.fromkeys(totals, 0)
        title = next(iter(totals)) if len(totals) == 1 else "evaluate"
        self._bar = tqdm(total=sum(totals.values()), desc=title, unit="episode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def add(self, name: str, outcomes: Iterable[Outcome]) -> None:
        """Counts episodes that have ended."""
        new = list(outcomes)
        if not new:
            return
        self._ended[name] += len(new)
        self._wins[name] += sum(outcome.success for outcome in new)
        self._invalid[name] += sum(not outcome.valid for outcome in new)
        self._bar.set_postfix_str(str(self), refresh=False)
        self._bar.update(len(new))

    def __str__(self) -> str:
        begun = [name for name, count in self._ended.items() if count]
        rates = {name: f"{self._rate(name):.3f}" for name in begun}
        if len(self._totals) == 1:
            parts = [f"success={rate}" for rate in rates.values()]
        else:
            counts = {name: f"{self._ended[name]}/{self._totals[name]}" for name in begun}
            parts = [f"{name} {counts[name]}: {rates[name]}" for name in begun]
        if invalid := sum(self._invalid.values()):
            parts.append(f"{invalid} INVALID")
        return ", ".join(parts)

    def _rate(self, name: str) -> float:
        valid = self._ended[name] - self._invalid[name]
        return self._wins[name] / valid if valid else math.nan
