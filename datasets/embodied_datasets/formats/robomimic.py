"""robomimic's HDF5 files: `data/demo_<i>` with observations by key (Mandlekar et al. 2021).

`dones` mean, by the file's unknown `done_mode`, success at a step or the end of the demonstration:
the last of them is read as `terminated`, and nothing as `truncated`, which robomimic does not
record. Success is whether a reward is 1 where all are 0 or 1, else whether `dones` is ever true.
Files that we wrote keep all flags beside.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.facts import unseen
from embodied_datasets.formats import Writer
from embodied_datasets.hdf5 import load_h5py, member_names
from embodied_datasets.hdf5_facts import check_names, write_group
from embodied_datasets.recorded import split, state_parts
from embodied_datasets.staged_writer import StagedWriter
from embodied_datasets.staging import Staged


class Robomimic:
    name = "robomimic"

    def matches(self, path: Path) -> bool:
        """Whether it is an HDF5 file whose first demonstration has observations by key."""
        return "data" in member_names(path) and "obs" in member_names(path, "data", "*")

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `RobomimicDataset`."""
        from embodied_datasets.robomimic import RobomimicDataset

        return RobomimicDataset(path, **options)

    def create(
        self, path: Path, spec: Spec, *, env_name: str = "unknown", **options: Any
    ) -> Writer:
        """A writer.

        Args:
            env_name: robomimic's name of the environment.
        """
        if options:
            raise TypeError(f"robomimic's writer takes env_name, got {sorted(options)}")
        load_h5py()
        check_names([*state_parts(spec, "state"), *spec.cameras])
        settings = {"format": self.name, "env_name": env_name}
        return StagedWriter(path, spec, RobomimicLayout(env_name), settings)

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """What only this project finds again in the file; nothing is lost to it."""
        lost = {
            "instruction: others may look for it in ep_meta": bool(episode.instruction),
            "extras except states: others do not see them": bool(set(episode.extras) - {"states"}),
            "missing rewards: others see zeros": episode.reward is None,
        }
        seen = ("instruction", "terminated", "final")
        return [*unseen(episode, *seen), *(text for text, is_lost in lost.items() if is_lost)]


FORMAT = Robomimic()


class RobomimicLayout:
    """One group for each demonstration; our facts stand in a group inside."""

    def __init__(self, env_name: str) -> None:
        self._env_name = env_name

    def keys(self, path: Path) -> list[str] | None:
        from embodied_datasets.robomimic import RobomimicDataset

        return RobomimicDataset(path).keys if FORMAT.matches(path) else None

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        with load_h5py().File(path, "w") as file:
            write_group(file, {"spec": dataclasses.asdict(spec)}, {})
            data = file.create_group("data")
            data.attrs["total"] = sum(len(episode) for episode in episodes)
            data.attrs["env_args"] = json.dumps(
                {
                    "env_name": self._env_name,
                    "env_type": 2,  # of gym's kind
                    "env_kwargs": {"control_freq": spec.rate_hz},
                }
            )
            for index, episode in enumerate(episodes):
                _write_demo(data.create_group(f"demo_{index}"), spec, episode)


def _write_demo(demo: Any, spec: Spec, episode: Staged) -> None:
    arrays, length = episode.arrays(), len(episode)
    state, final = arrays.pop("state"), arrays.pop("final/state", None)
    demo.attrs["num_samples"] = length
    instruction = episode.facts["instruction"]
    if len(instruction) < 10_000:  # an attribute ends at 64 KB
        demo.attrs["ep_meta"] = json.dumps({"lang": instruction})
    demo["actions"] = arrays.pop("action")
    demo["rewards"] = arrays.pop("reward", np.zeros(length, np.float32))
    dones = np.zeros(length, np.int64)
    dones[-1] = episode.facts["terminated"]
    demo["dones"] = dones
    if "extras/states" in arrays:
        demo["states"] = arrays.pop("extras/states")
    parts = state_parts(spec, "state")
    following = None if final is None else _shifted(state, final)
    _write_parts(demo, split(state, parts), following, parts)
    for camera in spec.cameras:
        demo[f"obs/{camera}"] = images = arrays.pop(f"images/{camera}")
        last = arrays.pop(f"final/images.{camera}", None)
        if last is not None:
            demo[f"next_obs/{camera}"] = _shifted(images, last)
    write_group(demo, episode.facts, arrays)


def _write_parts(
    demo: Any,
    states: dict[str, NDArray[Any]],
    following: NDArray[Any] | None,
    parts: dict[str, int],
) -> None:
    for name, values in states.items():
        demo[f"obs/{name}"] = values
    for name, values in ({} if following is None else split(following, parts)).items():
        demo[f"next_obs/{name}"] = values


def _shifted(rows: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([rows[1:], last[None]])
