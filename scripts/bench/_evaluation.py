"""Vector environments to compare, and what each is timed at; see `evaluation`."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import gymnasium
import metaworld  # noqa: F401  registers its environments
import mujoco  # type: ignore[import-untyped]
import numpy as np
import torch
from numpy.typing import NDArray

from embodied.data.windows import Windows
from embodied.devices import available_cores
from embodied.evaluation import evaluate
from embodied.noise import RowNoise
from embodied.policies.base import Policy
from embodied.protocols import Protocol
from embodied.rollout import Controller
from embodied.structs import Condition, Observation
from embodied.suites import Assignment
from embodied_envs.envpool_chunk import make_pool
from embodied_envs.metaworld import MetaWorld
from embodied_envs.metaworld_models import compiled_model
from embodied_envs.vector import WorkerVectorEnv, make_vec
from scripts.bench._common import Case, Rates, Report, arguments, cpu_seconds, measure, rate_rows
from scripts.bench._setup import RandomEpisodes, fitted_policy, shipped_config

SUITE = MetaWorld("MT10")
NUM_TASKS = len(SUITE.tasks)
FRAME_SKIP = 5  # physics steps of an environment step
PATIENCE_S = 900.0  # for a first reset on a machine that others use
LIMIT = (
    "physics, more than half of our step, then the library's rewards and a message to each "
    "worker. gymnasium's AsyncVectorEnv adds a process switch and pickled messages for every "
    "environment and step; ours has one process for each core. Evaluation is limited by the sum of "
    "steps and policy, which take turns."
)


@dataclass(frozen=True)
class Contender:
    """A vector environment and how to make and reset it."""

    name: str
    make: Callable[[], Any]
    reset: Callable[[Any], NDArray[Any]]


def stock(strategy: str) -> Contender:
    """One of gymnasium's, over the library's own environments."""
    name = f"gymnasium {strategy.capitalize()}VectorEnv"
    make = functools.partial(
        gymnasium.make_vec, "Meta-World/MT10", vector_strategy=strategy, seed=0
    )
    return Contender(name, make, lambda envs: envs.reset()[0])


def ours(slots: int, workers: int, backend: str = "python") -> Contender:
    how = f"{workers} workers" if backend == "python" else backend
    make = functools.partial(
        make_vec, SUITE, slots, workers=workers, timeout_s=PATIENCE_S, backend=backend
    )
    return Contender(f"ours, {slots} slots, {how}", make, functools.partial(reset_slots, queue()))


def contenders(cores: int) -> list[Contender]:
    """gymnasium's two, then ours with one and with two slots for each task, EnvPool's last."""
    backends = ["python", "envpool"] if has_envpool() else ["python"]
    sizes = (NUM_TASKS, 2 * NUM_TASKS)
    own = [ours(size, cores, backend) for backend in backends for size in sizes]
    return [stock("async"), stock("sync"), *own]


def has_envpool() -> bool:
    return importlib.util.find_spec("envpool") is not None


def queue() -> Iterator[Assignment]:
    """Every goal of every task, goal by goal, again and again."""
    return itertools.cycle(Protocol(name="bench").assignments(SUITE))


def take(episodes: Iterator[Assignment], envs: WorkerVectorEnv) -> list[Assignment]:
    """One for each slot."""
    return list(itertools.islice(episodes, envs.num_envs))


def reset_slots(episodes: Iterator[Assignment], envs: WorkerVectorEnv) -> NDArray[Any]:
    """New episodes in all slots."""
    state: NDArray[Any] = envs.reset(options={"assignments": take(episodes, envs)})[0]["state"]
    return state


def construct(contender: Contender) -> tuple[Any, float, float]:
    """A vector environment that is ready to step, and the wall and CPU seconds that it took."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    envs = contender.make()
    contender.reset(envs)
    return envs, time.perf_counter() - wall, cpu_seconds() - cpu


def time_construction(found: Sequence[Contender], rounds: int) -> list[Rates]:
    """Makes and closes each in turn."""
    taken: list[list[tuple[float, float]]] = [[] for _ in found]
    for _ in range(rounds):
        for contender, times in zip(found, taken, strict=True):
            envs, wall, cpu = construct(contender)
            envs.close()
            times.append((1 / wall, 1 / cpu))
    return [
        Rates(contender.name, tuple(w for w, _ in times), tuple(c for _, c in times))
        for contender, times in zip(found, taken, strict=True)
    ]


