"""One episode's cameras: there, of their size, as long as the table, and alive."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.checking.common import Array, Faults, is_table, rows
from embodied_datasets.faults import DataError, Fault

_MIN_RUN = 10
_FLAT = 1.0
"""Deviation in grey levels below which a frame shows nothing; dark rooms stay above it."""


def missing_cameras(index: int, episode: Episode, spec: Spec) -> Faults:
    # By iterating alone: asking lazy images whether they hold a camera decodes it.
    declared, found = set(spec.cameras), set(episode.images)
    for names, word in ((declared - found, "is missing"), (found - declared, "is not declared")):
        for name in sorted(names):
            yield Fault(
                "E_DATA_CAMERA",
                f"{word}; the set declares {sorted(spec.cameras)}",
                "leave this camera out of all episodes, or drop the episode",
                episode=index,
                field=f"images.{name}",
            )


def images(index: int, episode: Episode, spec: Spec) -> Faults:
    """Each camera is decoded once, and looked at in every way."""
    for name in sorted(set(episode.images) & set(spec.cameras)):
        field = f"images.{name}"
        try:
            frames = np.asarray(episode.images[name])
        except (ValueError, OSError) as error:
            yield _undecodable(index, field, error)
            continue
        wrong = list(_misfits(index, field, frames, len(episode), spec.cameras[name]))
        yield from wrong
        if frames.ndim == 4 and frames.dtype == np.uint8 and len(frames):
            blank = _is_flat(frames)
            yield from _blank(index, field, frames, blank)
            if not blank.all():
                yield from _frozen(index, field, frames, episode)


def _undecodable(index: int, field: str, error: Exception) -> Fault:
    if isinstance(error, DataError):
        return dataclasses.replace(error.fault, episode=index, field=error.fault.field or field)
    return Fault(
        "E_DATA_UNREADABLE",
        str(error).partition(";")[0],
        "fetch or record it again",
        episode=index,
        field=field,
    )


def _misfits(
    index: int, field: str, frames: Array, length: int, sides: tuple[int, int]
) -> Iterator[Fault]:
    if frames.dtype != np.uint8:
        yield Fault(
            "E_DATA_DTYPE",
            f"has type {frames.dtype}, expected uint8",
            "store 0 to 255 as uint8",
            episode=index,
            field=field,
        )
    if frames.shape[1:] != (*sides, 3):
        yield Fault(
            "E_DATA_IMAGE_SIZE",
            f"has frames of shape {frames.shape[1:]}, the set declares {(*sides, 3)}",
            "correct the declared size, or scale the images",
            episode=index,
            field=field,
            count=len(frames),
        )
    if len(frames) != length:
        yield Fault(
            "E_DATA_VIDEO_SHORT",
            f"has {len(frames)} frames for {length} steps",
            "fetch it again, or drop the episode",
            episode=index,
            frame=min(len(frames), length),
            field=field,
            count=abs(length - len(frames)),
        )


def _is_flat(frames: NDArray[np.uint8]) -> Array:
    """(L,) whether a frame shows one colour; most are told by some of their pixels."""
    step = max(1, min(frames.shape[1:3]) // 24)

    def varies(frame: NDArray[np.uint8]) -> bool:
        return bool(frame.reshape(-1, frame.shape[-1]).std(0).max() >= _FLAT)

    return np.array([not (varies(f[::step, ::step]) or varies(f)) for f in frames])


def _blank(index: int, field: str, frames: NDArray[np.uint8], flat: Array) -> Iterator[Fault]:
    """Nothing but one colour all the time, or frames without content among others."""
    if not flat.any():
        return
    dead = bool(flat.all())
    if dead and len(frames) > 1 and np.ptp(frames[:, 0, 0].astype(int), axis=0).max() > 4:
        return  # a screen that changes its colour shows something
    yield Fault(
        "E_DATA_IMAGE_BLANK",
        "shows one colour" + (" throughout" if dead else f" in {int(flat.sum())} frames"),
        "leave this camera out, or drop the episode",
        severity="error" if dead else "warning",
        episode=index,
        frame=int(flat.argmax()),
        field=field,
        count=int(flat.sum()),
    )


def _frozen(index: int, field: str, frames: NDArray[np.uint8], episode: Episode) -> Iterator[Fault]:
    """The same picture over a run in which much of the episode's motion happens."""
    same = np.array([np.array_equal(a, b) for a, b in zip(frames[:-1], frames[1:], strict=True)])
    start, length = _longest_run(same)
    if length < min(_MIN_RUN, len(frames) // 2) or length < 4 or not is_table(episode.state):
        return
    scale = np.maximum(np.ptp(rows(episode.state), axis=0), 1e-9)
    steps = abs(np.diff(rows(episode.state) / scale, axis=0)).sum(1)
    if steps[start : start + length].sum() > 0.2 * steps.sum() > 0:
        yield Fault(
            "E_DATA_IMAGE_FROZEN",
            f"repeats one picture over {length + 1} frames while the state moves on",
            "drop the episode; the camera had stopped",
            episode=index,
            frame=start,
            field=field,
            count=length + 1,
        )


def _longest_run(flags: Array) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    edges = np.diff(np.concatenate([[0], flags.astype(int), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return 0, 0
    best = int((ends - starts).argmax())
    return int(starts[best]), int(ends[best] - starts[best])
