"""Gathers what shards say, and starts a shard whose process died or hangs once more."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

from embodied.evaluation import Outcomes
from embodied.launchers import Launcher, ShardDied
from embodied.results import Outcome
from embodied.shards import Shard

logger = logging.getLogger(__name__)
_POLL_S = 1.0


class _Running:
    """A shard under way, and the trials whose outcomes it still owes."""

    def __init__(self, name: str, shard: Shard, launcher: Launcher) -> None:
        self.name, self.shard = name, shard
        self.missing = set(shard.trials)
        self.has_ended = False
        self.task = launcher.start(shard, name)
        self._heard = time.monotonic()
        # The shard waits this long for its simulators, and then says so.
        self._patience_s = 2.0 * float(shard.settings["timeout_s"])

    def listen(self, is_ready: bool) -> Outcomes:
        """What it has to say, perhaps nothing; raises ShardDied if it never will again."""
        if is_ready:
            outcomes = self.task.receive()
            self._heard = time.monotonic()
            self.has_ended = outcomes is None
            self.missing -= (outcomes or {}).keys()
            return outcomes or {}
        silent_s = time.monotonic() - self._heard
        if self.task.has_begun and silent_s > self._patience_s:
            raise ShardDied(f"{self.name} gave no sign of life for {self._patience_s} s")
        return {}

    def lost(self, reasons: Sequence[str]) -> Outcomes:
        """Its missing trials, as invalid."""
        trials, reason = self.shard.trials, "; then ".join(reasons)
        return {
            i: Outcome(trials[i].assignment, False, 0, math.nan, valid=False, reason=reason)
            for i in sorted(self.missing)
        }


def gather(shards: Sequence[Shard], launcher: Launcher) -> Iterator[Outcomes]:
    """Outcomes of all shards as they come, one for each trial.

    A shard whose process died or hangs is started once more for the trials that it still owes; if
    that one dies too, they are invalid.

    Raises:
        ShardFailed: a shard raised an exception; the others are ended.
    """
    running: list[_Running] = []
    first_deaths: dict[str, str] = {}
    try:
        for i, shard in enumerate(shards):
            running.append(_Running(f"shard {i}", shard, launcher))
        while running:
            ready = launcher.wait([each.task for each in running], _POLL_S)
            for each in list(running):
                try:
                    yield each.listen(each.task in ready)
                except ShardDied as death:
                    _end(each, running)
                    if each.name in first_deaths:
                        logger.warning("%s; its %d episodes are lost", death, len(each.missing))
                        yield each.lost((first_deaths[each.name], str(death)))
                        continue
                    first_deaths[each.name] = str(death)
                    logger.warning("%s; it starts again for %d", death, len(each.missing))
                    again = each.shard.again(each.missing)
                    running.append(_Running(each.name, again, launcher))
                else:
                    if each.has_ended:
                        _end(each, running)
    finally:
        for each in running:
            each.task.kill()


def _end(each: _Running, running: list[_Running]) -> None:
    running.remove(each)
    each.task.kill()
