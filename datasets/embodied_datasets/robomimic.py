"""Reading robomimic's HDF5 files; what is read as what stands in `formats.robomimic`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.facts import NAME, fields_from, roles_from, spec_from
from embodied_datasets.faults import Fault, Report, refuse
from embodied_datasets.files import fingerprint
from embodied_datasets.hdf5 import MAX_BYTES, Hdf5, subgroup
from embodied_datasets.hdf5_facts import Group, json_attribute
from embodied_datasets.lazy import Lazy
from embodied_datasets.recorded import check_finite
from embodied_datasets.recorded import group as by_name
from embodied_datasets.robomimic_layout import (
    choose_cameras,
    choose_parts,
    demo_names,
    look_through,
)
from embodied_datasets.wordings import words

_RATE_HZ = 20.0
_KNOWN = {"actions", "rewards", "dones", "obs", "next_obs", NAME}


class RobomimicDataset:
    """The demonstrations of a file, in the order of their numbers; implements `Episodes`.

    Observations (L,) and (L, n) lie end to end in the state, and their names and sizes in
    `spec.state_parts`; uint8 (L, h, w, 3) are cameras, read when they are asked for. All else that
    has L rows, such as the simulator's `states`, goes to `extras`, other observations as
    "obs/<key>". Action bounds are [-1, 1] as robomimic demands, or the extremes if they go beyond.

    Args:
        path: the file.
        state_keys: the observations that make the state, in order; None means all, sorted.
        cameras: offers only these of the recorded cameras; None means all.
        mask: only the demonstrations that `mask/<mask>` lists, such as "train".
        instruction: for all episodes; None means the one recorded ("lang" in `ep_meta`), else the
            environment's name as words.
        rate_hz: control rate; None means the recorded `control_freq`, else 20.
        max_bytes: refuses to read more than this at once.
        report: what is done with faults that leave the file readable.

    Raises DataError where the file is not what it says, ValueError for unknown names.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        state_keys: Sequence[str] | None = None,
        cameras: Sequence[str] | None = None,
        mask: str | None = None,
        instruction: str | None = None,
        rate_hz: float | None = None,
        max_bytes: int = MAX_BYTES,
        report: Report = refuse,
    ) -> None:
        self.path = Path(path)
        self._hdf5 = Hdf5(self.path, max_bytes=max_bytes)
        self._instruction, self._report = instruction, report
        with self._hdf5.open() as file:
            self._demos = demo_names(self._hdf5, file, mask)
            facts = Group(self._hdf5, file).facts
            args = json_attribute(self._hdf5, file["data"], "env_args")
            self._env_name = str(args.get("env_name", "unknown task"))
            first = file["data"][self._demos[0]]
            written = spec_from(facts.get("spec"), self._hdf5.damaged) if facts else None
            self._parts = choose_parts(self.path, first, state_keys, written)
            self._cameras = choose_cameras(self.path, first, cameras)
            demos = {name: file["data"][name] for name in self._demos}
            bounds = look_through(self._hdf5, demos, self._parts, self._cameras)
        low, high = bounds.get(unit=True)
        if written and len(written.action_low) == len(low):
            low, high = written.action_low, written.action_high
        kwargs = args.get("env_kwargs")
        recorded = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
        if not isinstance(recorded, int | float) or not recorded > 0:
            recorded = _RATE_HZ
        self.spec = Spec(
            state_dim=sum(self._parts.values()),
            action_dim=len(low),
            action_low=low,
            action_high=high,
            rate_hz=float(rate_hz or recorded),
            cameras=self._cameras,
            render_profile=written.render_profile if written else None,
            state_parts=self._named_parts(written),
        )

    def __len__(self) -> int:
        return len(self._demos)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        name = self._demos[index]
        with self._hdf5.open() as file:
            demo = file["data"][name]
            group = Group(self._hdf5, demo, episode=index)
            roles = roles_from(group.facts, group.wrong) if group.facts else {"reward"}
            numbers: dict[str, Any] = {
                "state": self._state(demo["obs"]),
                "action": self._read(demo["actions"]),
            }
            if "rewards" in demo and "reward" in roles:
                numbers["reward"] = self._read(demo["rewards"])
            extras, final = self._extras(demo, len(numbers["action"])), self._final(demo)
            dones = self._read(demo["dones"]) if "dones" in demo else np.zeros(1, np.float32)
            added = group.arrays()
            described = self._describe(demo, numbers.get("reward"), dones)
        if group.facts:
            described = fields_from(group.facts, group.wrong)
        if self._instruction is not None:
            described["instruction"] = self._instruction
        place = Fault("", "", "", file=self._hdf5.name, episode=index)
        check_finite(self._report, place, numbers)
        return Episode(
            **numbers,
            images=Lazy({k: functools.partial(self._images, name, k) for k in self._cameras}),
            expert_action=added.get("expert_action"),
            extras=extras | by_name(added, "extras/"),
            final=final | by_name(added, "final/"),
            **described,
        )

    @property
    def keys(self) -> list[str] | None:
        """The keys that our writer was given; None where another wrote the file."""
        keys: list[Any] = []
        with self._hdf5.open() as file:
            for name in self._demos:
                facts = Group(self._hdf5, file["data"][name]).facts
                keys.append(facts.get("key"))
        return keys if all(isinstance(key, str) for key in keys) else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the file and what was chosen of it."""
        chosen = [self._demos, list(self._parts), list(self._cameras), self._instruction]
        return fingerprint([self.path], [*chosen, self.spec.rate_hz])

    def _named_parts(self, written: Spec | None) -> dict[str, int]:
        single = written is not None and not written.state_parts and list(self._parts) == ["state"]
        return {} if single else self._parts

    def _read(self, dataset: Any) -> NDArray[np.float32]:
        return self._hdf5.read(dataset).astype(np.float32, copy=False)

    def _state(self, obs: Any, start: int = 0) -> NDArray[np.float32]:
        parts = [self._hdf5.read(obs[name], start).astype(np.float32) for name in self._parts]
        rows = len(parts[0]) if parts else self._num_rows(obs, start)
        return np.concatenate([np.zeros((rows, 0), np.float32), *_columns(parts)], axis=1)

    def _num_rows(self, obs: Any, start: int) -> int:
        return int(obs[next(iter(self._cameras))].shape[0]) - start if self._cameras else 0

    def _images(self, name: str, camera: str) -> NDArray[np.uint8]:
        with self._hdf5.open() as file:
            return self._hdf5.read(file["data"][name]["obs"][camera])

    def _extras(self, demo: Any, length: int) -> dict[str, NDArray[Any]]:
        groups = {"": demo, "obs/": demo["obs"]}
        taken = _KNOWN | {f"obs/{name}" for name in (*self._parts, *self._cameras)}
        found: dict[str, NDArray[Any]] = {}
        for prefix, group in groups.items():
            for name in group:
                item, role = group[name], prefix + name
                if role in taken:
                    continue
                inner = {role: item} if hasattr(item, "shape") else {}
                if not inner:
                    inner = {f"{role}/{sub}": each for sub, each in self._hdf5.arrays(item)}
                found |= {
                    sub: self._hdf5.read(each)
                    for sub, each in inner.items()
                    if each.dtype.kind in "biuf" and each.shape[:1] == (length,)
                }
        return found

    def _final(self, demo: Any) -> dict[str, NDArray[Any]]:
        following = subgroup(demo, "next_obs")
        final: dict[str, NDArray[Any]] = {}
        if self._parts and all(name in following for name in self._parts):
            last = following[next(iter(self._parts))].shape[0] - 1
            final["state"] = self._state(following, last)[0]
        for camera in self._cameras:
            if camera in following and following[camera].shape[1:] == (*self._cameras[camera], 3):
                last = following[camera].shape[0] - 1
                final[f"images.{camera}"] = self._hdf5.read(following[camera], last)[0]
        return final

    def _describe(
        self, demo: Any, reward: NDArray[Any] | None, dones: NDArray[Any]
    ) -> dict[str, Any]:
        meta = json_attribute(self._hdf5, demo, "ep_meta")
        successes = dones if reward is None or not np.isin(reward, (0, 1)).all() else reward == 1
        return {
            "instruction": str(meta.get("lang") or words(self._env_name)),
            "terminated": bool(dones[-1]),
            "success": bool(successes.any()),
            "info": {"env_name": self._env_name, "demo": demo.name.rpartition("/")[2]},
        }


def _columns(parts: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [part.reshape(len(part), -1) for part in parts]
