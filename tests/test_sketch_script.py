"""scripts/sketch.py: from a picture or a task to a saved path, and a policy that is shown it."""

from __future__ import annotations

import http.client
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from embodied.conditions import Language, Sketch
from embodied.data.asked import SketchStyle
from embodied.data.sketches import Trace, draw
from embodied.noise import Noise
from embodied.protocols import Protocol
from embodied.sketching.scene import (
    Follower,
    find_episode,
    first_camera,
    first_view,
    overlay,
    style_of,
)
from embodied.structs import Condition, Observation, Spec
from embodied_envs.point import PointSuite
from tests.acting import Acting
from tests.conftest import ROOT, compose_config

SPEC = Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)
LINE = {"points": [[2, 5], [12, 25]], "heights": [], "closes": None, "opens": None}
SUITE = PointSuite(cameras=("top",), image_size=(24, 32), max_steps=12)
PATH = Trace(np.array([[4.0, 4.0], [24.0, 4.0], [24.0, 20.0]]), np.arange(3.0), (24, 32), closes=1)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Any]:
    """script(*arguments): the running command."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "scripts" / "sketch.py"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str], message: Any) -> Any:
    """What the page's server knows of its picture; then saves a drawing."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("draw the path at http://127.0.0.1:")
    connection = http.client.HTTPConnection(urlsplit(line.split()[-1]).netloc, timeout=60)
    connection.request("GET", "/facts")
    facts = json.loads(connection.getresponse().read())
    connection.request(
        "POST", "/save", json.dumps(message).encode(), {"Content-Type": "application/json"}
    )
    assert connection.getresponse().status == 200
    return facts


def test_a_picture_is_drawn_on(script: Any, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 40)).save(tmp_path / "frame.png")
    process = script("image=frame.png", "output=out/mine.json", "sketch_size=[20,30]")
    facts = answer(process, LINE)
    assert (facts["size"], facts["sketch_size"], facts["title"]) == ([40, 60], [20, 30], "")
    text, _ = process.communicate(timeout=60)
    assert text == "24 points in out/mine.json\n"
    assert Trace.from_json((tmp_path / "out" / "mine.json").read_text()).size == (40, 60)


@pytest.mark.slow  # a whole process with a simulator
def test_the_beginning_of_a_task_is_drawn_on(script: Any, tmp_path: Path) -> None:
    options = ("task=point", "camera=top", "image_size=[48,64]", "goal=2")
    process = script(*options, "scene=reach-red")
    facts = answer(process, LINE)
    assert facts["size"] == [48, 64]
    assert facts["title"] == SUITE.texts("reach-red").canonical
    assert process.wait(60) == 0
    assert (tmp_path / "sketch.json").exists()


def test_what_cannot_be_drawn_on_ends_with_one_message(command: Any, tmp_path: Path) -> None:
    done = command("scripts/sketch.py", "image=none.png", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 2] No such file or directory")


def test_an_episode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scene must be one of reach-red, .* got 'mauve'"):
        find_episode(Protocol("p"), SUITE, "mauve", 0)
    with pytest.raises(ValueError, match=r"goal must lie in \[0, 49\], got 50"):
        find_episode(Protocol("p"), SUITE, None, 50)
    with pytest.raises(ValueError, match="give camera=NAME"):
        first_camera(PointSuite())
    blind = PointSuite()
    with pytest.raises(ValueError, match="shows no images to draw on"):
        first_view(blind, find_episode(Protocol("p"), blind, None, 0))
    assert first_camera(SUITE) == "top"


