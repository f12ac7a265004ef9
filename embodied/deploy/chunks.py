"""Chunks of actions with the times that they are for, and what of them is executed when.

A policy needs time to think, so that its chunk speaks of a moment that is past when it arrives.
`aligned` executes what it has for now (Chi et al. 2024, UMI, Sec. III-B; arXiv:2402.10329), `naive`
begins at its beginning, and `ensemble` averages what all chunks have for now (Zhao et al. 2023,
Sec. IV-B; arXiv:2304.13705). All times are ns of one monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embodied.deploy.clock import SECOND
from embodied.deploy.limits import Array

Mode = Literal["aligned", "naive", "ensemble"]


@dataclass(frozen=True, eq=False)
class TimedChunk:
    """Actions that a policy planned from one observation.

    Attributes:
        actions: (H, A) in the robot's units.
        obs_time: when the observation was sensed.
        t0: the time that the first action is for; mostly `obs_time`.
        dt: from one action to the next.
        request_id: of the inference; later ones have higher numbers, until the robot is armed anew.
        instruction_id: of what the policy was told; the same holds for it.
    """

    actions: NDArray[Any]
    obs_time: int
    t0: int
    dt: int
    request_id: int
    instruction_id: int = 0

    @property
    def end(self) -> int:
        """When the last action has lasted for its `dt`."""
        return self.t0 + len(self.actions) * self.dt

    def at(self, time: int) -> Array:
        """(A,) interpolated between two actions; the last one lasts until `end`."""
        steps = (time - self.t0) / self.dt
        first = min(int(steps), len(self.actions) - 1)
        second = min(first + 1, len(self.actions) - 1)
        share = steps - first
        mixed: Array = (1 - share) * self.actions[first] + share * self.actions[second]
        return self.actions[second].astype(np.float64) if first == second else mixed

    def step_at(self, time: int) -> Array:
        """(A,) the action that a player of whole steps executes."""
        step = min((time - self.t0) // self.dt, len(self.actions) - 1)
        return np.asarray(self.actions[step], np.float64)


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to be executed now.

    Attributes:
        target: (A,).
        chunk: the newest that has a part in it.
    """

    target: Array
    chunk: TimedChunk


class ChunkQueue:
    """The chunks that speak of now or later, and may be trusted.

    Args:
        mode: how they become the action of a moment.
        expiry_ns: how old an observation may be whose plan is still executed.
        decay: of `ensemble`: the i-th oldest chunk counts exp(-decay i).

    Attributes:
        refused: reason -> how many chunks were not taken for it.
    """

    def __init__(
        self,
        *,
        mode: Mode = "aligned",
        expiry_ns: int = SECOND // 4,
        decay: float = 0.01,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.mode, self.expiry_ns, self.decay = mode, expiry_ns, decay
        self.refused: Counter[str] = Counter()
        self._chunks: list[TimedChunk] = []  # oldest first
        self._newest: TimedChunk | None = None  # of all that were taken
        self._since = -(2**63)

    def offer(self, chunk: TimedChunk, now: int) -> str | None:
        """Takes a chunk that is sound (`check_chunk`), or counts and returns why not."""
        for reason, applies in REFUSALS.items():
            if applies(self, chunk, now):
                self.refused[reason] += 1
                return reason
        if self.mode == "naive":
            chunk = replace(chunk, t0=now)
        self._newest = chunk
        self._chunks.append(chunk)
        return None

    def plan(self, now: int) -> Planned | None:
        """What to execute now; None where no chunk speaks of it any more."""
        self._chunks = [each for each in self._chunks if not self._is_over(each, now)]
        begun = [each for each in self._chunks if each.t0 <= now]
        if not begun:
            return None
        newest = begun[-1]
        if self.mode == "naive":
            return Planned(newest.step_at(now), newest)
        if self.mode == "aligned":
            return Planned(newest.at(now), newest)
        # Nothing is averaged over two instructions.
        alike = [each for each in begun if each.instruction_id == newest.instruction_id]
        weights = np.exp(-self.decay * np.arange(len(alike)))
        values = [each.at(now) for each in alike]
        return Planned(np.average(values, axis=0, weights=weights), newest)

    def forget(self, now: int) -> None:
        """What was planned from observations before now counts no longer, arrived or not."""
        self._chunks, self._since = [], now

    def begin(self, now: int) -> None:
        """Forgets, and numbers may begin anew: those of a policy that was started again."""
        self.forget(now)
        self._newest = None

    def _is_over(self, chunk: TimedChunk, now: int) -> bool:
        return now >= chunk.end or now - chunk.obs_time > self.expiry_ns

    # Why a chunk is not taken.

    def is_duplicate(self, chunk: TimedChunk, now: int) -> bool:
        """Whether the same request was answered before."""
        return self._newest is not None and chunk.request_id == self._newest.request_id

    def is_out_of_order(self, chunk: TimedChunk, now: int) -> bool:
        """Whether something newer was taken before."""
        last = self._newest
        return last is not None and (
            chunk.request_id < last.request_id
            or chunk.obs_time < last.obs_time
            or chunk.instruction_id < last.instruction_id
        )

    def is_from_the_future(self, chunk: TimedChunk, now: int) -> bool:
        """Whether its observation is yet to be made: it was timed by another clock."""
        return chunk.obs_time > now

    def is_stale(self, chunk: TimedChunk, now: int) -> bool:
        """Whether its observation is too old, or from before a hold."""
        return chunk.obs_time < self._since or now - chunk.obs_time > self.expiry_ns

    def is_exhausted(self, chunk: TimedChunk, now: int) -> bool:
        """Whether all that it speaks of is past."""
        return self.mode != "naive" and now >= chunk.end


REFUSALS: dict[str, Callable[[ChunkQueue, TimedChunk, int], bool]] = {
    "duplicate": ChunkQueue.is_duplicate,
    "out of order": ChunkQueue.is_out_of_order,
    "from the future": ChunkQueue.is_from_the_future,
    "stale": ChunkQueue.is_stale,
    "exhausted": ChunkQueue.is_exhausted,
}
"""Reason -> whether it applies, in the order in which they are asked."""
