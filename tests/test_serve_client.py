"""The client with our server and with openpi's: in time or not at all, and no other's reply."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embodied.serve import client as client_module
from embodied.serve.client import PolicyClient, ServerError, ServerLost, ServerSilent
from embodied.serve.wire import WireError
from tests.openpi_server import DROPPED, openpi_server
from tests.serving import CONTRACT, observation, running


class Now:
    """A clock that somebody else moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def first_of(reply: dict[str, Any]) -> float:
    return float(reply["actions"][0, 0])


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """What an openpi policy does here: the state's first number, twice."""
    return {"actions": np.full((5, 2), request["observation/state"][0])}


def test_it_gets_actions_and_knows_what_the_server_says_first() -> None:
    with running() as server:
        client = PolicyClient(server.url)
        assert client.metadata == {}
        assert first_of(client.infer(observation(4.0))) == 5.0
        assert client.metadata == CONTRACT.metadata
        found = client.infer(observation(obs_time=77, prompt="go"))
        assert (found["request_id"], found["obs_time"], found["instruction"]) == (2, 77, "go")
        client.close()


def test_a_reset_goes_with_the_next_request_alone() -> None:
    with running(seed=3) as server:
        client = PolicyClient(server.url)
        client.infer(observation())
        client.reset()
        client.infer(observation())
        client.infer(observation())
        client.reset(8)
        with pytest.raises(ServerError, match=r"^E_SERVE_FEATURE: nobody asked for 'x' \[request"):
            client.infer(observation(x=1))
        client.infer(observation())  # an episode that could not begin begins now
        client.close()
        assert server.minds[0].seeds == [3, 3, 8]


