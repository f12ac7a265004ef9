"""Minari's data sets (Younis et al. 2024): `data/metadata.json` beside HDF5 or Arrow files.

Minari holds L + 1 observations and infos for L actions. Where what came last was not recorded, the
one before stands in for it; our reader knows and drops it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets import facts
from embodied_datasets.facts import unseen
from embodied_datasets.files import write_json
from embodied_datasets.formats import Writer
from embodied_datasets.hdf5 import load_h5py
from embodied_datasets.hdf5_facts import check_names, write_group
from embodied_datasets.recorded import group, split, state_parts
from embodied_datasets.staged_writer import StagedWriter
from embodied_datasets.staging import Staged

_VERSION = "0.5.4"  # the package whose layout this is
_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]+/)?[-_\w]+-v\d+")
_EXPERT = "expert_action"


class Minari:
    name = "minari"

    def matches(self, path: Path) -> bool:
        """Whether there are a metadata.json and one of Minari's storages, by names."""
        root = path / "data" if (path / "data").is_dir() else path
        stored = (root / "main_data.hdf5").is_file() or (root / "0").is_dir()
        return stored and (root / "metadata.json").is_file()

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `MinariDataset`."""
        from embodied_datasets.minari import MinariDataset

        return MinariDataset(path, **options)

    def create(
        self,
        path: Path,
        spec: Spec,
        *,
        data_format: Literal["hdf5", "arrow"] = "hdf5",
        dataset_id: str | None = None,
    ) -> Writer:
        """A writer of a folder that Minari loads; images are not compressed, so they stay exact.

        Args:
            data_format: the storage.
            dataset_id: Minari's name, such as "pick/human-v0"; None makes one of the folder's.
        """
        if data_format not in ("hdf5", "arrow"):
            raise ValueError(f"data_format must be 'hdf5' or 'arrow', got {data_format!r}")
        name = dataset_id or _default_id(path.name)
        if not _ID.fullmatch(name):
            raise ValueError(f"dataset_id must look like 'pick/human-v0', got {name!r}")
        if data_format == "hdf5":
            load_h5py()
        check_names([*state_parts(spec, "state"), *spec.cameras])
        settings = {"format": self.name, "data_format": data_format, "dataset_id": name}
        return StagedWriter(path, spec, MinariLayout(data_format, name), settings)

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """What only this project finds again in the files; nothing is lost to it."""
        ends = {"state", *(f"images.{camera}" for camera in spec.cameras)}
        lost = {
            "missing rewards: others see zeros": episode.reward is None,
            "missing last observation: others see the one before twice": not (
                ends <= set(episode.final)
            ),
        }
        said = [text for text, is_lost in lost.items() if is_lost]
        return [*unseen(episode, "terminated", "truncated", "expert_action", "final"), *said]


FORMAT = Minari()


def _default_id(name: str) -> str:
    return name if _ID.fullmatch(name) else f"{re.sub(r'[^-_a-zA-Z0-9]+', '-', name)}-v0"


class MinariLayout:
    """A folder `data` of metadata.json and one of Minari's storages."""

    def __init__(self, data_format: str, dataset_id: str) -> None:
        self._format, self._id = data_format, dataset_id

    def keys(self, path: Path) -> list[str] | None:
        from embodied_datasets.minari import MinariDataset

        return MinariDataset(path).keys if FORMAT.matches(path) else None

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        from embodied_datasets.minari_spaces import action_space, observation_space

        root = path / "data"
        root.mkdir(parents=True)
        (_write_hdf5 if self._format == "hdf5" else _write_arrow)(root, spec, episodes)
        size = sum(each.stat().st_size for each in root.rglob("*") if each.is_file())
        metadata = {
            "total_episodes": len(episodes),
            "total_steps": sum(len(episode) for episode in episodes),
            "data_format": self._format,
            "jpeg_encoding": False,
            "observation_space": observation_space(spec),
            "action_space": action_space(spec),
            "dataset_id": self._id,
            "minari_version": _VERSION,
            "dataset_size": round(size / 1e6, 1),
            facts.NAME: {"spec": dataclasses.asdict(spec)},
        }
        write_json(root / "metadata.json", metadata)


