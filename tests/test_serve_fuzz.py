"""Messages that nobody would send: the server answers each, lives, and does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from embodied.serve.fields import OPTIONS
from embodied.serve.wire import encode
from tests.serving import ask, observation, raw

ROOT = Path(__file__).parents[1]
SERVER = """
import asyncio
from tests.serving import Mind, Running

class Forgetful(Mind):
    def infer(self, observation):
        for kept in (self.seen, self.told, self.corrected, self.seeds):
            kept.clear()
        return super().infer(observation)

server = Running(make_mind=Forgetful)
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
    """One change or a few: bits, bytes, what is left out, put in twice, or cut off."""
    data = bytearray(message)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        at = int(random.integers(len(data) + 1))
        match random.integers(12):
            case 0:
                data[at : at + 1] = random.choice(HEADS)
            case 1:
                del data[at : at + int(random.integers(1, 9))]
            case 2:
                data[at:at] = data[at : at + int(random.integers(1, 40))]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = random.bytes(int(random.integers(1, 9)))
            case 5:
                data[at : at + 4] = b"\xff" * 4
            case _ if at < len(data):
                data[at] ^= 1 << int(random.integers(8))
    return bytes(data)


HEADS = [bytes([head]) for head in (0x80, 0x90, 0xC1, 0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0xFF)]


def odd(random: np.random.Generator) -> Any:
    """A value that hardly anybody sends, but that the format can hold."""
    lie = {
        "__ndarray__": bool(random.random() < 0.9),
        "data": random.bytes(int(random.integers(16))),
        "dtype": str(random.choice(["<f4", "|u1", "|O", "|V4", "<c8", "<U1", "", "|b1"])),
        "shape": random.integers(-1, 4, size=int(random.integers(8))).tolist(),
    }
    choices: list[Any] = [
        *(None, True, -1, 2**63, float("nan"), float("inf"), "x" * 5000, "\x00", b"", [], {}),
        *([[[]]], {"": {}}, lie, {**lie, "order": "C"}, {"__npgeneric__": True, "data": 3}),
        *(np.zeros(3), np.zeros((3, 1)), np.full(3, np.nan), np.zeros(3, bool), [1, [2], 3]),
        {"points": [[0, 0]] * int(random.integers(5)), "size": [4, int(random.integers(-1, 9))]},
    ]
    return choices[random.integers(len(choices))]


def strange(random: np.random.Generator) -> bytes:
    """A request with one or two odd fields."""
    keys = [*observation(), *OPTIONS, "previous_action", "another"]
    fields = {str(random.choice(keys)): odd(random) for _ in range(random.integers(1, 3))}
    return encode(observation(**fields))


def fuzz(url: str, count: int, seed: int) -> dict[str, int]:
    """How many messages were answered with what; a good client is served all along."""
    random, originals, found = np.random.default_rng(seed), seeds(), dict.fromkeys(CODES, 0)
    found["actions"] = 0
    with raw(url) as bad, raw(url) as good:
        for i in range(count):
            message = originals[random.integers(len(originals))]
            answer = ask(bad, mutated(message, random) if i % 2 else strange(random))
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
        grown = resident_mb(pid) - before
    print(f"{count} messages, memory grew by {grown:.1f} MB: {found}")
    assert grown < 20
    assert sum(found.values()) == count
    assert all(found.values()), found  # every kind of refusal was met, and some are harmless


def test_5000_messages_crash_nothing_and_leave_nothing_behind() -> None:
    attack(5_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_100000_messages_crash_nothing_and_leave_nothing_behind() -> None:
    attack(100_000)
