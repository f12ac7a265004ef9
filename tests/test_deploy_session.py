"""Whole sessions of the simulated robot in virtual time: run, corrected, recorded, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.conditions import Row
from embodied.deploy.clock import SECOND, VirtualClock
from embodied.deploy.control import ENDED, Ready
from embodied.deploy.drives import Direct
from embodied.deploy.episodes import Setting, Tape
from embodied.deploy.limits import Limits
from embodied.deploy.minds import Demonstrator, Replay
from embodied.deploy.operator import Speech
from embodied.deploy.recorder import End, Keeping, Kept, film, keep
from embodied.deploy.replaying import drift_of
from embodied.deploy.session import Went, run_virtually
from embodied.deploy.sim_hardware import SimHardware
from embodied.deploy.station import Cast
from embodied.deploy.watchdog import Guards
from embodied.people.interventions import read_interventions
from embodied.people.terminal import Phrasebook
from embodied.structs import Episode, Spec
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter
from embodied_envs.point import PointSuite

WAYS = {"move left": (-1.0, 0.0), "move right": (1.0, 0.0), "move up": (0.0, 1.0)}
SUITE = PointSuite(rate_hz=50.0, step=0.01, max_steps=400, cameras=("top",), image_size=(24, 24))
SPEC = Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 50.0)


class Obedient:
    """Does what its phrase says; its own is "move left"."""

    def __init__(self) -> None:
        self.said = "move left"
        self.fails = False

    def infer(self, observation: Mapping[str, Any]) -> Any:
        if self.fails:
            raise RuntimeError("out of memory")
        return np.tile(np.float32(WAYS[self.said]), (25, 1))

    def tell(self, parts: Row) -> None:
        raise ValueError("one task only")

    def correct(self, parts: Row) -> None:
        self.said = parts[0].text  # type: ignore[union-attr]

    def release(self) -> None:
        self.said = "move left"


def robot(clock: VirtualClock, **fields: Any) -> SimHardware:
    ones = np.ones(2)
    given: dict[str, Any] = {
        "name": "point",
        "world": SUITE,
        "options": {"task": "reach-red", "goal": 0},
        "drive": Direct(),
        "limits": Limits(
            ("x.vel", "y.vel"),
            ("1", "1"),
            *(-ones, ones, 100 * ones, 10000 * ones, 2 * ones),
            rest=np.zeros(2),
        ),
    }
    return SimHardware(clock=clock, **{**given, **fields})


def cast(mind: Any, **fields: Any) -> Cast:
    book = Phrasebook(tuple(WAYS), is_open=False)
    speech = Speech(book, level="motion", hands=fields.get("hands") is not None)
    given: dict[str, Any] = {"dt_s": 0.02, "every_s": 0.1, "speech": speech, "seconds": 3.0}
    return Cast(mind=mind, **{**given, **fields})


def played(mind: Any, *, robot_fields: Any = None, **fields: Any) -> tuple[Tape, Went]:
    clock, tape = VirtualClock(SECOND), Tape()
    body = robot(clock, **(robot_fields or {}))
    went = run_virtually(
        body, clock, cast(mind, **fields), tape, guards=Guards(frozen_frames=0), latency_s=0.03
    )
    return tape, went


def episode_of(tape: Tape) -> Episode:
    clock = VirtualClock()
    setting = Setting(SPEC, robot(clock).observation_features, "go", level="motion")
    found = tape.episode(setting, success=False, terminated=False, info={})
    assert found is not None
    return found


def test_a_word_is_obeyed_by_the_first_inference_after_it_and_no_earlier() -> None:
    tape, went = played(Obedient(), lines=[(1.0, "move up"), (2.0, "ok")])
    (word, release) = tape.words
    episode = episode_of(tape)
    said_at = [thought.obs_time for thought in tape.thoughts.values() if thought.said == "move up"]
    later = [x.obs_time for x in tape.thoughts.values() if x.obs_time > word.time]
    assert min(said_at) == min(later)  # the first that saw anything after the word
    (found,) = read_interventions(episode)
    assert found.words == "move up"
    assert found.since is not None
    # at most an inference (0.1 s) and its latency (0.03 s) later, and a tick
    assert 0 < found.since - found.step <= 7
    under = episode.extras["instruction_id"] == 1
    assert under.any()
    np.testing.assert_array_equal(episode.action[under], [[0.0, 1.0]] * under.sum())
    np.testing.assert_array_equal(episode.action[episode.extras["instruction_id"] == 0][:, 0], -1)
    assert release.number == 2
    assert went.report.counts == {}


def test_a_stop_word_stops_the_robot_within_a_tick_and_nothing_moves_it_again() -> None:
    tape, went = played(Obedient(), lines=[(1.0, "Stop!"), (1.5, "move up")])
    (stop, *_) = tape.words
    late = [x for x in tape.moments if x.tick.time > stop.time + SECOND // 50]
    assert late
    assert all(x.tick.state == "STOPPED" for x in late)
    assert all(x.tick.sent is None for x in late[2:])  # it has braked
    assert not any(x.tick.asked is not None for x in late)
    assert any("STOPPED: stop" in change for change in went.report.changes)


def test_a_policy_that_fails_leaves_a_robot_that_holds() -> None:
    mind = Obedient()

    def watch(*view: Any) -> None:
        mind.fails = True  # after its first plan

    _, went = played(mind, watch=watch)
    assert went.errors > 5
    assert went.inferences == 1
    assert any("RUN -> HOLD: no chunk speaks of now" in x for x in went.report.changes)


def test_nobody_moves_before_the_operator_arms() -> None:
    tape, _ = played(Obedient(), arms=False, lines=[(1.0, "arm")])
    moved = [x.tick.time for x in tape.moments if x.tick.sent is not None]
    assert min(moved) > tape.words[0].time


def test_the_hands_of_a_person_are_recorded_as_theirs() -> None:
    class Hands:
        def infer(self, observation: Mapping[str, Any]) -> Any:
            return np.tile([0.25, -0.5], (25, 1))

    tape, _ = played(Obedient(), hands=Hands(), lines=[(1.0, "take"), (2.0, "give")])
    episode = episode_of(tape)
    theirs = episode.extras["source"] == 2
    np.testing.assert_array_equal(theirs, episode.extras["is_intervention"])
    np.testing.assert_array_equal(episode.action[theirs], [[0.25, -0.5]] * theirs.sum())
    assert 0.8 < theirs.sum() / 50 < 1.2


def test_an_expert_solves_its_task_and_ends_the_session_and_its_record_trains(
    tmp_path: Path,
) -> None:
    expert = SUITE.expert("reach-red")
    clock, tape = VirtualClock(SECOND), Tape()
    body = robot(clock)
    ready = Ready(body.name, body.observation_features, body.limits, 50.0)
    setting = Setting(SPEC, ready.features, "go to the red pad", info={"robot": "point"})
    keeping = Keeping(setting, {}, ("top", tmp_path))

    def end(end: End) -> Kept:
        with LeRobotWriter(tmp_path, spec=SPEC) as writer:
            return keep(tape, keeping, end, writer)

    went = run_virtually(
        body,
        clock,
        cast(Demonstrator(expert), seconds=None),
        tape,
        guards=Guards(frozen_frames=0),
        end=end,
    )
    assert (went.success, went.report.why, went.kept.key) == (True, ENDED, "000000")
    assert (tmp_path / "000000.mp4").stat().st_size > 1000
    (episode,) = LeRobotDataset(tmp_path, only_success=True)
    assert (episode.success, episode.terminated) == (True, True)
    assert len(episode) == went.kept.steps
    assert episode.info["why"] == ENDED
    assert read_interventions(episode) == ()
    # Recorded actions are those of the states beside them, up to the expert's delay of a plan.
    moved = np.diff(episode.state[:, :2], axis=0) / 0.01
    np.testing.assert_allclose(moved[5:-1], episode.action[5:-2], atol=0.02)


def test_a_replay_does_what_was_recorded_and_nothing_drifts_in_a_world_that_repeats_itself() -> (
    None
):
    tape, _ = played(Obedient(), lines=[(0.5, "move up"), (1.0, "move right")], seconds=1.5)
    recorded = episode_of(tape)
    clock = VirtualClock(SECOND)
    body = robot(clock)
    replay = Replay(recorded, body.limits, dt_s=0.02)
    again = Tape()
    went = run_virtually(
        body,
        clock,
        cast(replay, every_s=0.02, seconds=10.0),
        again,
        guards=Guards(frozen_frames=0),
        latency_s=0.01,
    )
    assert went.report.why == "the session is over"
    drift = drift_of(replay)
    assert drift is not None
    assert drift.seen == 1.0
    assert drift.most.max() < 1e-5
    assert "rms 0" in str(drift)


def test_a_replay_on_a_robot_that_was_moved_says_by_how_much() -> None:
    tape, _ = played(Obedient(), lines=[(0.5, "move up")], seconds=1.0)
    recorded = episode_of(tape)
    clock = VirtualClock(SECOND)
    body = robot(clock, seed=1)
    replay = Replay(recorded, body.limits, dt_s=0.02)
    run_virtually(body, clock, cast(replay, every_s=0.02), Tape(), guards=Guards(frozen_frames=0))
    drift = drift_of(replay)
    assert drift is not None
    start = robot(clock, seed=1)._now["state"][:2] - recorded.state[0, :2]
    np.testing.assert_allclose(replay.drift[0][:2], start, atol=0.011)  # by a step


def test_an_episode_of_another_robot_is_not_replayed() -> None:
    tape, _ = played(Obedient(), seconds=0.5)
    one = Limits(("x",), ("m",), *(np.array([x]) for x in (-1.0, 1.0, 1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match=r"E_ROBOT_CONFIG: the episode has 2 actions"):
        Replay(episode_of(tape), one, dt_s=0.02)


@pytest.mark.parametrize("broken", ["full", "other"])
def test_what_cannot_be_written_is_said_and_costs_one_episode(broken: str, tmp_path: Path) -> None:
    tape, _ = played(Obedient(), seconds=0.5)

    class Broken:
        keys: frozenset[str] = frozenset()
        is_final = False

        def add(self, key: str, episode: Episode) -> None:
            raise OSError(28, "No space left on device") if broken == "full" else ValueError("no")

    setting = Setting(SPEC, robot(VirtualClock()).observation_features, "go")
    kept = keep(tape, Keeping(setting, {}), End(False), Broken())
    assert kept.key == ""
    assert "the episode was not kept" in kept.error


def test_a_film_shows_what_was_said_beneath_the_picture() -> None:
    import io

    import av

    tape, _ = played(Obedient(), lines=[(0.5, "move up")], seconds=1.0)
    with av.open(io.BytesIO(film(tape, "top"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == pytest.approx(25, abs=2)
    words = slice(frames[0].shape[0] - 52, frames[0].shape[0] - 26)
    dark, bright = frames[0][words].max(), frames[-1][words].max()
    assert frames[0][words].mean() < frames[-1][words].mean()  # "person:", then what they said
    assert min(dark, bright) > 100
