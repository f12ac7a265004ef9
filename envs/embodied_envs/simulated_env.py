"""Episodes of a `SimulatedSuite`: from a library's control steps to the environment's contract."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_envs.canvas import Look
from embodied_envs.options import complete_options
from embodied_envs.rendering import FAITHFUL, PROFILES, FrameRenderer, Profile, choose_backend
from embodied_envs.vitals import all_finite, trouble, vital_signs

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

    from embodied_envs.simulated import SimulatedSuite

Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so
Step = tuple[Observations, float, bool, bool, dict[str, Any]]
OVERVIEW = -1  # MuJoCo's free camera, which belongs to no model


class UnstableError(RuntimeError):
    """The physics broke down."""


class Transition(NamedTuple):
    """A control step of a library: its observation, reward, whether it ended, and its info.

    The observation is (S,) or longer: what follows the first S numbers only experts see. The info
    may hold `metrics`, further measures of the episode, besides what success is judged by.
    """

    state: NDArray[np.float64]
    reward: float
    terminated: bool
    info: Mapping[str, Any]


class Simulator(Protocol):
    """One task of a library, without a limit on the length of episodes.

    `model` and `data` may be other ones after a reset. `low` and `high` (A,) bound the actions.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def model(self) -> mujoco.MjModel: ...
    @property
    def data(self) -> mujoco.MjData: ...
    @property
    def scene(self) -> mujoco.MjData:
        """What pictures show: `data`, or a copy with marks that the simulation must not feel."""
        return self.data

    def reset(self, seed: int) -> NDArray[np.float64]:
        """Starts the episode that the seed alone decides; returns the observation."""
        ...

    def step(self, action: NDArray[np.float64]) -> Transition:
        """One control step; raises UnstableError where the physics broke down."""
        ...

    def close(self) -> None: ...


