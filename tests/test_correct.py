"""Correcting at the terminal and with simulated people: obeyed, recorded, and never lost."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import embodied
from embodied.conditions import LanguageMotion
from embodied.evaluation import Trial
from embodied.noise import Noise
from embodied.people import session
from embodied.people.corrections import Correction, Release, View
from embodied.people.interventions import read_interventions
from embodied.people.live import play_and_keep
from embodied.people.recorder import FLAG
from embodied.people.terminal import Lines, Phrasebook, Quit, Terminal
from embodied.results import Outcome
from embodied.rollout import Controller
from embodied.structs import Condition, Episode, Observation, Spec
from embodied.suites import Assignment
from embodied.testing import check_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.recording import spec_of
from embodied_envs.point import PointSuite
from embodied_envs.vector import make_vec
from tests.acting import Acting
from tests.conftest import TINY, compose_config

SPEED = {"move right": (0.3, 0.0), "move left": (-0.3, 0.0), "move up": (0.0, 0.3)}
SUITE = PointSuite()


class Obedient(Acting):
    """Moves as its phrase says; stands still without one."""

    def __init__(self) -> None:
        super().__init__(Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0))

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        phrases = condition.motion or ("",) * len(observation.state)
        action = torch.tensor([SPEED.get(phrase, (0.0, 0.0)) for phrase in phrases])
        return action[:, None].expand(-1, 4, -1)


def moves(episode: Episode) -> str:
    """The episode's actions, a letter for each step."""
    letters = {speed: phrase.split()[1][0] for phrase, speed in SPEED.items()}
    rows = [tuple(round(x, 4) for x in row) for row in episode.action.tolist()]
    return "".join(letters.get(row, ".") for row in rows)


@pytest.fixture
def correct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Episode]]:
    """correct(text, *overrides): what typing it leaves in the data set; the obedient policy acts
    for four steps after each inference."""
    found = SimpleNamespace(
        documents={"config": {"eval": {"action_horizon": 4}}}, path=tmp_path / "run" / "c" / "0"
    )
    monkeypatch.setattr(session, "load_policy", lambda *_: (Obedient(), found))
    count = iter(range(99))

    def corrected(text: str, *overrides: str) -> list[Episode]:
        script = tmp_path / f"typed-{next(count)}"
        script.write_text(text)
        config = compose_config(
            "checkpoint=unused",
            "+suite._target_=embodied_envs.point.PointSuite",
            "said_as=motion",
            "phrases=[move right,move left,move up]",
            "speed=null",
            "turn=1",
            "frame.film=false",
            "max_steps=12",
            f"input={script}",
            f"output={tmp_path / 'set'}",
            *overrides,
            name="correct",
        )
        return list(LeRobotDataset(session.correct(config)))

    return corrected


def test_a_typed_phrase_is_obeyed_at_the_next_inference_until_the_empty_line(
    correct: Callable[..., list[Episode]],
) -> None:
    (episode,) = correct(".\n.\nmove right\n.\n.\n.\n.\n\n")
    assert moves(episode) == "....rrr....."
    (record,) = read_interventions(episode)
    assert (record.step, record.since, record.last) == (2, 4, 6)
    assert (record.level, record.words, record.who) == ("motion", "move right", "terminal")
    np.testing.assert_array_equal(np.flatnonzero(episode.extras[FLAG]), [4, 5, 6])


def test_a_correction_can_be_obeyed_at_once_and_last_for_a_skill(
    correct: Callable[..., list[Episode]],
) -> None:
    (episode,) = correct(".\n.\nmove up\n.\n", "replan=true", "steps=5")
    assert moves(episode) == "..uuuuu....."


def test_a_typo_gets_a_suggestion_and_changes_nothing(
    correct: Callable[..., list[Episode]], capsys: pytest.CaptureFixture[str]
) -> None:
    (episode,) = correct("mov rihgt\nxyz\nmove left\n", "replan=true")
    printed = capsys.readouterr().out
    assert "does not know 'mov rihgt'; did you mean 'move right'" in printed
    assert "does not know 'xyz'; type 'help'" in printed
    assert moves(episode) == "l" * 12


def test_help_lists_the_phrases(
    correct: Callable[..., list[Episode]], capsys: pytest.CaptureFixture[str]
) -> None:
    correct("help\n.\n")
    assert "\n  move right\n  move left\n  move up\n" in capsys.readouterr().out


def test_any_words_are_passed_on_where_the_policy_takes_them(
    correct: Callable[..., list[Episode]],
) -> None:
    (episode,) = correct("wave goodbye\n", "any_words=true")
    assert [each.words for each in read_interventions(episode)] == ["wave goodbye"]


def test_words_for_a_language_policy_replace_its_instruction(
    correct: Callable[..., list[Episode]],
) -> None:
    (episode,) = correct("anything at all\n", "said_as=language")
    (record,) = read_interventions(episode)
    assert (record.level, dict(record.content)) == ("subtask", {"Language": "anything at all"})
    assert [a.content for a in episode.annotations if a.role == "user"] == ["anything at all"] * 2


