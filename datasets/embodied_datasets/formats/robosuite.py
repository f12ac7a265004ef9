"""robosuite's own recordings of human demonstrations, HDF5 (Zhu et al. 2020; arXiv:2009.12293).

They hold simulator states instead of observations: time, qpos and qvel end to end, as MuJoCo's
`MjSimState` flattens them, which need the model's XML to be told apart. Read only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.faults import Fault, Report, refuse
from embodied_datasets.files import fingerprint
from embodied_datasets.formats import Writer
from embodied_datasets.hdf5 import MAX_BYTES, Hdf5, member_names, natural, subgroup
from embodied_datasets.hdf5_facts import json_attribute
from embodied_datasets.recorded import Bounds, check_finite
from embodied_datasets.wordings import words

_ACTIONS_2018 = ("joint_velocities", "gripper_actuations")
_ATTRIBUTES = ("env", "repository_version", "date", "time")
_RATE_HZ = 20.0


class Robosuite:
    name = "robosuite"

    def matches(self, path: Path) -> bool:
        """Whether it is an HDF5 file whose first demonstration has states but no observations."""
        names = member_names(path, "data", "*")
        return "data" in member_names(path) and "states" in names and "obs" not in names

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `RobosuiteDataset`."""
        return RobosuiteDataset(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "robosuite's recordings hold states of its own simulator and are only read; "
            "write format=robomimic"
        )

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Everything."""
        return ["everything: the format is only read"]


FORMAT = Robosuite()


class RobosuiteDataset:
    """The demonstrations of a file; implements `Episodes`.

    The state is `states`, all of it. The action is `actions`, normalised to [-1, 1], as recorded
    since version 1.0; before that, the joint velocities (rad/s) and then the gripper commands,
    those that there are: some files of 2018 record neither, and have actions of size 0, which say
    so in `info["note"]`. Everything else with a value for each step goes to `extras`. People
    recorded until they had succeeded, but the files do not say so: `success` is False.

    Args:
        path: the file.
        instruction: for all episodes; None means the environment's name as words.
        rate_hz: control rate; None means the recorded `control_freq`, else that of the simulated
            time between states, else 20.
        max_bytes: refuses to read more than this at once.
        report: what is done with faults that leave the file readable.

    Raises DataError where the file is not what it says.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        instruction: str | None = None,
        rate_hz: float | None = None,
        max_bytes: int = MAX_BYTES,
        report: Report = refuse,
    ) -> None:
        self.path = Path(path)
        self._hdf5 = Hdf5(self.path, max_bytes=max_bytes)
        self._report = report
        with self._hdf5.open() as file:
            data = subgroup(file, "data")
            self._demos = sorted((x for x in data if "states" in subgroup(data, x)), key=natural)
            if not self._demos:
                raise self._hdf5.damaged("holds no demonstration with states", field="data")
            texts = {name: self._hdf5.attribute(data, name) for name in _ATTRIBUTES}
            self._facts = {name: value for name, value in texts.items() if value is not None}
            info = json_attribute(self._hdf5, data, "env_info")
            self._actions = self._action_names(data[self._demos[0]])
            sizes = self._look_through(data)
            first = self._hdf5.read(data[self._demos[0]]["states"])
        self._instruction = instruction or words(str(self._facts.get("env", "")))
        recorded = info.get("control_freq")
        low, high = self._bounds.get(unit=self._actions == ["actions"])
        self.spec = Spec(
            state_dim=sizes["states"],
            action_dim=len(low),
            action_low=low,
            action_high=high,
            rate_hz=float(rate_hz or (_as_rate(recorded) or _rate(first[:, 0]))),
            state_parts={"states": sizes["states"]},
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
            state = self._read(demo["states"])
            parts = [self._read(demo[each]).reshape(len(state), -1) for each in self._actions]
            action = np.concatenate([np.zeros((len(state), 0), np.float32), *parts], axis=1)
            extras = {
                each: self._hdf5.read(item)
                for each, item in self._hdf5.arrays(demo)
                if each not in {"states", *self._actions}
                and item.shape[0] == len(state)
                and item.size
            }
            model = self._hdf5.attribute(demo, "model_file")
        info = {**self._facts, "demo": name}
        if isinstance(model, str) and len(model) < 200:  # newer files hold the whole XML
            info["model_file"] = model
        if not self._actions:
            info["note"] = "the file records no actions, only states"
        place = Fault("", "", "", file=self._hdf5.name, episode=index)
        check_finite(self._report, place, {"state": state, "action": action})
        return Episode(state, action, self._instruction, extras=extras, info=info)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the file and what was said of it."""
        chosen = [self._instruction, dataclasses.asdict(self.spec)]
        return fingerprint([self.path], chosen)

    def _action_names(self, demo: Any) -> list[str]:
        if "actions" in demo:
            return ["actions"]
        return [name for name in _ACTIONS_2018 if name in demo]

    def _look_through(self, data: Any) -> dict[str, int]:
        """Compares the shapes of all demonstrations; gives the sizes of states and actions."""
        sizes: dict[str, int] = {}
        for index, name in enumerate(self._demos):
            demo = data[name]
            length = (*getattr(demo["states"], "shape", ()), 0)[0]
            for field in ("states", *self._actions):
                shape: tuple[int, ...] = getattr(demo.get(field), "shape", ())
                size = sizes.setdefault(field, shape[1] if len(shape) == 2 else 0)
                if shape != (length, size) or not length:
                    raise self._hdf5.fault(
                        "E_DATA_SHAPE",
                        f"has shape {shape}, expected ({length or 'L'}, {size or 'n'})",
                        "write the demonstration again",
                        episode=index,
                        field=field,
                    )
            parts = [self._read(demo[field]) for field in self._actions]
            joined = np.concatenate([np.zeros((length, 0), np.float32), *parts], axis=1)
            if not index:
                self._bounds = Bounds(joined.shape[1])
            self._bounds.add(joined)
        return sizes

    def _read(self, dataset: Any) -> NDArray[np.float32]:
        return self._hdf5.read(dataset).astype(np.float32)


def _as_rate(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _rate(times: NDArray[Any]) -> float:
    """Steps per second of simulated time, on average, since early versions stepped unevenly."""
    span = float(times[-1] - times[0])
    forward = bool(np.isfinite(times).all() and (np.diff(times) >= 0).all())
    return round((len(times) - 1) / span, 3) if span > 0 and forward else _RATE_HZ
