"""Simulated hardware: what it does as time passes, and each of its faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embodied.deploy.clock import SECOND, VirtualClock
from embodied.deploy.drives import Direct, Servo
from embodied.deploy.faults import Delay, Faults, Window
from embodied.deploy.robot import Limited, Robot
from embodied.deploy.sim_hardware import SimHardware, SimulatedFailure
from tests.robots import MS, NAMES, arm, limits

TICK = 10 * MS  # of the arm's world


class Steps:
    """A world that notes what it is told; its state is the last action."""

    rate_hz = 100.0

    def __init__(self, ends_after: int = 10**9) -> None:
        self.actions: list[list[float]] = []
        self.ends_after = ends_after

    def make_env(self) -> Steps:
        return self

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.actions = []
        return {"state": np.zeros(2), "front": np.zeros((2, 2, 3), np.uint8)}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.actions.append([round(float(x), 6) for x in action])
        image = np.full((2, 2, 3), len(self.actions) % 256, np.uint8)
        ended = len(self.actions) >= self.ends_after
        return {"state": np.array(action, np.float64), "front": image}, 0.0, False, ended, {}


def started(faults: Faults | None = None, **fields: Any) -> tuple[VirtualClock, Steps, SimHardware]:
    clock, world = VirtualClock(), fields.pop("world", Steps())
    robot = arm(clock, faults, world=world, **fields)
    robot.connect()
    return clock, world, robot


def command(robot: SimHardware, a: float, b: float) -> None:
    robot.send_action(dict(zip(NAMES, (a, b), strict=True)))


def test_it_is_a_robot_with_lerobots_names() -> None:
    robot = arm()
    assert isinstance(robot, Robot)
    assert robot.action_features == dict.fromkeys(NAMES, float)
    with robot as connected:
        seen = connected.get_observation()
        assert robot.is_connected
    assert not robot.is_connected
    assert seen.keys() == robot.observation_features.keys()


def test_time_passes_without_anybody_stepping_it() -> None:
    clock, world, robot = started()
    command(robot, 0.1, 0.2)
    clock.sleep_until(35 * MS)
    assert world.actions == []  # nobody has looked
    seen = robot.get_observation()
    assert world.actions == [[0.1, 0.2]] * 3
    assert seen["state.time_ns"] == seen["front.time_ns"] == 30 * MS
    assert [seen[name] for name in NAMES] == pytest.approx([0.1, 0.2])


def test_a_command_takes_effect_after_its_delay() -> None:
    clock, world, robot = started(Faults(action_delay=Delay(0.025)))
    command(robot, 1.0, 1.0)
    clock.sleep_until(50 * MS)
    robot.get_observation()
    assert world.actions == [[0.0, 0.0]] * 2 + [[1.0, 1.0]] * 3


def test_an_observation_can_be_read_after_its_delay_and_says_when_it_was_made() -> None:
    clock, _, robot = started(Faults(observation_delay=Delay(0.025)))
    for now, sensed in ((10, 0), (34, 0), (35, 10), (50, 20)):
        clock.sleep_until(now * MS)
        assert robot.get_observation()["state.time_ns"] == sensed * MS


def test_delays_are_what_they_say() -> None:
    random = np.random.default_rng(0)
    draws = np.array([Delay(0.01, 0.02, 0.1, 0.1).draw(random) for _ in range(20_000)]) / SECOND
    ordinary = draws[draws <= 0.03]
    assert draws.min() >= 0.01
    assert ordinary.mean() == pytest.approx(0.02, rel=0.02)
    assert (draws > 0.03).mean() == pytest.approx(0.1, abs=0.01)
    # Pareto with index 1.5: beyond twice the smallest with probability 2^-1.5.
    assert (draws > 0.22).mean() / (draws > 0.03).mean() == pytest.approx(2**-1.5, abs=0.08)


def test_a_dropped_command_never_arrives() -> None:
    clock, world, robot = started(Faults(drop_actions=1.0))
    command(robot, 1.0, 1.0)
    clock.sleep_until(3 * TICK)
    robot.get_observation()
    assert world.actions == [[0.0, 0.0]] * 3


def test_a_doubled_command_comes_back_after_a_newer_one() -> None:
    clock, world, robot = started(Faults(duplicate_actions=1.0))
    for i in range(1, 4):
        command(robot, float(i), 0.0)
        clock.sleep_until(i * TICK)
        robot.get_observation()
    assert [action[0] for action in world.actions] == [1.0, 1.0, 2.0]


def test_a_dropped_observation_is_the_one_before_with_its_old_time() -> None:
    clock, _, robot = started(Faults(drop_observations=1.0))
    first = robot.get_observation()
    clock.sleep_until(5 * TICK)
    assert robot.get_observation()["state.time_ns"] == first["state.time_ns"]


def test_noise_and_quantisation_change_what_is_sensed_and_not_what_is() -> None:
    clock, _, robot = started(Faults(noise=0.01, seed=1))
    command(robot, 0.5, 0.5)
    clock.sleep_until(TICK)
    found = np.array([robot.get_observation()[NAMES[0]] for _ in range(500)])
    assert found.std() == pytest.approx(0.01, rel=0.15)
    assert found.mean() == pytest.approx(0.5, abs=0.002)
    clock, _, robot = started(Faults(quantisation=0.2))
    command(robot, 0.47, -0.31)
    clock.sleep_until(TICK)
    assert [robot.get_observation()[name] for name in NAMES] == pytest.approx([0.4, -0.4])


def test_backlash_is_play_between_command_and_axis() -> None:
    clock, world, robot = started(Faults(backlash=0.2))
    for i, value in enumerate((0.05, 0.5, 0.45, 0.25), 1):
        command(robot, value, 0.0)
        clock.sleep_until(i * TICK)
        robot.get_observation()
    assert [action[0] for action in world.actions] == pytest.approx([0.0, 0.4, 0.4, 0.35])


def test_a_frozen_camera_shows_old_pictures_with_new_times() -> None:
    clock, _, robot = started(Faults(frozen=Window(0.025, 0.045)))
    shown = []
    for i in range(1, 7):
        clock.sleep_until(i * TICK)
        seen = robot.get_observation()
        shown.append((int(seen["front"][0, 0, 0]), seen["front.time_ns"] // TICK))
    assert shown == [(1, 1), (2, 2), (2, 3), (2, 4), (5, 5), (6, 6)]


def test_nan_and_stuck_senses_in_their_windows() -> None:
    clock, _, robot = started(Faults(nan=Window(0.015, 0.025), stuck=Window(0.035, 0.055)))
    values, times = [], []
    for i in range(1, 7):
        clock.sleep_until(i * TICK)
        seen = robot.get_observation()
        values.append(np.isnan(seen[NAMES[0]]))
        times.append(seen["state.time_ns"] // TICK)
    assert values == [False, True, False, False, False, False]
    assert times == [1, 2, 3, 3, 3, 6]


def test_calls_fail_by_their_number_and_half_a_command_may_arrive() -> None:
    clock, world, robot = started(Faults(error_at=3))
    robot.get_observation()
    with pytest.raises(SimulatedFailure, match="send_action failed at call 3"):
        command(robot, 1.0, 1.0)
    clock.sleep_until(TICK)
    robot.get_observation()
    assert world.actions == [[1.0, 0.0]]


def test_a_slow_driver_takes_its_time() -> None:
    clock, _, robot = started(Faults(slow=Window(0.0, 1.0), slow_s=0.03))
    robot.get_observation()
    assert clock.now() == 30 * MS


def test_without_commands_it_stops_by_itself_where_it_is() -> None:
    clock, world, robot = started(command_timeout_s=0.1, world=Steps())
    command(robot, 0.5, 0.5)
    clock.sleep_until(100 * MS)
    robot.get_observation()
    assert robot.timeouts == 0
    clock.sleep_until(SECOND)
    robot.get_observation()
    assert robot.timeouts == 1
    command(robot, 0.2, 0.2)
    clock.sleep_until(SECOND + TICK)
    robot.get_observation()
    assert world.actions[-1] == [0.2, 0.2]


def test_rates_go_to_rest_when_commands_cease() -> None:
    clock, world, robot = started(
        limits=limits(rest=[0.0, None]), drive=Direct(), command_timeout_s=0.1
    )
    command(robot, 0.5, 0.5)
    clock.sleep_until(SECOND)
    robot.get_observation()
    assert world.actions[0] == [0.5, 0.5]
    assert world.actions[-1] == [0.0, 0.5]


def test_when_the_episode_ends_the_world_stands_still_and_its_times_say_so() -> None:
    clock, world, robot = started(world=Steps(ends_after=3))
    clock.sleep_until(SECOND)
    assert robot.get_observation()["state.time_ns"] == 3 * TICK
    assert robot.ended
    assert len(world.actions) == 3


def test_the_same_seed_misbehaves_in_the_same_way() -> None:
    faults = Faults(7, Delay(0.01, 0.02), Delay(0, 0.03), 0.2, 0.2, 0.2, noise=0.1)

    def session() -> list[float]:
        clock, _, robot = started(faults)
        found = []
        for i in range(50):
            command(robot, 0.01 * i, 0.0)
            clock.sleep_until((i + 1) * TICK)
            found.append(robot.get_observation()[NAMES[0]])
        return found

    assert session() == session()


def test_it_must_be_connected_first() -> None:
    with pytest.raises(ConnectionError, match="arm is not connected: call connect first"):
        arm().get_observation()


def test_a_servo_is_a_pd_controller() -> None:
    servo = Servo([0, 1], [2.0, -3.0], velocity=[2, 3], damping=[0.5, 0.5])
    state = np.array([0.1, 0.2, 1.0, -1.0])
    np.testing.assert_allclose(servo.pose(state, np.zeros(2)), [0.1, 0.2])
    wanted = [2 * (0.3 - 0.1) - 0.5, -3 * (0.0 - 0.2) + 0.5]
    np.testing.assert_allclose(servo.action(state, np.array([0.3, 0.0])), wanted)
    with pytest.raises(ValueError, match="velocity and damping, or neither"):
        Servo([0], [1.0], velocity=[1])


@pytest.mark.parametrize("fields", [{"noise": -1.0}, {"drop_actions": 1.5}])
def test_faults_that_cannot_be_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"E_ROBOT_CONFIG: faults.{next(iter(fields))}"):
        Faults(**fields)  # type: ignore[arg-type]


class LeRobotArm:
    """What a LeRobot driver looks like, without limits, rate and stop."""

    def __init__(self) -> None:
        self.name, self.is_connected = "so100", False
        self.observation_features = {"gripper.pos": float, "wrist": (4, 4, 3)}
        self.action_features = {"gripper.pos": float}
        self.sent: list[dict[str, Any]] = []

    def connect(self) -> None:
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        return {"gripper.pos": 12.0, "wrist": np.zeros((4, 4, 3), np.uint8)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(action)
        return action

    def disconnect(self) -> None:
        self.is_connected = False


def one_axis(name: str) -> Any:
    one = {"low": [0.0], "high": [100.0], "velocity": [50.0], "acceleration": [200.0]}
    return limits(names=[name], units=["%"], start_jump=[10.0], **one)


def test_a_lerobot_driver_fits_once_it_has_limits() -> None:
    driver = LeRobotArm()
    robot = Limited(driver, one_axis("gripper.pos"), 30.0)
    assert isinstance(robot, Robot)
    with robot:
        robot.get_observation()
    assert driver.sent == [{"gripper.pos": 12.0}]  # it stops by staying where it is
    assert not driver.is_connected


def test_limits_of_axes_that_a_driver_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"limits name elbow\.pos, which 'so100' lacks"):
        Limited(LeRobotArm(), one_axis("elbow.pos"), 30.0)
