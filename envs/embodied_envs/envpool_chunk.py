"""Meta-World in C++: the slots of a vector environment on EnvPool's simulators.

An EnvPool simulator takes a seed when it is made and draws a goal at each reset; it can be told
neither a goal nor a state. So goal i of a benchmark seed is here what the simulator with that seed
draws at its reset i (the "envpool" split of `MetaWorld`), whatever happened between its resets.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.suites import Assignment, Suite
from embodied_envs.metaworld import MetaWorld
from embodied_envs.options import check_choice, complete_options
from embodied_envs.vitals import all_finite
from embodied_envs.worker import Chunk, Message, Reply

logger = logging.getLogger(__name__)
BACKENDS = ("auto", "python", "envpool")
_MAX_SEED = 2**31 - 1  # EnvPool's seeds are C++ ints


class BackendError(RuntimeError):
    """EnvPool cannot run what is asked; the message says why."""


def choose_backend(backend: str, suite: Suite, render_size: tuple[int, int] | None = None) -> str:
    """ "python" or "envpool".

    "auto" takes EnvPool only where the suite's goals are its own and, in all tasks, it was measured
    to do as Meta-World does (`equivalence`).

    Raises:
        BackendError: EnvPool is asked for and cannot run the suite.
        ModuleNotFoundError: EnvPool is asked for and not installed.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "python":
        return "python"
    problem = _problem(suite, render_size)
    if backend == "auto":
        return "python" if problem or not _is_equivalent(suite) else "envpool"
    if problem:
        raise BackendError(f"backend 'envpool' {problem}; choose backend=python or auto")
    if importlib.util.find_spec("envpool") is None:
        raise ModuleNotFoundError(
            "backend 'envpool' needs a package that is not installed: "
            "pip install 'embodied-policies[envpool]', or choose backend=python"
        )
    return "envpool"


def equivalence() -> dict[str, Any]:
    """How EnvPool's tasks differ from Meta-World's, as `scripts/bench/equivalence.py` measured."""
    text = (files("embodied_envs") / "assets" / "envpool_equivalence.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def differing(tasks: Iterable[str]) -> list[str]:
    """Those of the tasks that were not measured to agree."""
    measured = equivalence()["tasks"]
    return [task for task in tasks if not (task in measured and measured[task]["agrees"])]


def make_pool(task: str, seeds: Sequence[int], *, goal_visible: bool = True) -> Any:
    """An EnvPool of a task with a simulator for each seed, and one thread for them all."""
    import envpool  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from envpool.mujoco.metaworld.registration import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        metaworld_task_id,
    )

    return envpool.make_gymnasium(
        metaworld_task_id(task),
        num_envs=len(seeds),
        num_threads=1,
        env_seed=list(seeds),
        partially_observable=not goal_visible,
    )


def _problem(suite: Suite, render_size: tuple[int, int] | None) -> str:
    """Why EnvPool cannot run the suite, or ""."""
    if not isinstance(suite, MetaWorld):
        return (
            f"runs plain Meta-World suites, not {suite.name} ({type(suite).__name__}): elsewhere "
            "it draws initial states of its own, and it cannot be told those of an assignment"
        )
    if suite.benchmark.startswith("ML"):
        return f"runs MT benchmarks, not {suite.name}, whose goals belong to its splits"
    if suite.observation != "state" or render_size is not None:
        return "draws no pictures: it is for state observations, without films"
    if suite.reward_version != "v2":
        return f"has the rewards of version 'v2' alone, not {suite.reward_version!r}"
    return ""


def _is_equivalent(suite: Suite) -> bool:
    own_goals = isinstance(suite, MetaWorld) and suite.split == "envpool"
    if not own_goals or importlib.util.find_spec("envpool") is None:
        return False
    is_measured = version("envpool") == equivalence()["versions"]["envpool"]
    return is_measured and not differing(suite.tasks)


class _World:
    """One EnvPool simulator and how far its goals have been drawn."""

    def __init__(self, task: str, seed: int, goal_visible: bool) -> None:
        self.task, self.seed = task, seed
        self.pool = make_pool(task, [seed], goal_visible=goal_visible)
        self.goal = -1  # the last one drawn
        self.steps = 0

    def begin_reset(self) -> None:
        self.pool.async_reset()
        self.goal += 1
        self.steps = 0

    def state(self) -> NDArray[np.float64]:
        """The observation (39,) of a reset that was begun."""
        state: NDArray[np.float64] = self.pool.recv(reset=True)[0][0]
        return state

    def begin_step(self, action: NDArray[np.float32]) -> None:
        self.pool.send(action[None])
        self.steps += 1

    def transition(self) -> tuple[NDArray[np.float64], float, bool, bool, bool]:
        """Observation, reward, terminated, truncated and success of a step that was begun."""
        state, reward, terminated, truncated, info = self.pool.recv()
        if (found := int(info["elapsed_step"][0])) != self.steps:  # it resets itself after an end
            raise RuntimeError(f"EnvPool counts {found} steps of an episode of {self.steps}")
        success = bool(info["success"][0])
        return state[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), success

    def close(self) -> None:
        self.pool.close()


