"""One scripted episode: what is asked of whom, and running it with noise on the actions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episode
from embodied.suites import Assignment, Expert, Player, Staged, Suite

_Item = TypeVar("_Item")


class UnstableError(RuntimeError):
    """The simulation broke down."""


class Behaviour(Protocol):
    """Who acts instead of a suite's experts. Picklable; its `repr` says which one it is."""

    def __call__(self, task: str, env: gymnasium.Env[Any, Any], seed: int) -> Expert:
        """One for an episode in `env`, with all its randomness from the seed."""
        ...


@dataclass(frozen=True)
class Settings:
    """What all episodes of a collection share; `scripted.collect` explains the fields."""

    suite: Suite
    benchmark_seed: int
    noise: tuple[float, ...]
    noise_hold: int
    seed: int
    max_steps: int
    steps_after_success: int | None
    cross_instruction_steps: int
    behaviour: Behaviour | None = None
    epsilon: tuple[float, ...] = (0.0,)
    final: bool = False


@dataclass(frozen=True)
class Job:
    """The `number`-th episode of a task; in a `cross` episode another task's expert acts."""

    task: int
    number: int
    cross: bool

    @property
    def key(self) -> str:
        """Names the episode; keys sort by task."""
        return f"{self.task:03d}-{'cross' if self.cross else 'own'}-{self.number:06d}"

    def seeds(self, seed: int) -> list[int]:
        """The job's own part of every seed, under the collection's `seed`."""
        # NumPy pads seeds with zeros; the closing one keeps streams of different lengths apart.
        return [seed, self.task, int(self.cross), self.number, 1]


def run_episode(
    env: gymnasium.Env[Any, Any], settings: Settings, job: Job, attempt: int
) -> Episode:
    """Runs a job; another `attempt` is the same job with another seed.

    The expert sees the environment's `full_observation` where it has one, else the state. Raises
    UnstableError if the simulation breaks down.
    """
    suite = settings.suite
    assignment, expert_task, noise, epsilon = _assign(settings, job, attempt)
    limit = settings.cross_instruction_steps if job.cross else settings.max_steps
    pursued = Pursued(_expert(env, settings, expert_task, assignment.seed))
    act = _noisy_expert(env, pursued, noise, settings.noise_hold, epsilon, assignment.seed)
    options = {
        "task": assignment.task,
        "goal": assignment.goal,
        "benchmark_seed": assignment.benchmark_seed,
        "instruction": assignment.instruction,
    }
    observation, _ = env.reset(seed=assignment.seed, options=options)
    observations, actions, labels, rewards = [], [], [], []
    terminated, solved_at = False, None
    for step in range(limit):
        action, label = act(observation)
        observations.append({name: np.array(value) for name, value in observation.items()})
        actions.append(action)
        labels.append(label)
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        if info.get("unstable"):
            raise UnstableError(info.get("reason", "unstable"))
        if info["success"] and not job.cross and solved_at is None:
            solved_at = step
        if terminated or truncated or _rested(settings, step, solved_at):
            break
    return Episode(
        state=np.stack([o["state"] for o in observations]).astype(np.float32),
        action=np.stack(actions),
        instruction=assignment.instruction,
        reward=np.array(rewards, np.float32),
        images={
            name: np.stack([o[name] for o in observations])
            for name in observations[0]
            if name != "state"
        },
        expert_action=np.stack(labels),
        success=solved_at is not None,
        terminated=bool(terminated),
        truncated=not terminated,
        info={
            "suite": suite.name,
            "task": assignment.task,
            "expert": expert_task,
            "goal": assignment.goal,
            "benchmark_seed": assignment.benchmark_seed,
            "seed": assignment.seed,
            "noise": noise,
            **({"epsilon": epsilon} if epsilon else {}),
            **({"behaviour": repr(settings.behaviour)} if settings.behaviour else {}),
            "retries": attempt,
            **pursued.facts,
            **camera_facts(env),
        },
        final=_final(observation) if settings.final else {},
    )


def _rested(settings: Settings, step: int, solved_at: int | None) -> bool:
    after = settings.steps_after_success
    return solved_at is not None and after is not None and step - solved_at >= after


