"""The chain from a two-level policy to one that has learned from corrections."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embodied import stages
from embodied.targets import check
from scripts import corrections as script
from tests.conftest import compose_config


def arguments(stage: stages.Stage) -> dict[str, str]:
    return dict(each.split("=", 1) for each in stage.arguments[1:] if "=" in each)


@pytest.mark.parametrize("recipe", sorted(script.RECIPES))
def test_every_training_of_the_chain_composes(recipe: str, tmp_path: Path) -> None:
    chain = script.stages(recipe, tmp_path, seed=5, overrides=["train.steps=3"])
    for stage in chain:
        if stage.arguments[0] == "train.py":
            config = compose_config(*stage.arguments[1:])
            check(config)
            assert (config["seed"], config["train"]["steps"]) == (5, 3)
            assert config["run_dir"] == str(tmp_path / stage.name)
            told = config["source"]["told"]
            assert told["phrases"] == script.RECIPES[recipe].level


@pytest.mark.parametrize("recipe", sorted(script.RECIPES))
def test_stages_use_only_what_earlier_ones_left(recipe: str, tmp_path: Path) -> None:
    there: set[str] = set()
    for stage in script.stages(recipe, tmp_path):
        used = {
            Path(value).relative_to(tmp_path).parts[0]
            for key, value in arguments(stage).items()
            if key in ("checkpoint", "init_from", "corrections")
        }
        assert used <= there
        there.add(Path(stage.product).parts[0])


@pytest.mark.parametrize("recipe", sorted(script.RECIPES))
def test_what_is_compared_is_judged_on_the_same_episodes_and_corrected_on_others(
    recipe: str, tmp_path: Path
) -> None:
    chain = {stage.name: stage for stage in script.stages(recipe, tmp_path)}
    configs = {
        name: compose_config(*stage.arguments[1:])
        for name, stage in chain.items()
        if stage.arguments[0] == "train.py"
    }
    protocol = configs["base"]["protocol"]
    assert all(each["protocol"] == protocol for each in configs.values())
    assert [name for name, each in configs.items() if each.get("person")] == ["base"]
    practised = arguments(chain["corrections"])
    assert int(practised["protocol.benchmark_seed"]) != protocol["benchmark_seed"]


def test_only_the_phrase_level_is_trained_on_corrections_and_all_of_a_flat_policy(
    tmp_path: Path,
) -> None:
    chain = {stage.name: stage for stage in script.stages("rth", tmp_path)}
    two, flat = (compose_config(*chain[name].arguments[1:]) for name in ("corrected", "iwr"))
    assert two["algorithm"]["train_only"] == ["phrase_level.*"]
    assert two["source"]["sets"]["corrections"]["times"] == 50
    assert flat["algorithm"]["train_only"] is None
    assert flat["policy"]["phrase_level"] is None
    assert two["source"]["sets"] == flat["source"]["sets"]


def test_a_chain_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    class Done:
        def __init__(self, command: list[str], check: bool, stdin: int) -> None:
            assert command[0] == sys.executable
            name = next(x for x in command if x.startswith(("run_dir=", "output=")))
            ran.append(Path(name.split("=")[1]).name)
            self.returncode = 3 if ran[-1] == "corrections" else 0

    monkeypatch.setattr(stages.subprocess, "run", Done)
    results = tmp_path / "rth" / "seed1" / "base" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    assert script.main(["rth", "--root", str(tmp_path), "--seed", "1"]) == 3
    assert ran == ["flat", "corrections"]
    assert "base: done" in capsys.readouterr().out
    assert script.main(["rth", "--root", str(tmp_path), "--dry-run", "--only", "iwr"]) == 0
    assert ran == ["flat", "corrections"]
    assert "iwr: python train.py experiment=rth_iwr" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        ("train.steps=7", "rth", "--only", "flat"),
        ("rth", "--only", "flat", "train.steps=7"),
        ("rth", "train.steps=7", "--only", "flat", "~logger"),
    ],
)
def test_overrides_may_stand_anywhere(
    given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*given, "--root", str(tmp_path), "--dry-run"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("flat: python train.py experiment=rth")
    assert "train.steps=7" in line
    assert ("~logger" in line) is ("~logger" in given)