class EnvPoolChunk(Chunk):
    """All slots of a vector environment, each with a simulator and a thread of its own.

    Simulators that no slot uses are kept, as many as there are slots: making one costs several
    resets. EnvPool does not tell of MuJoCo's warnings, so an episode is found unstable only by an
    action or an observation that is not finite.
    """

    def __init__(self, suite: MetaWorld, slots: Sequence[int], _: object = None) -> None:
        super().__init__(dataclasses.replace(suite, split="envpool"), slots, None)
        self._metaworld = suite
        self._worlds: dict[int, _World] = {}
        self._spare: list[_World] = []
        if names := differing(suite.tasks):
            logger.warning("EnvPool was not found to agree with Meta-World in %s", ", ".join(names))

    def handle(self, message: Message) -> Reply:
        """Does what a message asks: "spaces", "reset" or "step"."""
        name, value = message
        if name == "reset":
            return self._start(value)
        if name == "step":
            return self._move([slot for slot in self._slots if self.board.active[slot]])
        return super().handle(message)

    def close(self) -> None:
        super().close()
        for world in (*self._worlds.values(), *self._spare):
            world.close()
        self._worlds.clear()
        self._spare.clear()

    def _start(self, assignments: Mapping[int, Assignment]) -> Reply:
        """Resets every simulator as often as its goal needs, all of them at the same time."""
        reply = self._each(assignments, lambda slot, _: self._place(slot, assignments[slot]))
        waiting = [slot for slot in assignments if slot not in reply.failures]
        while waiting:
            reply.add(self._each(waiting, lambda slot, _: self._worlds[slot].begin_reset()))
            waiting = [slot for slot in waiting if slot not in reply.failures]
            reply.add(self._each(waiting, self._see))
            waiting = [
                slot
                for slot in waiting
                if slot not in reply.failures and self._worlds[slot].goal < assignments[slot].goal
            ]
        return reply

    def _move(self, active: Sequence[int]) -> Reply:
        """One step of all active slots at the same time."""
        actions = self.board.action
        sound = [slot for slot in active if all_finite(actions[slot])]
        reply = self._each(sound, lambda slot, _: self._worlds[slot].begin_step(actions[slot]))
        reply.add(self._each([s for s in sound if s not in reply.failures], self._finish_step))
        for slot in set(active) - set(sound):
            self._abandon(slot, f"the action is not finite: {actions[slot].tolist()}", reply)
        return reply

    def _finish_step(self, slot: int, reply: Reply) -> None:
        state, reward, terminated, truncated, success = self._worlds[slot].transition()
        if not all_finite(np.append(state, reward)):
            self._abandon(slot, "the observation or the reward is not finite", reply)
            return
        board, flags = self.board, self.board.flags
        board.observation["state"][slot] = state
        board.reward[slot] = reward
        flags["terminated"][slot], flags["truncated"][slot] = terminated, truncated
        flags["success"][slot] = success

    def _abandon(self, slot: int, reason: str, reply: Reply) -> None:
        self.board.flags["truncated"][slot] = self.board.flags["unstable"][slot] = True
        reply.reasons[slot] = reason

    def _see(self, slot: int, _: Reply) -> None:
        self.board.observation["state"][slot] = self._worlds[slot].state()

    def _place(self, slot: int, assignment: Assignment) -> None:
        """Gives the slot a simulator that has not yet drawn the goal."""
        options = {name: getattr(assignment, name) for name in ("task", "goal", "benchmark_seed")}
        choice = complete_options(options, self._suite, np.random.default_rng)
        task, goal, seed = choice["task"], choice["goal"], choice["benchmark_seed"]
        if seed > _MAX_SEED:
            raise ValueError(f"EnvPool's seeds end at {_MAX_SEED}, got benchmark_seed {seed}")
        if slot in self._worlds:
            self._spare.append(self._worlds.pop(slot))
        fitting = [w for w in self._spare if (w.task, w.seed) == (task, seed) and w.goal < goal]
        if fitting:
            world = max(fitting, key=lambda world: world.goal)
            self._spare.remove(world)
        else:
            world = _World(task, seed, bool(self._metaworld.goal_visible))
        self._worlds[slot] = world
        for old in self._spare[: -len(self._slots)]:
            old.close()
        del self._spare[: -len(self._slots)]

    def _discard(self, slot: int) -> None:
        super()._discard(slot)
        if slot in self._worlds:
            self._worlds.pop(slot).close()