def test_it_talks_to_an_openpi_server_as_openpi_s_client_does() -> None:
    seen = []

    def infer(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(set(request))
        return plain(request)

    with openpi_server(infer) as url:
        client = PolicyClient(url)
        client.reset()
        for value in (1.0, 2.0):
            assert first_of(client.infer(observation(value, prompt="go"))) == value
        assert client.metadata == {"model": "pi0"}
        assert not client.is_ours
        client.close()
    assert seen == [{"observation/state", "observation/image", "prompt"}] * 2


def test_an_error_of_an_openpi_server_is_raised_and_the_next_request_connects_again() -> None:
    def infer(request: dict[str, Any]) -> dict[str, Any]:
        if request["observation/state"][0] == 13:
            raise KeyError("observation/joints")
        return plain(request)

    with openpi_server(infer) as url:
        client = PolicyClient(url)
        for _ in range(2):
            with pytest.raises(ServerError, match="KeyError: 'observation/joints'"):
                client.infer(observation(13.0))
            until_closed(client)
            assert first_of(client.infer(observation(3.0))) == 3.0
        client.close()


def until_closed(client: PolicyClient) -> None:
    """Waits until the end that the server put to a connection has come."""
    connection = client._connection
    assert connection is not None
    with pytest.raises(client_module.WebSocketException):
        connection.recv(10)


# Late replies


class Slow:
    """Inferences that wait for a permission each where the state's first number is 13."""

    def __init__(self) -> None:
        self.permissions = threading.Semaphore(0)

    def __call__(self, state: Any) -> None:
        if state[0] == 13:
            assert self.permissions.acquire(timeout=30)


def test_a_late_reply_of_our_server_is_dropped_and_the_episode_goes_on() -> None:
    slow = Slow()
    with running(before=slow) as server:
        client = PolicyClient(server.url)
        client.infer(observation(1.0))
        with pytest.raises(
            ServerSilent, match=r"^E_SERVE_TIMEOUT: ws:.* did not answer within 0.2"
        ):
            client.infer(observation(13.0), timeout_s=0.2)
        slow.permissions.release()
        assert first_of(client.infer(observation(2.0), timeout_s=10)) == 4.0  # the third
        assert client.late == 1
        client.close()
    assert len(server.minds) == 1


def test_a_late_error_of_our_server_is_dropped_too() -> None:
    slow = Slow()

    def poison(state: Any) -> None:
        slow(state)
        if state[0] == 13:
            raise RuntimeError("broken")

    with running(before=poison) as server:
        client = PolicyClient(server.url)
        with pytest.raises(ServerSilent):
            client.infer(observation(13.0), timeout_s=0.2)
        slow.permissions.release()
        assert first_of(client.infer(observation(2.0), timeout_s=10)) == 3.0
        assert client.late == 1
        client.close()


def test_requests_that_were_given_up_are_not_computed() -> None:
    """The second waits behind the first, is given up, and cancelled by the third."""
    slow = Slow()
    with running(before=slow) as server:
        client = PolicyClient(server.url)
        client.infer(observation())
        with pytest.raises(ServerSilent):
            client.infer(observation(13.0), timeout_s=0.2)
        client._silent = 0  # as if it bore more than two
        with pytest.raises(ServerSilent):
            client.infer(observation(2.0), timeout_s=0.2)
        slow.permissions.release()
        client.infer(observation(3.0), timeout_s=10)
        client.close()
        firsts = [float(seen["state"][0]) for seen in server.minds[0].seen]
    assert firsts == [0.0, 13.0, 3.0]


def test_a_server_that_stays_silent_is_left() -> None:
    slow = Slow()
    with running(before=slow) as server:
        client = PolicyClient(server.url)
        client.infer(observation())
        for _ in range(2):
            with pytest.raises(ServerSilent):
                client.infer(observation(13.0), timeout_s=0.2)
        assert client._connection is None
        slow.permissions.release(2)
        assert first_of(client.infer(observation(2.0), timeout_s=10)) == 3.0  # of a new session
        assert client.late == 0
        client.close()


def replies(url: str, count: int) -> list[tuple[float, float]]:
    """(asked, answered) of the requests that were answered in time."""
    client, found = PolicyClient(url, timeout_s=0.3), []
    for i in range(count):
        with suppress(ServerSilent):
            found.append((float(i), first_of(client.infer(observation(float(i))))))
    client.close()
    return found


def sometimes_late(request: dict[str, Any]) -> dict[str, Any]:
    number = request["observation/state"][0]
    time.sleep(0.5 if number % 3 == 1 else 0.0)
    return plain(request)


def test_no_late_reply_of_an_openpi_server_is_taken_for_the_next() -> None:
    with openpi_server(sometimes_late) as url:
        found = replies(url, 12)
    assert len(found) >= 3
    assert [answer for _, answer in found] == [asked for asked, _ in found]


def test_it_would_be_without_closing_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeps(client: PolicyClient, timeout_s: float) -> ServerSilent:
        return ServerSilent("E_SERVE_TIMEOUT: late")

    monkeypatch.setattr(PolicyClient, "_timed_out", keeps)
    with openpi_server(sometimes_late) as url:
        found = replies(url, 12)
    assert [answer for _, answer in found] != [asked for asked, _ in found]


def test_a_server_that_reads_nothing_holds_nobody_up() -> None:
    """It shakes hands and is then stopped, so that sending itself would wait for ever."""
    with running() as server:
        client = PolicyClient(server.url)
        client.infer(observation())
        connection = client._connection
        assert connection is not None
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        held, connection.socket = connection.socket, ours
        image = np.zeros((1000, 1000, 3), np.uint8)
        with pytest.raises(ServerLost, match="E_SERVE_LOST"):
            client.infer({"observation/image": image}, timeout_s=0.2)
        for each in (held, theirs):
            each.close()


# Connections


def test_it_connects_again_after_the_server_was_gone() -> None:
    now = Now()
    with running() as server:
        client, port = PolicyClient(server.url, now=now), server.port
        client.infer(observation())
    with pytest.raises(ServerLost, match=r"^E_SERVE_LOST: ws://127.0.0.1:\d+: .*refused"):
        client.infer(observation())
    with openpi_server(plain, port=port):
        now.seconds += 0.2
        assert first_of(client.infer(observation(3.0))) == 3.0
        client.close()


def test_it_waits_longer_and_longer_between_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
    now = Now()
    client, tries = PolicyClient(url, now=now), []
    for tick in range(1000):  # of 0.01 s
        now.seconds = 100 + tick / 100
        with pytest.raises(ServerLost) as found:
            client.infer(observation())
        if "tried again" not in str(found.value):
            tries.append(tick)
    pauses = np.diff(tries)
    assert pauses[:5].tolist() == pytest.approx([10, 20, 40, 80, 160], abs=1)
    assert set(pauses[5:].tolist()) <= {200, 201}


def test_a_connection_that_broke_during_a_request_is_lost() -> None:
    with openpi_server(lambda request: DROPPED) as url:
        client = PolicyClient(url, timeout_s=10)
        with pytest.raises(ServerLost, match=r"E_SERVE_LOST: .* was lost"):
            client.infer(observation())
        client.close()


def test_it_shows_its_key() -> None:
    key = "a key of enough characters"
    with running(key=key) as server:
        client = PolicyClient(server.url, key=key)
        assert "actions" in client.infer(observation())
        client.close()
        with pytest.raises(ServerLost, match=r"E_SERVE_LOST: .*: E_SERVE_KEY: this server wants"):
            PolicyClient(server.url, key="another").infer(observation())


def test_joints_in_another_order_are_refused_before_anything_moves() -> None:
    contract = replace(CONTRACT, action_names=("shoulder.pos", "elbow.pos"))
    with running(contract=contract) as server:
        good = PolicyClient(server.url, expected={"action_names": ("shoulder.pos", "elbow.pos")})
        assert "actions" in good.infer(observation())
        good.close()
        swapped = PolicyClient(server.url, expected={"action_names": ["elbow.pos", "shoulder.pos"]})
        with pytest.raises(ServerError, match=r"^E_SERVE_MISMATCH: action_names is \['elbow.pos'"):
            swapped.infer(observation())
        other = PolicyClient(server.url, expected={"checkpoint": "abc"})
        with pytest.raises(ServerError, match="E_SERVE_MISMATCH: checkpoint is 'abc' here"):
            other.infer(observation())
    assert len(server.minds) == 1


@pytest.mark.parametrize("metadata", ["words", b"\xc1", [1]])
def test_a_server_that_begins_with_something_else_is_left(metadata: Any) -> None:
    lost = pytest.raises(ServerLost, match=r"E_SERVE_LOST: .*: E_WIRE_FORMAT")
    with openpi_server(plain, metadata=metadata) as url, lost:
        PolicyClient(url).infer(observation())


@pytest.mark.parametrize("number", [np.zeros(3), "2", True, None])
def test_a_reply_with_a_strange_number_is_one_without(number: Any) -> None:
    def infer(request: dict[str, Any]) -> dict[str, Any]:
        return {**plain(request), "request_id": number}

    with openpi_server(infer, metadata={"protocol": "embodied/9"}) as url:
        client = PolicyClient(url)
        assert first_of(client.infer(observation(3.0))) == 3.0
        client.close()


@pytest.mark.parametrize("reply", [b"\xc1", [1], b"\x93\x01"])
def test_a_reply_that_cannot_be_read_ends_the_connection(reply: Any) -> None:
    with openpi_server(lambda request: reply) as url:
        client = PolicyClient(url)
        with pytest.raises(WireError):
            client.infer(observation())
        assert client._connection is None


def test_it_loads_no_torch() -> None:
    code = "import sys, embodied.serve.client; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
