"""A policy's server that is killed, stopped or cut off while a robot runs, by the wall clock.

Three processes: the server, the control loop of a simulated robot, and this one, which asks the
server and passes its plans on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embodied.conditions import Row
from embodied.deploy.chunks import TimedChunk
from embodied.deploy.clock import SECOND, to_ns
from embodied.deploy.shared import SharedMail
from embodied.deploy.watchdog import Event, Guards, State
from embodied.serve.client import PolicyClient, ServerError, ServerLost, ServerSilent
from embodied.serve.contract import Contract
from embodied.structs import Spec
from tests.robots import arm
from tests.serving import Running

ROOT = Path(__file__).parents[1]
DT_S, ACTIONS = 0.05, 12
CONTRACT = Contract(Spec(3, 2, (-1.0, -2.0), (1.0, 2.0), 1 / DT_S), ACTIONS)
CONTROL = """
import json, sys
from pathlib import Path
from embodied.deploy.clock import MonotonicClock
from embodied.deploy.loop import ControlLoop
from embodied.deploy.realtime import ask_for_priority
from embodied.deploy.shared import SharedMail
from embodied.deploy.watchdog import Guards
from tests.robots import arm

folder = Path(sys.argv[1])
robot = arm(MonotonicClock())
mail = SharedMail("arm", robot.observation_features, robot.limits, creates=True, folder=folder)
# After each hold it has a way to catch up with its swing, and is clipped meanwhile.
loop = ControlLoop(robot, mail, guards=Guards(max_clipped=50))
granted = ask_for_priority()
print("ready", flush=True)
loop.run()
mail.close()
changes = [[change.time, change.after] for change in loop.watchdog.changes]
print(json.dumps({"granted": granted, "changes": changes}))
"""


class Swing:
    """Moves both joints to and fro, by the time that is the last number of its state."""

    said = ""

    def reset(self, seed: int) -> None: ...
    def tell(self, parts: Row) -> None: ...
    def correct(self, parts: Row) -> None: ...
    def release(self) -> None: ...

    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        times = observation["state"][2] + np.arange(ACTIONS) * DT_S
        swing = 0.1 * np.sin(0.5 * np.pi * times)
        return np.stack([0.1 + swing, -0.2 - swing], axis=1).astype(np.float32)


def serve(port: int) -> None:
    """A server in this process, until it is killed."""
    server = Running(contract=CONTRACT, make_mind=Swing)
    server.server._address = ("127.0.0.1", port)
    server.start()
    signal.pause()


class Proxy:
    """Passes bytes between a client and the server, or swallows them and says nothing."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port, self._target = self._listener.getsockname()[1], port
        self.swallows = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
        back.start()
        self._pass(client, server)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                while self.swallows:
                    time.sleep(0.005)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


class Thinking(threading.Thread):
    """Asks the server about every new observation, and passes its plans on."""

    def __init__(self, mail: SharedMail, url: str) -> None:
        super().__init__(daemon=True)
        self.mail, self.client = mail, PolicyClient(url, timeout_s=0.2, connect_timeout_s=0.5)
        self.ended = threading.Event()
        self.failures: set[str] = set()
        self.state: State | None = None
        self._request, self._begun = 0, time.monotonic_ns()

    def run(self) -> None:
        while not self.ended.wait(0.002):
            seen = self.mail.observe()
            if seen is None:
                continue
            self.state = seen.state
            state = [*seen.command, (seen.time - self._begun) / SECOND]
            asked = {"observation/state": state, "obs_time": seen.time}
            try:
                reply = self.client.infer(asked)
            except (ServerLost, ServerSilent, ServerError) as error:
                self.failures.add(type(error).__name__)
                continue
            self._request += 1
            time_ns = reply["obs_time"]
            self.mail.send(
                TimedChunk(reply["actions"], time_ns, time_ns, to_ns(DT_S), self._request)
            )
        self.client.close()


