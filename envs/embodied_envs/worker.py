"""Worker processes and what they share with the vector environment that owns them.

A worker steps its chunk of environments one after another. Numbers lie on a board in shared memory;
the pipe carries a word per step, and what cannot be a number.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing as mp
import multiprocessing.reduction
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Assignment, Suite

Observations = dict[str, NDArray[Any]]
Message = tuple[str, Any]
_CONTEXT = mp.get_context("spawn")  # a fork would copy the locks of threads and OpenGL contexts
_FLAGS = ("terminated", "truncated", "success", "unstable")
_REAP_S = 5.0  # for the system to end a process that has died or was killed


@dataclass
class Reply:
    """What a chunk says in words; all numbers lie on the board."""

    reasons: dict[int, str] = field(default_factory=dict)  # slot -> why it is unstable
    failures: dict[int, str] = field(default_factory=dict)  # slot -> traceback
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)  # slot -> of its episode
    spaces: tuple[gymnasium.spaces.Dict[Any], gymnasium.spaces.Box] | None = None

    def add(self, other: Reply) -> None:
        """Takes in the words of another chunk."""
        self.reasons.update(other.reasons)
        self.failures.update(other.failures)
        self.metrics.update(other.metrics)
        self.spaces = other.spaces or self.spaces


@dataclass(frozen=True)
class Layout:
    """All that fixes the shapes of a board."""

    observation_space: gymnasium.spaces.Dict[Any]
    action_space: gymnasium.spaces.Box
    num_envs: int
    render_size: tuple[int, int] | None


class Board:
    """One row per slot of everything that steps take and give, shared where a buffer is."""

    def __init__(self, layout: Layout, buffer: mmap.mmap | None = None) -> None:
        self.num_bytes = 0

        def rows(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
            array = np.zeros((layout.num_envs, *shape), dtype)
            start = self.num_bytes
            self.num_bytes += -(-array.nbytes // 64) * 64  # rounded up to cache lines
            if buffer is None:
                return array
            raw = np.frombuffer(buffer, np.uint8, array.nbytes, start)
            return raw.view(array.dtype).reshape(array.shape)

        def space_rows(space: gymnasium.Space[Any]) -> NDArray[Any]:
            assert space.shape is not None
            return rows(space.shape, space.dtype)

        self.observation = {
            name: space_rows(space) for name, space in layout.observation_space.items()
        }
        self.action = space_rows(layout.action_space)
        self.reward = rows((), np.float64)
        self.active = rows((), np.bool_)
        self.flags = {name: rows((), np.bool_) for name in _FLAGS}
        size = layout.render_size
        self.frames = None if size is None else rows((*size, 3), np.uint8)


class Chunk:
    """The environments of some slots, each made at its first use, and their rows on the board."""

    def __init__(
        self, suite: Suite, slots: Sequence[int], render_size: tuple[int, int] | None
    ) -> None:
        self._suite, self._slots, self._render_size = suite, slots, render_size
        self._envs: dict[int, gymnasium.Env[Any, Any]] = {}
        self.board: Board

    def handle(self, message: Message) -> Reply:
        """Does what a message asks: "spaces", "reset", "step" or "render"."""
        name, value = message
        if name == "spaces":
            return self._each(self._slots[:1], self._spaces)
        if name == "reset":
            return self._each(value, lambda slot, _: self._reset(slot, value[slot]))
        active = [slot for slot in self._slots if self.board.active[slot]]
        return self._each(active, self._step if name == "step" else self._render)

    def close(self) -> None:
        """Closes all environments; those that fail at it are forgotten."""
        for slot in list(self._envs):
            self._discard(slot)

    def _each(self, slots: Iterable[int], act: Callable[[int, Reply], None]) -> Reply:
        """Does it for each slot; one that raises does not keep the others from their turn."""
        reply = Reply()
        for slot in slots:
            try:
                act(slot, reply)
            except Exception as error:
                what = traceback.format_exception_only(error)[0].strip()
                text = f"slot {slot} raised {what}\n{traceback.format_exc()}"
                reply.failures[slot] = text
                self._discard(slot)
        return reply

    def _env(self, slot: int) -> gymnasium.Env[Any, Any]:
        if slot not in self._envs:
            self._envs[slot] = self._suite.make_env(render_size=self._render_size)
        return self._envs[slot]

    def _discard(self, slot: int) -> None:
        env = self._envs.pop(slot, None)
        with contextlib.suppress(Exception):  # it may have failed for good reason
            if env is not None:
                env.close()

    def _spaces(self, slot: int, reply: Reply) -> None:
        env = self._env(slot)
        observation, action = env.observation_space, env.action_space
        if not isinstance(observation, gymnasium.spaces.Dict):
            raise TypeError(f"observation_space must be a Dict (see Suite), got {observation}")
        if not isinstance(action, gymnasium.spaces.Box):
            raise TypeError(f"action_space must be a Box (see Suite), got {action}")
        reply.spaces = observation, action

    def _reset(self, slot: int, assignment: Assignment) -> None:
        options = {
            "task": assignment.task,
            "goal": assignment.goal,
            "benchmark_seed": assignment.benchmark_seed,
            "instruction": assignment.instruction,
        }
        self._observe(slot, self._env(slot).reset(seed=assignment.seed, options=options)[0])

    def _step(self, slot: int, reply: Reply) -> None:
        board, flags = self.board, self.board.flags
        # A copy, so that an environment that keeps its action does not see it change.
        outcome = self._envs[slot].step(board.action[slot].copy())
        observation, board.reward[slot], flags["terminated"][slot] = outcome[:3]
        flags["truncated"][slot], info = outcome[3:]
        flags["success"][slot] = info["success"]
        flags["unstable"][slot] = info["unstable"]
        if info["unstable"]:
            reply.reasons[slot] = str(info.get("reason", ""))
        if "metrics" in info:
            reply.metrics[slot] = info["metrics"]
        self._observe(slot, observation)

    def _render(self, slot: int, _: Reply) -> None:
        assert self.board.frames is not None
        self.board.frames[slot] = self._envs[slot].render()

    def _observe(self, slot: int, observation: Observations) -> None:
        for name, rows in self.board.observation.items():
            rows[slot] = observation[name]


def _work(connection: Any, chunk: Chunk) -> None:
    """The life of a worker process: answers messages until the parent closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        while (message := connection.recv())[0] != "close":
            if message[0] == "attach":
                handle = mp.reduction.recv_handle(connection)
                board = Board(message[1])
                chunk.board = Board(message[1], mmap.mmap(handle, board.num_bytes))
                os.close(handle)
            else:
                connection.send(chunk.handle(message))
    except (EOFError, OSError):
        pass  # the parent is gone
    finally:
        chunk.close()