class SimulatedEnv(gymnasium.Env[Observations, NDArray[np.float32]]):
    """The tasks of a `SimulatedSuite`, one episode at a time.

    An episode is fixed by its options alone: the seed decides only what they leave open.
    """

    def __init__(self, suite: SimulatedSuite, render_size: tuple[int, int] | None = None) -> None:
        self._suite = suite
        self._render_size = render_size
        if render_size is not None or suite.observation != "state":
            choose_backend()  # before MuJoCo is imported
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(1, round(suite.rate_hz))}
        self.render_mode = None if render_size is None else "rgb_array"
        cameras = () if suite.observation == "state" else suite.cameras
        self._cameras = {_observed_as(camera): camera for camera in cameras}
        self._task = suite.tasks[0]
        self._simulator: Simulator | None = suite.open_simulator(self._task)
        self.action_space = _action_space(self._simulator)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (suite.sizes.state_dim,)),
                **{
                    name: gymnasium.spaces.Box(0, 255, (*suite.image_size, 3), np.uint8)
                    for name in self._cameras
                },
            }
        )
        self._renderers: dict[tuple[int | str, tuple[int, int], Profile], FrameRenderer] = {}
        self._drawn: mujoco.MjModel | None = None  # the model that the renderers are bound to
        self._running = False
        self._horizon = suite.sizes.max_steps
        self._steps = 0  # of the library, as the horizon is
        self._return = 0.0
        self._full = np.zeros(0)
        self._last: Observations = {}
        self.looks: dict[object, Look] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts an episode of the task and goal that the options name.

        A task or goal left out is drawn with the seed; the benchmark seed defaults to 0 and the
        instruction to the task's canonical one. The info holds all four, completed.
        """
        super().reset(seed=seed)
        choice = complete_options(options or {}, self._suite, lambda: self.np_random)
        simulator = self._simulator_of(choice["task"])
        state = simulator.reset(initial_seed(choice["benchmark_seed"], choice["goal"]))
        if simulator.model.nhfield:  # another terrain, and a renderer reads it but once
            self._free_renderers()
        self._running, self._steps, self._return = True, 0, 0.0
        return self._observe(simulator, state), choice

    def step(self, action: NDArray[np.float32]) -> Step:
        """Moves for `action_repeat` control steps; an action out of bounds is clipped.

        An unstable step, or an action that is not finite, truncates the episode: it returns the
        last sound observation and no reward, and its info says the `reason`.
        """
        simulator = self._simulator
        if simulator is None or not self._running:
            raise RuntimeError("the episode is over or was never begun: call reset first")
        action = np.asarray(action, np.float64)
        if action.shape != simulator.low.shape:
            raise ValueError(f"action must have shape {simulator.low.shape}, got {action.shape}")
        if not all_finite(action):  # MuJoCo would silently reset itself
            return self._abandon(f"the action is not finite: {action.tolist()}")
        before = self._return
        try:
            last = self._move(simulator, np.clip(action, simulator.low, simulator.high))
        except UnstableError as error:
            return self._abandon(str(error))
        truncated = self._steps >= self._horizon and not last.terminated
        self._running = not (last.terminated or truncated)
        facts = {"success": self._succeeds(last), "unstable": False, "return": self._return}
        if "metrics" in last.info:
            facts["metrics"] = last.info["metrics"]
        observation = self._observe(simulator, last.state)
        return observation, self._return - before, last.terminated, truncated, facts

    @property
    def full_observation(self) -> NDArray[np.float64]:
        """The simulator's whole observation, whatever the policy may see; for experts."""
        return self._full.copy()

    def camera_matrices(self) -> dict[str, Any]:
        """`FrameRenderer.matrices` of the cameras that observations show and that stay in place."""
        size, profile = self._suite.image_size, PROFILES[self._suite.render_profile]
        found = {
            name: self._renderers[camera, size, profile].matrices()
            for name, camera in self._cameras.items()
        }
        return {name: matrices for name, matrices in found.items() if matrices is not None}

    def render(self) -> NDArray[np.uint8]:
        """What the first camera sees, upright, (h, w, 3)."""
        if self._render_size is None:
            raise ValueError("render_size is None: give make_env(render_size=(h, w)) to render")
        if self._simulator is None or not self._last:
            raise RuntimeError("there is nothing to see before the first reset: call reset")
        return self._frame(self._simulator, self._suite.cameras[0], self._render_size, FAITHFUL)

    def close(self) -> None:
        """Frees the simulator and the renderers; a later reset starts anew."""
        self._free_renderers()
        if self._simulator is not None:
            self._simulator.close()
        self._simulator, self._running, self._last = None, False, {}

    def _move(self, simulator: Simulator, action: NDArray[np.float64]) -> Transition:
        """The last of the control steps that one action is held for."""
        for _ in range(self._suite.action_repeat):
            before = vital_signs(simulator.data)
            last = simulator.step(action)
            reason = trouble(before, vital_signs(simulator.data), last.state)
            if reason is None and not math.isfinite(last.reward):
                reason = f"the reward is {last.reward}"
            if reason is not None:
                raise UnstableError(reason)
            self._steps += 1
            self._return += last.reward
            if last.terminated or self._steps >= self._horizon:
                break
        return last

    def _succeeds(self, last: Transition) -> bool:
        facts = self._suite.catalogue()[self._task]
        measures = {**last.info, "reward": last.reward, "return": self._return}
        threshold = self._suite.success_threshold
        return bool(
            measures[facts.measure] >= (facts.threshold if threshold is None else threshold)
        )

    def _abandon(self, reason: str) -> Step:
        self._running = False
        facts = {"success": False, "unstable": True, "reason": reason, "return": self._return}
        return self._last, 0.0, False, True, facts

    def _observe(self, simulator: Simulator, state: NDArray[np.float64]) -> Observations:
        self._full, state = state, state[: self._suite.sizes.state_dim]
        if self._suite.observation == "pixels":
            data, own = simulator.data, list(self._suite.catalogue()[self._task].own)
            motors = [data.actuator_length, data.actuator_velocity]
            state = self._full[own] if own else np.concatenate(motors)
        size, profile = self._suite.image_size, PROFILES[self._suite.render_profile]
        images = {
            name: self._frame(simulator, camera, size, profile, self.looks.values())
            for name, camera in self._cameras.items()
        }
        self._last = {"state": state.astype(np.float32), **images}
        return self._last

    def _frame(
        self,
        simulator: Simulator,
        camera: int | str,
        size: tuple[int, int],
        profile: Profile,
        looks: Iterable[Look] = (),
    ) -> NDArray[np.uint8]:
        model = simulator.model
        if model is not self._drawn:  # some libraries compile a new one for each episode
            self._free_renderers()
            self._drawn = model
        key = camera, size, profile
        if key not in self._renderers:
            number = OVERVIEW if camera == 0 and model.ncam == 0 else camera
            self._renderers[key] = FrameRenderer(model, size, camera=number, profile=profile)
        return self._renderers[key].frame(simulator.scene, looks)

    def _free_renderers(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._drawn = None

    def _simulator_of(self, task: str) -> Simulator:
        """The simulator of the task, kept while the task stays."""
        before, self._task = self._task, task
        if self._simulator is None:
            self._simulator = self._suite.open_simulator(task)
        elif task != before:
            self._running, self._last = False, {}
            self._simulator = self._suite.change_task(self._simulator, task)
            if (found := _action_space(self._simulator)) != self.action_space:
                raise ValueError(
                    f"{task} takes actions in {found}, but {self._suite.tasks[0]} in "
                    f"{self.action_space}: make a suite of its own for it"
                )
        return self._simulator


def _observed_as(camera: int | str) -> str:
    if isinstance(camera, str):
        return camera
    return "overview" if camera == OVERVIEW else f"camera{camera}"


def _action_space(simulator: Simulator) -> gymnasium.Space[NDArray[np.float32]]:
    return gymnasium.spaces.Box(simulator.low, simulator.high, dtype=np.float32)


def initial_seed(benchmark_seed: int, goal: int) -> int:
    """The seed of an initial state, in [0, 2**32)."""
    # NumPy pads seeds with zeros; the closing one keeps [5] and [5, 0] apart.
    return int(np.random.SeedSequence([benchmark_seed, goal, 1]).generate_state(1)[0])
