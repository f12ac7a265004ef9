"""The file metadata.json of Minari's data sets."""

from __future__ import annotations

import functools
from pathlib import Path

from embodied.structs import Spec
from embodied_datasets.facts import NAME, spec_from
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.files import inside, parse_json, read_json
from embodied_datasets.minari_spaces import Leaf, leaves

METADATA = "metadata.json"
_MAX_EPISODES = 10**7


class Metadata:
    """What the file says.

    Attributes:
        path: of the file.
        name: what errors call it.
        num_episodes, data_format, dataset_id, env: as recorded; env is the environment's id.

    Raises DataError where it cannot be.
    """

    def __init__(self, root: Path, name: Path) -> None:
        self.path, self.name = inside(root, METADATA), name
        self._values = read_json(self.path, name=name)
        count, kind = self._values.get("total_episodes"), self._values.get("data_format")
        if not isinstance(count, int) or not 0 < count <= _MAX_EPISODES:
            raise self.wrong(f"says total_episodes {count!r}", "total_episodes")
        if kind not in (None, "hdf5", "arrow"):
            message = f"says data_format {kind!r}, expected 'hdf5' or 'arrow'"
            raise self.wrong(message, "data_format")
        self.num_episodes, self.data_format = count, kind or "hdf5"
        self.dataset_id = self._text("dataset_id")
        self.env = self._env()

    def wrong(self, message: str, field: str | None = None) -> DataError:
        """The error for a file that says what cannot be; raise it."""
        remedy = "fetch or write the data set again"
        return DataError(Fault("E_DATA_UNREADABLE", message, remedy, file=self.name, field=field))

    def leaves(self, name: str) -> list[Leaf]:
        """The leaves of the space of that name."""
        space = self._text(name)
        if space is None:
            message = "is missing: the environment's own spaces are not looked up"
            raise self.wrong(message, name)
        return leaves(space, functools.partial(self.wrong, field=name))

    def written(self, action_dim: int) -> Spec | None:
        """The spec that our writer was given; None where another wrote the data set."""
        own = self._values.get(NAME)
        if not isinstance(own, dict):
            return None
        spec = spec_from(own.get("spec"), self.wrong)
        if spec.action_dim != action_dim:
            raise self.wrong("misdescribes the action space", NAME)
        return spec

    def _text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def _env(self) -> str | None:
        text = self._text("env_spec")
        if text is None:
            return None
        name = parse_json(text, functools.partial(self.wrong, field="env_spec")).get("id")
        return name if isinstance(name, str) else None
