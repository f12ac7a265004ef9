"""Teaches a running robot by words, and shows that it has learned: films, data and figures.

    python scripts/robot_lesson.py [--root runs/lesson] [--seed 0] [--dry-run] [OVERRIDE ...]

Each stage is a command that is printed and can be run alone; finished ones are skipped. All runs
of the robot are by the clock, at 50 Hz, in three processes. Overrides go to the trainings.

    base      a policy that was shown the way to three of four pads, in phrases
    alone     it is asked for the fourth, and goes elsewhere
    told      somebody types what to do instead, wherever it is wrong; the episodes are kept
    corrected base, its phrase level trained on what was said
    again     asked again, from the same starts and from one that nobody corrected; nobody speaks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embodied.stages import Stage, run_stages

ASKED = "go to the yellow pad"
TAUGHT = 3  # starts that are corrected


def stages(root: Path, *, seed: int = 0, overrides: Sequence[str] = ()) -> list[Stage]:
    """The lesson, in an order in which it can be run."""

    def train(name: str, *given: str) -> Stage:
        fixed = (f"run_dir={root / name}", f"data_dir={root / 'data'}", f"seed={seed}")
        return Stage(name, f"{name}/results.json", ("train.py", *given, *fixed, *overrides))

    def run(name: str, policy: str, episodes: int, *more: str) -> Stage:
        given = (
            "robot=sim",
            f"checkpoint={root / policy}",
            f"instruction={ASKED}",
            f"output={root / name}",
            f"episodes={episodes}",
            "film=top",
            "seconds=10",
            "arm=true",
            "priority=true",  # where it is granted
            "replan_s=0.1",
            "device=cpu",
        )
        last = f"{name}/incoming/{episodes - 1:06d}.parquet"
        return Stage(name, last, ("scripts/run_robot.py", *given, *more))

    learn = (f"init_from={root / 'base'}", f"corrections={root / 'told'}")
    return [
        train("base", "experiment=lesson"),
        run("alone", "base", TAUGHT),
        run("told", "base", TAUGHT, "person=motions_sim", "who=teacher"),
        train("corrected", "experiment=lesson_corrected", *learn),
        run("again", "corrected", TAUGHT + 1),
    ]


def verdict(root: Path) -> list[str]:
    """What happened, by the records of the runs."""
    from embodied.people.interventions import read_interventions
    from embodied_datasets.lerobot import LeRobotDataset

    lines = []
    for name in ("alone", "told", "again"):
        episodes = LeRobotDataset(root / name, only_success=False)
        for number, episode in enumerate(episodes):
            words = read_interventions(episode)
            waits = [x.since - x.step for x in words if x.since is not None]
            slow = np.array(waits or [0]) / episodes.spec.rate_hz * 1e3
            obeyed = f", obeyed after {np.median(slow):.0f} ms, at most {slow.max():.0f}"
            lines.append(
                f"{name} {number}: {'solved' if episode.success else 'not solved'} in "
                f"{len(episode) / episodes.spec.rate_hz:.1f} s, {len(words)} corrections"
                f"{obeyed if words else ''}; {root / name / f'{number:06d}.mp4'}"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status of the first stage that fails, or 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--root", type=Path, default=Path("runs/lesson"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    options = parser.parse_intermixed_args(arguments)
    chain = stages(options.root, seed=options.seed, overrides=options.overrides)
    if status := run_stages(options.root, chain, dry_run=options.dry_run):
        return status
    if not options.dry_run:
        print(*verdict(options.root), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
