"""Reading D4RL's flat HDF5 files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode, Spec
from embodied_datasets.facts import fields_from, roles_from, spec_from
from embodied_datasets.faults import DataError, Fault, Report, refuse
from embodied_datasets.files import fingerprint, parse_json
from embodied_datasets.hdf5 import MAX_BYTES, Hdf5, subgroup
from embodied_datasets.hdf5_facts import Group
from embodied_datasets.recorded import Bounds, check_finite, group
from embodied_datasets.wordings import words

_RATE_HZ = 20.0
_BLOCK = 65_536
_KNOWN = {"observations", "actions", "rewards", "terminals", "timeouts"}
_KNOWN |= {"next_observations", "metadata"}


class D4RLDataset:
    """The episodes of a file, in its order; implements `Episodes`.

    `infos/<name>` and whatever else has a value for each step become `extras`; texts of `metadata`
    `info["metadata"]`; the last of `next_observations` the final state. Action bounds are the
    extremes of the data. Success is not recorded, and False.

    Args:
        path: the file.
        instruction: for all episodes; None means the file's name as words.
        rate_hz: control rate, which the format does not record; None means 20.
        unfinished: "keep" makes steps after the last end an episode, truncated, with a note in its
            `info`; "drop" leaves them out.
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
        unfinished: Literal["keep", "drop"] = "keep",
        max_bytes: int = MAX_BYTES,
        report: Report = refuse,
    ) -> None:
        if unfinished not in ("keep", "drop"):
            raise ValueError(f"unfinished must be 'keep' or 'drop', got {unfinished!r}")
        self.path = Path(path)
        self._hdf5 = Hdf5(self.path, max_bytes=max_bytes)
        self._instruction, self._report = instruction, report
        with self._hdf5.open() as file:
            self._total, state_dim, action_dim = self._sizes(file)
            self._terminals = self._flags(file, "terminals")
            self._timeouts = self._flags(file, "timeouts")
            own = Group(self._hdf5, subgroup(file, "metadata"))
            self._lines = self._read_lines(own)
            self._own = {role: item.name for role, item in own.items().items()}
            self._extra_names = self._find_extras(file)
            self._ends = self._find_ends(own, unfinished)
            self._metadata = self._texts(subgroup(file, "metadata"))
            bounds = Bounds(action_dim)
            for start in range(0, self._total, _BLOCK):
                bounds.add(self._hdf5.read(file["actions"], start, start + _BLOCK))
        low, high = bounds.get()
        spec = Spec(state_dim, action_dim, low, high, _RATE_HZ)
        if own.facts:
            spec = self._written(spec_from(own.facts.get("spec"), own.wrong), spec)
        self.spec = spec if rate_hz is None else dataclasses.replace(spec, rate_hz=rate_hz)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        index = range(len(self))[index]
        rows = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        facts = self._facts(index)
        with self._hdf5.open() as file:
            numbers: dict[str, Any] = {
                name: self._rows(file[column], rows).astype(np.float32)
                for name, column in (("state", "observations"), ("action", "actions"))
            }
            roles = {"reward"} if facts is None else roles_from(facts, self._wrong)
            if "rewards" in file and "reward" in roles:
                numbers["reward"] = self._rows(file["rewards"], rows).reshape(-1).astype(np.float32)
            extras = {
                name: self._rows(file[path], rows) for name, path in self._extra_names.items()
            }
            final = self._final(file, rows)
            expert = None
            if facts is not None:
                expert = self._add_own(file, index, roles, rows, extras, final)
        place = Fault("", "", "", file=self._hdf5.name, episode=index)
        check_finite(self._report, place, numbers)
        fields = self._describe(rows) if facts is None else fields_from(facts, self._wrong)
        if self._instruction is not None:
            fields["instruction"] = self._instruction
        return Episode(**numbers, expert_action=expert, extras=extras, final=final, **fields)

    @property
    def keys(self) -> list[str] | None:
        """The keys that our writer was given; None where another wrote the file."""
        if self._lines is None:
            return None
        return [str((self._facts(i) or {}).get("key")) for i in range(len(self))]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the file and what was said of it."""
        chosen = [self._instruction, self.spec.rate_hz, len(self)]
        return fingerprint([self.path], chosen)

    def _wrong(self, message: str) -> DataError:
        return self._hdf5.damaged(message, field="metadata/embodied")

    def _sizes(self, file: Any) -> tuple[int, int, int]:
        """(N, S, A), after a look at the shapes of all that must have N rows."""
        shapes: dict[str, tuple[int, ...]]
        shapes = {name: getattr(file[name], "shape", ()) for name in file if name in _KNOWN}
        observations, actions = (shapes.get(name, ()) for name in ("observations", "actions"))
        if len(observations) != 2 or len(actions) != 2 or not observations[0]:
            message = f"has observations {observations} and actions {actions}, expected (N, n)"
            raise self._hdf5.fault("E_DATA_SHAPE", message, "write one row for each step")
        total, state_dim = observations
        wanted: dict[str, tuple[int, ...]]
        wanted = {"actions": (total, actions[1]), "next_observations": (total, state_dim)}
        for name in ("rewards", "terminals", "timeouts"):
            wanted[name] = (total,)
        for name, shape in wanted.items():
            found = shapes.get(name)
            needed = name == "terminals" or name in shapes
            if needed and found != shape and found != (total, 1):
                message = f"has shape {found}, expected {shape}"
                remedy = "write one row for each step"
                raise self._hdf5.fault("E_DATA_SHAPE", message, remedy, field=name)
        return total, state_dim, actions[1]

    def _flags(self, file: Any, name: str) -> NDArray[np.bool_]:
        if name not in file:
            return np.zeros(self._total, bool)
        return self._hdf5.read(file[name]).reshape(-1).astype(bool)

    def _read_lines(self, group: Group) -> list[str] | None:
        if not group.facts:
            return None
        if "episodes" not in group.items():
            raise group.wrong("describes no episodes")
        data = self._hdf5.read(group.items()["episodes"]).tobytes()
        return data.decode("utf-8", errors="replace").split("\n")

    def _find_ends(self, group: Group, unfinished: str) -> NDArray[np.int64]:
        """One after the last row of each episode."""
        ends = np.flatnonzero(self._terminals | self._timeouts) + 1
        if self._lines is not None:
            if len(ends) != len(self._lines) or ends[-1] != self._total:
                message = f"describes {len(self._lines)} episodes, but {len(ends)} have ends"
                raise group.wrong(message)
            return ends
        if unfinished == "keep" and (not len(ends) or ends[-1] != self._total):
            ends = np.append(ends, self._total)
        if not len(ends):
            raise self._hdf5.damaged("holds no finished episode", field="terminals")
        return ends

    def _written(self, written: Spec, found: Spec) -> Spec:
        """The spec that was written with the file, as far as the file's shapes agree with it."""
        sizes = (written.state_dim, written.action_dim, len(written.action_low))
        if sizes != (found.state_dim, found.action_dim, found.action_dim):
            raise self._wrong(f"says that states and actions have sizes {sizes[:2]}")
        return dataclasses.replace(written, cameras={})

    def _facts(self, index: int) -> dict[str, Any] | None:
        return None if self._lines is None else parse_json(self._lines[index], self._wrong)

    def _rows(self, dataset: Any, rows: slice) -> NDArray[Any]:
        return self._hdf5.read(dataset, rows.start, rows.stop)

    def _find_extras(self, file: Any) -> dict[str, str]:
        """Name -> path of all else that has a row for each step."""
        groups = {name: subgroup({"": file[name]}, "") for name in file if name not in _KNOWN}
        found = {name: file[name] for name, members in groups.items() if not members}
        for name, members in groups.items():
            prefix = "" if name == "infos" else f"{name}/"
            found |= {prefix + path: item for path, item in self._hdf5.arrays(members)}
        return {
            name: item.name
            for name, item in found.items()
            if getattr(item, "shape", ())[:1] == (self._total,) and item.dtype.kind in "biuf"
        }

    def _final(self, file: Any, rows: slice) -> dict[str, NDArray[Any]]:
        if "next_observations" not in file:
            return {}
        last = slice(rows.stop - 1, rows.stop)
        return {"state": self._rows(file["next_observations"], last)[0].astype(np.float32)}

    def _add_own(
        self,
        file: Any,
        index: int,
        roles: Set[str],
        rows: slice,
        extras: dict[str, NDArray[Any]],
        final: dict[str, NDArray[Any]],
    ) -> NDArray[np.float32] | None:
        """Adds what only our files hold, drops what fills gaps; gives the expert's actions."""
        for name in [name for name in extras if f"extras/{name}" not in roles]:
            del extras[name]
        if "final/state" not in roles:
            final.pop("state", None)
        for kind, found in (("extras", extras), ("final", final)):
            names = group(dict.fromkeys(sorted(roles)), f"{kind}/")
            paths = {name: self._own.get(f"{kind}/{index}/{name}") for name in names}
            found.update({k: self._hdf5.read(file[path]) for k, path in paths.items() if path})
        if "expert_action" not in roles or "expert_action" not in self._own:
            return None
        return self._rows(file[self._own["expert_action"]], rows).astype(np.float32)

    def _texts(self, group: Any) -> dict[str, str]:
        items = {name: group[name] for name in group}
        scalars = {name: item for name, item in items.items() if getattr(item, "shape", None) == ()}
        texts = {name: self._hdf5.read_text(item) for name, item in scalars.items()}
        return {name: text for name, text in texts.items() if text and len(text) < 200}

    def _describe(self, rows: slice) -> dict[str, Any]:
        last = rows.stop - 1
        finished = bool(self._terminals[last] or self._timeouts[last])
        info: dict[str, Any] = {"metadata": self._metadata} if self._metadata else {}
        if not finished:
            info["note"] = "the file ends before the episode does"
        return {
            "instruction": words(self.path.stem),
            "terminated": bool(self._terminals[last]),
            "truncated": bool(self._timeouts[last]) or not finished,
            "info": info,
        }
