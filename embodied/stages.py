"""Experiments of several commands, each of which leaves something behind."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stage:
    """A command that leaves something behind.

    Attributes:
        product: what is there, relative to the root, once it is finished.
        arguments: the script and its overrides.
    """

    name: str
    product: str
    arguments: tuple[str, ...]


def run_stages(root: Path, stages: Iterable[Stage], *, dry_run: bool = False) -> int:
    """Prints and runs those that are not finished; the exit status of the first that fails, or 0.

    Args:
        dry_run: whether they are only printed.
    """
    for stage in stages:
        if (root / stage.product).exists():
            print(f"{stage.name}: done")
            continue
        print(f"{stage.name}: {shlex.join(('python', *stage.arguments))}", flush=True)
        if dry_run:
            continue
        command = [sys.executable, str(REPOSITORY / stage.arguments[0]), *stage.arguments[1:]]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            return done.returncode
    return 0
