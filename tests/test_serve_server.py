"""The server over loopback: who is let in, what ends a connection and what does not, and that
nobody waits for another's faults."""

from __future__ import annotations

import ast
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from embodied.deploy.brain import Brain
from embodied.policies.chunk import ChunkPolicy
from embodied.serve import gate, server
from embodied.serve.contract import Contract
from embodied.serve.gate import check_binding
from embodied.serve.server import Bounds
from embodied.serve.wire import MAX_BYTES, encode
from tests.serving import Running, ask, observation, raw, running
from tests.test_layout import imports

ROOT = Path(__file__).parents[1]
KEY = "a key of enough characters"


def get(server: Running, path: str, timeout: float = 10, **headers: str) -> tuple[int, str]:
    """Status and body of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metric(server: Running, name: str) -> float:
    """What the metrics' page says."""
    lines = dict(line.rsplit(" ", 1) for line in get(server, "/metrics")[1].splitlines())
    return float(lines[name])


def until(condition: Callable[[], bool]) -> None:
    """Waits for what other threads do; fails where that does not come."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


def test_a_request_is_answered_with_actions() -> None:
    with running() as server, raw(server.url) as client:
        for count in (1, 2):
            found = ask(client, observation(4.0))
            assert found["actions"].tolist() == [[4.0 + count] * 2] * 5
        assert found["server_timing"].keys() == {"infer_ms", "prev_total_ms"}
        assert get(server, "/healthz") == (200, "OK\n")
        assert metric(server, "embodied_requests_total") == 2
        assert metric(server, "embodied_connections") == 1
        assert metric(server, 'embodied_latency_seconds{quantile="0.99"}') > 0
    assert server.minds[0].seeds == [0]


# P2: too large, too slow, too silent, too many


def test_too_large_a_message_ends_its_connection_and_no_other() -> None:
    with running() as server, raw(server.url) as client, raw(server.url) as other:
        with pytest.raises(ConnectionClosed, match="message too big"):
            ask(client, b"\xc6" + (MAX_BYTES + 1).to_bytes(4, "big") + bytes(MAX_BYTES + 1))
        assert "actions" in ask(other, observation())


def test_who_connects_and_says_nothing_is_dropped() -> None:
    with running(bounds=Bounds(open_s=0.2)) as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as silent:
            assert silent.recv(1) == b""  # and not for ever nothing
        with socket.create_connection(("127.0.0.1", server.port), 10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert slow.recv(1) == b""


def handshake(server: Running) -> socket.socket:
    """A websocket that answers no pings."""
    client = socket.create_connection(("127.0.0.1", server.port), 10)
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return client


def test_who_no_longer_answers_pings_is_dropped_and_who_does_is_not() -> None:
    with running(bounds=Bounds(idle_s=0.4)) as server, raw(server.url) as living:
        with handshake(server) as dead:
            while dead.recv(4096):
                pass
        assert metric(server, "embodied_connections") == 1
        assert "actions" in ask(living, observation())  # by now silent for as long


def test_only_so_many_clients_are_served_and_a_place_is_free_again_afterwards() -> None:
    with running(bounds=Bounds(clients=2)) as server, raw(server.url):
        with raw(server.url):
            refused = raw(server.url)
            with pytest.raises(ConnectionClosed, match=r"1013 .* E_SERVE_BUSY: 2 clients are"):
                refused.__enter__()
        until(lambda: metric(server, "embodied_connections") == 1)
        with raw(server.url) as next_one:
            assert "actions" in ask(next_one, observation())
        assert metric(server, 'embodied_errors_total{code="E_SERVE_BUSY"}') == 1


def test_only_so_many_sockets_are_open() -> None:
    with running(bounds=Bounds(sockets=3)) as server, raw(server.url) as client:
        idle = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(2)]
        one_more = socket.create_connection(("127.0.0.1", server.port), 10)
        with one_more, suppress(ConnectionResetError):
            assert one_more.recv(1) == b""
        assert "actions" in ask(client, observation())
        for each in idle:
            each.close()


def test_a_client_that_takes_no_answers_holds_up_no_other() -> None:
    with running() as server, raw(server.url) as other, handshake(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        message = encode(observation(request_id=1))
        assert 126 <= len(message) < 2**16
        frame = b"\x82\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message
        deaf.settimeout(0.5)
        with pytest.raises(TimeoutError):  # it sends until the server reads no more
            deaf.sendall(frame * 100_000)
        assert "actions" in ask(other, observation())


# P3: keys, pages in browsers, other machines


ENTRIES: dict[str, tuple[str | None, list[tuple[str, str]], str]] = {
    "nothing is needed on this machine": (None, [], ""),
    "the right key": (KEY, [("Authorization", f"Api-Key {KEY}")], ""),
    "no key": (KEY, [], "E_SERVE_KEY"),
    "a wrong key": (KEY, [("Authorization", f"Api-Key {KEY}x")], "E_SERVE_KEY"),
    "the beginning of the key": (KEY, [("Authorization", f"Api-Key {KEY[:-1]}")], "E_SERVE_KEY"),
    "another scheme": (KEY, [("Authorization", f"Bearer {KEY}")], "E_SERVE_KEY"),
    "two keys": (KEY, [("Authorization", f"Api-Key {k}") for k in (KEY, "x")], "E_SERVE_KEY"),
    "a page": (None, [("Origin", "http://evil.example")], "E_SERVE_ORIGIN"),
    "a page of this machine": (None, [("Origin", "http://127.0.0.1")], "E_SERVE_ORIGIN"),
    "a file": (None, [("Origin", "null")], "E_SERVE_ORIGIN"),
    "a page with the key": (
        KEY,
        [("Authorization", f"Api-Key {KEY}"), ("Origin", "http://evil.example")],
        "E_SERVE_ORIGIN",
    ),
    "two pages": (None, [("Origin", "http://a"), ("Origin", "http://b")], "E_SERVE_ORIGIN"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_who_is_let_in(name: str) -> None:
    key, headers, code = ENTRIES[name]
    with running(key=key) as server:
        if not code:
            with raw(server.url, additional_headers=headers) as client:
                assert "actions" in ask(client, observation())
            return
        with pytest.raises(InvalidStatus) as found, raw(server.url, additional_headers=headers):
            pass
        assert found.value.response.status_code == (403 if "ORIGIN" in code else 401)
        assert found.value.response.body.startswith(code.encode())


def test_figures_need_the_key_and_health_does_not() -> None:
    with running(key=KEY) as server:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", Authorization=f"Api-Key {KEY}")[0] == 200
        assert get(server, "/metrics", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    ("host", "key", "problem"),
    [
        ("127.0.0.1", None, ""),
        ("127.8.9.1", None, ""),
        ("::1", None, ""),
        ("localhost", None, ""),
        ("0.0.0.0", KEY, ""),
        ("0.0.0.0", None, "host=0.0.0.0 can be reached from other machines"),
        ("::", None, "host=:: can be reached"),
        ("192.168.0.7", None, "host=192.168.0.7 can be reached"),
        ("robot.local", None, "host=robot.local can be reached"),
        ("", None, "host= can be reached"),
        ("127.0.0.1.evil.example", None, "can be reached"),
        ("0.0.0.0", "short", "key must have at least 16 printable ASCII characters"),
        ("127.0.0.1", "", "key must have at least 16"),
        ("127.0.0.1", "sixteen\ncharacters", "key must have at least 16 printable"),
    ],
)
def test_addresses_that_others_reach_need_a_key(host: str, key: str | None, problem: str) -> None:
    if not problem:
        check_binding(host, key)
        return
    with pytest.raises(ValueError, match=f"^E_CONFIG_VALUE: .*{problem}"):
        running(host=host, key=key).__enter__()


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return False

    monkeypatch.setattr(gate.hmac, "compare_digest", compare)
    with running(key=KEY) as server:
        assert get(server, "/metrics", Authorization=f"Api-Key {KEY}")[0] == 401
    assert compared == [(f"Api-Key {KEY}".encode(),) * 2]


# P4: a policy that fails


def poison(state: Any) -> None:
    if state[0] == 13.0:
        raise FileNotFoundError("/home/somebody/secret.txt")


def test_a_policy_s_error_is_told_by_code_and_number_and_the_next_request_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(before=poison) as server, raw(server.url) as client:
        assert "actions" in ask(client, observation())
        with caplog.at_level(logging.ERROR, "embodied.serve.server"):
            found = ask(client, observation(13.0, request_id=5))
        number = found.split()[-2]
        assert found == (
            f"E_SERVE_POLICY: the policy failed; the server's log has error {number} [request_id=5]"
        )
        assert f"error {number}" in caplog.text
        assert "secret.txt" in caplog.text
        assert "actions" in ask(client, observation())
        assert metric(server, 'embodied_errors_total{code="E_SERVE_POLICY"}') == 1


def test_a_mind_that_cannot_be_made_is_an_error_of_the_request() -> None:
    def broken() -> Any:
        raise RuntimeError("no memory on the device")

    with running(make_mind=broken) as server, raw(server.url) as client:
        for _ in range(2):
            assert ask(client, observation()).startswith("E_SERVE_POLICY: the policy failed")


# P5: inferences that take long


class Held:
    """Inferences that wait until they may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Semaphore(0), threading.Event()

    def __call__(self, state: Any) -> None:
        self.begun.release()
        assert self.may_go_on.wait(30)