class Scene:
    """All of it.

    Attributes:
        report: what the control process says at its end.
    """

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.test_serve_faults"])
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server = self._serve()
        self.proxy = Proxy(self.port)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        self.control = subprocess.Popen(
            [sys.executable, "-c", CONTROL, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.control.stdout is not None
        assert self.control.stdout.readline() == "ready\n"
        robot = arm()
        self.mail = SharedMail(
            "arm", robot.observation_features, robot.limits, creates=False, folder=folder
        )
        self.thinking = Thinking(self.mail, f"ws://127.0.0.1:{self.proxy.port}")
        self.thinking.start()
        self.report: dict[str, Any] = {}

    def _serve(self) -> BaseProcess:
        process = self._context.Process(target=serve, args=(self.port,), daemon=True)
        process.start()
        return process

    def until(self, state: State) -> None:
        """Waits until the robot is in a state, arming it where it waits for that."""
        end = time.monotonic() + 60
        while self.thinking.state is not state:
            if state is State.RUN and self.thinking.state in (State.IDLE, None):
                self.mail.order(Event.ARM)
                time.sleep(0.1)
            assert time.monotonic() < end, f"it never came to {state}: {self.thinking.state}"
            time.sleep(0.005)

    # Faults, and how they end

    def kill(self) -> None:
        os.kill(self.server.pid or 0, signal.SIGKILL)

    def start_anew(self) -> None:
        self.server.join()
        self.server = self._serve()

    def stop(self) -> None:
        os.kill(self.server.pid or 0, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.server.pid or 0, signal.SIGCONT)

    def cut_off(self) -> None:
        self.proxy.swallows = True

    def join(self) -> None:
        self.proxy.swallows = False

    def end(self) -> None:
        self.control.send_signal(signal.SIGTERM)
        output, _ = self.control.communicate(timeout=30)
        self.report = json.loads(output)

    def clear(self) -> None:
        self.thinking.ended.set()
        self.thinking.join(10)
        self.control.kill()
        self.control.wait()
        self.server.kill()
        self.proxy.close()
        self.mail.close()


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    found = Scene(folder)
    try:
        yield found
    finally:
        found.clear()


FAULT_S = 0.4  # that each lasts at least, longer than a plan is trusted


def holds(folder: Path, trials: int) -> tuple[list[float], bool]:
    """How long after each fault the robot still ran, in s, where it ran; and whether the loop had
    priority. Where a busy machine alone has made it hold, there is nothing to see."""
    random, faults = np.random.default_rng(0), []
    with scene(folder) as found:
        ways: list[tuple[Callable[[], None], Callable[[], None]]] = [
            (found.kill, found.start_anew),
            (found.stop, found.go_on),
            (found.cut_off, found.join),
        ]
        for trial in range(trials):
            found.until(State.RUN)
            time.sleep(0.1 + 0.3 * random.random())
            begun = time.monotonic_ns()
            ways[trial % len(ways)][0]()
            time.sleep(FAULT_S)
            found.until(State.HOLD)
            faults.append((begun, time.monotonic_ns()))
            ways[trial % len(ways)][1]()
        found.until(State.RUN)  # and goes on by itself, or armed anew where that took long
        found.end()
        failures = found.thinking.failures
    assert {"ServerLost", "ServerSilent"} <= failures
    changes = [(at, State(after)) for at, after in found.report["changes"]]
    return [x for fault in faults for x in ran_on(changes, *fault)], found.report["granted"]


def ran_on(changes: list[tuple[int, State]], begun: int, ended: int) -> Iterator[float]:
    """How long the robot ran in a time, in s; nothing where it did not when that began."""
    before = [after for at, after in changes if at <= begun]
    during = [(at, after) for at, after in changes if begun < at < ended]
    if before[-1] is State.RUN:
        assert during, "it ran all the time"
        assert during[-1][1] is not State.RUN, "it began to run although the server was gone"
        yield (during[-1][0] - begun) / SECOND


@pytest.mark.slow  # by the wall clock
def test_a_robot_holds_whenever_its_server_is_gone_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    delays, _ = holds(tmp_path, trials=3)
    assert delays


@pytest.mark.slow  # by the wall clock, which a busy machine stretches
@pytest.mark.timeout(900)
def test_it_holds_within_expiry_and_a_tick_in_50_of_50_trials(tmp_path: Path) -> None:
    delays, granted = holds(tmp_path, trials=50)
    allowance = 0.002 if granted else 0.05  # of a process that others may displace
    limit = Guards().expiry_s + 0.01 + allowance
    print(f"{len(delays)} of 50 ran; hold after {np.mean(delays) * 1e3:.0f} ms, at most ", end="")
    print(f"{max(delays) * 1e3:.1f} ms, limit {limit * 1e3:.0f} ms, priority: {granted}")
    assert len(delays) > 40
    assert max(delays) <= limit
