"""How one episode runs in time and ends, and what was noted on its steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from embodied.structs import Episode, Spec
from embodied_datasets.checking.common import Array, Faults
from embodied_datasets.clock import clock_faults
from embodied_datasets.faults import Fault

_TERMINATED = ("terminated", "terminations", "terminals", "is_terminal", "next.terminated")
_ENDED = (*_TERMINATED, "done", "dones", "next.done", "truncated", "truncations", "timeouts")
_TIMES = ("timestamp", "timestamps", "time", "times", "t")


def times(index: int, episode: Episode, spec: Spec) -> Faults:
    """The times among an episode's extras."""
    for name in _TIMES:
        values = np.asarray(episode.extras.get(name, ()))
        if values.ndim <= 2 and values.size == len(values) and values.dtype.kind in "fiu":
            for fault in clock_faults(values.reshape(-1), spec.rate_hz):
                yield dataclasses.replace(fault, episode=index, field=f"extras.{name}")


def both_ends(index: int, episode: Episode, spec: Spec) -> Faults:
    if episode.terminated and episode.truncated:
        yield Fault(
            "E_DATA_BOTH_ENDS",
            "is marked terminated and truncated; values are bootstrapped after the latter alone",
            "keep terminated where the world ended, truncated where the recording was cut",
            severity="warning",
            episode=index,
            field="terminated",
        )


def ends_early(index: int, episode: Episode, spec: Spec) -> Faults:
    """An end that is followed by steps that are none; a mark that stays on is a long end."""
    for name in _ENDED:
        flags = _flags(episode, name)
        resumed = np.flatnonzero(flags[:-1] & ~flags[1:])
        if len(resumed):
            yield Fault(
                "E_DATA_DONE_EARLY",
                f"marks the end at frame {resumed[0]} of {len(episode)}, and the episode goes on",
                "split the episode there, or clear the mark",
                episode=index,
                frame=int(resumed[0]),
                field=f"extras.{name}",
                count=len(resumed),
            )


def rewarded_after_the_end(index: int, episode: Episode, spec: Spec) -> Faults:
    reward = episode.reward
    if reward is None or np.shape(reward) != (len(episode),):
        return
    for name in _TERMINATED:
        flags = _flags(episode, name)
        after = np.flatnonzero(flags)[:1] + 1
        late = np.flatnonzero(np.asarray(reward)[int(after[0]) :]) if len(after) else after
        if len(late):
            yield Fault(
                "E_DATA_REWARD_AFTER_END",
                f"is not 0 after {name} at frame {after[0] - 1}",
                "cut the episode at its end",
                episode=index,
                frame=int(after[0] + late[0]),
                field="reward",
                count=len(late),
            )


def misplaced_annotations(index: int, episode: Episode, spec: Spec) -> Faults:
    for note in episode.annotations:
        outside = not 0 <= note.step < max(len(episode), 1)
        unknown = note.camera is not None and note.camera not in spec.cameras
        if outside or unknown or not note.content.strip():
            reason = f"names camera {note.camera!r}" if unknown else f"lies at step {note.step}"
            reason = reason if note.content.strip() else "is empty"
            yield Fault(
                "E_DATA_ANNOTATION",
                f"{reason}, in an episode of {len(episode)} steps with cameras "
                f"{sorted(spec.cameras)}",
                "correct or remove the annotation",
                episode=index,
                frame=note.step,
                field=f"annotations.{note.style}",
            )


def _flags(episode: Episode, name: str) -> Array:
    """One of the extras as (L,) bool; all False where it is absent or no such column."""
    values = np.asarray(episode.extras.get(name, ()))
    if values.size != len(episode) or values.dtype.kind not in "fiub":
        return np.zeros(len(episode), bool)
    return values.reshape(-1).astype(bool)
