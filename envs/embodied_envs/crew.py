"""Who steps the chunks of a vector environment: processes of their own, or this one.

One process steps a whole chunk of environments, because a message costs more than a step of a small
simulator. What steps exchange lies in shared memory; the pipes carry a word per step.
"""

from __future__ import annotations

import mmap
import multiprocessing as mp
import multiprocessing.connection
import os
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embodied_envs.worker import Board, Chunk, Layout, Message, Reply, Worker

_GRACE_S = 5.0  # for workers to close their simulators


class Crew:
    """Asks chunks for the same thing at the same time, and gathers what they say.

    Args:
        chunks: what steps the slots.
        parts: the slots of each.
        here: whether this process steps them, and not one for each.
        timeout_s: how long an answer may take.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        parts: Sequence[Sequence[int]],
        *,
        here: bool,
        timeout_s: float,
    ) -> None:
        self.parts = parts
        self._timeout_s = timeout_s
        self._chunks = chunks if here else ()
        pairs = zip(parts, chunks, strict=True)
        self._workers = () if here else [Worker(i, *each) for i, each in enumerate(pairs)]
        self._memory = None if here else _shared_file()
        self._layout: Layout | None = None
        self._free = weakref.finalize(self, _free, self._workers, self._chunks, self._memory)

    def lay_out(self, layout: Layout) -> Board:
        """The board that all of them write to."""
        board = Board(layout)
        for chunk in self._chunks:
            chunk.board = board
        if self._memory is None:
            return board
        self._layout = layout
        os.ftruncate(self._memory, board.num_bytes)
        for worker in self._workers:
            worker.attach(layout, self._memory)
        return Board(layout, mmap.mmap(self._memory, board.num_bytes))

    def revive(self, indices: Iterable[int]) -> None:
        """Starts the processes of these chunks where none is alive."""
        for worker in [self._workers[i] for i in indices if self._workers]:
            if worker.start() and self._layout is not None:
                assert self._memory is not None
                worker.attach(self._layout, self._memory)

    def ask(self, messages: Mapping[int, Message]) -> Reply:
        """Chunk -> message; what they say together. A dead process fails all slots of its chunk."""
        reply = Reply()
        if self._chunks:
            for index, message in messages.items():
                reply.add(self._chunks[index].handle(message))
            return reply
        pending = {}
        for index, message in messages.items():
            worker = self._workers[index]
            worker.send(message)
            pending[worker.connection] = worker
        try:
            self._gather(pending, reply)
        finally:
            for worker in pending.values():  # hung or, after an interrupt, out of step
                worker.kill()
        return reply

    def close(self) -> None:
        """Closes the environments and ends the processes; never waits for one that hangs."""
        self._free()

    def _gather(self, pending: dict[Any, Worker], reply: Reply) -> None:
        """Takes the answers of the pending workers as they come, until time is over."""
        deadline = time.monotonic() + self._timeout_s
        while pending:
            ready = mp.connection.wait(list(pending), max(0.0, deadline - time.monotonic()))
            for connection in ready:
                reply.add(pending.pop(connection).receive())
            if not ready:
                for worker in pending.values():
                    text = f"{worker} gave no answer for {self._timeout_s} s and was killed; "
                    reply.add(worker.lost(text + "a slower simulator needs a longer timeout_s"))
                return


def _shared_file() -> int:
    """A nameless file to share as memory: it vanishes with the last process that holds it."""
    if sys.platform == "linux":
        return os.memfd_create("embodied-envs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _free(workers: Sequence[Worker], chunks: Sequence[Chunk], memory: int | None) -> None:
    """Frees what a crew holds; also runs when it is forgotten or Python exits."""
    for worker in workers:
        if worker.connection is not None:
            worker.send(("close", None))
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.join(deadline)
    for chunk in chunks:
        chunk.close()
    if memory is not None:
        os.close(memory)
