"""What the policy's server costs: 98 kB are asked and answered, by a policy that does nothing.

    python -m scripts.bench.serve [--rounds 5] [--calls 500] [--priority]

Beside it, in the same rounds and each in a process of its own: a bare TCP server and a bare
websocket server that take as many bytes and give as many back. Then how long a health check waits
while a policy computes.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.sync.client import connect

from embodied.deploy.realtime import ask_for_priority
from embodied.serve.client import PolicyClient
from embodied.serve.contract import Contract
from embodied.serve.server import PolicyServer
from embodied.serve.session import Session
from embodied.serve.wire import decode, encode
from embodied.structs import Spec
from scripts.bench._common import Rates, Report, arguments, figure, ratio_text, spread

CAMERAS = {"front": (128, 128), "wrist": (128, 128)}
CONTRACT = Contract(Spec(14, 7, (-1.0,) * 7, (1.0,) * 7, 10.0, cameras=CAMERAS), 16)
LIMIT = (
    "the kernel wakes the other process for each message, and Python's event loop and threads each "
    "once more. A robot's period is 20 ms or more; on a busy machine the tail is the scheduler's."
)
_LENGTH = struct.Struct(">I")


class Idle:
    """A policy that does nothing."""

    said = ""
    actions = np.zeros((16, 7), np.float32)

    def reset(self, seed: int) -> None: ...
    def tell(self, parts: Any) -> None: ...
    def correct(self, parts: Any) -> None: ...
    def release(self) -> None: ...
    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return self.actions


class Busy(Idle):
    """A policy that multiplies matrices for a second."""

    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        matrix, end = np.ones((256, 256), np.float32), time.perf_counter() + 1.0
        while time.perf_counter() < end:
            matrix = matrix @ matrix * 1e-3
        return self.actions


def request() -> dict[str, Any]:
    """What a robot with two cameras sends."""
    images = {f"observation/{name}": np.zeros((*CAMERAS[name], 3), np.uint8) for name in CAMERAS}
    return {"observation/state": np.zeros(14, np.float32), **images, "prompt": "pick it up"}


def reply() -> dict[str, Any]:
    """What the server answers to that."""
    session = Session(Idle, CONTRACT)
    timing = {"infer_ms": 0.1, "prev_total_ms": 0.2}
    return {**session.answer(CONTRACT.request(request())), "server_timing": timing, "request_id": 1}


# Servers, each in a process of its own


def echo_tcp(pipe: Connection, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while receive(connection):
            connection.sendall(_LENGTH.pack(len(answer)) + answer)


def echo_websocket(pipe: Connection, answer: bytes) -> None:
    async def attend(connection: ServerConnection) -> None:
        async for _ in connection:
            await connection.send(answer)

    async def run() -> None:
        server = await serve_websocket(attend, "127.0.0.1", 0, compression=None, max_size=None)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def serve_policy(pipe: Connection, make_mind: Callable[[], Idle]) -> None:
    server = PolicyServer(CONTRACT, make_mind, port=0)
    asyncio.run(server.run(asyncio.Event(), pipe.send))


def receive(connection: socket.socket) -> bytes:
    """The next message; empty at the end."""
    head = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return b""
    return connection.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)


def _prioritised(target: Callable[..., None], pipe: Connection, *rest: Any) -> None:
    ask_for_priority()
    target(pipe, *rest)


@contextmanager
def process(target: Callable[..., None], *rest: Any, priority: bool) -> Iterator[int]:
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    run = partial(_prioritised, target) if priority else target
    child = context.Process(target=run, args=(theirs, *rest), daemon=True)
    child.start()
    try:
        yield ours.recv()
    finally:
        child.kill()
        child.join()


# Clients


@dataclass
class Timed:
    """An exchange, and how long it took, in s, one list for each round."""

    name: str
    exchange: Callable[[], Any]
    rounds: list[list[float]] = field(default_factory=list)

    def visit(self, calls: int) -> None:
        for _ in range(20):
            self.exchange()
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            self.exchange()
            times.append(time.perf_counter() - start)
        self.rounds.append(times)

    @property
    def medians(self) -> list[float]:
        return [median(times) for times in self.rounds]


def exchange_tcp(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)
    receive(connection)


def codec(message: dict[str, Any], answer: dict[str, Any]) -> None:
    """All that is packed and unpacked for one exchange, in one process."""
    CONTRACT.request(decode(encode(message)))
    decode(encode(answer))


@contextmanager
def exchanges(priority: bool) -> Iterator[list[Timed]]:
    """All that is compared."""
    message, answer = request(), reply()
    asked, answered = encode(message), encode(answer)
    with (
        process(echo_tcp, answered, priority=priority) as tcp,
        process(echo_websocket, answered, priority=priority) as websocket,
        process(serve_policy, Idle, priority=priority) as ours,
        socket.create_connection(("127.0.0.1", tcp)) as bare,
        connect(f"ws://127.0.0.1:{websocket}", compression=None, proxy=None) as plain,
    ):
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = PolicyClient(f"ws://127.0.0.1:{ours}", timeout_s=10.0)
        if priority:
            ask_for_priority()
        yield [
            Timed("TCP, same bytes", lambda: exchange_tcp(bare, asked)),
            Timed("websocket, same bytes", lambda: (plain.send(asked), plain.recv())),
            Timed("policy server and client", lambda: client.infer(message)),
            Timed("of that, packing and checks", lambda: codec(message, answer)),
        ]
        client.close()


def rows(timed: Sequence[Timed]) -> list[dict[str, str]]:
    """A table in ms; ratios of medians are to the first case."""
    found = []
    for case in timed:
        p50, p99 = np.percentile(np.concatenate(case.rounds) * 1e3, (50, 99)).tolist()
        found.append(
            {
                "case": case.name,
                "p50 ms": figure(p50),
                "p99 ms": figure(p99),
                "spread": f"{spread(case.medians):.0%}",
                "p50 ratio": ratio_text(case.medians, timed[0].medians),
            }
        )
    return found


def check_health(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"OK\n"
    connection.close()


def health(calls: int) -> Timed:
    """Health checks while the policy computes, without priority: it would go to the policy too."""
    with process(serve_policy, Busy, priority=False) as port:
        client, ended = PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=60.0), threading.Event()

        def keep_busy() -> None:
            while not ended.is_set():
                client.infer(request())

        busy = threading.Thread(target=keep_busy)
        busy.start()
        time.sleep(0.5)
        timed = Timed("health check while a policy computes", lambda: check_health(port))
        timed.visit(calls)
        ended.set()
        busy.join()
        client.close()
    return timed


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("serve", __doc__ or "")
    parser.add_argument("--calls", type=int, default=500, help="of each case and round")
    parser.add_argument("--priority", action="store_true", help="ask for real-time scheduling")
    options = parser.parse_args(argv)
    report = Report("serve", options)
    waits = health(max(options.calls // 10, 10))  # before this process has priority itself
    with exchanges(options.priority) as timed:
        for _ in range(options.rounds):
            for case in timed:
                case.visit(options.calls)
    rates = [Rates(case.name, tuple(1 / x for x in case.medians), ()) for case in timed]
    size = len(encode(request())) / 1e3
    report.add(f"A request of {size:.0f} kB and its answer", rows(timed), rates)
    report.add("While it computes", rows([waits]), [])
    report.close(LIMIT)


if __name__ == "__main__":
    main()
