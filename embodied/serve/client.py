"""A robot's side of the wire: asks a policy's server, ours or openpi's, and never waits for long.

A reply that comes too late is never taken for the next one: our server says which request it
answers, and a connection to any other is closed after a timeout. Loads no torch.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Mapping
from socket import SO_SNDTIMEO, SOL_SOCKET
from typing import Any

from embodied.serve.wire import MAX_BYTES, WireError, decode, encode, request_id_of

try:
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.protocol import State
    from websockets.sync.client import ClientConnection, connect
except ImportError as error:
    raise ImportError(
        "the policy client needs the package websockets: pip install 'embodied-policies[deploy]'"
    ) from error

_OURS = re.compile(r"embodied/\d+")
_NUMBER = re.compile(r"\[request_id=(\d+)\]$")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_SILENT = 2  # requests in a row without a reply, after which a connection is taken for dead


class ServerError(RuntimeError):
    """The server answered with an error; the connection still holds, unless the server ended it."""


class ServerLost(ConnectionError):
    """There is no connection, or it broke. The next request tries again."""


class ServerSilent(TimeoutError):
    """No reply came in time."""


class PolicyClient:
    """Asks a policy what to do, one request after the other, from one thread.

    It connects at the first request, and again at the first after a connection broke; after tries
    that fail it waits longer and longer, and raises meanwhile.

    Args:
        url: such as ws://127.0.0.1:8000.
        key: of the server, where it wants one.
        timeout_s: for a reply.
        connect_timeout_s: for a connection and the server's metadata.
        expected: entries that the metadata must have, such as `action_names`, so that a robot is
            not moved by a policy that was trained on another.
        now: monotonic time in s.

    Attributes:
        metadata: what the server said first, at the last connection; empty before.
        late: replies that came too late and were dropped.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 5.0,
        expected: Mapping[str, Any] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self.timeout_s, self.connect_timeout_s = url, timeout_s, connect_timeout_s
        self.metadata: dict[str, Any] = {}
        self.late = 0
        self._headers = {"Authorization": f"Api-Key {key}"} if key else {}
        self._expected, self._now = dict(expected or {}), now
        self._connection: ClientConnection | None = None
        self._begins: bool | int = False  # whether an episode begins with the next request
        self._request_id = self._silent = 0
        self._pause_s, self._next_try = 0.0, -float("inf")

    @property
    def is_ours(self) -> bool:
        """Whether the server knows requests by number, resets, deadlines and the other options."""
        return bool(_OURS.fullmatch(str(self.metadata.get("protocol"))))

    def reset(self, seed: int | None = None) -> None:
        """An episode begins with the next request; a plain openpi server is not told."""
        self._begins = True if seed is None else seed

    def infer(
        self, request: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """The reply to a request: `actions` (H, A), and whatever else the server says.

        Args:
            request: what the server's metadata asks for, and options of `embodied.serve.fields`.
            timeout_s: None for the client's.

        Raises:
            ServerSilent: E_SERVE_TIMEOUT.
            ServerLost: E_SERVE_LOST.
            ServerError: the server's own line.
            WireError: the request cannot be sent, or the reply cannot be read.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        connection = self.connect()
        self._request_id += 1
        message = encode(self._numbered(request, timeout_s))
        try:
            deadline = time.monotonic() + timeout_s
            _limit_sending(connection, timeout_s)
            connection.send(message)
            reply = self._reply(connection, deadline)
        except TimeoutError:
            raise self._timed_out(timeout_s) from None
        except (WebSocketException, OSError) as error:
            self.close()
            raise ServerLost(f"E_SERVE_LOST: {self.url} was lost: {_line(error)}") from error
        except WireError:
            self.close()
            raise
        self._silent = 0
        if isinstance(reply, str):
            raise ServerError(reply)
        self._begins = False
        return reply

    def close(self) -> None:
        """Ends the connection at once; the next request makes another."""
        connection, self._connection = self._connection, None
        self._silent = 0
        if connection is not None:
            connection.close()

    # A request

    def _numbered(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        if not self.is_ours:
            return dict(request)
        numbered = {
            **request,
            "request_id": self._request_id,
            "deadline_ms": timeout_s * 1e3,
            "cancel": self._silent > 0,  # nobody waits for the earlier ones any more
        }
        if self._begins is not False:
            numbered["reset"] = self._begins
        return numbered

    def _reply(self, connection: ClientConnection, deadline: float) -> dict[str, Any] | str:
        """The reply to the last request; those to earlier ones are dropped."""
        while True:
            message = connection.recv(max(0.0, deadline - time.monotonic()))
            if isinstance(message, str):
                found = _NUMBER.search(message)
                number, content = int(found[1]) if found else None, message
            else:
                content = decode(message)
                if not isinstance(content, dict):
                    raise WireError("E_WIRE_FORMAT: the reply is no map")
                number = request_id_of(content)
            if not self.is_ours or number in (None, self._request_id):
                return content
            self.late += 1

    def _timed_out(self, timeout_s: float) -> ServerSilent:
        self._silent += 1
        if not self.is_ours or self._silent >= _SILENT:
            self.close()
        return ServerSilent(f"E_SERVE_TIMEOUT: {self.url} did not answer within {timeout_s:g} s")

    # A connection

    def connect(self) -> ClientConnection:
        """Connects where there is no connection, and takes the server's metadata.

        Raises ServerLost, and ServerError for metadata that are not `expected`.
        """
        if self._connection is not None and self._connection.state is not State.OPEN:
            self.close()
        if self._connection is None:
            self._try()
        assert self._connection is not None
        return self._connection

    def _try(self) -> None:
        wait_s = self._next_try - self._now()
        if wait_s > 0:
            raise ServerLost(f"E_SERVE_LOST: {self.url} is tried again in {wait_s:.1f} s")
        try:
            self._open()
        except (WebSocketException, OSError, WireError) as error:
            self.close()
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._next_try = self._now() + self._pause_s
            raise ServerLost(f"E_SERVE_LOST: {self.url}: {_line(error)}") from error
        self._pause_s = 0.0
        self._check_metadata()

    def _open(self) -> None:
        deadline = time.monotonic() + self.connect_timeout_s
        context = connect(
            self.url,
            compression=None,
            max_size=MAX_BYTES,
            additional_headers=self._headers,
            open_timeout=self.connect_timeout_s,
            close_timeout=0.0,  # a server that hangs says no goodbye
            ping_interval=None,  # a request without a reply tells as much
            proxy=None,
        )
        self._connection = context.__enter__()  # and `close` leaves it
        message = self._connection.recv(max(0.0, deadline - time.monotonic()))
        metadata = decode(message) if isinstance(message, bytes) else None
        if not isinstance(metadata, dict):
            raise WireError("E_WIRE_FORMAT: the server's metadata is no map")
        self.metadata = metadata

    def _check_metadata(self) -> None:
        for name, wanted in self._expected.items():
            found = self.metadata.get(name)
            wanted = list(wanted) if isinstance(wanted, tuple) else wanted
            if found != wanted:
                self.close()
                raise ServerError(
                    f"E_SERVE_MISMATCH: {name} is {wanted!r} here, the server's is {found!r}; use "
                    "a policy that was trained on this robot"
                )


def _limit_sending(connection: ClientConnection, seconds: float) -> None:
    """A stopped server takes nothing from its socket, and sending would wait for ever."""
    whole, rest = divmod(max(seconds, 1e-3), 1.0)
    connection.socket.setsockopt(
        SOL_SOCKET, SO_SNDTIMEO, struct.pack("@ll", int(whole), int(rest * 1e6))
    )


def _line(error: Exception) -> str:
    if isinstance(error, InvalidStatus) and error.response.body:
        return error.response.body[:200].decode(errors="replace").strip()
    return " ".join(str(error)[:200].split()) or type(error).__name__
