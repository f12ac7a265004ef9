"""Recording LeRobot v3.0 data sets so that a crash at any time costs no finished episode.

Episodes lie in `incoming/`, one file each (see `lerobot_record`). `add` puts each into LeRobot's
layout as well (see `lerobot_view`), while processes that record in parallel only leave theirs
there. `finalize` compacts all of them, ordered by key, in a staging folder, which takes the place
of that layout (see `lerobot_swap`).
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import socket
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pyarrow.parquet as pq

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import read_json, write_json
from embodied_datasets.lerobot_compact import check_alike, compact
from embodied_datasets.lerobot_incoming import read_facts
from embodied_datasets.lerobot_record import columns_of, record
from embodied_datasets.lerobot_swap import FOLDERS, UNFINISHED, replace_layout, settle
from embodied_datasets.lerobot_view import View

__all__ = ["LeRobotWriter", "record"]

_LOCK = ".lock"
_STAGING = ".staging"


class LeRobotWriter:
    """Adds episodes to a folder that nobody else writes to; a context manager.

    Args:
        root: the data set's folder, new or left by an earlier writer.
        spec: sizes, bounds, cameras and control rate of every episode.
        robot_type: LeRobot's name of the robot, if it has one.
        live: keeps what is recorded so far in LeRobot's layout, at the cost of some tens of
            milliseconds an episode; otherwise nothing stands there until `finalize`.

    Raises DataError if the folder belongs to something else or was recorded with another spec,
    BlockingIOError if another writer is at work in it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        spec: Spec,
        robot_type: str | None = None,
        live: bool = True,
    ) -> None:
        self.root = Path(root)
        self._live = live
        self.spec = spec
        self._recording = {"robot_type": robot_type} | dataclasses.asdict(spec)
        self._lock = _lock(self.root)
        try:
            _recover(self.root)
            if not self.is_final:
                self._open_incoming()
                if any((self.root / name).exists() for name in FOLDERS):
                    self._view.update(self.incoming) if live else self._view.retract()
        except BaseException:
            self.close()
            raise

    @property
    def is_final(self) -> bool:
        """Whether `finalize` has completed."""
        return schema.is_final(self.root)

    @property
    def incoming(self) -> Path:
        """The folder that `record` writes to, for processes that share one writer's lock."""
        return self.root / schema.INCOMING

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all finished episodes."""
        if not self.is_final:
            return frozenset(path.stem for path in schema.recorded(self.incoming))
        files = sorted((self.root / "meta" / "episodes").rglob("*.parquet"))
        tables = [pq.read_table(path) for path in files if "key" in pq.read_schema(path).names]
        return frozenset(key for table in tables for key in table["key"].to_pylist())

    def add(self, key: str, episode: Episode) -> None:
        """Writes a finished episode; on return it is on disk for good, and, if `live`, what is
        recorded so far is a data set that LeRobot reads.

        An old key is replaced. For that, and for the first episode with annotations, LeRobot's
        layout is made anew beside the one that stands, and takes its place in one step (see
        `lerobot_swap.replace_layout` for file systems that have no such step). Raises DataError if
        the set is finalised, or if the episode does not fit the spec or those before.
        """
        if self.is_final or self._staging.exists():  # which has no place for another
            message = f"{self.root} is finalised"
            remedy = f"record {key!r} into another folder"
            schema.fail("E_DATA_EPISODE", None, message, remedy)
        self._check_alike(key, episode)
        if self._live and key in self._view.keys:
            self._view.outdate()
        record(self.incoming, key, episode, spec=self.spec)
        if self._live:
            self._view.update(self.incoming)

    def finalize(self) -> None:
        """Turns all episodes into LeRobot's layout, sorted by key; nothing is left to do twice."""
        if not self.is_final and not self._staging.exists():
            unfinished = self.root / UNFINISHED
            shutil.rmtree(unfinished, ignore_errors=True)
            compact(self.incoming, unfinished, self.spec, self._recording["robot_type"])
            unfinished.rename(self._staging)
        _recover(self.root)

    def close(self) -> None:
        """Releases the folder. Episodes not yet finalised stay readable and can be added to."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_alike(self, key: str, episode: Episode) -> None:
        files = (path for path in self.incoming.glob("[!.]*.parquet") if path.stem != key)
        other = next(files, None)
        if other is not None:
            columns, extras = columns_of(episode)
            facts = {"columns": columns, "extras": json.loads(json.dumps(extras))}
            check_alike(f"episode {key!r} and {other.stem!r}", facts, read_facts(other)[0])

    @property
    def _staging(self) -> Path:
        """What `finalize` has made, until it lies where it belongs."""
        return self.root / _STAGING

    @cached_property
    def _view(self) -> View:
        return View(self.root, self.spec, self._recording["robot_type"])

    def _open_incoming(self) -> None:
        path = self.root / schema.RECORDING_PATH
        wanted = json.loads(json.dumps(self._recording))
        if path.exists():
            found = read_json(path)
            differences = [
                f"{name}: {found.get(name)} in the folder, {wanted.get(name)} now"
                for name in sorted(wanted.keys() | found.keys())
                if found.get(name) != wanted.get(name)
            ]
            if differences:
                message = f"{self.root} was recorded differently: {'; '.join(differences)}"
                remedy = "choose another folder or the same settings"
                schema.fail("E_DATA_SETTINGS", None, message, remedy)
        else:
            write_json(path, wanted)


def _lock(root: Path) -> IO[str]:
    root.mkdir(parents=True, exist_ok=True)
    lock = (root / _LOCK).open("a+", encoding="utf-8")
    try:
        # The kernel drops this lock with the process, however it dies.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise BlockingIOError(
            f"another writer is at work in {root} ({holder}); wait for it or choose another folder"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def _recover(root: Path) -> None:
    """Completes or forgets what an earlier writer could not finish."""
    staging, incoming = root / _STAGING, root / schema.INCOMING
    settle(root)
    if staging.exists():
        replace_layout(root, staging)
    else:
        _refuse_foreign(root)
    shutil.rmtree(root / UNFINISHED, ignore_errors=True)
    if schema.is_final(root):
        shutil.rmtree(incoming, ignore_errors=True)
    for folder in (incoming, *(root / name for name in FOLDERS)):
        for leftover in folder.rglob(".tmp-*.part"):
            leftover.unlink()


def _refuse_foreign(root: Path) -> None:
    parts = [name for name in FOLDERS if (root / name).exists()]
    ours = (root / schema.RECORDING_PATH).exists()
    if parts and not ours and not (root / schema.INFO_PATH).exists():
        message = f"{root} holds {', '.join(parts)} without {schema.INFO_PATH}"
        remedy = "this writer did not leave that: choose an empty folder"
        schema.fail("E_DATA_SETTINGS", None, message, remedy)
