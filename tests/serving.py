"""A policy's server in a thread, with a mind that does as it is told, and raw access to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from embodied.conditions import Language, LanguageMotion, Row
from embodied.serve.contract import Contract
from embodied.serve.server import PolicyServer
from embodied.serve.wire import decode, encode
from embodied.structs import Spec

SPEC = Spec(3, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"front": (4, 6)})
HORIZON = 5
CONTRACT = Contract(SPEC, HORIZON)


class Mind:
    """Acts by the first state, plus one for each inference of its episode; keeps what it is told.

    Attributes:
        before: called in each inference, with the state.
        minds: all that there are, oldest first; shared.
    """

    minds: list[Mind]

    def __init__(self, before: Callable[[NDArray[Any]], None] = lambda state: None) -> None:
        self.before, self.told, self.corrected = before, [], []  # type: ignore[var-annotated]
        self.seeds: list[int] = []
        self.seen: list[Mapping[str, NDArray[Any]]] = []
        self.first, self.count = 0.0, 0
        self.said = ""

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self.count = 0

    def tell(self, parts: Row) -> None:
        self.told.append(list(parts))

    def correct(self, parts: Row) -> None:
        (part,) = parts
        assert isinstance(part, LanguageMotion)
        if part.text.startswith("fly"):
            raise ValueError("the policy cannot be told that")
        self.corrected.append(part.text)

    def release(self) -> None:
        self.corrected.append(None)

    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self.before(observation["state"])
        self.seen.append(observation)
        if self.count == 0:
            self.first = float(observation["state"][0])
        self.count += 1
        return np.full((HORIZON, 2), self.first + self.count, np.float32)

    @property
    def words(self) -> list[str]:
        """The instructions that it was told, in order."""
        return [part.text for row in self.told for part in row if isinstance(part, Language)]


def observation(first: float = 0.0, **more: Any) -> dict[str, Any]:
    """A request for `CONTRACT`."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    state = np.array([first, 0.5, -0.5], np.float32)
    return {"observation/state": state, "observation/image": image, **more}


class Running:
    """A server that runs in a thread.

    Attributes:
        minds: that it made, oldest first.
        url: where it listens.
    """

    def __init__(self, **options: Any) -> None:
        self.minds: list[Mind] = []
        self._before = options.pop("before", lambda state: None)
        make = options.pop("make_mind", self._make)
        contract = options.pop("contract", CONTRACT)
        self.server = PolicyServer(contract, make, port=0, **options)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def _make(self) -> Mind:
        self.minds.append(Mind(self._before))
        return self.minds[-1]

    async def _run(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        await self.server.run(self._stop, self._listens)

    def _listens(self, port: int) -> None:
        self.port, self.url = port, f"ws://127.0.0.1:{port}"
        self._ready.set()

    def start(self) -> Running:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    """A server for a while; options of `PolicyServer`, and `before` of `Mind`."""
    server = Running(**options).start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def raw(url: str, **options: Any) -> Iterator[ClientConnection]:
    """A connection that has taken the metadata."""
    with connect(url, compression=None, proxy=None, close_timeout=1, **options) as connection:
        decode(connection.recv(10))
        yield connection


def ask(connection: ClientConnection, message: Any, timeout: float = 10) -> Any:
    """The answer to a message: bytes as they are, all else encoded; text, or what was encoded."""
    connection.send(message if isinstance(message, bytes | str) else encode(message))
    answer = connection.recv(timeout)
    return answer if isinstance(answer, str) else decode(answer)
