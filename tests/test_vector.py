"""The vector environment: same episodes whatever the layout, and failures that have a name."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.suites import Assignment
from embodied_envs.metaworld import MetaWorld
from embodied_envs.point import TASKS, PointEnv, PointSuite
from embodied_envs.vector import WorkerError, WorkerVectorEnv, make_vec

SUITE = PointSuite(max_steps=9, cameras=("top",), image_size=(8, 12))
ASSIGNMENTS = [
    Assignment(TASKS[i % 4], goal=i, benchmark_seed=i // 5, seed=100 + i, instruction=f"no. {i}")
    for i in range(11)
]
ZERO = np.zeros((4, 2), np.float32)


@dataclasses.dataclass(frozen=True)
class World:
    """A suite in a backend, with episodes to assign."""

    suite: Any
    backend: str
    assignments: list[Assignment]

    def make(self, num_envs: int) -> WorkerVectorEnv:
        return make_vec(self.suite, num_envs, backend=self.backend)

    def ones(self, env: WorkerVectorEnv) -> Any:
        return np.ones(env.action_space.shape, np.float32)


@pytest.fixture(params=["python", "envpool"])
def world(request: pytest.FixtureRequest) -> World:
    """The contract is that of the vector environment, whoever simulates."""
    if request.param == "python":
        return World(SUITE, "python", ASSIGNMENTS)
    pytest.importorskip("envpool")
    suite = MetaWorld("MT1", task="reach-v3")
    goals = [dataclasses.replace(a, task="reach-v3", goal=a.goal % 3) for a in ASSIGNMENTS]
    return World(suite, "envpool", goals)


@dataclasses.dataclass(frozen=True)
class FaultySuite(PointSuite):
    """A point that misbehaves when the second action has a code."""

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return FaultyEnv(self, render_size)


class FaultyEnv(PointEnv):
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert options is not None
        if options["instruction"] == "fail to start":
            raise OSError("no such table")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        code = float(action[1])
        if code == 2.0:
            raise ZeroDivisionError("the table has fallen")
        if code == 3.0:
            os._exit(7)
        if code == 4.0:
            time.sleep(1000)
        if code == 5.0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(action)


class EnvironmentProbe(PointEnv):
    def render(self) -> Any:
        rows, columns = self._render_size or (1, 1)
        threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return np.full((rows, columns, 3), (threads, ignores, os.getpid() % 256), np.uint8)


@dataclasses.dataclass(frozen=True)
class ProbeSuite(PointSuite):
    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PointEnv:
        return EnvironmentProbe(self, render_size)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerVectorEnv]:
    """Four faulty slots in two processes; tests leave them usable."""
    env = make_vec(FaultySuite(max_steps=30), 4, workers=2, timeout_s=20.0)
    yield env
    env.close()


def start(env: WorkerVectorEnv, *slots: int, instruction: str = "go") -> None:
    env.halt(np.ones(env.num_envs, bool))
    chosen = [
        dataclasses.replace(ASSIGNMENTS[slot], instruction=instruction) if slot in slots else None
        for slot in range(env.num_envs)
    ]
    env.reset(options={"assignments": chosen})


def act(codes: dict[int, float]) -> Any:
    actions = ZERO.copy()
    for slot, code in codes.items():
        actions[slot, 1] = code
    return actions


def episodes(env: WorkerVectorEnv, assignments: list[Assignment]) -> list[list[bytes]]:
    """Runs a list of episodes to the last one, as an evaluation does; all that each one saw."""
    record: list[list[bytes]] = [[] for _ in assignments]
    draws = [np.random.default_rng(each.seed) for each in assignments]
    running = [-1] * env.num_envs
    waiting = list(range(len(assignments)))
    while True:
        mask = ~env.active
        chosen: list[Assignment | None] = [None] * env.num_envs
        for slot in np.flatnonzero(mask):
            running[slot] = waiting.pop(0) if waiting else -1
            if running[slot] >= 0:
                chosen[slot] = assignments[running[slot]]
        mask = np.array([each is not None for each in chosen])
        if mask.any():
            seen, _ = env.reset(options={"reset_mask": mask, "assignments": chosen})
            for slot in np.flatnonzero(mask):
                record[running[slot]].append(row(seen, slot))
        active = env.active
        if not active.any():
            return record
        actions = np.zeros((env.num_envs, 2), np.float32)
        for slot in np.flatnonzero(active):
            actions[slot] = draws[running[slot]].uniform(-1.2, 1.2, 2)
        seen, *rest, info = env.step(actions)
        for slot in np.flatnonzero(active):
            facts = [array[slot].tobytes() for array in [*rest, info["success"]]]
            record[running[slot]].append(row(seen, slot) + b"".join(facts))


def row(observation: dict[str, Any], slot: Any) -> bytes:
    return b"".join(array[slot].tobytes() for array in observation.values())


def by_hand(assignment: Assignment) -> list[bytes]:
    """The same episode in a plain environment."""
    env = SUITE.make_env()
    options = dataclasses.asdict(assignment)
    seed = options.pop("seed")
    draw = np.random.default_rng(seed)
    seen, _ = env.reset(seed=seed, options=options)
    record = [b"".join(array.tobytes() for array in seen.values())]
    ended = False
    while not ended:
        action = draw.uniform(-1.2, 1.2, 2).astype(np.float32)
        seen, reward, terminated, truncated, info = env.step(action)
        facts = [np.float64(reward), np.bool_(terminated), np.bool_(truncated)]
        parts = [*seen.values(), *facts, np.bool_(info["success"])]
        record.append(b"".join(part.tobytes() for part in parts))
        ended = terminated or truncated
    return record


@settings(max_examples=15, deadline=None)
@given(num_envs=st.integers(1, 6), count=st.integers(0, 11))
def test_episodes_equal_those_of_a_plain_environment(num_envs: int, count: int) -> None:
    env = make_vec(SUITE, num_envs)
    assert episodes(env, ASSIGNMENTS[:count]) == [by_hand(each) for each in ASSIGNMENTS[:count]]


@pytest.mark.parametrize(("num_envs", "workers"), [(3, 1), (5, 2)])
def test_processes_change_no_bit_of_an_episode(num_envs: int, workers: int) -> None:
    env = make_vec(SUITE, num_envs, workers=workers)
    try:
        assert episodes(env, ASSIGNMENTS) == [by_hand(each) for each in ASSIGNMENTS]
    finally:
        env.close()


def test_it_is_a_gymnasium_vector_environment_without_autoreset(world: World) -> None:
    env = world.make(3)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert isinstance(env.single_observation_space, gymnasium.spaces.Dict)
    assert env.single_observation_space == world.suite.make_env().observation_space
    assert env.single_action_space == world.suite.make_env().action_space
    observation, info = env.reset(options={"assignments": world.assignments[:3]})
    assert env.observation_space.contains(observation)
    assert info == {}
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert [array.shape for array in (reward, terminated, truncated)] == [(3,)] * 3
    assert info["success"].dtype == info["unstable"].dtype == terminated.dtype == np.bool_
    assert info["reason"].tolist() == [""] * 3


def test_a_reset_touches_only_the_masked_slots(world: World) -> None:
    env = world.make(3)
    first, _ = env.reset(options={"assignments": world.assignments[:3]})
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "assignments": world.assignments[5:8]}
    second, _ = env.reset(options=options)
    changed = (first["state"] != second["state"]).any(1)
    assert changed.tolist() == mask.tolist()
    assert env.instructions == ("no. 0", "no. 6", "no. 2")


def test_idle_slots_rest_with_their_last_observation(world: World) -> None:
    env = world.make(3)
    seen, _ = env.reset(options={"assignments": [None, *world.assignments[1:3]]})
    assert not seen["state"][0].any()
    assert env.active.tolist() == [False, True, True]
    env.halt(np.array([False, False, True]))
    after, reward, terminated, truncated, _ = env.step(world.ones(env))
    assert (after["state"] != seen["state"]).any(1).tolist() == [False, True, False]
    assert (reward != 0).tolist() == [False, True, False]
    for _ in range(world.suite.max_steps - 1):
        after, _, terminated, truncated, _ = env.step(world.ones(env))
    assert (terminated | truncated).tolist() == [False, True, False]
    assert not env.active.any()
    rested, reward, terminated, truncated, _ = env.step(world.ones(env))
    np.testing.assert_array_equal(rested["state"], after["state"])
    assert not np.concatenate([reward, terminated, truncated]).any()


def test_returned_arrays_are_the_callers_to_keep(world: World) -> None:
    env = world.make(1)
    first, _ = env.reset(options={"assignments": world.assignments[:1]})
    kept = first["state"].copy()
    _, reward, *_ = env.step(world.ones(env))
    reward_kept = reward.copy()
    env.step(world.ones(env))
    np.testing.assert_array_equal(first["state"], kept)
    np.testing.assert_array_equal(reward, reward_kept)


def test_an_unstable_step_says_why(world: World) -> None:
    env = world.make(3)
    before, _ = env.reset(
        options={"assignments": [world.assignments[0], None, world.assignments[2]]}
    )
    actions = world.ones(env)
    actions[2, 1] = np.nan
    after, reward, _, truncated, info = env.step(actions)
    assert truncated.tolist() == info["unstable"].tolist() == [False, False, True]
    assert "not finite" in info["reason"][2]
    assert info["reason"][0] == ""
    assert env.active.tolist() == [True, False, False]
    assert reward[0] != 0
    np.testing.assert_array_equal(before["state"][2], after["state"][2])
    again, _ = env.reset(options={"assignments": [None, None, world.assignments[2]]})
    np.testing.assert_array_equal(before["state"][2], again["state"][2])


def test_frames_come_for_active_slots_only() -> None:
    env = make_vec(ProbeSuite(), 3, workers=1, render_size=(2, 5))
    try:
        start(env, 0, 2)
        frames = env.render()
        assert frames[1] is None
        assert frames[0] is not None
        assert frames[0].shape == (2, 5, 3)
        threads, ignores_interrupts, process = frames[0][0, 0].tolist()
        assert (threads, ignores_interrupts) == (1, 1)
        assert process != os.getpid() % 256
    finally:
        env.close()
    with pytest.raises(ValueError, match="render_size is None"):
        make_vec(SUITE, 1).render()


def test_starting_workers_leaves_the_environment_variables_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    make_vec(PointSuite(), 1, workers=1).close()
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_raises_is_named(workers: int) -> None:
    env = make_vec(FaultySuite(), 4, workers=workers)
    try:
        start(env, 0, 1, 2)
        with pytest.raises(RuntimeError) as caught:
            env.step(act({0: 1.0, 1: 2.0, 2: 1.0}))
        error = caught.value
        assert isinstance(error, WorkerError)
        assert error.slots == (1,)
        assert error.assignments[0] == dataclasses.replace(ASSIGNMENTS[1], instruction="go")
        for part in ("ZeroDivisionError: the table has fallen", "slot 1", repr(TASKS[1]), "seed="):
            assert part in str(error)
        assert ("env worker 0 (pid " in str(error)) == (workers == 1)
        # The others have made their step, and the caller can go on with them.
        _, reward, _, truncated, info = error.result
        assert (reward != 0).tolist() == [True, False, True, False]
        assert truncated.tolist() == info["unstable"].tolist() == [False, True, False, False]
        assert env.active.tolist() == [True, False, True, False]
        start(env, 1)
        assert env.step(act({}))[1][1] != 0
    finally:
        env.close()


def test_a_reset_that_raises_is_named(pool: WorkerVectorEnv) -> None:
    with pytest.raises(WorkerError, match=r"(?s)env worker 1 .*no such table.*fail to start"):
        start(pool, 2, instruction="fail to start")
    assert not pool.active.any()


def test_a_dead_worker_is_named_and_replaced(pool: WorkerVectorEnv) -> None:
    start(pool, 0, 2)
    named = (
        r"(?s)env worker 1 \(pid \d+, slots \[2, 3\]\) died with exit code 7.*slot 2 was running"
    )
    with pytest.raises(WorkerError, match=named) as caught:
        pool.step(act({2: 3.0}))
    assert caught.value.slots == (2,)  # slot 3 was idle and lost nothing
    assert pool.active.tolist() == [True, False, False, False]
    start(pool, 0, 1, 2, 3)
    assert (pool.step(act({}))[1] != 0).all()


def test_a_worker_killed_between_two_calls_is_named(pool: WorkerVectorEnv) -> None:
    start(pool, 0)
    os.kill(pool._crew._workers[0]._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"env worker 0 .* died with exit code -9"):
        pool.step(act({}))


@pytest.mark.parametrize("code", [4.0, 5.0], ids=["sleeps", "stopped"])
def test_a_hung_worker_is_named_in_time_and_replaced(pool: WorkerVectorEnv, code: float) -> None:
    start(pool, 0, 3)
    pool._crew._timeout_s = 0.5
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"env worker 1 .* no answer for 0\.5 s .* timeout_s"):
        pool.step(act({3: code}))
    assert time.monotonic() - began < 3.0
    pool._crew._timeout_s = 20.0
    start(pool, 3)
    assert pool.step(act({}))[1][3] != 0


def test_an_interrupted_call_leaves_no_answer_behind(
    pool: WorkerVectorEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    start(pool, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.connection.wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.step(act({}))
    assert not pool.active.any()
    start(pool, 1, 2)
    assert (pool.step(act({}))[1] != 0).tolist() == [False, True, True, False]


def test_a_suite_that_cannot_travel_is_refused_at_once() -> None:
    @dataclasses.dataclass(frozen=True)
    class LocalSuite(PointSuite):
        pass

    with pytest.raises(AttributeError, match="LocalSuite"):
        make_vec(LocalSuite(), 1, workers=1)


def test_close_does_not_wait_for_a_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embodied_envs.crew._GRACE_S", 0.3)
    env = make_vec(PointSuite(), 2, workers=2)
    process = env._crew._workers[1]._process
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    env.close()
    env.close()
    assert time.monotonic() - began < 3.0
    assert not process.is_alive()
    with pytest.raises(ValueError, match="closed"):
        env.reset(options={"assignments": ASSIGNMENTS[:2]})


SCRIPT = """
import sys, time
from embodied_envs.metaworld import MetaWorld
from embodied_envs.point import PointSuite
from embodied_envs.vector import make_vec
assert "torch" not in sys.modules