def _expert(env: gymnasium.Env[Any, Any], settings: Settings, task: str, seed: int) -> Expert:
    if settings.behaviour is None:
        return settings.suite.expert(task, seed=seed)
    return settings.behaviour(task, env, seed)


def _final(observation: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The last observation, in the names of `Episode.final`."""
    return {
        "state" if name == "state" else f"images.{name}": np.array(x)
        for name, x in observation.items()
    }


def camera_facts(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """What an episode's info says of its cameras: the matrices by which points become pixels."""
    matrices: dict[str, Any] = getattr(env.unwrapped, "camera_matrices", dict)()
    return {"cameras": matrices} if matrices else {}


class Pursued:
    """An expert that is listened to: which sub-task it does, where it says so.

    Attributes:
        facts: of a `Player` or one that is `Staged`, `{"subtasks": [[first frame, words], ...]}`,
            each until the next one begins.
    """

    def __init__(self, expert: Expert) -> None:
        self._expert, self._steps = expert, 0
        self._heard: list[tuple[int, str]] = []

    def __call__(self, observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        if isinstance(self._expert, Staged):
            words = self._expert.subtask(observation)
            if not self._heard or self._heard[-1][1] != words:
                self._heard.append((self._steps, words))
        self._steps += 1
        return self._expert(observation)

    @property
    def facts(self) -> dict[str, Any]:
        pursuits = self._expert.pursuits if isinstance(self._expert, Player) else self._heard
        return {"subtasks": [[int(start), words] for start, words in pursuits]} if pursuits else {}


def _noisy_expert(
    env: gymnasium.Env[Any, Any],
    expert: Expert,
    noise: float,
    hold: int,
    epsilon: float,
    seed: int,
) -> Callable[[Mapping[str, Any]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What maps observations to (the action to execute, the expert's own), each (A,)."""
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    random = np.random.default_rng([seed, 1])  # not the environment's stream of the same seed
    lapses = np.random.default_rng([seed, 2])
    pushes = (random.standard_normal(space.shape) for _ in itertools.count())
    push = itertools.chain.from_iterable(itertools.repeat(x, hold) for x in pushes)

    def act(
        observation: Mapping[str, Any],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        view = getattr(env.unwrapped, "full_observation", observation["state"])
        # Clipped first: experts that ask for far more than the bounds would drown the noise.
        label = np.clip(expert(view), space.low, space.high).astype(np.float32)
        noisy = label + noise * next(push)
        if epsilon and lapses.random() < epsilon:
            noisy = lapses.uniform(space.low, space.high)
        return np.clip(noisy, space.low, space.high).astype(np.float32), label

    return act


def _assign(settings: Settings, job: Job, attempt: int) -> tuple[Assignment, str, float, float]:
    """The job's assignment, the task whose expert acts, the level of the noise, and epsilon."""
    suite = settings.suite
    seeds = job.seeds(settings.seed)
    seed = int(np.random.SeedSequence([*seeds, attempt + 1]).generate_state(1)[0])
    task = suite.tasks[job.task]
    others = [name for name in suite.tasks if name != task]
    expert = others[seed % len(others)] if job.cross else task
    stream = [settings.seed, job.task, 1 + job.cross]
    assignment = Assignment(
        task=task,
        goal=job.number % suite.num_goals,
        benchmark_seed=settings.benchmark_seed + job.number // suite.num_goals,
        seed=seed,
        instruction=_cycle(suite.texts(expert).trained, job.number, [*stream, 1]),
    )
    noise = _cycle(settings.noise, job.number, [*stream, 2])
    return assignment, expert, noise, _cycle(settings.epsilon, job.number, [*stream, 3])


def _cycle(items: Sequence[_Item], number: int, stream: Sequence[int]) -> _Item:
    """Gives every item once per round, in an order drawn for each round, so that two cycles whose
    lengths have a common factor still meet in all pairs."""
    turn, place = divmod(number, len(items))
    order = np.random.default_rng([*stream, turn, 1]).permutation(len(items))
    return items[int(order[place])]
