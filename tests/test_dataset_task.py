"""Training on recorded data alone: from a folder to a policy, its figures and its report."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embodied
from embodied import experiment
from embodied.checkpoint import ConfigMismatch
from embodied.data.actions import ActionSpaceError
from embodied.encoders.language import SentenceEncoder
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.structs import Episode, Spec
from embodied.targets import ConfigError
from embodied_datasets.lerobot_writer import LeRobotWriter
from tests.conftest import compose_config, encode_by_string
from tests.test_report import Page

SPEC = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)
SMALL = (
    "task=dataset",
    "device=cpu",
    "threads=1",
    "policy.dim=16",
    "policy.head.num_layers=1",
    "policy.head.num_heads=2",
    "algorithm.precision=fp32",
    "algorithm.warmup_steps=2",
    "train.steps=4",
    "train.batch_size=16",
    "train.save_every=2",
    "train.log_every=1",
    "data.frames_per_episode=5",
    "data.val_fraction=0.25",
    "data.num_traces=2",
)
Record = Callable[..., Path]
Run = Callable[..., dict[str, Any]]


def walk(number: int, sign: float = 1.0, length: int = 20) -> Episode:
    """Steps to the left or to the right; only the words say which, and the last action."""
    random = np.random.default_rng(number)
    goal = np.array([sign if number % 2 else -sign, 0.0])
    place, states, actions = random.uniform(-0.5, 0.5, 2), [], []
    for _ in range(length):
        action = np.clip(goal - place, -0.2, 0.2) + random.normal(0, 0.02, 2)
        states.append([*place, *(0.1 * random.normal(size=2))])
        actions.append(action)
        place = place + action
    return Episode(
        np.array(states, np.float32),
        np.array(actions, np.float32),
        "go right" if number % 2 else "go left",
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """record(name, **changes): the folder of a data set of 12 walks."""

    def write(name: str, spec: Spec = SPEC, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("sets") / name
        with LeRobotWriter(folder, spec=spec) as writer:
            for number in range(12):
                writer.add(f"{number:02d}", replace(walk(number), **changes))
            writer.finalize()
        return folder

    return write


@pytest.fixture(scope="module")
def walks(record: Record) -> Path:
    return record("walks")


@dataclass(frozen=True)
class Finished:
    """A small run that several tests look at."""

    folder: Path
    results: dict[str, Any]
    messages: list[str]


@pytest.fixture(scope="module")
def finished(walks: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, messages = tmp_path_factory.mktemp("runs") / "run", list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("embodied")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentenceEncoder, "_encode", encode_by_string)
        embodied.train(compose_config(*SMALL, f"run_dir={folder}", f"data.path={walks}"))
    logger.removeHandler(handler)
    logger.setLevel(before)
    return Finished(folder, json.loads((folder / "results.json").read_text()), messages)


@pytest.fixture
def run(fake_language: None, tmp_path: Path) -> Run:
    """run(*overrides): results.json of a small run."""

    def trained(*overrides: str) -> dict[str, Any]:
        config = compose_config(*SMALL, f"run_dir={tmp_path / 'run'}", *overrides)
        path = embodied.train(config)
        assert path == tmp_path / "run" / "results.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return trained


def is_estimate(found: Mapping[str, float]) -> bool:
    return found["low"] <= found["mean"] <= found["high"] and found["episodes"] > 0


def test_a_path_is_enough(finished: Finished, walks: Path) -> None:
    results = finished.results
    assert set(results["asked"]) == {"recorded", "wrong_instruction", "none"}
    assert set(results["baselines"]) == {"hold_last_action", "mean_action"}
    for each in results["asked"].values():
        for name in ("error", "loss", "against_hold_last_action"):
            assert is_estimate(each[name])
        assert len(each["per_dimension"]) == 2
        assert len(each["per_step"]) == 4
        assert len(each["per_episode"]) == 3
    assert results["error"] == results["asked"]["recorded"]["error"]
    assert results["error"]["episodes"] == len(results["held_out"]) == 3
    assert results["fingerprint"]
    assert results["config"]["data"]["path"] == str(walks)
    steps = [row["step"] for row in read_jsonl(finished.folder / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]


def test_the_checkpoint_is_a_policy_like_any_other(finished: Finished, fake_language: None) -> None:
    policy, found = load_policy(finished.folder, "cpu")
    assert (policy.spec.state_dim, policy.spec.action_dim, policy.spec.rate_hz) == (4, 2, 10.0)
    assert found.step == 4
    assert found.documents["data"]["fingerprint"]


def test_the_report_shows_figures_plots_and_episodes(finished: Finished) -> None:
    results, page = finished.results, Page(finished.folder / "report.html")
    assert "Open-loop report" in page.text
    assert f"{results['error']['mean']:.3f}" in page.text
    assert "hold last action" in page.text
    assert "Only 3 held-out episodes" in page.text
    assert "by dimension" in page.text.lower()
    assert page.text.count("episode ") >= 2
    # Error over the chunk, two dimensions of two episodes, and the learning curves.
    assert len(page.named("svg")) >= 1 + 4 + 2
    assert not page.named("script")


def test_what_was_found_is_shown_before_training(finished: Finished) -> None:
    messages = finished.messages
    table = next(text for text in messages if text.startswith("feature"))
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert "9" in lines["episodes"]
    assert "10 Hz" in lines["frames"]
    assert "0-1 look like deltas" in lines["action"]
    assert "'go left'" in lines["instructions"]
    assert "3" in lines["held"]
    shown = messages.index(table)
    assert shown < next(i for i, text in enumerate(messages) if "parameters" in text)


def test_a_policy_that_listens_is_told_apart_from_one_that_is_misled(run: Run, walks: Path) -> None:
    more = ("train.steps=150", "train.batch_size=64", "algorithm.learning_rate=0.003")
    results = run(f"data.path={walks}", *more, "algorithm.ema_decay=0.98", "train.log_every=100")
    asked = results["asked"]
    assert asked["recorded"]["error"]["high"] < asked["wrong_instruction"]["error"]["low"]
    assert asked["recorded"]["error"]["mean"] < results["baselines"]["mean_action"]["error"]["mean"]


def test_a_run_resumes_and_other_data_are_refused(
    run: Run, walks: Path, record: Record, tmp_path: Path
) -> None:
    run(f"data.path={walks}", "train.steps=4")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    run(f"data.path={walks}", "train.steps=4", "source.placement=host")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    changed = record("changed", action=np.zeros((20, 2), np.float32))
    with pytest.raises(ConfigMismatch, match=r"data\.path"):
        run(f"data.path={changed}", "train.steps=4")


@pytest.mark.parametrize("placement", ["host", "stream"])
def test_data_may_live_anywhere(run: Run, walks: Path, placement: str) -> None:
    run(f"data.path={walks}", f"source.placement={placement}")


def test_held_out_wordings_are_asked_and_never_trained_on(run: Run, walks: Path) -> None:
    results = run(f"data.path={walks}", "data.held_out_wordings=0.5")
    # Each meaning has one wording here, so one of the two is held out with its episodes.
    assert results["asked"]["held_out_wordings"]["error"]["episodes"] == 6
    assert results["asked"]["recorded"]["error"]["episodes"] == 2
    rows = {row["feature"]: row for row in results["data"]}
    assert rows["instructions"]["size"] == "1"


def test_goals_are_given_where_they_are_asked_for(run: Run, walks: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes no 'p_future'; did you mean"):
        run(f"data.path={walks}", "source.goals={p_future: 1.0}")
    run(f"data.path={walks}", "source.goals={p_trajgoal: 0.5, p_finalgoal: 0.5}")


def test_a_mixture_is_one_line_more(run: Run, walks: Path, record: Record, tmp_path: Path) -> None:
    other = record("other", instruction="go home")
    sets = f"{{a: {{path: '{walks}', weight: 3}}, b: {{path: '{other}'}}}}"
    results = run("source=mixture", f"source.sets={sets}")
    assert set(results["by_source"]) == {"a", "b"}
    rows = {row["feature"]: row["what is in it"] for row in results["data"]}
    assert rows["data set a"].endswith("drawn with probability 0.75")
    row = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["loss"] == pytest.approx((3 * row["loss/a"] + row["loss/b"]) / 4, rel=0.2)


JOINT = "{control: joint, mode: %s, gripper_dim: 0, rate_hz: %s}"


def test_action_spaces_are_brought_together_or_refused(
    run: Run, walks: Path, record: Record
) -> None:
    fast = record("fast", spec=replace(SPEC, rate_hz=20.0))
    first = f"{{path: '{walks}', action_space: {JOINT % ('delta', 10)}}}"
    second = f"{{path: '{fast}', action_space: {JOINT % ('delta', 20)}}}"
    mixture = ("source=mixture", f"source.sets={{a: {first}, b: {second}}}")
    with pytest.raises(ValueError, match=r"agree in rate_hz, got {'a': 10.0, 'b': 20.0}"):
        run(*mixture)
    results = run(*mixture, f"data.convert_to={JOINT % ('delta', 10)}")
    rows = {row["feature"]: row["what is in it"] for row in results["data"]}
    assert "turned into delta joint" in rows["action space b"]
    with pytest.raises(ActionSpaceError, match="cannot turn actions"):
        run(*mixture, f"data.convert_to={JOINT % ('absolute', 10)}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=null", r"data\.path must name a file or folder"),
        ("data.val_fraction=1.0", r"data\.val_fraction must lie in \[0, 1\), got 1\.0"),
        ("data.frames_per_episode=0", r"data\.frames_per_episode must be a whole number >= 1"),
        ("eval.action_horizon=9", r"eval\.action_horizon must lie in \[1, 4\]"),
        ("source.placement=disk", r"placement must be one of"),
    ],
)
def test_mistakes_are_named_before_training(
    run: Run, walks: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(f"data.path={walks}", override)


def test_a_set_takes_no_other_keys(run: Run, walks: Path) -> None:
    with pytest.raises(ConfigError, match=r"source\.sets\.a takes no \['wieght'\]"):
        run("source=mixture", f"source.sets={{a: {{path: '{walks}', wieght: 2}}}}")


def test_what_a_sweep_optimises_is_the_error(
    walks: Path, fake_language: None, tmp_path: Path
) -> None:
    config = compose_config(*SMALL, f"run_dir={tmp_path}", f"data.path={walks}", "train.steps=1")
    error = experiment.main(config)
    assert error == json.loads((tmp_path / "results.json").read_text())["error"]["mean"]


def test_acting_in_a_world_needs_one_to_be_named(finished: Finished, fake_language: None) -> None:
    config = compose_config(f"checkpoint={finished.folder}", "device=cpu", name="evaluate")
    with pytest.raises(ValueError, match=r"learned from recorded data \(task=dataset\)"):
        embodied.evaluate(config)


def test_a_policy_sees_or_says_that_it_does_not(
    record: Record, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)
    spec = replace(SPEC, cameras={"top": (16, 16)})
    path = f"data.path={record('filmed', spec, images={'top': frames})}"
    run(path, "train.steps=2")
    assert "does not look at the images of ['top']" in caplog.text


def test_a_policy_with_eyes_learns_from_films_and_is_not_warned(
    record: Record, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)
    spec = replace(SPEC, cameras={"top": (16, 16)})
    path = record("watched", spec, images={"top": frames})
    run(f"data.path={path}", "policy=chunk_images", "policy.encoder.parts.image.channels=[8,8]")
    assert "does not look" not in caplog.text


def test_changes_since_the_last_action_are_learned_by_naming_it(
    run: Run, record: Record, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    actions = 0.4 * random.normal(0, 0.2, (20, 2)).cumsum(0).astype(np.float32)
    path = f"data.path={record('wandering', action=actions)}"
    told = ("data.state=[state,previous_action]", "policy.relative_to=previous_action")
    results = run(path, *told)
    rows = {row["feature"]: row["what is in it"] for row in results["data"]}
    assert rows["state"] == "state 4, previous_action 2"
    assert "look absolute" not in rows["action"]  # the state holds them, and does not follow
    policy, found = load_policy(tmp_path / "run", "cpu")
    assert policy.spec.state_parts == {"state": 4, "previous_action": 2}
    assert found.tensors["policy"]["action_normalizer.low"].shape == (8,)


def test_what_actions_are_relative_to_must_be_in_the_state(run: Run, walks: Path) -> None:
    with pytest.raises(ValueError, match=r"relative_to must be .* got 'previous_action'"):
        run(f"data.path={walks}", "policy.relative_to=previous_action")


def test_mixed_sets_have_the_previous_action_at_one_place(run: Run, walks: Path) -> None:
    other = f"{{path: '{walks}', state: [previous_action, state]}}"
    sets = f"{{a: {{path: '{walks}', state: [state, previous_action]}}, b: {other}}}"
    with pytest.raises(ValueError, match=r"'previous_action' at the same place .*range\(4, 6\)"):
        run("source=mixture", f"source.sets={sets}")
