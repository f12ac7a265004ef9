"""Where shards run: here, in processes of this machine, or (see `ray_launcher`) on a cluster."""

from __future__ import annotations

import logging
import multiprocessing as mp
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

from embodied.devices import available_cores
from embodied.evaluation import Outcomes
from embodied.shards import Shard

logger = logging.getLogger(__name__)
_CONTEXT = mp.get_context("spawn")  # a fork would copy the locks of threads and OpenGL contexts
_BEAT_S = 1.0  # the longest silence of a shard that is well and steps fast
_REAP_S = 5.0  # for the system to end a process that has died or was killed


class ShardDied(RuntimeError):
    """A shard's process is gone, and with it what it had not told yet."""


class ShardFailed(RuntimeError):
    """A shard raised an exception: it would do so again."""


class Task(Protocol):
    """A shard under way."""

    @property
    def has_begun(self) -> bool:
        """Whether it should be giving signs of life; a cluster may still be busy otherwise."""
        ...

    def receive(self) -> Outcomes | None:
        """The next outcomes, perhaps none; None at the end. Raises ShardDied or ShardFailed."""
        ...

    def kill(self) -> None:
        """Ends it at once."""


class Launcher(Protocol):
    """Starts shards and tells which of them have something to say."""

    def open(self) -> int:
        """Gets ready and returns how many shards can run at the same time."""
        ...

    def start(self, shard: Shard, name: str) -> Task: ...
    def wait(self, tasks: Sequence[Any], timeout_s: float) -> Sequence[Task]: ...
    def close(self) -> None: ...


class Processes:
    """Runs each shard in a process of this machine."""

    def open(self) -> int:
        return available_cores()

    def start(self, shard: Shard, name: str) -> Task:
        return _Process(shard, name)

    def wait(self, tasks: Sequence[_Process], timeout_s: float) -> Sequence[Task]:
        by_connection = {task.connection: task for task in tasks}
        ready = mp.connection.wait(list(by_connection), timeout_s)
        return [by_connection[connection] for connection in ready]  # type: ignore[index]

    def close(self) -> None:
        pass


class _Process:
    has_begun = True

    def __init__(self, shard: Shard, name: str) -> None:
        self.connection, theirs = _CONTEXT.Pipe(duplex=False)
        # Not a daemon, because those may not start the processes that simulators run in.
        self._process = _CONTEXT.Process(target=_work, args=(theirs, shard), name=name)
        self._process.start()
        theirs.close()  # ours was the last copy but the shard's: its death ends the pipe

    def receive(self) -> Outcomes | None:
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_REAP_S)
            who, code = f"{self._process.name} (pid {self._process.pid})", self._process.exitcode
            raise ShardDied(f"{who} died with exit code {code}") from error
        if isinstance(message, str):
            raise ShardFailed(f"{self._process.name} failed:\n{message}")
        outcomes: Outcomes | None = message
        return outcomes

    def kill(self) -> None:
        self._process.kill()  # a stopped process takes no gentler signal
        self._process.join(_REAP_S)
        self.connection.close()


def _work(connection: Any, shard: Shard) -> None:
    """The life of a shard's process: it tells what has ended, and at least every so often."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then kills us
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        for outcomes in spoken(shard):
            connection.send(outcomes)
        connection.send(None)
    except Exception:
        connection.send(traceback.format_exc())


def _exit_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a simulator that hangs in native code would never see an exception


def spoken(shard: Shard) -> Any:
    """What a running shard should say of its steps: outcomes, and else a sign of life at times."""
    last = float("-inf")
    for outcomes in shard.run():
        if outcomes or time.monotonic() - last > _BEAT_S:
            last = time.monotonic()
            yield outcomes
