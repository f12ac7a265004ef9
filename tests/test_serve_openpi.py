"""The published client of openpi, unchanged, against our server."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.openpi_server import openpi_server
from tests.serving import CONTRACT, observation, running

VERSIONS = ("0.1.2", "0.1.1")


@pytest.fixture(scope="module", params=VERSIONS)
def openpi(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Its module with the client, without the older NumPy that it would bring."""
    folder = tmp_path_factory.mktemp("openpi")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--quiet",
        "--retries=1",
        "--target",
    ]
    done = subprocess.run(
        [*command, str(folder), f"openpi-client=={request.param}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        pytest.skip(f"openpi-client {request.param} cannot be had: {done.stderr.strip()[-200:]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in [each for each in sys.modules if each.split(".")[0] == "openpi_client"]:
            patch.delitem(sys.modules, name)
        module = importlib.import_module("openpi_client.websocket_client_policy")
        assert Path(module.__file__ or "").is_relative_to(folder)
        yield module
        for name in [each for each in sys.modules if each.split(".")[0] == "openpi_client"]:
            patch.delitem(sys.modules, name)


def test_its_client_works_with_our_server(openpi: Any) -> None:
    with running() as server:
        client = openpi.WebsocketClientPolicy(host="127.0.0.1", port=server.port)
        metadata = client.get_server_metadata()
        assert metadata["protocol"] == "embodied/1"
        assert metadata["features"].keys() == set(CONTRACT.keys.values())
        for count in (1, 2):
            reply = client.infer(observation(3.0, prompt="pick up the fork"))
            assert reply["actions"].tolist() == [[3.0 + count] * 2] * 5
            assert reply["actions"].dtype == np.float32
            assert reply["server_timing"]["infer_ms"] > 0
        client.reset()
        client._ws.close()
        assert server.minds[0].words == ["pick up the fork"]


def test_it_raises_what_our_server_refuses_and_goes_on(openpi: Any) -> None:
    with running() as server:
        client = openpi.WebsocketClientPolicy(host="127.0.0.1", port=server.port)
        with pytest.raises(RuntimeError, match="E_SERVE_FEATURE: 'observation/state' is missing"):
            client.infer({"prompt": "go"})
        assert "actions" in client.infer(observation())
        client._ws.close()


def test_its_key_is_ours(openpi: Any) -> None:
    key = "a key of enough characters"
    with running(key=key) as server:
        client = openpi.WebsocketClientPolicy(host="127.0.0.1", port=server.port, api_key=key)
        assert "actions" in client.infer(observation())
        client._ws.close()


def test_the_server_of_our_tests_is_one_to_it(openpi: Any) -> None:
    """So that what our client does with that server, it does with openpi's."""
    with openpi_server(lambda request: {"actions": request["observation/state"]}) as url:
        client = openpi.WebsocketClientPolicy(host=url)
        assert client.get_server_metadata() == {"model": "pi0"}
        assert client.infer(observation(3.0))["actions"].tolist() == [3.0, 0.5, -0.5]
        client._ws.close()
