"""The processes beside the policy's own: the one that controls the robot, and the recorder."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from embodied.deploy.control import GO, Plant, Ready, Report, control
from embodied.deploy.recorder import End, Keeping, Kept, record
from embodied.deploy.shared import SharedMail
from embodied.deploy.thinker import Thought
from embodied.deploy.words import Word

T = TypeVar("T")
_START_S = 60.0  # simulators and torch are slow to load on a busy machine
_BRAKE_S = 30.0
_WRITE_S = 60.0


class CrewError(RuntimeError):
    """A process of the session could not do its work."""


class Crew:
    """Starts the control process, and lets it go once everybody is there.

    A context manager: whatever happens, the control process is told to brake and stop, and no
    process is left behind.

    Attributes:
        ready: what the control process says of the robot.
        mail: the policy's side of it.
    """

    def __init__(self, plant: Plant) -> None:
        self._context = multiprocessing.get_context("spawn")  # torch's threads survive no fork
        self.plant = plant
        self._pipe, self._control = self._start(control, plant)
        self._keeper: tuple[Connection, BaseProcess] | None = None
        self._inbox: Any = None
        self.report: Report | None = None
        try:
            self.ready: Ready = self._receive(self._pipe, self._control, _START_S)
        except CrewError:
            self._control.join(_BRAKE_S)
            raise
        self.mail = SharedMail(
            self.ready.name,
            self.ready.features,
            self.ready.limits,
            creates=False,
            folder=plant.folder,
        )

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        if self.report is None:
            self.leave("the session failed")
        self.mail.close()
        for process in [self._control, *([] if self._keeper is None else [self._keeper[1]])]:
            process.join(_BRAKE_S)
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def pids(self) -> tuple[int | None, int | None]:
        """Of the control process and of the recorder."""
        keeper = None if self._keeper is None else self._keeper[1].pid
        return self._control.pid, keeper

    def keep(self, keeping: Keeping) -> None:
        """Starts the recorder, and returns once it listens."""
        self._inbox = self._context.Queue()
        self._inbox.cancel_join_thread()  # a recorder that stalls must not hold up the end
        self._keeper = self._start(record, self.ready, keeping, self.plant.folder, self._inbox)
        self._receive(*self._keeper, _START_S)

    def note(self, heard: Word | Thought) -> None:
        """For the recorder; never waits."""
        if self._inbox is not None:
            self._inbox.put(heard)

    def go(self) -> None:
        """The control loop begins."""
        with suppress(OSError):  # it has died, which `controls` and `leave` will tell
            self._pipe.send(GO)

    @property
    def controls(self) -> bool:
        """Whether the control loop still runs."""
        return self._control.is_alive() and not self._pipe.poll()

    def leave(self, why: str) -> Report:
        """Has the robot braked and stopped; how it went."""
        try:
            with suppress(OSError):  # it has ended by itself
                self._pipe.send(why)
            self.report = self._receive(self._pipe, self._control, _BRAKE_S)
        except CrewError as error:
            self.report = Report("", str(error))
        return self.report

    def end(self, end: End) -> Kept:
        """Has the episode written; what became of it."""
        if self._keeper is None:
            return Kept()
        self._inbox.put(end)
        try:
            kept: Kept = self._receive(*self._keeper, _WRITE_S)
        except CrewError as error:
            self._keeper[1].kill()  # what it writes later would be half of it
            return Kept(error=f"the episode was not kept: {error}")
        return kept

    def _start(self, target: Callable[..., None], *given: Any) -> tuple[Connection, BaseProcess]:
        mine, its = self._context.Pipe()
        process = self._context.Process(target=target, args=(*given, its), daemon=True)
        process.start()
        its.close()  # so that the end of the process is the end of the pipe
        return mine, process

    def _receive(self, pipe: Connection, process: BaseProcess, seconds: float) -> Any:
        name = "control process" if process is self._control else "recorder"
        try:
            if pipe.poll(seconds):
                found = pipe.recv()
                if isinstance(found, str):  # what kept it from its work
                    raise CrewError(found)
                return found
        except (EOFError, OSError):
            process.join(1.0)  # its pipe closes before its status is known
            raise CrewError(
                f"E_ROBOT_PROCESS: the {name} ended (status {process.exitcode}) before it answered;"
                " what it wrote above says why"
            ) from None
        raise CrewError(
            f"E_ROBOT_PROCESS: the {name} did not answer for {seconds:g} s; look at its driver, "
            "its disk and the machine's load"
        )
