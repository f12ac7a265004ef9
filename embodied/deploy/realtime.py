"""What a control process asks of Python and of the operating system while it runs."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PRIORITY = 50  # above ordinary processes, below the kernel's own threads


@contextmanager
def quiet_memory() -> Iterator[None]:
    """No garbage collection: it would pause the loop for milliseconds at any moment."""
    was_enabled = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def ask_for_priority() -> bool:
    """Real-time scheduling (SCHED_FIFO) for this process; warns and says False if not granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (AttributeError, OSError) as error:
        logger.warning(
            "no real-time priority (%s): on a busy machine ticks may come 10 ms late or more. "
            "Grant it with 'ulimit -r 50' or CAP_SYS_NICE, or keep the machine idle",
            error,
        )
        return False
    return True


@contextmanager
def leaving_on_signals(leave: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `leave` with their name, so that the robot is stopped in order.

    A second one raises KeyboardInterrupt at once, for drivers that hang. In other threads than the
    main one, which Python gives no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if asked:
            raise KeyboardInterrupt(name)
        asked.append(name)
        leave(name)

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
