"""Trains a two-level policy, lets simulated people correct it, learns from that, and evaluates.

    python scripts/corrections.py rth|yay [--root runs/corrections] [--seed 0] [--episodes 30]
        [--only STAGE ...] [--dry-run] [OVERRIDE ...]

Each stage is a command that is printed and can be run alone; finished ones are skipped, so that an
interrupted chain goes on. Overrides go to every training, such as `train.steps=500`; what concerns
acting and the person (`protocol.`, `env.`, `device=`, `person.`) goes to `corrections` as well.

    base         the two-level policy, judged alone and with people who correct it while it acts
    flat         the same without phrases
    corrections  episodes from other starts, corrected by the same people, as a data set
    corrected    base, its phrase level trained on what they said
    iwr          (rth) flat, trained on the actions of these episodes
    skills       (yay) corrected, its action level trained on them as well, without the mistakes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embodied.stages import Stage, run_stages

SHARED = ("protocol.", "env.", "device=")  # overrides that trainings know as well
PEOPLE = "person."  # of base and corrections alone
FRESH = 7  # benchmark seed of the starts that people correct; no policy is judged on them


@dataclass(frozen=True)
class Recipe:
    """What tells one chain from another.

    Attributes:
        person: who corrects, as overrides.
        level: what the policy's phrases are.
        protocol: that of the recipe's evaluation, as overrides: a number stands in both places.
        corrected: the tasks that people correct, as an override; all where empty.
    """

    person: tuple[str, ...]
    level: str
    protocol: tuple[str, ...]
    corrected: tuple[str, ...] = ()


RECIPES = {
    "rth": Recipe(
        person=("person=motions",),
        level="motion",
        protocol=(
            "protocol.name=mt-v3-new-goals",
            "protocol.goals_per_task=20",
            "protocol.benchmark_seed=42",
        ),
        corrected=("protocol.tasks=[door-open-v3,window-open-v3,window-close-v3]",),
    ),
    "yay": Recipe(
        person=("person=subtasks", "person.corrector.said_as=motion"),
        level="subtask",
        protocol=(
            "protocol.name=ogbench",
            "protocol.goals_per_task=30",
            "protocol.max_steps=1500",
            "protocol.benchmark_seed=0",
        ),
        corrected=("protocol.tasks=[scene-task5]",),
    ),
}


def stages(
    name: str, root: Path, *, seed: int = 0, episodes: int = 30, overrides: Sequence[str] = ()
) -> list[Stage]:
    """The chain of a recipe, in an order in which it can be run."""
    recipe, corrections = RECIPES[name], root / "corrections"
    acting = [each for each in overrides if each.startswith((*SHARED, PEOPLE))]
    training = [each for each in overrides if not each.startswith(PEOPLE)]

    def train(stage: str, experiment: str, *more: str) -> Stage:
        fixed = (f"experiment={experiment}", f"run_dir={root / stage}", f"seed={seed}")
        return Stage(stage, f"{stage}/results.json", ("train.py", *fixed, *more, *training))

    def learn(stage: str, experiment: str, start: str) -> Stage:
        given = (f"init_from={root / start}", f"corrections={corrections}")
        return train(stage, experiment, *given)

    people = [each for each in overrides if each.startswith(PEOPLE)]
    found = [
        train("base", name, *recipe.person, *people),
        train("flat", name, "policy=hierarchical_flat"),
        Stage(
            "corrections",
            "corrections/meta/info.json",
            (
                "scripts/correct.py",
                f"checkpoint={root / 'base'}",
                f"output={corrections}",
                f"level={recipe.level}",
                *recipe.protocol,
                *recipe.corrected,
                *recipe.person,
                *acting,
                f"protocol.goals_per_task={episodes}",
                f"protocol.benchmark_seed={FRESH}",
            ),
        ),
        learn("corrected", f"{name}_corrected", "base"),
    ]
    last = ("iwr", "rth_iwr", "flat") if name == "rth" else ("skills", "yay_skills", "corrected")
    return [*found, learn(*last)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status of the first stage that fails, or 0."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Apart from the options, so that an override may stand anywhere, after `--only base` as well.
    overrides = [x for x in given if x.startswith("~") or ("=" in x and not x.startswith("-"))]
    options = parser.parse_args([x for x in given if x not in overrides])
    root = options.root / options.recipe / f"seed{options.seed}"
    chain = stages(
        options.recipe,
        root,
        seed=options.seed,
        episodes=options.episodes,
        overrides=overrides,
    )
    if unknown := set(options.only or ()) - {stage.name for stage in chain}:
        parser.error(f"no stage {sorted(unknown)}; there are {[each.name for each in chain]}")
    chosen = [stage for stage in chain if not options.only or stage.name in options.only]
    return run_stages(root, chosen, dry_run=options.dry_run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] {rth,yay} [OVERRIDE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--root", type=Path, default=Path("runs/corrections"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=30, help="corrected episodes of each task")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    return parser


if __name__ == "__main__":
    sys.exit(main())
