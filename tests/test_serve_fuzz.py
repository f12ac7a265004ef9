"""Messages that nobody would send: the server answers each, lives, and does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from embodied.serve.wire import encode
from tests.serving import ask, observation, raw

ROOT = Path(__file__).parents[1]
SERVER = """
import asyncio
from tests.serving import Running

server = Running()
server._listens = lambda port: print(port, flush=True)
asyncio.run(server._run())
"""
CODES = ("E_WIRE_FORMAT: ", "E_WIRE_BOUNDS: ", "E_WIRE_ARRAY: ", "E_SERVE_FEATURE: ")
MB = 1024.0**2


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address, and its process id."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield f"ws://127.0.0.1:{int(process.stdout.readline())}", process.pid
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def seeds() -> list[bytes]:
    """Messages to be spoilt: good ones, and those with everything that the format has."""
    sketch = {"points": np.zeros((3, 2)), "size": [4, 6], "closes": 1}
    everything = observation(
        prompt="push the block",
        motion="left",
        reset=7,
        request_id=3,
        deadline_ms=1e9,
        goal_image=np.zeros((4, 6, 3), np.uint8),
        sketch=sketch,
    )
    wild = {"a": [1, -1, 2**40, 1.5, None, True, b"x" * 300, "y" * 300, {"b": [[[]]]}]}
    text_keys = {"__ndarray__": True, "data": b"\0" * 12, "dtype": "<f4", "shape": [3]}
    extension = {"observation/state": msgpack.ExtType(5, b"x" * 20)}
    return [
        encode(observation()),
        encode(everything),
        encode(wild),
        msgpack.packb({"observation/state": text_keys}),
        msgpack.packb(extension),
        encode({"observation/state": np.float32(3)}),
    ]


def mutated(message: bytes, random: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, what is left out, put in twice, or cut off."""
    data = bytearray(message)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(max(len(data), 1)))
        match random.integers(7):
            case 0 if data:
                data[at] ^= 1 << int(random.integers(8))
            case 1 if data:
                data[at] = int(
                    random.choice([0x80, 0x90, 0xC1, 0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0xFF])
                )
            case 2:
                del data[at : at + int(random.integers(1, 9))]
            case 3:
                data[at:at] = data[at : at + int(random.integers(1, 40))]
            case 4:
                del data[at:]
            case 5:
                data[at:at] = random.bytes(int(random.integers(1, 9)))
            case _:
                data[at : at + 4] = b"\xff" * 4
    return bytes(data)


def fuzz(url: str, count: int, seed: int) -> dict[str, int]:
    """How many messages were answered with what; a good client is served all along."""
    random, originals, found = np.random.default_rng(seed), seeds(), dict.fromkeys(CODES, 0)
    found["actions"] = 0
    with raw(url) as bad, raw(url) as good:
        for i in range(count):
            message = mutated(originals[random.integers(len(originals))], random)
            answer = ask(bad, message)
            if isinstance(answer, dict):
                found["actions"] += 1
            else:
                (code,) = [each for each in CODES if answer.startswith(each)] or [answer]
                assert len(answer) < 300
                found[code] += 1
            if i % 100 == 0:
                assert ask(good, observation())["actions"].shape == (5, 2)
    return found


def frames(url: str, count: int, seed: int) -> None:
    """Bytes in place of websocket frames; each connection may be ended, and no other is."""
    random = np.random.default_rng(seed)
    with raw(url) as good:
        for _ in range(count):
            with raw(url) as bad:
                bad.socket.sendall(random.bytes(int(random.integers(1, 200))))
                with suppress(TimeoutError, ConnectionClosed):
                    bad.recv(0.05)
            assert ask(good, observation())["actions"].shape == (5, 2)


def attack(count: int) -> None:
    with serving() as (url, pid):
        fuzz(url, 1000, seed=0)  # until all that is only ever needed once is there
        frames(url, 5, seed=0)
        before = resident_mb(pid)
        found = fuzz(url, count, seed=1)
        frames(url, min(count // 100, 200), seed=1)
        assert resident_mb(pid) - before < 20
    assert sum(found.values()) == count
    assert all(found.values()), found  # every kind of refusal was met, and some are harmless


def test_5000_messages_crash_nothing_and_leave_nothing_behind() -> None:
    attack(5_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_100000_messages_crash_nothing_and_leave_nothing_behind() -> None:
    attack(100_000)