def test_a_long_inference_stops_neither_pings_nor_pages_nor_other_refusals() -> None:
    held = Held()
    with (
        running(before=held, bounds=Bounds(idle_s=0.2)) as server,
        raw(server.url) as client,
        raw(server.url) as other,
    ):
        client.send(encode(observation()))
        assert held.begun.acquire(timeout=10)
        assert get(server, "/healthz") == (200, "OK\n")
        assert ask(other, b"\xc1").startswith("E_WIRE_FORMAT")
        time.sleep(1.0)  # five times what a client may be silent without being dropped
        pong = other.ping()
        assert pong.wait(10)
        held.may_go_on.set()
        assert isinstance(client.recv(10), bytes)


class Inline(Executor):
    """Computes where it is asked to."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_in_the_loop_it_would_stop_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    monkeypatch.setattr(server, "ThreadPoolExecutor", lambda *args: Inline())
    with running(before=held) as started, raw(started.url) as client:
        client.send(encode(observation()))
        assert held.begun.acquire(timeout=10)
        with pytest.raises(TimeoutError):
            get(started, "/healthz", timeout=0.5)
        held.may_go_on.set()
        client.recv(10)


@pytest.mark.slow
def test_an_inference_of_45_s_is_answered() -> None:
    with (
        running(before=lambda state: time.sleep(45)) as server,
        raw(server.url) as client,
    ):
        client.send(encode(observation()))
        for _ in range(40):
            time.sleep(1)
            assert get(server, "/healthz", timeout=1.0)[0] == 200
        assert isinstance(client.recv(30), bytes)


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    """A request that comes while two wait cancels them; a deadline passes while another waits."""
    held = Held()
    with running(before=held) as server, raw(server.url) as client, raw(server.url) as other:
        client.send(encode(observation(1.0, request_id=1)))
        assert held.begun.acquire(timeout=10)
        client.send(encode(observation(2.0, request_id=2)))
        client.send(encode(observation(3.0, request_id=3, cancel=True)))
        other.send(encode(observation(4.0, request_id=9, deadline_ms=1.0)))
        until(lambda: metric(server, "embodied_waiting") == 4)
        time.sleep(0.01)  # longer than the deadline
        held.may_go_on.set()
        assert isinstance(client.recv(10), bytes)
        assert client.recv(10) == (
            "E_SERVE_CANCELLED: this request was cancelled while it waited [request_id=2]"
        )
        assert isinstance(client.recv(10), bytes)
        late = other.recv(10)
        assert isinstance(late, str)
        assert late.startswith("E_SERVE_LATE: this request waited ")
        assert late.endswith("longer than its deadline [request_id=9]")
    assert [float(seen["state"][0]) for seen in server.minds[0].seen] == [1.0, 3.0]


def test_requests_of_a_client_that_left_are_not_computed() -> None:
    held = Held()
    with running(before=held) as server, raw(server.url) as other:
        with raw(server.url) as client:
            for first in (1.0, 2.0, 3.0):
                client.send(encode(observation(first)))
            assert held.begun.acquire(timeout=10)
        held.may_go_on.set()
        until(lambda: metric(server, "embodied_connections") == 1)
        assert "actions" in ask(other, observation())
        until(lambda: metric(server, "embodied_waiting") == 0)
    assert [float(seen["state"][0]) for seen in server.minds[0].seen] == [1.0]


# P6: nothing of the server's disk can be named


def test_only_the_command_loads_anything_from_disk() -> None:
    reaching = {"pathlib", "os", "io", "torch", "safetensors", "hydra"}
    found = set()
    for path in (ROOT / "embodied" / "serve").glob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Name
        }
        modules = {name.partition(".")[0] for name in imports(path)}
        loads = any(name.startswith(("embodied.load", "embodied.check")) for name in imports(path))
        if loads or modules & reaching or names & {"open", "eval", "exec", "compile"}:
            found.add(path.name)
    assert found == {"command.py"}


# P7: features


def test_a_request_that_does_not_fit_the_policy_is_told_which_field_and_the_connection_lives() -> (
    None
):
    with running() as server, raw(server.url) as client:
        for fields, problem in (
            ({"observation/state": np.zeros(4, np.float32)}, "'observation/state' must be (3,) of"),
            ({"observation/wrist_image": 1}, "nobody asked for 'observation/wrist_image'"),
        ):
            found = ask(client, observation(request_id=3, **fields))
            assert found.startswith(f"E_SERVE_FEATURE: {problem}")
            assert found.endswith("[request_id=3]")
        assert ask(client, "hello").startswith("E_WIRE_FORMAT: requests are binary")
        assert "actions" in ask(client, observation())


# P8: several robots


def test_each_connection_has_a_mind_of_its_own() -> None:
    with running() as server, raw(server.url) as one, raw(server.url) as two:
        counts = []
        for client, first in ((one, 10.0), (two, 20.0), (one, 0.0), (two, 0.0), (one, 0.0)):
            counts.append(ask(client, observation(first))["actions"][0, 0])
    assert counts == [11, 21, 12, 22, 13]
    assert len(server.minds) == 2


@pytest.mark.usefixtures("fake_language")
def test_two_robots_with_one_policy_get_what_each_would_get_alone(
    make_policy: Callable[..., ChunkPolicy],
) -> None:
    policy = make_policy(obs_horizon=2)
    contract = Contract(policy.spec, policy.pred_horizon, obs_horizon=2)
    states = np.random.default_rng(0).normal(size=(2, 6, 10)).astype(np.float32)
    prompts = ("go to the red pad", "stop")

    def request(robot: int, step: int) -> dict[str, Any]:
        prompt = prompts[(robot + step // 3) % 2]
        return {"observation/state": states[robot, step], "prompt": prompt}

    options: dict[str, Any] = {"contract": contract, "make_mind": lambda: Brain(policy)}
    alone = []
    for robot in (0, 1):
        with running(**options) as server, raw(server.url) as client:
            alone.append([ask(client, request(robot, step))["actions"] for step in range(6)])
    with running(**options) as server, raw(server.url) as one, raw(server.url) as two:
        for step in range(6):
            for robot, client in ((0, one), (1, two)):
                found = ask(client, request(robot, step))["actions"]
                np.testing.assert_array_equal(found, alone[robot][step])
    assert not np.array_equal(alone[0][0], alone[1][0])


def test_a_server_stops_although_clients_are_connected() -> None:
    with running() as server, raw(server.url) as client:
        assert "actions" in ask(client, observation())
        server.stop()
        with pytest.raises(ConnectionClosed, match="1001"):
            client.recv(10)


# Guards


def test_without_the_check_of_origins_pages_would_be_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "refusal", lambda headers, key: None)
    origin = [("Origin", "http://evil.example")]
    with running(key=KEY) as started, raw(started.url, additional_headers=origin) as client:
        assert "actions" in ask(client, observation())


def test_without_the_limit_of_size_large_messages_would_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_BYTES", 2**30)
    with running() as started, raw(started.url) as client:
        assert ask(client, bytes(MAX_BYTES + 1)).startswith("E_WIRE_SIZE")