def _columns(spec: Spec, episode: Staged) -> dict[str, Any]:
    """The groups of an episode; observations and infos have a row more than the others."""
    arrays, length = episode.arrays(), len(episode)
    parts = state_parts(spec, "state")
    state = _extended(arrays["state"], arrays.get("final/state"))
    images = {
        camera: _extended(arrays[f"images/{camera}"], arrays.get(f"final/images.{camera}"))
        for camera in spec.cameras
    }
    observed = spec.cameras or spec.state_parts
    infos = {
        name: _extended(values, arrays.get(f"final/{name}"))
        for name, values in group(arrays, "extras/").items()
    }
    if "expert_action" in arrays:
        infos[_expert_name(infos)] = _extended(arrays["expert_action"], None)
    last = np.arange(length) == length - 1
    return {
        "observations": split(state, parts) | images if observed else state,
        "actions": arrays["action"],
        "rewards": arrays.get("reward", np.zeros(length, np.float32)),
        "terminations": last & episode.facts["terminated"],
        "truncations": last & episode.facts["truncated"],
        "infos": infos,
    }


def _extended(rows: NDArray[Any], last: NDArray[Any] | None) -> NDArray[Any]:
    return np.concatenate([rows, rows[-1:] if last is None else last[None]])


def _expert_name(infos: dict[str, Any]) -> str:
    name = _EXPERT
    while name in infos:
        name += "_"
    return name


def _facts(episode: Staged) -> dict[str, Any]:
    if "expert_action" not in episode.headers:
        return episode.facts
    return episode.facts | {"expert_action": _expert_name(group(episode.headers, "extras/"))}


def _write_hdf5(root: Path, spec: Spec, episodes: Sequence[Staged]) -> None:
    with load_h5py().File(root / "main_data.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            recorded = file.create_group(f"episode_{index}")
            recorded.attrs["id"], recorded.attrs["total_steps"] = index, len(episode)
            columns = _columns(spec, episode)
            for name, values in columns.items():
                if isinstance(values, dict):
                    inner = recorded.create_group(name)
                    for key, each in values.items():
                        inner[key] = each
                else:
                    recorded[name] = values
            write_group(recorded, _facts(episode), {})


def _write_arrow(root: Path, spec: Spec, episodes: Sequence[Staged]) -> None:
    import pyarrow as pa

    for index, episode in enumerate(episodes):
        columns = _columns(spec, episode)
        rows = len(episode) + 1
        arrays = {name: _to_arrow(x, rows) for name, x in columns.items() if len(x)}
        batch = pa.RecordBatch.from_pydict(arrays)
        folder = root / str(index)
        folder.mkdir()
        with pa.ipc.new_file(str(folder / "part-0.arrow"), batch.schema) as writer:
            writer.write_batch(batch)
        metadata = {"id": index, "total_steps": len(episode), facts.NAME: _facts(episode)}
        write_json(folder / "metadata.json", metadata)


def _to_arrow(values: Any, rows: int) -> Any:
    """A column as Minari lays it out: scalars as they are, all else in lists of fixed size, padded
    with zeros to the number of rows."""
    import pyarrow as pa

    if isinstance(values, dict):
        arrays = {name: _to_arrow(each, rows) for name, each in values.items()}
        fields = [
            pa.field(name, array.type, metadata={"shape": ",".join(map(str, each.shape[1:]))})
            if (each := values[name]).ndim > 1
            else pa.field(name, array.type)
            for name, array in arrays.items()
        ]
        return pa.StructArray.from_arrays(list(arrays.values()), fields=fields)
    padding = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
    flat = pa.array(np.pad(values, padding).reshape(-1))
    if values.ndim == 1:
        return flat
    size = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(flat.type, size))
