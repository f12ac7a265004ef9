"""Recording LeRobot v3.0 data sets so that a crash at any time costs no finished episode.

Each episode becomes one Parquet file in `incoming/`, its videos before it; the file's rename to
its final name is what makes the episode exist. `finalize` compacts all of them, ordered by key,
into LeRobot's layout in a staging folder, which moves into place with `meta/` last.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.lerobot_compact import compact
from embodied_datasets.lerobot_stats import histogram
from embodied_datasets.lerobot_video import encode

_LOCK = ".lock"
_UNFINISHED = ".staging-unfinished"
_STAGING = ".staging"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class LeRobotWriter:
    """Adds episodes to a folder that nobody else writes to; a context manager.

    Args:
        root: the data set's folder, new or left by an earlier writer.
        spec: sizes, bounds, cameras and control rate of every episode.
        robot_type: LeRobot's name of the robot, if it has one.

    Raises ValueError if the folder belongs to something else or was recorded with another spec,
    BlockingIOError if another writer is at work in it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        spec: Spec,
        robot_type: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.spec = spec
        self._recording = {"robot_type": robot_type} | dataclasses.asdict(spec)
        self._lock = _lock(self.root)
        try:
            _recover(self.root)
            if not self.is_final:
                self._open_incoming()
        except BaseException:
            self.close()
            raise

    @property
    def is_final(self) -> bool:
        """Whether `finalize` has completed."""
        return (self.root / schema.INFO_PATH).exists()

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
        """Writes a finished episode; on return it is on disk for good. An old key is replaced."""
        if self.is_final:
            raise ValueError(f"{self.root} is finalised; record {key!r} into another folder")
        record(self.incoming, key, episode, spec=self.spec)

    def finalize(self) -> None:
        """Turns all episodes into LeRobot's layout, sorted by key; nothing is left to do twice."""
        if self.is_final:
            return
        shutil.rmtree(self.root / _UNFINISHED, ignore_errors=True)
        compact(self.incoming, self.root / _UNFINISHED, self.spec, self._recording["robot_type"])
        (self.root / _UNFINISHED).rename(self.root / _STAGING)
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

    def _open_incoming(self) -> None:
        path = self.root / schema.RECORDING_PATH
        wanted = json.loads(json.dumps(self._recording))
        if path.exists():
            found = schema.read_json(path)
            differences = [
                f"{name}: {found.get(name)} in the folder, {wanted.get(name)} now"
                for name in sorted(wanted.keys() | found.keys())
                if found.get(name) != wanted.get(name)
            ]
            if differences:
                raise ValueError(
                    f"{self.root} was recorded differently; choose another folder or the same "
                    "settings. " + "; ".join(differences)
                )
        else:
            schema.write_json(path, wanted)


def record(incoming: Path, key: str, episode: Episode, *, spec: Spec) -> None:
    """Writes one episode into the `incoming` folder of a writer that the caller, or its parent
    process, keeps open.

    The last step of a successful episode gets `next.success`; `info` must be JSON-able.
    """
    episode = dataclasses.replace(episode, images=dict(episode.images))  # decodes lazy ones once
    _check(key, episode, spec)
    facts = _facts(key, episode)
    for camera, frames in episode.images.items():
        _write_video(incoming / camera / f"{key}.mp4", frames, spec.rate_hz)
    columns = _columns(episode, spec.rate_hz)
    features = schema.frame_features(spec.state_dim, spec.action_dim, columns)
    arrays = [schema.to_column(columns[name], feature) for name, feature in features.items()]
    table = pa.Table.from_arrays(arrays, names=list(features))
    table = table.replace_schema_metadata({schema.METADATA_KEY: json.dumps(facts).encode()})
    schema.write_atomically(incoming / f"{key}.parquet", lambda path: pq.write_table(table, path))


def _write_video(path: Path, frames: NDArray[np.uint8], rate_hz: float) -> None:
    schema.write_atomically(path, lambda temporary: encode(temporary, frames, rate_hz))


def _columns(episode: Episode, rate_hz: float) -> dict[str, NDArray[Any]]:
    steps = np.arange(len(episode))
    last = steps == len(episode) - 1
    columns: dict[str, NDArray[Any] | None] = {
        schema.STATE: episode.state,
        schema.ACTION: episode.action,
        schema.EXPERT_ACTION: episode.expert_action,
        schema.REWARD: episode.reward,
        schema.DONE: last,
        schema.SUCCESS: last & episode.success,
        schema.TIMESTAMP: steps / rate_hz,
        "frame_index": steps,
    }
    return {name: values for name, values in columns.items() if values is not None}


def _facts(key: str, episode: Episode) -> dict[str, Any]:
    facts = {
        "key": key,
        "instruction": episode.instruction,
        "success": bool(episode.success),
        "terminated": bool(episode.terminated),
        "truncated": bool(episode.truncated),
        "info": dict(episode.info),
        "histograms": {name: histogram(f).tolist() for name, f in episode.images.items()},
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"info of episode {key!r} must be JSON-able ({error}); "
            "turn its values into plain finite numbers, strings, lists and dicts"
        ) from error
    return facts


def _check(key: str, episode: Episode, spec: Spec) -> None:
    for name in (key, *episode.images):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a file; use letters, digits, '_', '-', '.'")
    length = len(episode)
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "state": (episode.state, (length, spec.state_dim)),
        "action": (episode.action, (length, spec.action_dim)),
        "expert_action": (episode.expert_action, (length, spec.action_dim)),
        "reward": (episode.reward, (length,)),
    }
    if episode.images.keys() != spec.cameras.keys():
        raise ValueError(
            f"images of episode {key!r} must be of the spec's cameras {sorted(spec.cameras)}, "
            f"got {sorted(episode.images)}"
        )
    for camera, frames in episode.images.items():
        wanted[f"images[{camera!r}]"] = (frames, (length, *spec.cameras[camera], 3))
        if frames.dtype != np.uint8:
            raise ValueError(f"images[{camera!r}] of episode {key!r} must be uint8")
    if not length:
        raise ValueError(f"episode {key!r} has no steps; an episode needs at least one")
    for name, (values, shape) in wanted.items():
        if values is not None:
            _check_array(f"{name} of episode {key!r}", np.asarray(values), shape)


def _check_array(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {shape} as the spec says, got {values.shape}")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{name} is not finite at frame {bad[0][0]}; drop or repair the episode")


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
    if not staging.exists():
        _refuse_foreign(root)
    else:
        for name in ("data", "videos", "meta"):  # meta last: it is what makes the set final
            if (staging / name).exists():
                (staging / name).rename(root / name)
                schema.sync(root)
        staging.rmdir()
    shutil.rmtree(root / _UNFINISHED, ignore_errors=True)
    if (root / schema.INFO_PATH).exists():
        shutil.rmtree(incoming, ignore_errors=True)
    for leftover in incoming.rglob(".tmp-*"):
        leftover.unlink()


def _refuse_foreign(root: Path) -> None:
    parts = [name for name in ("data", "videos", "meta") if (root / name).exists()]
    if parts and not (root / schema.INFO_PATH).exists():
        raise ValueError(
            f"{root} holds {', '.join(parts)} without {schema.INFO_PATH}, which this writer did "
            "not leave; choose an empty folder"
        )
