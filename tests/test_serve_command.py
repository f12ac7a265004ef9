"""From a checkpoint to a server, by the command that people type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import embodied
from embodied.conditions import Language
from embodied.data.asked import SketchStyle
from embodied.deploy.brain import Brain
from embodied.loading import load_policy
from embodied.serve.client import PolicyClient
from embodied.serve.command import contract_of, serve_checkpoint, server_of
from tests.conftest import Compose, compose_config
from tests.test_hierarchical_rollout import PHRASES, make

ROOT = Path(__file__).parents[1]
STATES = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained policy of the point world."""
    folder = tmp_path_factory.mktemp("serve") / "run"
    embodied.train(compose(folder, "train.steps=1"))
    return folder


def settings(*overrides: str) -> dict[str, Any]:
    return compose_config("checkpoint=unused", *overrides, name="serve_policy")


@contextmanager
def served(run: Path, *overrides: str, **environment: str) -> Iterator[tuple[Any, str]]:
    """The process of the command, and its address."""
    command = [sys.executable, str(ROOT / "scripts" / "serve_policy.py"), f"checkpoint={run}"]
    path = os.pathsep.join([str(ROOT), *sys.path])
    process = subprocess.Popen(
        [*command, "port=0", "device=cpu", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=run.parent,
        env={**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **environment},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving at ws://127.0.0.1:"), process.communicate()
        yield process, line.split()[-1]
    finally:
        process.send_signal(signal.SIGABRT)  # one that does not end tells where it is
        print(*process.communicate(), sep="\n")


def test_the_command_serves_what_the_checkpoint_would_do_here(run: Path) -> None:
    policy, found = load_policy(run, "cpu")
    brain = Brain(policy, instruction="go to the red pad", seed=5)
    key = "a key of enough characters"
    words = "instruction=go to the red pad"
    with served(run, "seed=5", words, EMBODIED_SERVE_KEY=key) as (process, url):
        client = PolicyClient(url, key=key, timeout_s=30, expected={"checkpoint": found.digest})
        for state in STATES:
            reply = client.infer({"observation/state": state})
            np.testing.assert_array_equal(reply["actions"], brain.infer({"state": state}))
        client.close()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


def test_what_cannot_be_served_is_refused_before_the_checkpoint_is_read() -> None:
    with pytest.raises(ValueError, match=r"E_CONFIG_VALUE: host=0.0.0.0 can be reached"):
        serve_checkpoint(settings("host=0.0.0.0"))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("action_horizon=99", "action_horizon must lie in"),
        ("execution=ensemble", "action_horizon must be 1"),
        ("features={front: a}", r"features names \['front'\], the policy has \['state'\]"),
        ("action_names=[x]", r"action_names must name 2 axes, got \['x'\]"),
    ],
)
def test_settings_that_do_not_fit_the_policy_are_refused(
    run: Path, override: str, problem: str
) -> None:
    policy, found = load_policy(run, "cpu")
    with pytest.raises(ValueError, match=problem):
        server_of(policy, found, settings(override))


def test_it_infers_once_before_anybody_asks_and_serves_even_if_that_fails(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, found = load_policy(run, "cpu")
    asked: list[Any] = []

    def infer(brain: Brain, observation: Any) -> Any:
        asked.append((brain.controller.row(0), sorted(observation)))
        raise ValueError("show me a goal")

    monkeypatch.setattr(Brain, "infer", infer)
    server_of(policy, found, settings())
    assert asked == [([Language("wait")], ["previous_action", "state"])]
    assert "the first request takes longer: show me a goal" in caplog.text


@pytest.mark.usefixtures("fake_language")
def test_the_contract_tells_how_sketches_were_drawn_and_which_phrases_are_known() -> None:
    told = {"sketches": {"camera": None, "size": [8, 8], "with_height": False, "width": 3}}
    found = SimpleNamespace(documents={"config": {"source": {"told": told}}}, digest="abc")
    contract = contract_of(make("text"), found, settings("action_horizon=2", "ignored=[x]"))  # type: ignore[arg-type]
    assert contract.sketch_style == SketchStyle(size=[8, 8], with_height=False, width=3)  # type: ignore[arg-type]
    assert set(contract.phrases) == set(PHRASES)
    assert (contract.action_horizon, contract.checkpoint) == (2, "abc")
    assert contract.ignored == ["x"]