class StuckSuite(PointSuite):
    def make_env(self, *, render_size=None):
        print("stuck", flush=True)
        time.sleep(1000)

if __name__ == "__main__":
    env = make_vec((StuckSuite if sys.argv[1:] else PointSuite)(), 1, workers=1)
"""


def test_an_environment_left_open_is_closed_at_exit_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    quiet = subprocess.run(command, timeout=60, check=True, capture_output=True, text=True)
    assert quiet.stdout + quiet.stderr == ""


def test_a_busy_worker_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), "stuck"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "stuck\n"
        parent.kill()
        parent.communicate(timeout=20)  # the pipe ends when the worker, too, has gone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, r'options\["assignments"\] must hold 3 entries .* got 0'),
        ({"assignments": [None] * 2}, "must hold 3 entries .* got 2"),
        (
            {"assignments": [None] * 3, "reset_mask": np.array([True, False, True])},
            r"True for slots \[0, 2\], whose assignment is None",
        ),
        (
            {"assignments": [None] * 3, "reset_mask": [1, 0, 0]},
            r"reset_mask must be bool of shape \(3,\), got int64 of shape \(3,\)",
        ),
    ],
)
def test_a_reset_that_does_not_fit_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vec(SUITE, 3).reset(options=options)


def test_wrong_sizes_are_refused_with_their_remedy() -> None:
    with pytest.raises(ValueError, match="num_envs must be 1 or more, got 0"):
        make_vec(SUITE, 0)
    with pytest.raises(ValueError, match=r"workers must lie in \[0, 2\] \(num_envs\), got 3"):
        make_vec(SUITE, 2, workers=3)
    env = make_vec(SUITE, 2)
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 2\) .* got \(2, 3\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(2,\)"):
        env.halt(np.array([True]))
    with pytest.raises(ValueError, match="seed must be None"):
        env.reset(seed=3, options={"assignments": ASSIGNMENTS[:2]})