def test_an_episode_that_is_quit_is_kept_and_the_next_session_adds_to_it(
    correct: Callable[..., list[Episode]],
) -> None:
    (first,) = correct("move up\n.\n.\n.\n.\n.\nquit\n", "episodes=3")
    assert moves(first) == "....uu"
    assert first.truncated
    assert not first.success
    first_again, second, third = correct("", "episodes=2")
    assert moves(first_again) == moves(first)
    assert [second.info["goal"], third.info["goal"]] == [0, 1]


def test_the_newest_frame_is_a_picture(
    correct: Callable[..., list[Episode]], tmp_path: Path
) -> None:
    correct(".\n", "frame.size=[30, 40]", "frame.film=true")
    with Image.open(tmp_path / "set" / "newest.png") as picture:
        assert picture.size == (40, 30)
    assert (tmp_path / "set" / "000000.mp4").stat().st_size > 100


@pytest.mark.parametrize("bad", ["speed=0", "episode.task=reach-the-moon", "eval.action_horizon=9"])
def test_what_cannot_be_is_refused(correct: Callable[..., list[Episode]], bad: str) -> None:
    with pytest.raises(ValueError, match="E_CONFIG_VALUE"):
        correct("", bad)


def view(step: int = 0, **fields: Any) -> View:
    state = {"state": np.zeros(10, np.float32)}
    return View(step, state, **{"said": "", "told": "", "planned": np.zeros(2), **fields})


def test_lines_of_a_pipe_are_heard_while_the_robot_moves() -> None:
    """In real time nobody waits: what is typed counts from the step after it."""
    read, write = os.pipe()
    with os.fdopen(read) as stream, os.fdopen(write, "w") as pen:
        said: list[str] = []
        book = Phrasebook(list(SPEED), is_open=False)
        terminal = Terminal(Lines(stream), book, period_s=0.01, say=said.append)
        person = terminal.begin(Assignment("reach-red", 0, 0, 0, "go"))
        assert [person(view(step)) for step in range(3)] == [None] * 3
        print("move up", file=pen, flush=True)
        answers = [person(view(step)) for step in range(3, 60)]
        (answer,) = [each for each in answers if each is not None]
        assert isinstance(answer, Correction)
        assert answer.parts == (LanguageMotion("move up"),)
        print("\nquit", file=pen, flush=True)
        with pytest.raises(Quit):
            assert {type(person(view(step))) for step in range(60, 200)} <= {Release, type(None)}
    assert any("told 'move up'" in line for line in said)


def test_steps_take_their_time() -> None:
    import time

    lines = Lines(io.StringIO(""))
    terminal = Terminal(lines, Phrasebook([], is_open=True), period_s=0.02, say=lambda text: None)
    person = terminal.begin(Assignment("reach-red", 0, 0, 0, "go"))
    start = time.monotonic()
    for step in range(10):
        person(view(step))
    assert time.monotonic() - start >= 0.19


def test_what_the_policy_says_and_does_is_told_when_it_changes() -> None:
    said: list[str] = []
    terminal = Terminal(Lines(io.StringIO("")), Phrasebook([], is_open=True), say=said.append)
    person = terminal.begin(Assignment("reach-red", 0, 0, 0, "go"))
    for step, (phrase, held) in enumerate([("a", False), ("a", False), ("b", True), ("b", False)]):
        person(view(step, said=phrase, held=held))
    assert said[1:] == [
        "step 0: 'a'",
        "step 2: 'b'",
        "step 2: the policy obeys",
        "step 3: the policy does as it likes again",
    ]


# Simulated people


