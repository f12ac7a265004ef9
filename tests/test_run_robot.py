"""The commands that run a robot: what they keep, what they refuse, and the lesson's chain."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embodied import stages
from embodied.deploy import casting, running
from embodied.deploy.brain import Brain
from embodied.deploy.casting import Player, demonstrator, server_player, speech_of, world_of
from embodied.deploy.replaying import replay
from embodied.deploy.running import record, run_robot, summary
from embodied.people.interventions import read_interventions
from embodied.people.narration import held
from embodied.targets import ConfigError
from embodied_datasets.lerobot import LeRobotDataset
from scripts import robot_lesson
from tests.conftest import compose_config
from tests.test_hierarchical_rollout import make
from tests.test_rollout import Spy

VIRTUAL = ("virtual=true", "arm=true", "robot.world.max_steps=150", "guards.frozen_frames=0")


def test_demonstrations_of_an_expert_are_recorded_and_replayed_without_drift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demos"
    config = compose_config(
        *VIRTUAL, f"output={root}", "by=expert", "episodes=2", "film=top", name="record"
    )
    assert [went.kept.key for went in record(config)] == ["000000", "000001"]
    first, second = LeRobotDataset(root, only_success=False)
    assert not np.allclose(first.state[0], second.state[0])  # it begins elsewhere
    assert first.images.keys() == {"top"}
    assert (root / "000001.mp4").exists()
    assert first.info["robot"] == "sim"
    longer = (*VIRTUAL, "robot.world.max_steps=400", "latency_s=0.01")  # it waits, then begins
    config = compose_config(*longer, f"episodes_from={root}", name="replay")
    went, drift = replay(config)
    assert went.report.error == ""
    assert drift is not None
    assert drift.seen == 1.0
    assert drift.most.max() < 1e-5
    assert "drift over" in capsys.readouterr().out


def test_an_episode_that_is_not_there_is_not_replayed(tmp_path: Path) -> None:
    config = compose_config(
        *VIRTUAL, f"output={tmp_path}", "by=expert", "seconds=0.5", name="record"
    )
    record(config)
    config = compose_config(*VIRTUAL, f"episodes_from={tmp_path}", "episode=1", name="replay")
    with pytest.raises(ConfigError, match=r"episode must lie in \[0, 0\], got 1"):
        replay(config)


@pytest.mark.usefixtures("fake_language")
def test_a_policy_runs_is_corrected_by_whoever_types_and_kept_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make("text")
    policy.spec = casting.spec_of(_ready(), 50.0, [])

    def player(config: Any) -> Player:
        brain = Brain(policy, instruction=config["instruction"])
        return Player(brain, speech_of(config, policy, "motion"), 50.0, policy.spec, "motion")

    monkeypatch.setattr(running, "policy_player", player)
    config = compose_config(
        *VIRTUAL,
        "checkpoint=somewhere",
        "instruction=go",
        "seconds=2",
        "guards.expiry_s=0.5",
        f"output={tmp_path}",
        "lines=[{at_s: 1.0, say: go up for 0.5 s}]",
        "who=ada",
        name="run_robot",
    )
    (went,) = run_robot(config)
    (episode,) = LeRobotDataset(tmp_path, only_success=False)
    assert episode.images == {}  # those of the policy, which has none
    (found,) = read_interventions(episode)
    assert (found.words, found.who, found.level) == ("go up", "ada", "motion")
    assert found.since is not None
    assert 15 <= found.num_steps <= 30  # half a second, and until the next inference
    phrases = held(episode, "motion")
    assert phrases[found.since] == ("go up", "user")
    assert "1 corrections" in summary(went)


def _ready() -> Any:
    config = compose_config(name="run_robot")
    from embodied.build import instantiate
    from embodied.deploy.control import Ready

    robot = instantiate(config["robot"])
    return Ready(robot.name, robot.observation_features, robot.limits, robot.rate_hz)


@pytest.mark.parametrize("given", [(), ("checkpoint=a", "server=ws://127.0.0.1:1")])
def test_either_a_checkpoint_or_a_server_must_be_given(given: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="either checkpoint or server must be given"):
        run_robot(compose_config(*given, name="run_robot"))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("by=nobody", "output=x"), "by must be keyboard or expert, got 'nobody'"),
        (("by=expert", "output=x", "film=wrist"), "film is 'wrist', and the cameras of sim are"),
        (("by=expert", "output=x", "cameras=[wrist]"), "sim has no camera"),
        (("by=expert", "output=x", "teleop=gamepad"), "teleop must be keyboard or null"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_moves(
    overrides: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    given = [each.replace("output=x", f"output={tmp_path}") for each in overrides]
    with pytest.raises(ConfigError, match=problem):
        record(compose_config(*VIRTUAL, *given, name="record"))


def test_experts_need_a_world_that_they_know() -> None:
    with pytest.raises(ConfigError, match="robot has no world"):
        world_of({"robot": {"name": "real"}, "instruction": ""})


def test_experts_do_not_steer_robots_that_are_commanded_positions() -> None:
    config = dict(compose_config("robot=metaworld", name="run_robot"))
    with pytest.raises(ConfigError, match="experts act in the environment's own actions"):
        demonstrator(config)


def test_what_a_policy_can_be_told_follows_from_its_phrases() -> None:
    config = {"sketch_size": [8, 9], "hold_s": 2.0, "any_words": False, "teleop": "keyboard"}
    flat = speech_of(config, Spy(), "subtask")
    assert (flat.level, flat.sketch, flat.hold_s, flat.hands) == ("task", (8, 9), 2.0, True)
    assert flat.book.understands("anything")
    planner = speech_of(config, make("one-hot"), "motion")
    assert planner.level == "motion"
    assert planner.book.understands("go left")
    assert not planner.book.understands("anything")


def test_a_served_policy_is_known_by_what_its_server_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import embodied.serve.client as client

    facts = {
        "features": {
            "observation/state": {"feature": "state", "shape": [10]},
            "observation/image": {"feature": "top", "shape": [8, 9, 3]},
        },
        "actions": {"shape": [4, 2], "low": [-1, -1], "high": [1, 1]},
        "rate_hz": 50.0,
        "phrases": ["go up"],
    }
    made: list[Any] = []

    class Client:
        is_ours, metadata = True, facts

        def __init__(self, url: str, **options: Any) -> None:
            made.append((url, options))

        def connect(self) -> None:
            made.append("connected")

    monkeypatch.setattr(client, "PolicyClient", Client)
    config = compose_config("server=ws://127.0.0.1:7", "timeout_s=0.5", name="run_robot")
    player = server_player(config)
    assert made == [("ws://127.0.0.1:7", {"key": None, "timeout_s": 0.5}), "connected"]
    assert player.spec is not None
    assert (player.spec.state_dim, player.spec.action_dim) == (10, 2)
    assert dict(player.spec.cameras) == {"top": (8, 9)}
    assert (player.rate_hz, player.speech.level) == (50.0, "motion")
    Client.is_ours = False
    with pytest.raises(ConfigError, match=r"E_SERVE_MISMATCH: ws://127\.0\.0\.1:7 does not say"):
        server_player(config)


def test_each_stage_of_the_lesson_uses_what_earlier_ones_left_and_composes(
    tmp_path: Path,
) -> None:
    there: set[str] = set()
    for stage in robot_lesson.stages(tmp_path, seed=3, overrides=["train.steps=2"]):
        script, *arguments = stage.arguments
        name = {"train.py": "config"}.get(script, Path(script).stem)
        robots = [x for x in arguments if name != "config" or not x.startswith("robot")]
        config = compose_config(*robots, name=name)
        for key in ("checkpoint", "init_from", "corrections"):
            if config.get(key) is not None and os.sep in str(config[key]):
                assert Path(config[key]).relative_to(tmp_path).parts[0] in there
        if name == "config":
            assert (config["seed"], config["train"]["steps"]) == (3, 2)
        there.add(stage.name)
    assert there == {"base", "alone", "told", "corrected", "again"}


def test_a_lesson_goes_on_where_it_stopped_and_stops_where_a_stage_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(next(x for x in command if x.startswith(("run_dir=", "output="))))
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(stages.subprocess, "run", run)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "results.json").write_text("{}")
    assert robot_lesson.main(["--root", str(tmp_path), "--dry-run"]) == 0
    assert ran == []
    assert robot_lesson.main(["--root", str(tmp_path)]) == 7
    assert ran == [f"output={tmp_path / 'alone'}"]
    assert "base: done" in capsys.readouterr().out
