"""Many environments at once, each slot running the episode that it was assigned.

Who asks for an assignment gets the same episode, to the last bit, whatever the number of slots and
processes (see `embodied_envs.crew`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from embodied.suites import Assignment, SlotError, Suite
from embodied_envs.crew import Crew
from embodied_envs.envpool_chunk import EnvPoolChunk, choose_backend
from embodied_envs.worker import Chunk, Layout, Message, Observations, Reply

Info = dict[str, Any]
Step = tuple[Observations, NDArray[Any], NDArray[Any], NDArray[Any], Info]
Mask = NDArray[np.bool_]


class WorkerError(SlotError):
    """Some slots failed: an environment raised, or its process died or hung.

    The failed slots are idle afterwards and the next reset of one makes a new environment (and a
    new process), so that a caller may count their episodes as lost and go on.

    Attributes:
        slots: the failed slots.
        assignments: the episodes that they were running.
        result: what the call would have returned; it holds for all other slots.
    """

    def __init__(
        self,
        failures: Mapping[int, str],
        assignments: Sequence[Assignment | None],
        result: Any = None,
    ) -> None:
        self.slots = tuple(sorted(failures))
        self.assignments = tuple(assignments[slot] for slot in self.slots)
        self.result = result
        texts = list(dict.fromkeys(failures.values()))
        # The first line is what an evaluation keeps as its reason, so it names every failure.
        lines = ["; ".join(text.splitlines()[0] for text in texts)] if len(texts) > 1 else []
        for text in texts:
            lines.append(text.rstrip())
            slots = [slot for slot in self.slots if failures[slot] == text]
            lines.extend(f"  slot {slot} was running {assignments[slot]}" for slot in slots)
        super().__init__("\n".join(lines))


class WorkerVectorEnv(VectorEnv[Observations, NDArray[Any], NDArray[Any]]):
    """N slots that run assigned episodes; see `make_vec`.

    Attributes:
        backend: whose simulators they are, "python" or "envpool".
    """

    backend = "python"

    def __init__(
        self,
        suite: Suite,
        num_envs: int,
        *,
        workers: int,
        render_size: tuple[int, int] | None,
        timeout_s: float,
        make_chunk: Callable[..., Chunk] = Chunk,
    ) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": suite.rate_hz}
        self.render_mode = None if render_size is None else "rgb_array"
        self._assignments: list[Assignment | None] = [None] * num_envs
        self._active = np.zeros(num_envs, np.bool_)
        parts = [part.tolist() for part in np.array_split(np.arange(num_envs), max(workers, 1))]
        chunks = [make_chunk(suite, part, render_size) for part in parts]
        self._crew = Crew(chunks, parts, here=workers == 0, timeout_s=timeout_s)
        try:
            self._open(render_size)
        except BaseException:
            self.close()
            raise

    def _open(self, render_size: tuple[int, int] | None) -> None:
        """Asks one chunk for the spaces, and lays out the board by them."""
        self._crew.revive(range(len(self._crew.parts)))
        self._active[:] = True  # a failure concerns every slot
        reply = self._exchange({0: ("spaces", None)})
        self._active[:] = False
        if reply.spaces is None:
            raise WorkerError(reply.failures, self._assignments)
        single_observation, single_action = reply.spaces
        self.single_observation_space, self.single_action_space = reply.spaces
        self.observation_space = batch_space(single_observation, self.num_envs)
        self.action_space = batch_space(single_action, self.num_envs)
        layout = Layout(single_observation, single_action, self.num_envs, render_size)
        self._board = self._crew.lay_out(layout)

    @property
    def active(self) -> Mask:
        """(N,) which slots are in the middle of an episode."""
        return self._active.copy()

    @property
    def instructions(self) -> tuple[str, ...]:
        """What each slot was asked last; empty before its first episode."""
        return tuple("" if each is None else each.instruction for each in self._assignments)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Info]:
        """Starts an episode in some slots, and leaves the others as they are.

        Args:
            seed: must be None; each assignment carries its own.
            options: "assignments" is a sequence of N assignments, or None where no episode is to
                start; "reset_mask" (N,) bool chooses among them (all that are given, if left out).
        """
        if seed is not None:
            raise ValueError(f"seed must be None (each Assignment has its seed), got {seed}")
        chosen = _chosen(options or {}, self.num_envs)
        for slot, assignment in chosen.items():
            self._assignments[slot] = assignment
            self._active[slot] = True
        messages: dict[int, Message] = {}
        for index, slots in enumerate(self._crew.parts):
            part = {slot: chosen[slot] for slot in slots if slot in chosen}
            if part:
                messages[index] = ("reset", part)
        self._crew.revive(messages)
        reply = self._exchange(messages)
        result: tuple[Observations, Info] = (self._observation(), {})
        self._raise(reply, result)
        return result

    def step(self, actions: NDArray[Any]) -> Step:
        """Steps the active slots with their rows of `actions` (N, A); the others rest.

        A slot whose episode ends (terminated or truncated) is idle until its next reset. The row of
        an idle slot holds its last observation, no reward and no flags. `info` holds "success" and
        "unstable", (N,) bool, and "reason", (N,) str; where environments give any, "metrics", (N,)
        dicts of further measures, empty for the slots without.
        """
        actions = np.asarray(actions)
        if actions.shape != self._board.action.shape:
            raise ValueError(
                f"actions must have shape {self._board.action.shape} (slots, action_dim), "
                f"got {actions.shape}"
            )
        board = self._board
        board.action[:] = actions
        board.reward[:] = 0.0
        for flag in board.flags.values():
            flag[:] = False
        reply = self._exchange(self._to_active("step"))
        for slot in reply.failures:  # whatever it wrote before it failed
            board.reward[slot] = 0.0
            for name, flag in board.flags.items():
                flag[slot] = name in ("truncated", "unstable")
        self._active &= ~(board.flags["terminated"] | board.flags["truncated"])
        result = self._outcome({**reply.reasons, **reply.failures}, reply.metrics)
        self._raise(reply, result)
        return result

    def render(self) -> list[NDArray[np.uint8] | None]:  # type: ignore[override]
        """What each active slot looks like, (h, w, 3); None for the idle ones."""
        if self._board.frames is None:
            raise ValueError("render_size is None: give make_vec(render_size=(h, w)) to render")
        active = self.active
        reply = self._exchange(self._to_active("render"))
        frames = [self._board.frames[i].copy() if active[i] else None for i in range(self.num_envs)]
        self._raise(reply, frames)
        return frames

    def halt(self, mask: Mask) -> None:
        """Ends the episodes of the slots where `mask` (N,) is True; they are idle from now on."""
        self._active[_as_mask("mask", mask, self.num_envs)] = False

    def close_extras(self) -> None:
        """Closes the environments and ends the processes; never waits for one that hangs."""
        self._crew.close()

    def _outcome(
        self, reasons: Mapping[int, str], metrics: Mapping[int, Mapping[str, float]]
    ) -> Step:
        info: Info = {name: self._board.flags[name].copy() for name in ("success", "unstable")}
        info["reason"] = np.full(self.num_envs, "", object)
        for slot, reason in reasons.items():
            info["reason"][slot] = reason
        if metrics:
            rows = [dict(metrics.get(slot, {})) for slot in range(self.num_envs)]
            info["metrics"] = np.array(rows, object)
        flags = self._board.flags
        terminated, truncated = flags["terminated"].copy(), flags["truncated"].copy()
        return self._observation(), self._board.reward.copy(), terminated, truncated, info

    def _observation(self) -> Observations:
        return {name: rows.copy() for name, rows in self._board.observation.items()}

    def _to_active(self, name: str) -> dict[int, Message]:
        self._board.active[:] = self._active
        parts = enumerate(self._crew.parts)
        return {i: (name, None) for i, part in parts if self._active[part].any()}

    def _exchange(self, messages: Mapping[int, Message]) -> Reply:
        """The answers of some chunks; what idle slots lost with a dead process is left out."""
        if self.closed:
            raise ValueError("the vector environment is closed: make a new one with make_vec")
        running = self.active
        try:
            reply = self._crew.ask(messages)
        except BaseException:  # an interrupt: who has answered and who has not is not known
            for index in messages:
                self._active[self._crew.parts[index]] = False
            raise
        reply.failures = {slot: text for slot, text in reply.failures.items() if running[slot]}
        return reply

    def _raise(self, reply: Reply, result: Any) -> None:
        """Makes failed slots idle and says so."""
        if reply.failures:
            self._active[list(reply.failures)] = False
            raise WorkerError(reply.failures, self._assignments, result)


class EnvPoolVectorEnv(WorkerVectorEnv):
    """The same with EnvPool's simulators; a crash of theirs ends this process."""

    backend = "envpool"


