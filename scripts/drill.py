"""Kills a training run again and again, and checks that nothing was lost.

    python scripts/drill.py [--kills 20] [--steps 100] [--seed 0] [--keep FOLDER]

A tiny run on the point world saves at every step. It is killed (SIGKILL) at random steps, every
other time in the middle of a save, and started again until it is done. Its final weights, averaged
weights, optimiser and metrics must be those of an unbroken run, bit by bit.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from embodied import checkpoint

_TRAIN = Path(__file__).parents[1] / "train.py"
SETTINGS = (
    "task=point",
    "device=cpu",
    "threads=1",
    "task.collect.episodes_per_task=3",
    "policy.dim=16",
    "policy.head.num_layers=1",
    "~policy.encoder.parts.language",
    "train.batch_size=16",
    "train.save_every=1",
    "train.log_every=3",
    "protocol.goals_per_task=1",
    "env.num_envs=4",
    "env.workers=0",
    "video.per_task=0",
    "~probes",
)


@dataclass
class Card:
    """What a drill found."""

    kills: int
    inside_a_save: int
    differences: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "yes" if not self.differences else f"NO: {'; '.join(self.differences)}"
        return (
            f"kills                {self.kills}\n"
            f"inside a save        {self.inside_a_save}\n"
            f"identical            {verdict}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="length of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the runs stay")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        card = drill(folder, kills=options.kills, steps=options.steps, seed=options.seed)
    print(card)
    return 1 if card.differences else 0


def drill(
    folder: Path, *, kills: int, steps: int, seed: int = 0, settings: Sequence[str] = SETTINGS
) -> Card:
    """Trains once without and once with kills below `folder`, and compares the two."""
    if not 0 <= kills < steps:
        raise ValueError(f"kills must lie in [0, {steps}) (the number of steps), got {kills}")
    command = [sys.executable, str(_TRAIN), f"data_dir={folder / 'data'}", f"train.steps={steps}"]
    command += settings
    unbroken, broken = folder / "unbroken", folder / "broken"
    finish([*command, f"run_dir={unbroken}"])
    command.append(f"run_dir={broken}")
    generator = random.Random(seed)
    at_steps = sorted(generator.sample(range(1, steps), kills))
    done = inside = 0
    for i, step in enumerate(at_steps):
        wait = 0.0 if i % 2 else generator.uniform(0, 0.1)
        killed, in_save = _kill(command, broken / "checkpoints", step, wait)
        done, inside = done + killed, inside + in_save
    finish(command)
    return Card(done, inside, tuple(differences(unbroken, broken)))


def finish(command: Sequence[str]) -> None:
    """Runs a command that is expected to succeed."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"the run failed by itself:\n{process.stderr[-2000:]}")


def _kill(command: Sequence[str], checkpoints: Path, step: int, wait: float) -> tuple[bool, bool]:
    """Kills a run after a step: `wait` seconds later, or in the next save if that is 0.

    Returns:
        whether it was killed before it ended by itself, and whether a save was under way.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if checkpoint.step_path(checkpoints, step).exists():
            break
        time.sleep(0.0005)
    time.sleep(wait)
    while not wait and process.poll() is None and not _is_saving(checkpoints):
        pass
    process.kill()
    killed = process.wait() == -signal.SIGKILL
    return killed, killed and _is_saving(checkpoints)


def _is_saving(checkpoints: Path) -> bool:
    return any(checkpoints.glob(".tmp-*"))


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two finished runs in their last checkpoints and their metrics."""
    first, second = (checkpoint.latest(run / "checkpoints") for run in (a, b))
    if first is None or second is None:
        return ["a run without a checkpoint"]
    found = ["step"] if first.step != second.step else []
    for group in sorted(first.tensors.keys() | second.tensors.keys()):
        x, y = first.tensors.get(group, {}), second.tensors.get(group, {})
        found += [
            f"{group}/{name}"
            for name in sorted(x.keys() | y.keys())
            if name not in x or name not in y or not torch.equal(x[name], y[name])
        ]
    if first.documents["state"] != second.documents["state"]:
        found.append("state")
    if (a / "metrics.jsonl").read_bytes() != (b / "metrics.jsonl").read_bytes():
        found.append("metrics.jsonl")
    return found


if __name__ == "__main__":
    sys.exit(main())
