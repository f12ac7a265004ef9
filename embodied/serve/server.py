"""A policy's server: openpi's websocket protocol, and what a robot wants besides.

It sends the contract's metadata, then answers each message with one: a map with `actions`, or a
line of text that begins with an error's code and does not end the connection. Requests of all
connections are computed one at a time, in the order in which they come, by a thread of its own, so
that whatever it takes, health checks and pings are answered.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from embodied.serve.contract import Contract
from embodied.serve.fields import Request, RequestError
from embodied.serve.gate import check_binding, refusal
from embodied.serve.metrics import Metrics
from embodied.serve.session import Mind, Session
from embodied.serve.wire import MAX_BYTES, WireError, decode, encode, request_id_of

try:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response
except ImportError as error:
    raise ImportError(
        "the policy server needs the package websockets: pip install 'embodied-policies[deploy]'"
    ) from error

logger = logging.getLogger(__name__)

TRY_LATER = 1013  # of websockets' closing codes


@dataclass(frozen=True)
class Bounds:
    """How much is borne from clients.

    Attributes:
        clients: that are served at the same time.
        sockets: that are open at the same time, greeted or not.
        open_s: for a handshake.
        idle_s: without a sign of life; who answers pings lives.
        waiting: requests of a client that are read ahead of the answers.
    """

    clients: int = 8
    sockets: int = 64
    open_s: float = 5.0
    idle_s: float = 30.0
    waiting: int = 4


@dataclass(eq=False)
class _Job:
    """A message that waits for its answer.

    Attributes:
        request: None for what was none; `problem` then says why.
        revoked: whether nobody wants the answer any more.
    """

    request: Request | None
    problem: str
    request_id: int | None
    arrived: float
    revoked: bool = False

    def check_wanted(self, request: Request) -> None:
        """Raises RequestError where its answer comes too late."""
        if self.revoked:
            raise RequestError("E_SERVE_CANCELLED: this request was cancelled while it waited")
        waited_ms = (time.perf_counter() - self.arrived) * 1e3
        if waited_ms > request.deadline_ms:
            raise RequestError(
                f"E_SERVE_LATE: this request waited {waited_ms:.0f} ms, longer than its deadline"
            )


@dataclass(eq=False)
class _Client:
    """A connection, its session once something was asked, and what waits for an answer."""

    connection: ServerConnection
    waiting: asyncio.Queue[_Job | None]
    session: Session | None = None
    jobs: set[_Job] = field(default_factory=set)
    previous_ms: float | None = None


class PolicyServer:
    """Serves a policy until it is told to stop.

    Args:
        make_mind: makes one for each connection, in the thread that computes.
        host: address; others than this machine's own need a key.
        port: 0 takes a free one.
        key: what clients send as `Authorization: Api-Key KEY`.
        instruction, seed: as of `Session`.

    Attributes:
        metrics: what was counted so far.
    """

    def __init__(
        self,
        contract: Contract,
        make_mind: Callable[[], Mind],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        instruction: str = "",
        seed: int = 0,
        bounds: Bounds | None = None,
    ) -> None:
        check_binding(host, key)
        self.contract, self.metrics, self.bounds = contract, Metrics(), bounds or Bounds()
        self._make_session = partial(
            Session, make_mind, contract, instruction=instruction, seed=seed
        )
        self._address, self._key = (host, port), key
        self._greeting = encode(contract.metadata)
        self._device = ThreadPoolExecutor(1, "policy")

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Listens until `stop`; `ready` is called with the port.

        Raises OSError where the address cannot be had.
        """
        bounds = self.bounds
        listening = serve(
            self._attend,
            *self._address,
            compression=None,  # it would cost more time than it saves
            process_request=self._admit,
            server_header=None,
            open_timeout=bounds.open_s,
            ping_interval=bounds.idle_s / 2,
            ping_timeout=bounds.idle_s / 2,
            close_timeout=1.0,
            max_size=MAX_BYTES,
            max_queue=1,
            create_connection=_bounded(bounds.sockets),
        )
        try:
            async with listening as server:
                ready(server.sockets[0].getsockname()[1])
                await stop.wait()
        finally:
            self._device.shutdown(wait=False, cancel_futures=True)

    # Before a connection is one

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answers what asks for a page; None lets a websocket in."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        refused = refusal(request.headers, self._key)
        if refused is not None:
            self.metrics.failed(refused.text.partition(":")[0])
            return connection.respond(refused.status, refused.text + "\n")
        if request.path == "/metrics":
            return connection.respond(HTTPStatus.OK, self.metrics.text())
        return None

    # A connection

    async def _attend(self, connection: ServerConnection) -> None:
        if self.metrics.connections >= self.bounds.clients:
            self.metrics.failed("E_SERVE_BUSY")
            reason = f"E_SERVE_BUSY: {self.bounds.clients} clients are served already"
            await connection.close(TRY_LATER, reason)
            return
        client = _Client(connection, asyncio.Queue(self.bounds.waiting))
        self.metrics.connections += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(client))
                await self._write(client)
                reader.cancel()  # it may wait for room among requests that nobody answers now
        finally:
            self.metrics.connections -= 1
            self.metrics.waiting -= len(client.jobs)

    async def _read(self, client: _Client) -> None:
        """Reads ahead, so that a request can cancel those before it."""
        with suppress(ConnectionClosed):
            async for message in client.connection:
                job = self._job(message)
                if job.request is not None and job.request.cancel:
                    _revoke(client)
                client.jobs.add(job)
                self.metrics.waiting += 1
                await client.waiting.put(job)
        _revoke(client)
        await client.waiting.put(None)

    def _job(self, message: str | bytes) -> _Job:
        arrived, content, request, problem = time.perf_counter(), None, None, ""
        try:
            if isinstance(message, str):
                raise WireError("E_WIRE_FORMAT: requests are binary messages, this is text")
            content = decode(message)
            request = self.contract.request(content)
        except (WireError, RequestError) as error:
            problem = str(error)
        return _Job(request, problem, request_id_of(content), arrived)

    async def _write(self, client: _Client) -> None:
        """Answers in the order of the requests."""
        with suppress(ConnectionClosed):
            await client.connection.send(self._greeting)
            while (job := await client.waiting.get()) is not None:
                await client.connection.send(await self._answer(client, job))
                client.jobs.remove(job)
                self.metrics.waiting -= 1

    async def _answer(self, client: _Client, job: _Job) -> bytes | str:
        """The message for a job."""
        if job.request is None:
            return self._failure(job.problem, job)
        try:
            compute = partial(self._compute, client, job, job.request)
            answer = await asyncio.get_running_loop().run_in_executor(self._device, compute)
        except RequestError as error:
            return self._failure(str(error), job)
        except Exception:
            number = secrets.token_hex(4)
            logger.exception("request failed, error %s", number)
            return self._failure(
                f"E_SERVE_POLICY: the policy failed; the server's log has error {number}", job
            )
        seconds = time.perf_counter() - job.arrived
        if client.previous_ms is not None:
            answer["server_timing"]["prev_total_ms"] = client.previous_ms
        client.previous_ms = seconds * 1e3
        self.metrics.answered(seconds)
        return encode(answer)

    def _compute(self, client: _Client, job: _Job, request: Request) -> dict[str, Any]:
        """In the policy's thread."""
        job.check_wanted(request)
        if client.session is None:
            client.session = self._make_session()
        return client.session.answer(request)

    def _failure(self, text: str, job: _Job) -> str:
        self.metrics.failed(text.partition(":")[0])
        return text if job.request_id is None else f"{text} [request_id={job.request_id}]"


def _revoke(client: _Client) -> None:
    for job in client.jobs:
        job.revoked = True


def _bounded(sockets: int) -> type[ServerConnection]:
    class Bounded(ServerConnection):
        """A connection that is dropped at once where there are too many."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if len(self.server.handler_tasks) > sockets and isinstance(
                transport, asyncio.WriteTransport
            ):
                transport.abort()

    return Bounded
