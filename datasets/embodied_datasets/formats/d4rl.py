"""D4RL's flat HDF5 files (Fu et al. 2020; arXiv:2004.07219): all steps of all episodes end to end.

An episode ends where `terminals` (it terminated) or `timeouts` (it was truncated) are true; both
stay apart. One that we write ends so even if it did neither, or the boundary would be lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.facts import unseen
from embodied_datasets.formats import Writer
from embodied_datasets.hdf5 import load_h5py, member_names
from embodied_datasets.hdf5_facts import write_group
from embodied_datasets.recorded import group
from embodied_datasets.staged_writer import StagedWriter
from embodied_datasets.staging import Staged

_OWN = "metadata"
Array = NDArray[Any]


class D4RL:
    name = "d4rl"

    def matches(self, path: Path) -> bool:
        """Whether it is an HDF5 file with observations, actions and terminals in its root."""
        return member_names(path) >= {"observations", "actions", "terminals"}

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `D4RLDataset`."""
        from embodied_datasets.d4rl import D4RLDataset

        return D4RLDataset(path, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer; it takes no options, and leaves images out."""
        if options:
            raise TypeError(f"D4RL's writer takes no options, got {sorted(options)}")
        load_h5py()
        return StagedWriter(path, spec, D4RLLayout(), {"format": self.name})

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Images are lost; of the rest, what only this project finds again in the file."""
        neither = not (episode.terminated or episode.truncated)
        lost = {
            "images: lost, with the marks in them; the format has none": bool(episode.images),
            "end: others see a timeout, without which the next episode would join": neither,
            "missing rewards: others see zeros": episode.reward is None,
            "last extras: others do not see them": bool(set(episode.final) & set(episode.extras)),
        }
        said = [text for text, is_lost in lost.items() if is_lost]
        return [*said, *unseen(episode, "terminated", "truncated", "final")]


FORMAT = D4RL()


class D4RLLayout:
    """All steps end to end; what D4RL has no place for stands in `metadata/embodied`."""

    def keys(self, path: Path) -> list[str] | None:
        from embodied_datasets.d4rl import D4RLDataset

        return D4RLDataset(path).keys if FORMAT.matches(path) else None

    def write(self, path: Path, episodes: Sequence[Staged], spec: Spec) -> None:
        spec = dataclasses.replace(spec, cameras={}, render_profile=None)
        with load_h5py().File(path, "w") as file:
            own = _write_steps(_Columns(file, episodes), episodes, spec)
            lines = "\n".join(json.dumps(_without_images(each.facts)) for each in episodes)
            own["episodes"] = np.frombuffer(lines.encode(), np.uint8)
            write_group(file.create_group(_OWN), {"spec": dataclasses.asdict(spec)}, own)


def _without_images(facts: Mapping[str, Any]) -> dict[str, Any]:
    annotations = [each for each in facts["annotations"] if each["camera"] is None]
    return {**facts, "annotations": annotations}


def _write_steps(columns: _Columns, episodes: Sequence[Staged], spec: Spec) -> dict[str, Array]:
    """Writes all episodes; returns the arrays that D4RL does not know, by name."""
    flat, own = _uniform(episodes), {}
    has_final = any("final/state" in episode.headers for episode in episodes)
    if any("expert_action" in episode.headers for episode in episodes):
        own["expert_action"] = np.zeros((columns.total, spec.action_dim), np.float32)
    for index, rows, episode in columns.walk():
        seen = ("images/", "final/images.")  # which the format has no place for
        arrays = {role: episode[role] for role in episode.headers if not role.startswith(seen)}
        _write_core(columns, rows, arrays, episode.facts)
        if has_final:
            following = _following(arrays["state"], arrays.get("final/state"))
            columns.put("next_observations", rows, following)
        if "expert_action" in arrays:
            own["expert_action"][rows] = arrays["expert_action"]
        for name, values in group(arrays, "extras/").items():
            if name in flat:
                columns.put(f"infos/{name}", rows, values)
            else:
                own[f"extras/{index}/{name}"] = values
        finals = group(arrays, "final/")
        own |= {f"final/{index}/{name}": x for name, x in finals.items() if name != "state"}
    return own


def _write_core(
    columns: _Columns, rows: slice, arrays: Mapping[str, Array], facts: Mapping[str, Any]
) -> None:
    length = len(arrays["action"])
    ends = np.arange(length) == length - 1
    columns.put("observations", rows, arrays["state"])
    columns.put("actions", rows, arrays["action"])
    columns.put("rewards", rows, arrays.get("reward", np.zeros(length, np.float32)))
    columns.put("terminals", rows, ends & facts["terminated"])
    columns.put("timeouts", rows, ends & (facts["truncated"] or not facts["terminated"]))


def _following(state: Array, last: Array | None) -> Array:
    return np.concatenate([state[1:], state[-1:] if last is None else last[None]])


class _Columns:
    """Data sets that are as long as all episodes together, made when a value is put into them."""

    def __init__(self, file: Any, episodes: Sequence[Staged]) -> None:
        self._file = file
        self._episodes = episodes
        self.total = sum(len(episode) for episode in episodes)

    def walk(self) -> Iterator[tuple[int, slice, Staged]]:
        """(number, rows, episode) of each."""
        start = 0
        for index, episode in enumerate(self._episodes):
            yield index, slice(start, start + len(episode)), episode
            start += len(episode)

    def put(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        if name not in self._file:
            self._file.create_dataset(name, (self.total, *values.shape[1:]), values.dtype)
        self._file[name][rows] = values


def _uniform(episodes: Sequence[Staged]) -> set[str]:
    """Names of extras whose values have one type and shape in all episodes that have them, and
    that can name a data set."""
    kinds: dict[str, set[str]] = {}
    for episode in episodes:
        for name, header in group(episode.headers, "extras/").items():
            kinds.setdefault(name, set()).add(f"{header.dtype}{header.shape[1:]}")
    return {
        name
        for name, found in kinds.items()
        if len(found) == 1 and name.replace("_", "a").replace(".", "a").isalnum() and name[0] != "."
    }