def make_vec(
    suite: Suite,
    num_envs: int,
    *,
    workers: int = 0,
    render_size: tuple[int, int] | None = None,
    timeout_s: float = 300.0,
    backend: str = "auto",
) -> WorkerVectorEnv:
    """A vector environment over N slots of a suite, in which each slot runs assigned episodes.

    Args:
        num_envs: N.
        workers: processes that share the slots evenly; about one per core. 0 steps them all here.
        render_size: (h, w) of rendered frames in pixels.
        timeout_s: how long a worker may take over one step or reset of all its slots.
        backend: "python" runs the suite's environments; "envpool" runs Meta-World in C++, on the
            goals that EnvPool draws, in a thread for each slot and without workers; "auto" takes
            EnvPool where the suite has its goals and it does the same (see `choose_backend`).
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be 1 or more, got {num_envs}")
    if not 0 <= workers <= num_envs:
        raise ValueError(f"workers must lie in [0, {num_envs}] (num_envs), got {workers}")
    if choose_backend(backend, suite, render_size) == "envpool":
        return EnvPoolVectorEnv(
            suite,
            num_envs,
            workers=0,
            render_size=None,
            timeout_s=timeout_s,
            make_chunk=EnvPoolChunk,
        )
    return WorkerVectorEnv(
        suite, num_envs, workers=workers, render_size=render_size, timeout_s=timeout_s
    )


def _chosen(options: Mapping[str, Any], num_envs: int) -> dict[int, Assignment]:
    """Slot -> assignment of a reset; raises where they do not fit together."""
    assignments = options.get("assignments", ())
    if len(assignments) != num_envs:
        raise ValueError(
            f'options["assignments"] must hold {num_envs} entries (num_envs; None for slots that '
            f"are left alone), got {len(assignments)}"
        )
    given = np.array([each is not None for each in assignments])
    mask = _as_mask("reset_mask", options.get("reset_mask", given), num_envs)
    if missing := np.flatnonzero(mask & ~given).tolist():
        raise ValueError(f"reset_mask is True for slots {missing}, whose assignment is None")
    return {slot: assignments[slot] for slot in np.flatnonzero(mask).tolist()}


def _as_mask(name: str, value: Any, num_envs: int) -> Mask:
    mask = np.asarray(value)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_:
        raise ValueError(
            f"{name} must be bool of shape ({num_envs},), got {mask.dtype} of shape {mask.shape}"
        )
    return mask