def _exit_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a simulator that hangs in native code would never see an exception


class Worker:
    """A process with a chunk of environments; started when first needed, and again after a kill."""

    def __init__(self, index: int, slots: Sequence[int], chunk: Chunk) -> None:
        self.index, self.slots = index, slots
        self._chunk = chunk
        self._process: Any = None
        self.connection: Any = None

    def start(self) -> bool:
        """Starts the process where none is alive; whether it did."""
        if self._process is not None:
            return False
        self.connection, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, self._chunk), daemon=True)
        with _single_threaded():
            process.start()
        self._process = process
        theirs.close()  # ours was the last copy but the worker's: its death ends the pipe
        return True

    def send(self, message: Message) -> None:
        """Sends a message; `receive` says so where the process is dead."""
        with contextlib.suppress(OSError):  # the missing answer will tell
            self.connection.send(message)

    def attach(self, layout: Layout, memory: int) -> None:
        """Shows the process the board in the shared file `memory`."""
        self.send(("attach", layout))
        with contextlib.suppress(OSError):
            mp.reduction.send_handle(self.connection, memory, self._process.pid)

    def receive(self) -> Reply:
        """The answer to the last message, or that the process has died."""
        try:
            reply: Reply = self.connection.recv()
        except (EOFError, OSError):
            name = str(self)
            self._process.join(_REAP_S)
            code = self._process.exitcode
            self.kill()
            return self.lost(f"{name} died with exit code {code}; stderr may say why")
        who = str(self)
        reply.failures = {slot: f"{who}, {text}" for slot, text in reply.failures.items()}
        return reply

    def lost(self, text: str) -> Reply:
        """The reply of a worker that will give none."""
        return Reply(failures=dict.fromkeys(self.slots, text))

    def kill(self) -> None:
        """Ends the process at once, whatever it is doing."""
        if self._process is not None:
            process, self._process = self._process, None
            self.connection.close()
            process.kill()  # a stopped process takes no gentler signal

    def join(self, deadline: float) -> None:
        """Waits for the end of the process, and brings it about after the deadline."""
        if (process := self._process) is not None:
            process.join(max(0.0, deadline - time.monotonic()))
            self.kill()
            process.join(_REAP_S)

    def __str__(self) -> str:
        return f"env worker {self.index} (pid {self._process.pid}, slots {list(self.slots)})"


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside use one thread each: there is one for every core already.

    It must be in the environment when they start, before their NumPy is imported.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
