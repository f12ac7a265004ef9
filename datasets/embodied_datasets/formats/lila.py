"""Franka demonstrations with crowd-sourced language (Karamcheti et al. 2021; arXiv:2111.03205).

A folder of `il__TASK.npz` and `lila__TASK.npz`, kinesthetic teaching at 10 Hz, each with a
`.jsonl` of what fifteen people would say for it. There are no images and no objects' positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Annotation, Episode, Episodes, Spec
from embodied_datasets.budget import MAX_BYTES, damaged
from embodied_datasets.faults import Report, refuse
from embodied_datasets.flat import Flat, FlatEpisodes, check_shapes, make_spec, split
from embodied_datasets.formats import Writer
from embodied_datasets.lila_words import (
    Source,
    allowed_texts,
    choose_sources,
    find_sources,
    read_utterances,
)
from embodied_datasets.npz_safe import Npz
from embodied_datasets.wordings import choose

_JOINTS = ("joint_pos", "joint_vel", "joint_torque")
_RATE_HZ = 10.0

Array = NDArray[Any]


class Lila:
    name = "lila"

    def matches(self, path: Path) -> bool:
        """Whether it is a folder with such files."""
        return path.is_dir() and bool(find_sources(path))

    def open(self, path: Path, **options: Any) -> Episodes:
        """The demonstrations; see `read_lila`."""
        return read_lila(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        raise NotImplementedError("lila is one published set and is only read; write npz instead")

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        return ("everything: this format is only read",)


FORMAT = Lila()


def read_lila(
    path: Path,
    *,
    action: Literal["delta", "absolute"] = "delta",
    state: Sequence[str] = ("joint_pos",),
    gripper: bool = True,
    tasks: Sequence[str] | None = None,
    files: Sequence[str] = ("il", "lila"),
    held_out_utterances: int = 0,
    wording: Literal["train", "held_out"] = "train",
    max_bytes: int = MAX_BYTES,
    report: Report = refuse,
) -> FlatEpisodes:
    """The demonstrations, each with one of its task's utterances as the instruction.

    An episode of L + 1 recorded rows has L steps; the last row is its `final` state. All
    utterances that its view allows are annotations of style "task_aug". Whether a demonstration
    succeeded was not recorded.

    Args:
        action: "delta" is the next joint positions less these (rad per 0.1 s), "absolute" is the
            next joint positions (rad). Positions hardly change within 0.1 s, so that a policy
            that learns absolute targets can copy its state and still have a small loss; the
            default leaves only the motion to be learned.
        state: which of joint_pos (rad), joint_vel (rad/s) and joint_torque (N m), 7 each, make
            up the state; the others are extras.
        gripper: appends to state and action whether the gripper is closed, 0 or 1. It begins
            open, and each press of its button turns it over; a button that is held reports
            several events in one step, which count once. The action is what it will be at the
            next step. About half of the episodes hold no event at all (`info["gripper_events"]`
            counts them), and a gripper that never moves there tells nothing.
        tasks: such as "pick-banana"; None takes all.
        files: "il" (30 episodes per task), "lila" (15 longer ones per task), or both.
        held_out_utterances: how many distinct wordings of each task are kept for `wording`
            "held_out", always the same ones; the view "train" never shows them.
        wording: which wordings instructions and annotations are drawn from.

    Raises DataError where files are not what they say, ValueError where options do not fit.
    """
    _check_options(action, state, files, held_out_utterances, wording)
    sources = choose_sources(path, tasks, files)
    said = read_utterances(path, {source.task for source in sources})
    allowed = allowed_texts(said, held_out_utterances, wording)
    parts = [_load(source, action, state, gripper, max_bytes) for source in sources]
    columns = {
        role: np.concatenate([part.columns[role] for part in parts]) for role in parts[0].columns
    }
    rows = np.concatenate([part.rows for part in parts])
    starts = np.cumsum(rows) - rows
    pairs = zip(sources, parts, strict=True)
    fields = [
        x for each, part in pairs for x in _fields(each, part, said[each], allowed[each.task])
    ]
    sizes = {name: 7 for name in state} | ({"gripper": 1} if gripper else {})
    spec = make_spec(columns, _RATE_HZ, sizes if len(sizes) > 1 else None)
    flat = Flat(columns, starts, rows - 1, fields.__getitem__, _finals(columns, starts + rows - 1))
    options = [action, list(state), gripper, held_out_utterances, wording]
    read = [file for source in sources for file in (source.npz, source.words)]
    return FlatEpisodes(path, flat, spec, files=read, options=options, report=report)


@dataclass(frozen=True)
class _Part:
    """One file's rows, and its episodes' numbers of rows and of presses of the button."""

    columns: Mapping[str, Array]
    rows: NDArray[np.int64]
    presses: NDArray[np.int64]


def _check_options(
    action: str, state: Sequence[str], files: Sequence[str], held_out: int, wording: str
) -> None:
    if action not in ("delta", "absolute"):
        raise ValueError(f"action must be 'delta' or 'absolute', got {action!r}")
    if not state or not set(state) <= set(_JOINTS) or len(set(state)) < len(state):
        raise ValueError(f"state must be some of {_JOINTS}, got {tuple(state)}")
    if not files or not set(files) <= {"il", "lila"}:
        raise ValueError(f"files must be some of ('il', 'lila'), got {tuple(files)}")
    if wording not in ("train", "held_out") or (wording == "held_out" and not held_out):
        raise ValueError(
            f"wording must be 'train', or 'held_out' with held_out_utterances above 0, got "
            f"{wording!r} with {held_out}"
        )


def _load(
    source: Source,
    action: str,
    state: Sequence[str],
    gripper: bool,
    max_bytes: int,
) -> _Part:
    npz = Npz(source.npz, max_bytes=max_bytes)
    missing = sorted({*_JOINTS, "gripper_events", "episode_ends"} - set(npz))
    if missing:
        raise damaged(source.npz, f"lacks the arrays {missing}; it has {sorted(npz)}")
    recorded = {name: npz[name].astype(np.float32) for name in _JOINTS}
    events = npz["gripper_events"]
    starts, rows = split(source.npz, npz["episode_ends"], {**recorded, "gripper_events": events})
    if (rows < 2).any():
        message = "has an episode of one row, and so no motion"
        raise damaged(source.npz, message, episode=int(np.argmax(rows < 2)))
    closed = _closed(events, starts, rows)[:, None] if gripper else np.zeros((len(events), 0))
    following = _next_row(starts, rows)
    position = recorded["joint_pos"]
    target = position[following] - (position if action == "delta" else 0)
    columns = {
        "state": np.hstack([*(recorded[name] for name in state), closed]).astype(np.float32),
        "action": np.hstack([target, closed[following]]).astype(np.float32),
        **{f"extras/{name}": recorded[name] for name in _JOINTS if name not in state},
    }
    check_shapes(source.npz, columns)
    return _Part(columns, rows, np.add.reduceat((events > 0).astype(np.int64), starts))


def _closed(events: Array, starts: Array, rows: Array) -> NDArray[np.float32]:
    """(N,) 1 where the button was pressed an odd number of times since the episode began."""
    presses = np.cumsum(events > 0)
    before: Array = presses[starts] - (events[starts] > 0)
    closed: Array = (presses - np.repeat(before, rows)) % 2
    return closed.astype(np.float32)


def _next_row(starts: Array, rows: Array) -> NDArray[np.int64]:
    """(N,) the row that follows each; the last of an episode follows itself."""
    last: Array = np.repeat(starts + rows - 1, rows)
    following: NDArray[np.int64] = np.minimum(np.arange(len(last)) + 1, last)
    return following


def _finals(columns: Mapping[str, Array], last: Array) -> Any:
    names = {role.removeprefix("extras/"): x for role, x in columns.items() if role != "action"}
    return lambda index: {name: x[last[index]].copy() for name, x in names.items()}


def _fields(
    source: Source, part: _Part, said: Sequence[Sequence[str]], allowed: set[str]
) -> list[dict[str, Any]]:
    """Of each episode, what is no array."""
    if len(said) != len(part.rows):
        message = f"tells of {len(said)} episodes, but there are {len(part.rows)}"
        raise damaged(source.words, message)
    fields = []
    for index, texts in enumerate(said):
        offered = [text for text in dict.fromkeys(texts) if text in allowed]
        if not offered:
            raise damaged(source.words, "has no utterance of this view", episode=index)
        fields.append(
            {
                "instruction": choose(offered, f"{source.kind}/{source.task}/{index}"),
                "annotations": tuple(Annotation("task_aug", text, role="user") for text in offered),
                "info": {
                    "task": source.task,
                    "file": source.kind,
                    "recording": index,
                    "gripper_events": int(part.presses[index]),
                },
            }
        )
    return fields
