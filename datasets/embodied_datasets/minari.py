"""Reading Minari's data sets (Younis et al. 2024), without the package."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets import hdf5_facts as facts_
from embodied_datasets.faults import DataError, Fault, Report, refuse
from embodied_datasets.hdf5 import MAX_BYTES, Lazy
from embodied_datasets.minari_arrow import ArrowStore
from embodied_datasets.minari_columns import Columns, inside, read_json
from embodied_datasets.minari_hdf5 import Hdf5Store
from embodied_datasets.minari_spaces import Leaf, leaves

METADATA = "metadata.json"
_RATE_HZ = 20.0
_SUCCESS = ("success", "is_success")
_MAX_EPISODES = 10**7


class MinariDataset:
    """The episodes of a data set; implements `Episodes`.

    Observations are flattened into the state, by name in `spec.state_parts` and joined with dots
    where spaces are nested; a Discrete space gives its number. Colour images of at least 32 pixels
    are cameras, others go to `extras`. The observation after the last action is `final`. `infos`
    that are numbers become `extras`, without the last, which is in `final`: the one at a step
    belongs to its observation. Success is whether `infos/success` is ever true.

    Args:
        path: the folder that holds `data/`, or that folder.
        cameras: offers only these of the recorded cameras; None means all.
        instruction: for all episodes; None means the first text that was observed, else the
            environment's name as words.
        rate_hz: control rate, which the format does not record; None means 20.
        max_bytes: refuses to read more than this at once.
        report: what is done with faults that leave the files readable.

    Raises DataError where the files are not what they say, KeyError for unknown cameras.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cameras: Sequence[str] | None = None,
        instruction: str | None = None,
        rate_hz: float | None = None,
        max_bytes: int = MAX_BYTES,
        report: Report = refuse,
    ) -> None:
        self.path = Path(path)
        root = self.path / "data" if (self.path / "data" / METADATA).exists() else self.path
        self._file = (root / METADATA).relative_to(self.path)
        self._instruction, self._report = instruction, report
        self._metadata_path = inside(root, METADATA)
        self._metadata = read_json(self._metadata_path, self._file)
        self._store = self._open_store(root, max_bytes)
        self._actions = self._leaves("action_space", "actions")
        self._written = self._written_spec()
        observations = self._leaves("observation_space", "observations")
        known = set(self._written.cameras) if self._written else set()
        colour = [each for each in observations if each.is_camera or each.name in known]
        self._all_cameras = {each.name or "image": each for each in colour}
        self._texts = [each for each in observations if each.kind == "Text"]
        others = [each for each in observations if each not in colour and each.kind != "Text"]
        self._images = [each for each in others if each.is_image]
        self._parts = [each for each in others if not each.is_image]
        self._cameras = self._choose_cameras(cameras)
        self.spec = self._make_spec(rate_hz)

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        with self._store.episode(index) as columns:
            facts = columns.facts()
            length = self._length(columns, facts)
            numbers = self._numbers(columns, length)
            extras, final = self._extras(columns, length)
            if len(numbers["state"]) > length:
                final["state"] = numbers["state"][length]
                for name, leaf in self._cameras.items():
                    last = columns.frames("observations", leaf, length, length + 1)
                    final[f"images.{name}"] = last[0]
            numbers["state"] = numbers["state"][:length]
            fields = self._describe(columns, length)
            fields["success"] = any(
                bool(np.any(recorded[name]))
                for recorded in (extras, final)
                for name in _SUCCESS
                if name in recorded
            )
        expert = None
        if facts:
            expert = extras.pop(str(facts.get("expert_action")), None)
            fields = facts_.fields(facts, self._wrong)
            final = {name: final[name] for name in facts.get("final", ()) if name in final}
            numbers = numbers if facts.get("reward", True) else numbers | {"reward": None}
        if self._instruction is not None:
            fields["instruction"] = self._instruction
        place = Fault("", "", "", file=self._file, episode=index)
        present = {name: values for name, values in numbers.items() if values is not None}
        facts_.check_finite(self._report, place, present)
        loaders = {
            name: functools.partial(self._frames, index, leaf, length)
            for name, leaf in self._cameras.items()
        }
        return Episode(
            **numbers,
            images=Lazy(loaders),
            expert_action=expert,
            extras=extras,
            final=final,
            **fields,
        )

    @property
    def keys(self) -> list[str] | None:
        """The keys that our writer was given; None where another wrote the data set."""
        keys: list[Any] = []
        for index in range(len(self)):
            with self._store.episode(index) as columns:
                keys.append(columns.facts().get("key"))
        return keys if all(isinstance(key, str) for key in keys) else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files and what was chosen of them."""
        chosen = [list(self._cameras), self._instruction, self.spec.rate_hz]
        digest = hashlib.sha256(json.dumps(chosen).encode())
        for path in (self._metadata_path, *self._store.files):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _wrong(self, message: str, field: str | None = None) -> DataError:
        remedy = "fetch or write the data set again"
        return DataError(Fault("E_DATA_UNREADABLE", message, remedy, file=self._file, field=field))

    def _open_store(self, root: Path, max_bytes: int) -> Hdf5Store | ArrowStore:
        count, kind = self._metadata.get("total_episodes"), self._metadata.get("data_format")
        if not isinstance(count, int) or not 0 < count <= _MAX_EPISODES:
            raise self._wrong(f"says total_episodes {count!r}", "total_episodes")
        if kind not in (None, "hdf5", "arrow"):
            message = f"says data_format {kind!r}, expected 'hdf5' or 'arrow'"
            raise self._wrong(message, "data_format")
        store: Hdf5Store | ArrowStore = (
            ArrowStore(root, max_bytes, count) if kind == "arrow" else Hdf5Store(root, max_bytes)
        )
        if len(store) != count:
            raise self._wrong(f"says total_episodes {count}, but there are {len(store)}")
        return store

    def _leaves(self, name: str, group: str) -> list[Leaf]:
        space = self._metadata.get(name)
        if not isinstance(space, str):
            message = "is missing: the environment's own spaces are not looked up"
            raise self._wrong(message, name)
        found = leaves(space, functools.partial(self._wrong, field=name))
        if group == "actions":
            return [leaf for leaf in found if leaf.kind != "Text"]
        return found

    def _written_spec(self) -> Spec | None:
        own = self._metadata.get(facts_.GROUP)
        if not isinstance(own, dict):
            return None
        spec = facts_.spec_from(own.get("spec"), self._wrong)
        if spec.action_dim != sum(leaf.size for leaf in self._actions):
            raise self._wrong("misdescribes the action space", facts_.GROUP)
        return spec

    def _choose_cameras(self, cameras: Sequence[str] | None) -> dict[str, Leaf]:
        unknown = sorted(set(cameras or ()) - set(self._all_cameras))
        if unknown:
            raise KeyError(f"{self.path} has no cameras {unknown}; it has {[*self._all_cameras]}")
        names = list(self._all_cameras) if cameras is None else cameras
        return {name: self._all_cameras[name] for name in names}

    def _make_spec(self, rate_hz: float | None) -> Spec:
        parts = {leaf.name or "state": leaf.size for leaf in self._parts}
        written = self._written
        low, high = self._bounds()
        return Spec(
            state_dim=sum(parts.values()),
            action_dim=len(low),
            action_low=written.action_low if written else low,
            action_high=written.action_high if written else high,
            rate_hz=rate_hz or (written.rate_hz if written else _RATE_HZ),
            cameras={name: (leaf.shape[0], leaf.shape[1]) for name, leaf in self._cameras.items()},
            render_profile=written.render_profile if written else None,
            state_parts={} if written and not written.state_parts else parts,
        )

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those of the action space, or the extremes of the data where it has none."""
        sides = [
            [float(x) for leaf in self._actions for x in np.ravel(getattr(leaf, side))]
            for side in ("low", "high")
        ]
        if all(math.isfinite(x) and abs(x) < 1e30 for x in (*sides[0], *sides[1])):
            return tuple(sides[0]), tuple(sides[1])
        bounds = facts_.Bounds(len(sides[0]))
        for index in range(len(self)):
            with self._store.episode(index) as columns:
                bounds.add(_joined(columns, "actions", self._actions)[: self._length(columns, {})])
        return bounds.get()

    def _length(self, columns: Columns, facts: dict[str, Any]) -> int:
        rewards = columns.scalars("rewards")
        padded = isinstance(self._store, ArrowStore)  # to the number of observations
        length = len(rewards) - padded
        if length < 1 or facts.get("length", length) != length:
            raise columns.error("E_DATA_SHAPE", f"has {length} steps", "rewards")
        return length

    def _numbers(self, columns: Columns, length: int) -> dict[str, Any]:
        """State (L or L + 1, S), action (L, A), reward (L,)."""
        state = _joined(columns, "observations", self._parts)
        if not self._parts:
            state = np.zeros((length + 1, 0), np.float32)
        action = _joined(columns, "actions", self._actions)
        if len(state) not in (length, length + 1):
            message = f"has {len(state)} rows for {length} actions, expected one more"
            raise columns.error("E_DATA_SHAPE", message, "observations")
        if len(action) < length:
            message = f"has {len(action)} rows for {length} rewards"
            raise columns.error("E_DATA_SHAPE", message, "actions")
        reward = columns.column("rewards", length).astype(np.float32)
        return {"state": state, "action": action[:length], "reward": reward}

    def _extras(
        self, columns: Columns, length: int
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        found = columns.infos()
        for leaf in self._images:  # without colour, so no cameras
            found[leaf.name or "image"] = columns.frames("observations", leaf, 0, length + 1)
        extras = {k: v[:length] for k, v in found.items() if len(v) in (length, length + 1)}
        final = {k: found[k][length] for k in extras if len(found[k]) == length + 1}
        return extras, final

    def _describe(self, columns: Columns, length: int) -> dict[str, Any]:
        flags = {
            flag: bool(columns.column(name, length)[-1])
            for flag, name in (("terminated", "terminations"), ("truncated", "truncations"))
        }
        texts = (columns.text("observations", leaf) for leaf in self._texts)
        facts = {"dataset_id": self._metadata.get("dataset_id"), "env": self._env()}
        facts["seed"] = columns.seed()
        return {
            **flags,
            "instruction": next(filter(None, texts), facts_.words(self._name())),
            "info": {name: value for name, value in facts.items() if value is not None},
        }

    def _env(self) -> str | None:
        text = self._metadata.get("env_spec")
        if not isinstance(text, str):
            return None
        name = facts_.parse(text, functools.partial(self._wrong, field="env_spec")).get("id")
        return name if isinstance(name, str) else None

    def _name(self) -> str:
        return self._env() or str(self._metadata.get("dataset_id", ""))

    def _frames(self, index: int, leaf: Leaf, length: int) -> NDArray[np.uint8]:
        with self._store.episode(index) as columns:
            return columns.frames("observations", leaf, 0, length)


def _joined(columns: Columns, group: str, parts: Sequence[Leaf]) -> NDArray[np.float32]:
    """(rows, n) of the leaves end to end."""
    arrays = [columns.array(group, leaf) for leaf in parts]
    rows = min((len(values) for values in arrays), default=0)
    flat = [
        x[:rows].reshape(rows, leaf.size).astype(np.float32)
        for x, leaf in zip(arrays, parts, strict=True)
    ]
    return np.concatenate([np.zeros((rows, 0), np.float32), *flat], axis=1)
