"""D4RL's flat HDF5 files (Fu et al. 2020; arXiv:2004.07219): all steps of all episodes end to end.

An episode ends where `terminals` (it terminated) or `timeouts` (it was truncated) are true; both
stay apart. One that we write ends so even if it did neither, or the boundary would be lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets import hdf5_facts as facts_
from embodied_datasets.formats import Writer
from embodied_datasets.hdf5 import load_h5py, member_names
from embodied_datasets.staged import Staged, StagedWriter

_OWN = "metadata"


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
        return StagedWriter(
            path,
            spec,
            compact=lambda target, episodes: _compact(target, spec, episodes),
            keys=_keys,
            settings={"format": self.name},
        )

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Images are lost; of the rest, what only this project finds again in the file."""
        neither = not (episode.terminated or episode.truncated)
        lost = {
            "images: lost, the format has none": bool(episode.images),
            "instruction: others do not see it": bool(episode.instruction),
            "success: others do not see it": episode.success,
            "end: others see a timeout, without which the next episode would join": neither,
            "expert actions: others do not see them": episode.expert_action is not None,
            "info: others do not see it": bool(episode.info),
            "annotations: others do not see them": bool(episode.annotations),
            "missing rewards: others see zeros": episode.reward is None,
            "last extras: others do not see them": bool(set(episode.final) & set(episode.extras)),
        }
        return [text for text, is_lost in lost.items() if is_lost]


FORMAT = D4RL()


def _keys(path: Path) -> list[str] | None:
    from embodied_datasets.d4rl import D4RLDataset

    return D4RLDataset(path).keys if FORMAT.matches(path) else None


def _compact(path: Path, spec: Spec, episodes: Sequence[Staged]) -> None:
    spec = dataclasses.replace(spec, cameras={}, render_profile=None)
    with load_h5py().File(path, "w") as file:
        columns, own = _Columns(file, episodes), {}
        flat = _uniform(episodes)
        has_final = any("final/state" in episode.facts["arrays"] for episode in episodes)
        expert: NDArray[Any] | None = None
        if any("expert_action" in episode.facts["arrays"] for episode in episodes):
            expert = np.zeros((columns.total, spec.action_dim), np.float32)
        for index, rows, arrays, facts in columns.walk():
            state, last = arrays["state"], arrays.get("final/state")
            columns.put("observations", rows, state)
            columns.put("actions", rows, arrays["action"])
            columns.put("rewards", rows, arrays.get("reward", np.zeros(len(state), np.float32)))
            if has_final:
                following = np.concatenate([state[1:], state[-1:] if last is None else last[None]])
                columns.put("next_observations", rows, following)
            ends = np.arange(len(state)) == len(state) - 1
            columns.put("terminals", rows, ends & facts["terminated"])
            columns.put("timeouts", rows, ends & (facts["truncated"] or not facts["terminated"]))
            if expert is not None and "expert_action" in arrays:
                expert[rows] = arrays["expert_action"]
            for name, values in facts_.grouped(arrays, "extras").items():
                if name in flat:
                    columns.put(f"infos/{name}", rows, values)
                else:
                    own[f"extras/{index}/{name}"] = values
            for name, values in facts_.grouped(arrays, "final").items():
                if name != "state" and not name.startswith("images."):
                    own[f"final/{index}/{name}"] = values
        if expert is not None:
            own["expert_action"] = expert
        own["episodes"] = np.frombuffer(_lines(episodes).encode(), np.uint8)
        facts_.write_group(file.create_group(_OWN), {"spec": dataclasses.asdict(spec)}, own)


class _Columns:
    """Data sets that are as long as all episodes together, made when a value is put into them."""

    def __init__(self, file: Any, episodes: Sequence[Staged]) -> None:
        self._file = file
        self._episodes = episodes
        self.total = sum(len(episode) for episode in episodes)

    def walk(self) -> Iterator[tuple[int, slice, dict[str, NDArray[Any]], dict[str, Any]]]:
        """(number, rows, arrays, facts) of each episode."""
        start = 0
        for index, episode in enumerate(self._episodes):
            yield index, slice(start, start + len(episode)), episode.arrays(), episode.facts
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
        for name, (dtype, shape) in facts_.grouped(episode.facts["arrays"], "extras").items():
            kinds.setdefault(name, set()).add(f"{dtype}{shape[1:]}")
    return {
        name
        for name, found in kinds.items()
        if len(found) == 1 and name.replace("_", "a").replace(".", "a").isalnum() and name[0] != "."
    }


def _lines(episodes: Sequence[Staged]) -> str:
    """One line of JSON for each episode; "arrays" become the roles alone."""
    described = ({**episode.facts, "arrays": list(episode.facts["arrays"])} for episode in episodes)
    return "\n".join(json.dumps(facts) for facts in described)
