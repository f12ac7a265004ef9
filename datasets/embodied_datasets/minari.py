"""Reading Minari's data sets (Younis et al. 2024), without the package."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.facts import fields_from, roles_from
from embodied_datasets.faults import Fault, Report, refuse
from embodied_datasets.files import fingerprint
from embodied_datasets.hdf5 import MAX_BYTES
from embodied_datasets.lazy import Lazy
from embodied_datasets.minari_arrow import ArrowStore
from embodied_datasets.minari_columns import Columns
from embodied_datasets.minari_hdf5 import Hdf5Store
from embodied_datasets.minari_metadata import METADATA, Metadata
from embodied_datasets.minari_spaces import Leaf
from embodied_datasets.recorded import Bounds, check_finite
from embodied_datasets.wordings import words

_RATE_HZ = 20.0
_SUCCESS = ("success", "is_success")


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

    Raises DataError where the files are not what they say, ValueError for unknown cameras.
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
        self._instruction, self._report = instruction, report
        self._metadata = Metadata(root, (root / METADATA).relative_to(self.path))
        self._store = self._open_store(root, max_bytes)
        self._actions = self._metadata.leaves("action_space")
        self._actions = [leaf for leaf in self._actions if leaf.kind != "Text"]
        self._written = self._metadata.written(sum(leaf.size for leaf in self._actions))
        observations = self._metadata.leaves("observation_space")
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
            length = self._length(columns)
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
            roles = roles_from(facts, self._metadata.wrong)
            expert = extras.pop(str(facts.get("expert_action")), None)
            fields = fields_from(facts, self._metadata.wrong)
            final = {name: final[name] for name in final if f"final/{name}" in roles}
            numbers = numbers if "reward" in roles else numbers | {"reward": None}
        if self._instruction is not None:
            fields["instruction"] = self._instruction
        place = Fault("", "", "", file=self._metadata.name, episode=index)
        present = {name: values for name, values in numbers.items() if values is not None}
        check_finite(self._report, place, present)
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
        return fingerprint([self._metadata.path, *self._store.files], chosen)

    def _open_store(self, root: Path, max_bytes: int) -> Hdf5Store | ArrowStore:
        count = self._metadata.num_episodes
        store: Hdf5Store | ArrowStore = (
            ArrowStore(root, max_bytes, count)
            if self._metadata.data_format == "arrow"
            else Hdf5Store(root, max_bytes)
        )
        if len(store) != count:
            message = f"says total_episodes {count}, but there are {len(store)}"
            raise self._metadata.wrong(message)
        return store

    def _choose_cameras(self, cameras: Sequence[str] | None) -> dict[str, Leaf]:
        unknown = sorted(set(cameras or ()) - set(self._all_cameras))
        if unknown:
            raise ValueError(f"{self.path} has no cameras {unknown}; it has {[*self._all_cameras]}")
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
        bounds = Bounds(len(sides[0]))
        for index in range(len(self)):
            with self._store.episode(index) as columns:
                bounds.add(columns.joined("actions", self._actions)[: self._length(columns)])
        return bounds.get()

    def _length(self, columns: Columns) -> int:
        rewards = columns.scalars("rewards")
        padded = isinstance(self._store, ArrowStore)  # to the number of observations
        length = len(rewards) - padded
        if length < 1:
            raise columns.error("E_DATA_SHAPE", f"has {length} steps", "rewards")
        return length

    def _numbers(self, columns: Columns, length: int) -> dict[str, Any]:
        """State (L or L + 1, S), action (L, A), reward (L,)."""
        state = columns.joined("observations", self._parts)
        if not self._parts:
            state = np.zeros((length + 1, 0), np.float32)
        action = columns.joined("actions", self._actions)
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
        source = self._metadata
        name = source.env or source.dataset_id or ""
        info = {"dataset_id": source.dataset_id, "env": source.env, "seed": columns.seed()}
        return {
            **flags,
            "instruction": next(filter(None, texts), words(name)),
            "info": {name: value for name, value in info.items() if value is not None},
        }

    def _frames(self, index: int, leaf: Leaf, length: int) -> NDArray[np.uint8]:
        with self._store.episode(index) as columns:
            return columns.frames("observations", leaf, 0, length)
