"""LeRobot's data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.faults import Report
from embodied_datasets.formats import Writer


class LeRobot:
    name = "lerobot"

    def matches(self, path: Path) -> bool:
        """Whether the files at the path look like this format, by names alone."""
        known = ("meta/info.json", "incoming/recording.json")
        return any((path / name).is_file() for name in known) or any(path.glob("train/*.arrow"))

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; see `LeRobotDataset`."""
        from embodied_datasets.lerobot import LeRobotDataset

        return LeRobotDataset(path, **options)

    def check(self, path: Path, report: Report, **options: Any) -> Episodes | None:
        """Reports every fault, and returns what can be read; see `check_lerobot`."""
        from embodied_datasets.lerobot_check import check_lerobot

        return check_lerobot(path, report, **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        """A writer of v3.0; see `LeRobotWriter`. Nothing stands there until it is finalised, unless
        `live` is chosen."""
        from embodied_datasets.lerobot_writer import LeRobotWriter

        return LeRobotWriter(path, spec=spec, **({"live": False} | options))

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        """Pixels, which are encoded as video."""
        return ["images: exact pixels (encoded as video)"] if episode.images else []


FORMAT = LeRobot()
