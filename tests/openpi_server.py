"""A server that speaks openpi's protocol and nothing else, as its description says."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

DROPPED = object()
"""What `infer` gives to break the connection."""


def pack(value: Any) -> bytes:
    """With arrays as maps with keys of bytes."""

    def default(array: Any) -> Any:
        facts = {b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}
        return {b"__ndarray__": True, **facts}

    return bytes(msgpack.packb(value, default=default))


def unpack(message: bytes) -> Any:
    def undone(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in found:
            return found
        dtype, shape = np.dtype(found[b"dtype"]), found[b"shape"]
        return np.ndarray(buffer=found[b"data"], dtype=dtype, shape=shape)

    return msgpack.unpackb(message, object_hook=undone)


@contextmanager
def openpi_server(
    infer: Callable[[dict[str, Any]], Any], metadata: Any = None, port: int = 0
) -> Iterator[str]:
    """Its address. What `infer` gives is sent; bytes and text as they are."""

    def attend(connection: ServerConnection) -> None:
        def send(value: Any) -> None:
            connection.send(value if isinstance(value, bytes | str) else pack(value))

        send({"model": "pi0"} if metadata is None else metadata)
        try:
            while True:
                request = unpack(connection.recv())  # type: ignore[arg-type]
                reply = infer(request)
                if reply is DROPPED:
                    connection.socket.shutdown(socket.SHUT_RDWR)
                send(reply)
        except ConnectionClosed:
            return
        except Exception:
            send(traceback.format_exc())
            connection.close(1011)

    with serve(attend, "127.0.0.1", port, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host, found = server.socket.getsockname()[:2]
        try:
            yield f"ws://{host}:{found}"
        finally:
            server.shutdown()
            thread.join(10)