def stepping(contender: Contender, envs: Any, actions: NDArray[np.float32]) -> Case:
    """One vector step at a time, in episodes of 500 steps; the unit is an environment step."""
    rows = np.tile(actions, (1, envs.num_envs // NUM_TASKS, 1))
    steps = itertools.count()
    is_ours = isinstance(envs, WorkerVectorEnv)

    def run() -> float:
        step = next(steps) % len(rows)
        if step == 0 and is_ours:  # gymnasium's reset themselves
            contender.reset(envs)
        envs.step(rows[step])
        return float(envs.num_envs)

    if not is_ours:
        contender.reset(envs)
    return Case(contender.name, run)


def bare_envpool(actions: NDArray[np.float32]) -> Case:
    """EnvPool by itself, a simulator for each task, resetting themselves."""
    pools = [make_pool(task, [0]) for task in SUITE.tasks]
    for pool in pools:
        pool.reset()
    steps = itertools.count()

    def run() -> float:
        for pool, action in zip(pools, actions[next(steps) % len(actions)], strict=True):
            pool.send(action[None])
        for pool in pools:
            pool.recv()
        return float(len(pools))

    return Case("EnvPool alone, 10 simulators", run)


def physics() -> Case:
    """MuJoCo's part of a step alone, for the tasks in turn, in this process."""
    worlds = [(model, mujoco.MjData(model)) for model in map(compiled_model, SUITE.tasks)]

    def run() -> float:
        for model, data in worlds:
            mujoco.mj_step(model, data, nstep=FRAME_SKIP)
        return float(len(worlds))

    return Case("mj_step alone, 1 process", run)


def evaluation(
    contender: Contender, envs: Any, policy: Policy, config: dict[str, Any], steps: int
) -> Case:
    """Whole episodes with the policy; ours by `evaluate`, gymnasium's by a loop by hand."""
    horizon, episodes = config["action_horizon"], queue()

    def by_evaluate() -> float:
        actor = Controller(
            policy,
            envs.num_envs,
            action_horizon=horizon,
            inference_batch=config["inference_batch"],
        )
        outcomes = evaluate(actor, envs, take(episodes, envs), max_steps=steps, success="final")
        return float(sum(outcome.steps for outcome in outcomes))

    def by_hand() -> float:
        state, done = contender.reset(envs), 0
        while done < steps:
            chunk = act(policy, state)
            for j in range(horizon):
                state = envs.step(chunk[:, j])[0]
            done += horizon
        return float(envs.num_envs * done)

    return Case(contender.name, by_evaluate if isinstance(envs, WorkerVectorEnv) else by_hand)


@torch.inference_mode()
def act(policy: Policy, state: NDArray[Any]) -> NDArray[np.float32]:
    """What one writes by hand: one call for all environments."""
    observation = Observation(state=torch.from_numpy(state).float()[:, None])
    condition = Condition(language=tuple(SUITE.texts(task).canonical for task in SUITE.tasks))
    noise = RowNoise([torch.Generator() for _ in SUITE.tasks])
    chunk: NDArray[np.float32] = policy.act(observation, condition, noise=noise).numpy()
    return chunk


def seconds_rows(rates: Sequence[Rates]) -> list[dict[str, str]]:
    """The construction table: seconds instead of rates."""
    rows = rate_rows(rates, "made")
    for row, each in zip(rows, rates, strict=True):
        row["s"] = f"{1 / float(np.median(each.wall)):.2f}"
        row["CPU-s"] = f"{1 / float(np.median(each.cpu)):.2f}"
    columns = ("case", "s", "spread", "ratio", "CPU-s", "CPU ratio")
    return [{name: row[name] for name in columns} for row in rows]


def run(argv: Sequence[str] | None, description: str) -> None:
    parser = arguments("evaluation", description)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each visit, stepping")
    parser.add_argument("--constructions", type=int, default=5, help="of each vector environment")
    parser.add_argument("--episode-steps", type=int, default=200, help="in evaluation")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("evaluation", options)
    found = contenders(available_cores())
    made = time_construction(found, options.constructions)
    report.add("Made and reset once (ratio: how many times as fast)", seconds_rows(made), made)
    actions = np.random.default_rng(0).uniform(-1, 1, (SUITE.max_steps, NUM_TASKS, 4))
    config = shipped_config()
    episodes = RandomEpisodes(1_000)
    policy = fitted_policy(config, Windows.load(episodes, label="action"), episodes.spec).eval()
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(construct(contender)[0])) for contender in found]
        pairs = list(zip(found, envs, strict=True))
        cases = [stepping(*pair, actions.astype(np.float32)) for pair in pairs]
        bounds = [bare_envpool(actions.astype(np.float32))] if has_envpool() else []
        bounds.append(physics())
        rates = measure([*cases, *bounds], rounds=options.rounds, seconds=options.seconds)
        report.add("Steps with random actions", rate_rows(rates, "steps"), rates)
        cases = [evaluation(*pair, policy, config["eval"], options.episode_steps) for pair in pairs]
        rates = measure(cases, rounds=options.rounds, seconds=0.0)
        report.add("Evaluation with the shipped policy", rate_rows(rates, "steps"), rates)
    report.close(LIMIT)
