"""Three processes: what one of them suffers the others survive, and the robot is always stopped."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.deploy.clock import MonotonicClock
from embodied.deploy.control import Plant, Ready
from embodied.deploy.crew import Crew, CrewError
from embodied.deploy.episodes import Setting
from embodied.deploy.keyboard import Keyboard, listen
from embodied.deploy.operator import Speech
from embodied.deploy.recorder import End, Keeping
from embodied.deploy.session import run_session
from embodied.deploy.station import Cast, Station
from embodied.people.terminal import Phrasebook
from embodied.structs import Spec
from embodied_datasets.lerobot import LeRobotDataset

SPEC = Spec(2, 2, (-1.0, -2.0), (1.0, 2.0), 50.0)
LOOSE = {"max_overruns": 50, "expiry_s": 2.0, "observation_age_s": 2.0}  # a busy machine
ROBOT: dict[str, Any] = {
    "_target_": "embodied.deploy.sim_hardware.SimHardware",
    "name": "crew-test",
    "world": {
        "_target_": "embodied.deploy.kinematic.KinematicArm",
        "start": [0.0, 0.0],
        "rate_hz": 50.0,
    },
    "drive": {"_target_": "embodied.deploy.drives.Direct", "position": [0, 1]},
    "limits": {
        "_target_": "embodied.deploy.limits.Limits",
        "names": ["a.pos", "b.pos"],
        "units": ["rad", "rad"],
        "low": [-1.0, -2.0],
        "high": [1.0, 2.0],
        "velocity": [0.5, 0.5],
        "acceleration": [2.0, 2.0],
        "start_jump": [0.3, 0.3],
    },
}


class Still:
    """A mind that stays where the robot is."""

    def infer(self, observation: Mapping[str, Any]) -> Any:
        return np.repeat(observation["previous_action"][None], 100, axis=0)


def cast(**fields: Any) -> Cast:
    given: dict[str, Any] = {"dt_s": 0.02, "every_s": 0.1, "seconds": 1.0}
    return Cast(mind=Still(), speech=Speech(Phrasebook((), is_open=True)), **{**given, **fields})


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    folder = tmp_path / "memory"
    folder.mkdir()
    return Plant(ROBOT, guards=LOOSE, folder=folder)


@pytest.fixture
def keeping(tmp_path: Path) -> Callable[[Ready], Keeping]:
    writer = {
        "_target_": "embodied_datasets.lerobot_writer.LeRobotWriter",
        "root": str(tmp_path / "kept"),
    }
    return lambda ready: Keeping(Setting(SPEC, ready.features, "stay"), writer)


pytestmark = pytest.mark.slow  # processes, by the wall clock


@pytest.fixture
def leaves_nothing(plant: Plant) -> Iterator[None]:
    yield
    assert list(plant.folder.iterdir()) == []


@pytest.mark.usefixtures("leaves_nothing")
def test_a_session_runs_and_is_kept(plant: Plant, keeping: Any, tmp_path: Path) -> None:
    with Crew(plant) as crew:
        crew.keep(keeping(crew.ready))
        went = run_session(crew, cast(lines=[(0.3, "stay there")]))
        pids = crew.pids
    assert went.report.error == ""
    assert went.report.why == "the session is over"
    assert went.kept.key == "000000"
    (episode,) = LeRobotDataset(tmp_path / "kept", only_success=False)
    assert len(episode) == went.kept.steps
    assert "stay there" in [each.content for each in episode.annotations]
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_recorder_that_stalls_costs_ticks_which_are_counted_and_the_robot_nothing(
    plant: Plant, keeping: Any
) -> None:
    with Crew(plant) as crew:
        crew.keep(keeping(crew.ready))
        recorder = crew.pids[1]
        assert recorder is not None
        os.kill(recorder, signal.SIGSTOP)
        station = Station(cast(), crew.mail, crew.ready, MonotonicClock(), note=crew.note)
        crew.go()
        until = time.monotonic() + 23  # 1000 ticks find room: 20 s at 50 Hz
        while crew.controls and time.monotonic() < until:
            station.turn()
            time.sleep(0.002)
        report = crew.leave("enough")
        os.kill(recorder, signal.SIGCONT)
        kept = crew.end(End(False))
    assert report.error == ""
    assert report.lost > 0
    assert report.ticks > 1000
    assert report.ticks - report.lost >= 1000
    assert kept.steps > 0


class Keys:
    """A stream of keys: one axis is pressed for two seconds, then "quit" is said."""

    def __init__(self, began: Callable[[], bool]) -> None:
        self.began, self.left = began, 40

    def read(self, size: int) -> str:
        while not self.began():
            time.sleep(0.05)
        time.sleep(0.05)
        self.left -= 1
        return "d" if self.left > 0 else ":"

    def readline(self) -> str:
        return "quit\n"


@pytest.mark.usefixtures("leaves_nothing")
def test_keys_steer_the_robot_and_a_line_ends_it(
    plant: Plant, keeping: Any, tmp_path: Path
) -> None:
    with Crew(plant) as crew:
        hands = Keyboard(crew.ready.limits, MonotonicClock(), dt_s=0.02, plan_s=2.0)
        begun: list[float] = []
        infer = hands.infer
        hands.infer = lambda seen: (begun.append(1.0), infer(seen))[1]  # type: ignore[method-assign]
        stream: Any = Keys(lambda: len(begun) > 5)
        crew.keep(keeping(crew.ready))
        steered = replace(cast(seconds=60.0), mind=hands)
        went = run_session(crew, steered, ear=lambda hear: listen(stream, hands.press, hear))
    assert went.report.error == ""
    (episode,) = LeRobotDataset(tmp_path / "kept", only_success=False)
    moved = episode.state[-1] - episode.state[0]
    assert moved[0] > 0.1  # at 0.25 rad/s, for about two seconds
    assert abs(moved[1]) < 1e-6


@pytest.mark.usefixtures("leaves_nothing")
def test_a_full_disk_loses_the_episode_and_nothing_else(plant: Plant, keeping: Any) -> None:
    with Crew(plant) as crew:
        crew.keep(keeping(crew.ready))
        pid = crew.pids[1]
        assert pid is not None
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, 1000))
        went = run_session(crew, cast())
    assert went.report.error == ""
    assert went.kept.key == ""
    assert "the episode was not kept" in went.kept.error


@pytest.mark.usefixtures("leaves_nothing")
def test_a_recorder_that_dies_is_said_and_the_robot_goes_on(plant: Plant, keeping: Any) -> None:
    with Crew(plant) as crew:
        crew.keep(keeping(crew.ready))
        pid = crew.pids[1]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        went = run_session(crew, cast())
    assert went.report.error == ""
    assert went.report.ticks > 20
    assert "E_ROBOT_PROCESS: the recorder ended" in went.kept.error


@pytest.mark.usefixtures("leaves_nothing")
def test_a_second_controller_of_one_robot_is_refused(plant: Plant) -> None:
    with Crew(plant), pytest.raises(CrewError, match="E_ROBOT_LOCKED: crew-test is controlled by"):
        Crew(plant)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_data_set_that_takes_no_more_is_refused_before_the_robot_moves(
    plant: Plant, keeping: Any, tmp_path: Path
) -> None:
    with Crew(plant) as crew:
        (tmp_path / "kept" / "meta").mkdir(parents=True)
        (tmp_path / "kept" / "meta" / "info.json").write_text("{}")
        with pytest.raises(CrewError, match=r"E_CONFIG_VALUE: .*kept is finalised"):
            crew.keep(keeping(crew.ready))


def test_a_control_process_that_dies_ends_the_session(plant: Plant) -> None:
    with Crew(plant) as crew:
        pid = crew.pids[0]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        went = run_session(crew, cast(seconds=60.0))
    assert "E_ROBOT_PROCESS: the control process ended (status -9)" in went.report.error


SESSION = textwrap.dedent("""
    import sys
    from pathlib import Path
    from tests.test_deploy_crew import LOOSE, ROBOT, SPEC, Crew, Keeping, Plant, Setting
    from tests.test_deploy_crew import cast, run_session

    memory, kept = map(Path, sys.argv[1:])
    with Crew(Plant(ROBOT, guards=LOOSE, folder=memory)) as crew:
        target = "embodied_datasets.lerobot_writer.LeRobotWriter"
        setting = Setting(SPEC, crew.ready.features, "stay")
        crew.keep(Keeping(setting, {"_target_": target, "root": str(kept)}))
        crew.go = lambda go=crew.go: (go(), print(*crew.pids, flush=True))
        run_session(crew, cast(seconds=120.0))
""")


@pytest.mark.usefixtures("leaves_nothing")
def test_a_policy_that_is_killed_leaves_no_process_a_stopped_robot_and_its_episode(
    plant: Plant, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SESSION, str(plant.folder), str(tmp_path / "kept")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    policy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert policy.stdout is not None
    pids = [int(word) for word in policy.stdout.readline().split()]
    time.sleep(2.0)
    policy.kill()
    policy.wait()
    policy.stdout.close()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    (episode,) = LeRobotDataset(tmp_path / "kept", only_success=False)
    assert episode.info["why"] == "the policy's process died"
