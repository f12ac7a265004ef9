"""Kills and stops the workers of an evaluation, and checks that nothing else went wrong.

    python -m scripts.drill_workers [--faults 100] [--timeout 5] [--seed 0] [--keep FOLDER]

A small policy is evaluated on the point world in four simulator processes. At random moments some
of them are killed (SIGKILL) or stopped (SIGSTOP: they hang for ever). The evaluation must finish
with an outcome for every episode; an episode may be lost only for a fault that its reason names;
and all others must have ended as in an undisturbed evaluation, to the last bit. Linux only.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import kill
from pathlib import Path

from embodied.results import Evaluation, read_results
from scripts.drill import finish

ROOT = Path(__file__).parents[1]
NUM_WORKERS = 4
EPISODES_A_FAULT = 12  # so many that the faults are over before the evaluation is
_TASKS = 4
_TRAIN = (  # half of the recipe, so that there are successes and failures
    "task=point",
    "device=cpu",
    "task.collect.episodes_per_task=60",
    "train.steps=1000",
    "protocol.goals_per_task=1",
    "video.per_task=0",
    "~probes",
)
_LAST_FAULT = 0.9  # of all episodes
_PAUSE_S = 0.1  # the longest between two looks at the progress


@dataclass
class Faults:
    """Processes that were killed or stopped."""

    killed: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)

    @property
    def pids(self) -> set[int]:
        return self.killed | self.stopped

    def inflict(self, pid: int, *, stops: bool) -> None:
        try:
            kill(pid, signal.SIGSTOP if stops else signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return
        (self.stopped if stops else self.killed).add(pid)


@dataclass
class Card:
    """What a drill found."""

    faults: Faults
    wanted: int
    plain: Evaluation
    found: Evaluation
    wall_s: float

    @property
    def unexplained(self) -> list[str]:
        """Reasons of lost episodes that name no process that was killed or stopped."""
        return [o.reason for o in self.found.invalid if not _pids(o.reason) & self.faults.pids]

    @property
    def problems(self) -> list[str]:
        """What should not have happened."""
        pairs = list(zip(self.plain.outcomes, self.found.outcomes, strict=False))
        changed = sum(b != a for a, b in pairs if b.valid)
        checks = {
            f"only {len(self.faults.pids)} faults": len(self.faults.pids) < self.wanted,
            "episodes are missing": len(self.found.outcomes) != len(self.plain.outcomes),
            "episodes are not those asked": any(a.assignment != b.assignment for a, b in pairs),
            f"{changed} valid episodes changed": changed > 0,
            f"lost for no fault: {self.unexplained[:3]}": bool(self.unexplained),
            "no fault cost an episode": not self.found.invalid,
            "success is not that of the same episodes": self.success != self.expected_success,
        }
        return [what for what, is_so in checks.items() if is_so]

    @property
    def success(self) -> float:
        return self.found.success().mean

    @property
    def expected_success(self) -> float:
        """The undisturbed evaluation's, over the episodes that are valid here."""
        pairs = zip(self.plain.outcomes, self.found.outcomes, strict=False)
        same = tuple(a for a, b in pairs if b.valid)
        return Evaluation(self.plain.protocol, None, same, 0.0, 0).success().mean

    def __str__(self) -> str:
        verdict = f"NO: {'; '.join(self.problems)}" if self.problems else "yes"
        named = {pid for o in self.found.invalid for pid in _pids(o.reason)} & self.faults.pids
        return (
            f"faults                {len(self.faults.killed)} killed, "
            f"{len(self.faults.stopped)} stopped\n"
            f"finished              after {self.wall_s:.0f} s\n"
            f"episodes              {len(self.found.outcomes)} of {len(self.plain.outcomes)}\n"
            f"INVALID, not counted  {len(self.found.invalid)}, by {len(named)} of the faults\n"
            f"success, valid ones   {self.success:.4f}\n"
            f"undisturbed, the same {self.expected_success:.4f}\n"
            f"as it should be       {verdict}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument(
        "--timeout", type=float, default=5.0, help="env.timeout_s; a worker must start in it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of when, whom and how")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the runs stay")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        card = drill(
            options.keep or Path(temporary),
            faults=options.faults,
            timeout_s=options.timeout,
            seed=options.seed,
        )
    print(card)
    return 1 if card.problems else 0


def drill(folder: Path, *, faults: int, timeout_s: float, seed: int = 0) -> Card:
    """Evaluates one policy without and with faults below `folder`, and compares the two."""
    goals = -(-faults * EPISODES_A_FAULT // _TASKS)
    train = [sys.executable, str(ROOT / "train.py"), *_TRAIN, f"data_dir={folder / 'data'}"]
    finish([*train, f"+task.suite.num_goals={goals}", f"run_dir={folder / 'run'}"])
    command = [sys.executable, str(ROOT / "scripts/evaluate.py"), f"checkpoint={folder / 'run'}"]
    command += ["protocol=point", f"protocol.goals_per_task={goals}", "device=cpu", "shards=1"]
    command += ["env.num_envs=8", "eval.inference_batch=8"]
    finish([*command, "env.workers=0", f"output={folder / 'plain'}"])
    command += [f"env.workers={NUM_WORKERS}", f"env.timeout_s={timeout_s}"]
    start = time.monotonic()
    inflicted = _disturb([*command, f"output={folder / 'disturbed'}"], folder, faults, seed)
    plain, found = read_results(folder / "plain"), read_results(folder / "disturbed")
    return Card(inflicted, faults, plain, found, time.monotonic() - start)


def _disturb(command: Sequence[str], folder: Path, count: int, seed: int) -> Faults:
    """Runs the evaluation, and kills or stops `count` of its workers while it lasts."""
    generator, faults, log = random.Random(seed), Faults(), folder / "disturbed.log"
    # Each fault is due when so many episodes have ended, and happens some time during the next.
    last = int(_LAST_FAULT * count * EPISODES_A_FAULT)
    due = sorted(generator.randrange(1, last) for _ in range(count))
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            ended = _num_ended(log)
            targets = sorted(set(_workers(process.pid)) - faults.pids)
            wanted = sum(at <= ended for at in due) - len(faults.pids)
            for pid in generator.sample(targets, max(0, min(wanted, len(targets)))):
                faults.inflict(pid, stops=generator.random() < 0.5)
            time.sleep(generator.uniform(0, _PAUSE_S))
    if process.returncode:
        raise RuntimeError(f"the evaluation ended with {process.returncode}; see {log}")
    return faults


def _num_ended(log: Path) -> int:
    """How many episodes the progress bar says have ended."""
    shown = re.findall(r"\| (\d+)/", log.read_text()[-2000:])
    return int(shown[-1]) if shown else 0


def _workers(parent: int) -> Iterator[int]:
    """The simulator processes of an evaluation that are alive."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in children:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield int(pid)
    except OSError:  # one of them ended in between
        return


def _pids(reason: str) -> set[int]:
    return {int(pid) for pid in re.findall(r"pid (\d+)", reason)}


if __name__ == "__main__":
    sys.exit(main())
