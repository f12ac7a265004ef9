"""Meta-World's simulators beside the library's own; see `metaworld`."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metaworld.env_dict import ENV_CLS_MAP

from embodied_envs.metaworld import MetaWorld
from embodied_envs.metaworld_goals import goal_vectors
from embodied_envs.metaworld_simulator import STIRRED_BY_PLACING
from scripts.bench._common import Case, Rates, Report, arguments, measure, rate_rows
from scripts.bench._evaluation import (
    NUM_TASKS,
    SUITE,
    construct,
    ours,
    physics,
    seconds_rows,
    stepping,
    stock,
)

LIMIT = (
    "steps: physics, two thirds of ours; resets: the library's own placing of the objects, run "
    "twice, and one forward pass; MT50: reading the compiled models, or compiling them."
)
REFERENCE = """
import gymnasium, metaworld
gymnasium.make_vec("Meta-World/MT50", vector_strategy="sync", seed=0).reset()
"""
OURS = """
from embodied.protocols import Protocol
from embodied_envs.metaworld import MetaWorld
from embodied_envs.vector import make_vec
suite = MetaWorld("MT50")
episodes = Protocol(name="bench", goals_per_task=1, max_steps=500, success="final")
make_vec(suite, 50).reset(options={"assignments": episodes.assignments(suite)})
"""


def run(argv: Sequence[str] | None, description: str) -> None:
    parser = arguments("metaworld", description)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each visit, stepping")
    parser.add_argument("--reset-seconds", type=float, default=0.3, help="of each visit, resetting")
    parser.add_argument("--seeds", type=int, default=20, help="of 50 new goals of each task")
    parser.add_argument("--constructions", type=int, default=5, help="of MT50; 0 leaves it out")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("metaworld", options)
    rates = steps(options.rounds, options.seconds)
    report.add("Steps of MT10 with random actions", rate_rows(rates, "steps"), rates)
    stirred = [MetaWorld("MT1", task=task) for task in sorted(STIRRED_BY_PLACING)]
    for name, suites in (("MT10", [SUITE]), ("ten tasks of MT50 that stir", stirred)):
        cases = resets(suites, options.seeds if suites == [SUITE] else 1 + options.seeds // 10)
        rates = measure(cases, rounds=options.rounds, seconds=options.reset_seconds)
        report.add(f"Resets, {name}", rate_rows(rates, "resets"), rates)
    if options.constructions:
        rates = constructions(options.constructions)
        report.add("MT50 from nothing to the first step", seconds_rows(rates), rates)
    report.close(LIMIT)


def steps(rounds: int, seconds: float) -> list[Rates]:
    found = [stock("async"), stock("sync"), *(ours(NUM_TASKS, workers) for workers in (0, 1, 2))]
    actions = np.random.default_rng(0).uniform(-1, 1, (SUITE.max_steps, NUM_TASKS, 4))
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(construct(each)[0])) for each in found]
        pairs = zip(found, envs, strict=True)
        cases = [stepping(*pair, actions.astype(np.float32)) for pair in pairs]
        return measure([*cases, physics()], rounds=rounds, seconds=seconds)


def resets(suites: Sequence[MetaWorld], seeds: int) -> list[Case]:
    """All tasks of some suites reset in turn; the unit is a reset."""
    pairs = [(suite, task) for suite in suites for task in suite.tasks]
    for (suite, task), seed in itertools.product(pairs, range(seeds)):
        goal_vectors(suite.benchmark, suite.split, suite.tasks, task, seed)
    theirs = [library_env(suite, task) for suite, task in pairs]
    mine = [(suite.make_env(), task) for suite, task in pairs]
    new = itertools.product(range(seeds), range(SUITE.num_goals))

    def library() -> float:
        for env in theirs:
            env.reset()
        return float(len(theirs))

    def visit(seed: int, goal: int) -> float:
        for env, task in mine:
            env.reset(seed=goal, options={"task": task, "goal": goal, "benchmark_seed": seed})
        return float(len(mine))

    def first_visit() -> float:
        goal = next(new, None)
        if goal is None:
            raise ValueError("all goals were visited: give more --seeds")
        return visit(*goal)

    return [
        Case("the library's env.reset()", library),
        Case("ours, goals never visited before", first_visit),
        Case("ours, a goal visited before", lambda: visit(0, 0)),
    ]


def library_env(suite: MetaWorld, task: str) -> Any:
    env = ENV_CLS_MAP[task]()
    vector = goal_vectors(suite.benchmark, suite.split, suite.tasks, task, 0)[0]
    env._set_task_called, env._last_rand_vec = True, vector.copy()
    return env


def constructions(rounds: int) -> list[Rates]:
    """Each in a process of its own; ours first without compiled models on disk, then with."""
    names = ("metaworld, SyncVectorEnv", "ours, nothing on disk", "ours, models on disk")
    taken: list[list[tuple[float, float]]] = [[] for _ in names]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for code, times in zip((REFERENCE, OURS, OURS), taken, strict=True):
                times.append(timed(code, cache))
    return [
        Rates(name, tuple(1 / w for w, _ in times), tuple(1 / c for _, c in times))
        for name, times in zip(names, taken, strict=True)
    ]


def timed(code: str, cache: str) -> tuple[float, float]:
    """Wall and CPU seconds of a new Python process."""
    paths = [str(Path(path).resolve()) for path in sys.path]
    environment = {**os.environ, "EMBODIED_CACHE": cache, "PYTHONPATH": os.pathsep.join(paths)}
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - wall, cpu
