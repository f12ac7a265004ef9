"""One policy told in five ways, and specialists beside it: recipes, and motions that are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import embodied
from embodied.parts import asked, perturbed
from embodied.people.simulated import Simulated
from embodied.protocols import Protocol
from embodied.results import read_results
from embodied.targets import ConfigError
from embodied_envs.motions import Motions
from embodied_envs.point import PointSuite
from tests.conftest import MOTIONS, compose_config

WAYS = ("language", "goal_state", "goal_image", "sketch", "motion")
FEW = (
    *MOTIONS,
    "+task.suite.tasks=[push-right,lift-left]",
    "+probes.held_out.suite.tasks=[lift-right,push-toward-left]",
)


@pytest.fixture(scope="module")
def five() -> dict[str, Any]:
    return compose_config("experiment=five", "run_dir=unused")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_the_policy_of_all_is_told_in_every_way_and_asked_in_each(
    five: dict[str, Any],
) -> None:
    config = five
    parts = config["policy"]["encoder"]["parts"]["task"]["parts"]
    assert set(parts) == set(WAYS)
    assert None not in parts.values()
    told = {name: each["modalities"] for name, each in config["probes"].items()}
    assert config["protocol"]["modalities"] == told["held_out"] == ["language"]
    for way in WAYS[1:]:
        said = ["sketch_2d" if way == "sketch" else way]
        assert told[way] == told[f"held_out_{way}"] == said
    both = ["language", "sketch_2d"]
    assert told["language_sketch"] == told["held_out_language_sketch"] == both
    splits = {n: each["suite"]["split"] for n, each in config["probes"].items() if "suite" in each}
    assert splits == {n: "crossed_held_out" for n in told if n.startswith("held_out")}


@pytest.mark.parametrize("way", WAYS)
def test_a_specialist_differs_in_what_it_is_told_and_how_long_it_learns(
    way: str, five: dict[str, Any]
) -> None:
    config = compose_config(f"experiment=five_{way}", "run_dir=unused")
    parts = config["policy"]["encoder"]["parts"]["task"]["parts"]
    assert [name for name, part in parts.items() if part is not None] == [way]
    said = ["sketch_2d" if way == "sketch" else way]
    assert config["protocol"]["modalities"] == config["probes"]["held_out"]["modalities"] == said
    assert (config.get("person") is not None) == (way == "motion")
    for name in ("task", "source", "algorithm", "eval", "env"):
        assert config[name] == five[name]
    assert five["train"]["steps"] <= len(WAYS) * config["train"]["steps"]
    assert config["train"]["batch_size"] == five["train"]["batch_size"]
    told = config["policy"]["encoder"]["parts"]["task"]
    told["parts"] = five["policy"]["encoder"]["parts"]["task"]["parts"]
    assert config["policy"] == five["policy"]


@pytest.mark.slow  # a whole run
def test_one_command_gives_a_figure_for_each_way_of_asking(data: Path, tmp_path: Path) -> None:
    command = ("experiment=five", *FEW, f"data_dir={data}", f"run_dir={tmp_path}")
    embodied.train(compose_config(*command))
    found = read_results(tmp_path)
    names = {name: each.protocol for name, each in found.probes.items()}
    assert found.protocol == "motions-crossed@fast"
    assert names["sketch"] == "motions-crossed@sketch_2d@fast"
    assert names["held_out_language_sketch"] == "motions-crossed-held-out@language+sketch_2d@fast"
    for name in ("motion", "held_out_motion"):  # each suite's own people, and they always speak
        assert names[name].endswith("@motion@fast")
        assert found.probes[name].metrics()["corrected_share"].mean == 1
    assert "corrections" not in found.probes["sketch"].metrics()
    assert all(len(each.valid) == 2 for each in found.probes.values())


def test_a_specialist_in_motions_is_filmed_as_it_was_judged(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    command = ("experiment=five_motion", *FEW, "video.per_task=1", "video.size=[32,32]")
    embodied.train(compose_config(*command, f"data_dir={data}", f"run_dir={tmp_path}"))
    found = read_results(tmp_path)
    assert found.protocol == "motions-crossed@motion@fast"
    assert set(found.probes) == {"held_out"}  # nobody corrects what is told anyway
    assert len(list((tmp_path / "videos").iterdir())) == 2


# Motions that are said


def protocol(**fields: Any) -> dict[str, Any]:
    usual = {"_target_": "embodied.protocols.Protocol", "name": "p", "goals_per_task": 1}
    return {**usual, "modalities": ["motion"], **fields}


def test_motions_need_somebody_to_say_them() -> None:
    with pytest.raises(ConfigError, match=r"nobody is there to say them: name a person"):
        asked({"protocol": protocol(), "person": None}, PointSuite())
    beside = {"protocol": protocol(modalities=["language"]), "probes": {"a": protocol()}}
    with pytest.raises(ConfigError, match="person"):
        asked(beside, Motions())


def test_whoever_says_motions_knows_the_suite_of_their_protocol(
    five: dict[str, Any],
) -> None:
    parts = {part.name: part for part in asked(five, Motions(split="crossed"))}
    speaking = {name for name, part in parts.items() if part.people is not None}
    assert speaking == {"motion", "held_out_motion", "corrected"}
    for name in speaking:
        people = parts[name].people
        assert isinstance(people, Simulated)
        assert people.suite == parts[name].suite
    assert parts["motion"].suite != parts["held_out_motion"].suite


def test_motions_are_said_in_robustness_too(five: dict[str, Any]) -> None:
    arm = {"_target_": "embodied_envs.perturbations.ActionDelay", "steps": 1}
    config = {"protocol": protocol(), "person": five["person"], "robustness": {"delay": arm}}
    (part,) = perturbed(config, Motions())
    assert part.people is not None
    assert part.people.suite == part.suite


def test_a_protocol_may_be_told_in_motions_beside_anything_else() -> None:
    assert Protocol("p", modalities=("language", "motion")).name_on(PointSuite()) == (
        "p@language+motion"
    )
    with pytest.raises(ValueError, match="each once"):
        Protocol("p", modalities=("motion", "motion"))
