"""How EnvPool's Meta-World differs from Meta-World's own, task by task.

    python -m scripts.bench.equivalence [--tasks reach-v3 ...] [--goals 5] [--steps 500]

Both start with the same random vector, which EnvPool draws, and play the same actions until both
have succeeded or the steps are over. Meta-World's scripted expert chooses the actions by what its
own simulator shows; in some phases they are random: in none of the episodes of seed 0, in a quarter
of those of seed 1, in all of those of seed 4, and so on again from seed 5. Writes the table that
`backend=auto` obeys, keeping the rows of other tasks, and prints it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from embodied_envs.envpool_chunk import make_pool
from embodied_envs.metaworld import MetaWorld
from embodied_envs.metaworld_goals import ALL_TASKS

SEEDS = 10
ENOUGH = 50  # episodes to be judged by
PHASE = 25  # steps
TOLERANCE = {"observation": 1e-3, "reward": 1e-2}  # a millimetre, a thousandth of the range
TABLE = Path(__file__).parents[2] / "envs/embodied_envs/assets/envpool_equivalence.json"


class Actions:
    """The expert's of a task, in some phases random ones instead."""

    def __init__(self, task: str, goal: int, seed: int) -> None:
        self.expert = MetaWorld("MT1", task=task).expert(task)
        self.random = np.random.default_rng([seed, goal, ALL_TASKS.index(task)])
        self.share = seed % 5 / 4
        self.steps = 0

    def __call__(self, full_observation: Any) -> Any:
        if self.steps % PHASE == 0:
            self.wanders = self.random.random() < self.share
        self.steps += 1
        wild = self.random.uniform(-1, 1, 4).astype(np.float32)
        return wild if self.wanders else self.expert(full_observation)


@dataclass
class Play:
    """An episode in both: absolute differences, and whether each ever succeeded."""

    env: Any
    act: Callable[[Any], Any]
    start: float
    observation: list[float] = field(default_factory=list)  # the largest of each step
    reward: list[float] = field(default_factory=list)
    metaworld: bool = False
    envpool: bool = False

    def step(self, action: Any, theirs: Any) -> bool:
        """Meta-World's step beside EnvPool's (observation, reward, success); whether to go on."""
        _, reward, _, truncated, info = self.env.step(action)
        if info["unstable"]:
            raise RuntimeError(info["reason"])
        self.observation.append(float(np.abs(self.env.full_observation - theirs[0]).max()))
        self.reward.append(abs(reward - float(theirs[1])))
        self.metaworld |= info["success"]
        self.envpool |= bool(theirs[2])
        return not (truncated or (self.metaworld and self.envpool))


def play(envs: Sequence[Any], pool: Any, task: str, goal: int, steps: int) -> list[Play]:
    """An episode of each seed, from 0, side by side."""
    starts, _ = pool.reset()
    plays = []
    for seed, env in enumerate(envs):
        env.reset(seed=0, options={"task": task, "goal": goal, "benchmark_seed": seed})
        start = float(np.abs(env.full_observation - starts[seed]).max())
        plays.append(Play(env, Actions(task, goal, seed), start))
    going = list(range(len(envs)))
    for _ in range(steps):
        actions = np.stack([plays[seed].act(envs[seed].full_observation) for seed in going])
        seen, rewards, _, _, info = pool.step(actions, np.array(going))
        order = {int(env_id): row for row, env_id in enumerate(info["env_id"])}
        rows = [order[seed] for seed in going]
        going = [
            seed
            for seed, row, action in zip(going, rows, actions, strict=True)
            if plays[seed].step(action, (seen[row], rewards[row], info["success"][row]))
        ]
        if not going:
            break
    return plays


def compare(task: str, *, goals: int, steps: int, seeds: int = SEEDS) -> dict[str, Any]:
    """One row of the table."""
    suite, pool = MetaWorld("MT1", task=task, split="envpool"), make_pool(task, range(seeds))
    envs = [suite.make_env() for _ in range(seeds)]
    plays = [each for goal in range(goals) for each in play(envs, pool, task, goal, steps)]
    pool.close()
    row: dict[str, Any] = {"start": max(each.start for each in plays)}
    for name in ("observation", "reward"):
        values = np.concatenate([getattr(each, name) for each in plays])
        row[name] = {"max": float(values.max()), "median": float(np.median(values))}
    same = sum(each.metaworld == each.envpool for each in plays)
    counts = {name: sum(getattr(each, name) for each in plays) for name in ("metaworld", "envpool")}
    row["success"] = {"agrees": same, **counts}
    row["episodes"] = len(plays)
    row["agrees"] = agrees(row)
    return row


def agrees(row: dict[str, Any]) -> bool:
    """Whether 50 episodes or more had the same success, and no step was beyond the tolerance."""
    within = all(row[name]["max"] <= limit for name, limit in TOLERANCE.items())
    return within and row["success"]["agrees"] == row["episodes"] >= ENOUGH


def line(task: str, row: dict[str, Any]) -> str:
    """A row in Markdown."""
    pairs = [f"{row[name][key]:.0e}" for name in ("observation", "reward") for key in row[name]]
    success = row["success"]
    counts = f"{success['agrees']}/{row['episodes']} ({success['metaworld']}, {success['envpool']})"
    cells = [task, f"{row['start']:.0e}", *pairs, counts, "yes" if row["agrees"] else "no"]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("equivalence", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=ALL_TASKS, choices=ALL_TASKS)
    parser.add_argument("--goals", type=int, default=5, help=f"of each of {SEEDS} seeds")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, default=TABLE)
    options = parser.parse_args(argv)
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("envpool", "metaworld", "mujoco")},
        "tolerance": TOLERANCE,
        "tasks": json.loads(options.json.read_text())["tasks"] if options.json.exists() else {},
    }
    for row in found["tasks"].values():
        row["agrees"] = agrees(row)  # the tolerance may be another one now
    one = partial(compare, goals=options.goals, steps=options.steps)
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as processes:
        for task, row in zip(options.tasks, processes.map(one, options.tasks), strict=True):
            found["tasks"][task] = row
            print(line(task, row), flush=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
