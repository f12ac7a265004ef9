"""How long each phase of a run took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embodied.distributed import World
from embodied.results import write_atomically


class Stopwatch:
    """Seconds spent in each phase, added up over resumed runs in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def phase(self, name: str, world: World | None = None) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            if world is None or world.is_main:
                write_atomically(self.path, json.dumps(self.seconds))