def simulated(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    return compose_config(
        "checkpoint=unused",
        "+suite._target_=embodied_envs.point.PointSuite",
        "person=motions_point",
        "protocol=point",
        "protocol.goals_per_task=2",
        "level=motion",
        "env.num_envs=3",
        "env.workers=0",
        f"output={tmp_path / 'set'}",
        *overrides,
        name="correct",
    )


def test_simulated_people_leave_a_data_set_with_expert_actions(
    correct: Callable[..., list[Episode]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = simulated(tmp_path, "person.max_corrections=5")
    data = LeRobotDataset(session.correct(config))
    check_episodes(data)
    assert len(data) == 8
    assert "8 episodes: success" in capsys.readouterr().out
    for episode in data:
        records = read_interventions(episode)
        assert 0 < len(records) <= 5
        assert {each.level for each in records} == {"motion"}
        assert sum(each.num_steps for each in records) == episode.extras[FLAG].sum()
        wanted = SUITE.expert(episode.info["task"])(episode.state)
        assert episode.expert_action is not None
        np.testing.assert_allclose(episode.expert_action, wanted, atol=1e-6)
        assert {a.style for a in episode.annotations} == {"motion", "interjection"}
    session.correct(config)  # nothing is left to do
    assert "no new episodes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="with other settings"):
        session.correct(simulated(tmp_path, "person.max_corrections=6"))


class Interrupted:
    """Correct once, then something breaks."""

    name = "someone"

    def begin(self, assignment: Assignment) -> Interrupted:
        return self

    def __call__(self, view: View) -> Correction | None:
        if view.step == 5:
            raise KeyboardInterrupt
        return (
            Correction("motion", (LanguageMotion("move up"),), steps=9) if view.step == 1 else None
        )

    def demonstrate(self, view: View) -> None:
        return None


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupted_episode_is_kept_if_asked(keep: bool) -> None:
    written: list[Episode] = []
    envs = make_vec(SUITE, 1)
    trial = Trial(Assignment("reach-red", 0, 0, 0, "go"), 60)
    controller = Controller(Obedient(), 1, action_horizon=4)
    with pytest.raises(KeyboardInterrupt):
        for _ in play_and_keep(
            controller,
            Interrupted(),
            envs,
            [trial],
            lambda number, episode: written.append(episode),
            spec=spec_of(SUITE),
            keep_unfinished=keep,
        ):
            pass
    assert [moves(episode) for episode in written] == [".uuuu"] * keep
    for episode in written:
        (record,) = read_interventions(episode)
        assert (record.since, record.last) == (1, 4)
        assert len(episode.final["state"]) == 10


def test_what_is_recorded_is_what_happened() -> None:
    """Played again, the recorded actions lead through the recorded states."""
    written: dict[int, Episode] = {}
    found: dict[int, Outcome] = {}
    trials = [Trial(Assignment("reach-red", i, 0, i, "go"), 15) for i in range(5)]
    envs = make_vec(SUITE, 2)
    controller = Controller(Obedient(), 2, action_horizon=4)
    lines = Lines(io.StringIO("move up\n" * 500))
    crowd = Terminal(lines, Phrasebook([], is_open=True), turn=3, say=lambda text: None)
    for ended in play_and_keep(
        controller, crowd, envs, trials, written.__setitem__, spec=spec_of(SUITE)
    ):
        found |= ended
    assert sorted(written) == [0, 1, 2, 3, 4]
    for number, episode in written.items():
        assignment, outcome = trials[number].assignment, found[number]
        assert (episode.info["goal"], episode.info["seed"]) == (number, number)
        assert episode.reward is not None
        assert (len(episode), episode.success) == (outcome.steps, outcome.success)
        assert episode.reward.sum() == pytest.approx(outcome.reward, rel=1e-5)
        env = SUITE.make_env()
        options = {"task": assignment.task, "goal": assignment.goal, "benchmark_seed": 0}
        state = env.reset(seed=assignment.seed, options=options)[0]["state"]
        for step, action in enumerate(episode.action):
            np.testing.assert_array_equal(episode.state[step], state)
            state = env.step(action)[0]["state"]
        np.testing.assert_array_equal(episode.final["state"], state)
        assert np.array_equal(episode.expert_action, episode.action)  # nobody knows better


def test_an_evaluation_with_people_has_a_name_of_its_own() -> None:
    from embodied.parts import asked

    overrides = [text for text in TINY if "task.collect" not in text]
    config = compose_config(
        *overrides, "person=actions", "person.corrections_in_all=6", "run_dir=r"
    )
    main, corrected = asked(config, SUITE)
    assert (main.people, corrected.protocol.name) == (None, f"{main.protocol.name}+corrected")
    assert corrected.people is not None
    assert replace(corrected.protocol, name=main.protocol.name) == main.protocol
    assert sum(quota.corrections or 0 for quota in corrected.people.quotas.values()) == 6
    assert len(asked({**config, "person": None}, SUITE)) == 1


@pytest.mark.slow
def test_a_checkpoint_is_corrected_and_evaluated_from_the_command_line(
    compose: Any, command: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    embodied.train(compose(run))
    done = command(
        "scripts/correct.py",
        f"checkpoint={run}",
        "device=cpu",
        "speed=50",
        "max_steps=12",
        input="go to the blue pad\n",
    )
    assert done.returncode == 0, done.stderr
    assert "told 'go to the blue pad'" in done.stdout
    (episode,) = LeRobotDataset(run / "corrected")
    (record,) = read_interventions(episode)
    assert record.since is not None
    assert record.step < record.since <= record.step + 2  # the run's action horizon
    done = command(
        "scripts/evaluate.py",
        f"checkpoint={run}",
        "device=cpu",
        "protocol=point",
        "protocol.goals_per_task=1",
        "person=actions",
        "shards=1",
        "env.num_envs=2",
        "env.workers=0",
    )
    assert done.returncode == 0, done.stderr
    assert "corrected: 1.000" in done.stdout
    assert "corrected_share" in done.stdout