class Recorder(Acting):
    """Stands still, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(SPEC, pred_horizon=2)
        self.told: list[Condition] = []

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        self.told.append(condition)
        return torch.zeros(len(observation.state), 2, 2)


def test_the_policy_is_shown_the_sketch_as_in_training_and_is_filmed() -> None:
    policy = Recorder()
    settings = {
        "env": {"timeout_s": 60},
        "eval": {"action_horizon": 2},
        "video": {"size": [48, 64], "every": 4},
    }
    style = SketchStyle(with_height=False, width=1)
    follower = Follower(policy, SUITE, (12, 16), style, settings, words="go")
    episode = find_episode(Protocol("p"), SUITE, None, 3)
    outcome, frames = follower.follow(PATH, episode, max_steps=12)
    assert outcome.assignment == episode
    assert outcome.steps == 12
    assert len(frames) == 3
    assert frames[0].shape == (48, 64, 3)
    expected = draw(PATH.scaled((12, 16)), with_height=False, width=1)
    assert len(policy.told) == 6
    for condition in policy.told:
        assert condition.language == ("go",)
        assert condition.sketch is not None
        np.testing.assert_array_equal(condition.sketch[0].movedim(0, -1).numpy(), expected)


def test_without_words_the_policy_is_told_the_sketch_alone() -> None:
    follower = Follower(Recorder(), SUITE, (24, 32), SketchStyle(), {})
    assert [type(part) for part in follower.prompt(PATH)] == [Sketch]
    worded = Follower(Recorder(), SUITE, (24, 32), SketchStyle(), {}, words="go")
    assert [type(part) for part in worded.prompt(PATH)] == [Sketch, Language]


def test_the_first_view_is_the_episodes_own() -> None:
    episodes = [find_episode(Protocol("p"), SUITE, "reach-red", goal) for goal in (0, 1)]
    views = [first_view(SUITE, episode) for episode in (*episodes, episodes[0])]
    assert views[0].camera == "top"
    assert views[0].image.shape == (24, 32, 3)
    np.testing.assert_array_equal(views[0].image, views[2].image)
    assert not np.array_equal(views[0].image, views[1].image)


def test_the_sketch_lies_over_the_film_and_hides_nothing_else() -> None:
    frame = np.full((48, 64, 3), 100, np.uint8)
    laid = overlay(frame, PATH)
    drawn = draw(PATH.scaled((48, 64))).any(axis=2)
    assert (laid[~drawn] == 100).all()
    assert (laid[drawn] != 100).any(axis=1).all()


def test_a_policy_that_never_saw_a_sketch_is_refused() -> None:
    for told in ({}, {"told": None}, {"told": {"sketches": None}}):
        with pytest.raises(ValueError, match="shown no sketches in training"):
            style_of({"source": told})
    told = {"sketches": {"with_height": False, "width": 3}}
    assert style_of({"source": {"told": told}}) == SketchStyle(with_height=False, width=3)


def test_the_command_films_a_policy_that_follows_what_is_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Recorder()
    policy.spec = replace(SPEC, cameras={"top": (24, 32)})
    stored = {
        "task": {
            "suite": {
                "_target_": "embodied_envs.point.PointSuite",
                "cameras": ["top"],
                "image_size": [24, 32],
                "max_steps": 6,
            }
        },
        "protocol": {"_target_": "embodied.protocols.Protocol", "name": "p", "max_steps": 6},
        "source": {"told": {"sketches": {"with_height": True, "width": 1}}},
        "eval": {"action_horizon": 2},
    }
    found = SimpleNamespace(documents={"config": stored})
    asked: list[dict[str, Any]] = []

    def ask(image: Any, **facts: Any) -> Trace:
        asked.append({"shape": image.shape, **facts})
        return PATH.scaled(image.shape[:2])

    monkeypatch.setattr("embodied.loading.load_policy", lambda *_: (policy, found))
    monkeypatch.setattr("embodied.sketching.ask_for_sketch", ask)
    overrides = ("checkpoint=run", "image_size=[48,64]", "goal=1", f"film={tmp_path}/a/film.mp4")
    config = compose_config("task=point", *overrides, "video.size=[48,64]", name="sketch")
    runpy.run_path(str(ROOT / "scripts" / "sketch.py"))["follow"](config)

    assert (asked[0]["shape"], asked[0]["sketch_size"], asked[0]["width"]) == (
        (48, 64, 3),
        (24, 32),
        1,
    )
    assert asked[0]["title"] == SUITE.texts("reach-red").canonical
    assert policy.told[0].language is None
    sketch = policy.told[0].sketch
    assert sketch is not None
    np.testing.assert_array_equal(sketch[0].movedim(0, -1).numpy(), draw(PATH, width=1))
    assert (tmp_path / "a" / "film.mp4").stat().st_size > 500
    assert f"no success after 6 steps: {tmp_path}/a/film.mp4" in capsys.readouterr().out
