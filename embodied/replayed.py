"""A run's replay buffer, read as the episodes that were played."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embodied import checkpoint
from embodied.behaviours import reached
from embodied.checkpoint_files import Checkpoint, CheckpointError, load
from embodied.data.transitions import Layout, Rows
from embodied.rewarded_task import REPLAY_FILE
from embodied.structs import Episode, Spec


class ReplayedEpisodes:
    """What a run's policy had done by one of its checkpoints, such as D4RL's "medium-replay";
    implements `Episodes`.

    Rewards are the environment's again, without the run's scale. Whether an episode succeeded is
    known only of runs that learned from success. Those that were cut off, by a limit on time or by
    the end of the buffer, are truncated.

    Args:
        run: its directory; the policy acted one step at a time.
        share: which checkpoint, as of `behaviours.reached`.
        instruction: of all episodes.

    Raises CheckpointError where the buffer is not the checkpoint's, ValueError for a run whose rows
    are not single steps of rewards that can be told.
    """

    def __init__(self, run: str, *, share: float | None = None, instruction: str = "") -> None:
        self._path, self._instruction = Path(run), instruction
        found = _read(reached(self._path, share))
        self.spec = Spec(**found.documents["spec"])
        config, state = found.documents["config"], found.documents["state"]["source"]["replay"]
        source = config["source"]
        if state is None or not state["rows"]:
            raise ValueError(f"{run}: the policy had not acted by step {found.step}")
        if config["eval"]["action_horizon"] != 1 or source["reward"]["return_range"] is not None:
            raise ValueError(
                f"{run}: a replay buffer is read only of single steps with rewards whose scale is "
                "known, as with eval.action_horizon=1 and source.reward.return_range=null"
            )
        self._reward: Mapping[str, Any] = source["reward"]
        self._layout = Layout(
            self.spec.state_dim, self.spec.action_dim, discount=source["discount"]
        )
        self._rows = self._open(state["rows"], state["digest"])
        self._digest = state["digest"]

    def _open(self, count: int, digest: str) -> Rows:
        width, path = self._layout.width, self._path / REPLAY_FILE
        rows: Rows = np.fromfile(path, np.float32, count * width).reshape(-1, width)
        if len(rows) < count or hashlib.blake2b(rows.tobytes()).hexdigest() != digest:
            raise CheckpointError(
                f"E_REPLAY_CHANGED: the first {count} rows of {path} are not those that the "
                "checkpoint was saved with; restore the run's replay.f32"
            )
        return rows

    @property
    def fingerprint(self) -> str:
        """Of the rows."""
        return hashlib.sha256(f"{self._digest} {self._instruction}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        part = self._layout.split(self._rows[self._index[index]])
        earned = (part["reward"][:, 0] - self._reward["shift"]) / self._reward["scale"]
        over = bool(part["discount"][-1, 0] == 0)
        rewarded = self._reward["of"] == "reward"
        return Episode(
            state=part["state"],
            action=part["action"],
            instruction=self._instruction,
            reward=earned,
            success=not rewarded and bool(earned.max() > 0.5),
            terminated=over,
            truncated=not over,
            final={"state": part["next_state"][-1]},
        )

    @cached_property
    def _index(self) -> list[list[int]]:
        """The rows of each episode, by the time at which it began.

        Episodes of several environments lie mixed: a row goes on with the one that had led to its
        state.
        """
        part = self._layout.split(self._rows)
        found: list[list[int]] = []
        awaited: dict[bytes, list[list[int]]] = defaultdict(list)
        for i, state in enumerate(part["state"]):
            if waiting := awaited.get(state.tobytes()):
                episode = waiting.pop(0)
            else:
                found.append(episode := [])
            episode.append(i)
            if part["discount"][i, 0] != 0:
                awaited[part["next_state"][i].tobytes()].append(episode)
        return found


def _read(path: Path) -> Checkpoint:
    found = checkpoint.latest(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    return found or load(path)
