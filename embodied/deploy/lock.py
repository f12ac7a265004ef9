"""One controller for each robot: a second one is refused, and told who the first is."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from embodied.locks import RunLock, RunLocked


class RobotLocked(RuntimeError):
    """Another process controls the robot."""


class RobotLock(RunLock):
    """Holds a robot, by its name, for as long as the `with` block runs; for one user of a machine.

    The operating system drops it when its holder dies.

    Args:
        name: of the robot; give two robots two names.
        folder: where the locks of all robots are; by default in the folder for temporary files.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
            raise ValueError(
                "E_ROBOT_CONFIG: a robot's name must be of letters, digits, '.', '-' and '_', got "
                f"{name!r}"
            )
        root = folder or Path(tempfile.gettempdir()) / f"embodied-robots-{os.getuid()}"
        super().__init__(root / name)
        self.name = name

    def __enter__(self) -> RobotLock:
        """Takes the robot, or raises RobotLocked at once."""
        try:
            return super().__enter__()
        except RunLocked as error:
            raise RobotLocked(
                f"E_ROBOT_LOCKED: {self.name} is controlled by {error.holder}; stop that one "
                "first. Two controllers must never command one robot"
            ) from error
