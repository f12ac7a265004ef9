"""PushT: a round agent pushes a T-shaped block onto its target (Chi et al. 2023, arXiv:2303.04137).

Physics, observations, reward and success are those of gym-pusht: the reward is the share of the
target that the block covers, divided by 0.95 and cut at 1, and an episode ends in success where the
share exceeds 0.95. Diffusion Policy's score is the greatest reward of an episode.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Texts
from embodied_envs.options import check_choice, checked_size, complete_options
from embodied_envs.pusht_expert import PushExpert
from embodied_envs.simulated_env import initial_seed

TASK = "push-t"
CAMERA = "top"
STATE_DIMS = {"state": 5, "keypoints": 18, "pixels": 2, "mixed": 5}
_TEXTS = Texts(
    canonical="push the t onto the target",
    paraphrases=(
        "push the t-shaped block onto the green area",
        "move the block so that it covers the green t",
        "slide the t into its outline",
        "bring the grey t to the green one",
        "push the block until it lies on the target",
        "line the t up with the target",
        "cover the green shape with the block",
        "shove the t to where the green t is",
        "fit the block to the target pose",
    ),
    held_out=(
        "make the grey block match the green mark",
        "get the t to its goal",
        "put the t-shaped piece where it belongs",
    ),
)

Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so


@dataclass(frozen=True)
class PushT:
    """The one task of PushT.

    Actions are (2,), where the agent is to go, in pixels of the table, [0, 512]; x points right and
    y down. Goal i of a benchmark seed is the initial place of agent and block that the library
    draws with a seed made of both.

    Attributes:
        observation: "state" is (5,) the agent's x and y and the block's x, y and angle in
            [0, 2 pi); "keypoints" is (18,) the agent's x and y and those of the block's 8 corners;
            "pixels" is the table from above with the agent's x and y as the state; "mixed" is the
            table with the state of "state".
        image_size: (h, w) of the observed image in pixels.
        num_goals: how many initial states a benchmark seed has.
        max_steps: an episode is truncated there.
    """

    observation: Literal["state", "keypoints", "pixels", "mixed"] = "state"
    image_size: tuple[int, int] = (96, 96)
    num_goals: int = 50
    max_steps: int = 300
    rate_hz: float = 10.0

    def __post_init__(self) -> None:
        check_choice("observation", self.observation, tuple(STATE_DIMS))
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        for name in ("num_goals", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "pusht"

    @property
    def tasks(self) -> tuple[str, ...]:
        return (TASK,)

    def texts(self, task: str) -> Texts:
        """The wordings of the task."""
        check_choice("task", task, self.tasks)
        return _TEXTS

    def make_env(self, *, render_size: tuple[int, int] | None = None) -> PushTEnv:
        """An environment; `render_size` is (h, w) in pixels."""
        return PushTEnv(self, render_size)

    def expert(self, task: str, *, seed: int = 0) -> Expert:
        """Pushes where that helps most; it sees the state whatever the policy observes."""
        check_choice("task", task, self.tasks)
        return PushExpert()


class PushTEnv(gymnasium.Env[Observations, NDArray[np.float32]]):
    """The world of `PushT`, one episode at a time, fixed by its options alone.

    The info of a step holds `metrics`, of which `coverage` is the greatest share of the target that
    the block has covered in the episode so far.
    """

    def __init__(self, suite: PushT, render_size: tuple[int, int] | None = None) -> None:
        self._suite = suite
        self._render_size = render_size
        self.render_mode = None if render_size is None else "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(suite.rate_hz)}
        self._env = _open()
        self.action_space = gymnasium.spaces.Box(0.0, 512.0, (2,), np.float32)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIMS[suite.observation],))
        }
        if suite.observation in ("pixels", "mixed"):
            spaces[CAMERA] = gymnasium.spaces.Box(0, 255, (*suite.image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self._running = False
        self._steps = 0
        self._coverage = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts an episode of the goal that the options name; see `complete_options`."""
        super().reset(seed=seed)
        choice = complete_options(options or {}, self._suite, lambda: self.np_random)
        self._env.reset(seed=initial_seed(choice["benchmark_seed"], choice["goal"]))
        self._running, self._steps, self._coverage = True, 0, 0.0
        return self._observe(), choice

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Heads for a place for a tenth of a second; one beyond the table is clipped.

        An action that is not finite moves nothing and truncates the episode.
        """
        if not self._running:
            raise RuntimeError("the episode is over or was never begun: call reset first")
        place = np.asarray(action, np.float64)
        if place.shape != (2,):
            raise ValueError(f"action must have shape (2,), got {place.shape}")
        if not all(map(math.isfinite, place.tolist())):
            self._running = False
            info = {"success": False, "unstable": True, "metrics": self._metrics()}
            info["reason"] = f"the action is not finite: {place.tolist()}"
            return self._observe(), 0.0, False, True, info
        _, reward, success, _, facts = self._env.step(np.clip(place, 0.0, 512.0))
        self._steps += 1
        self._coverage = max(self._coverage, float(facts["coverage"]))
        terminated = bool(success)
        truncated = self._steps >= self._suite.max_steps and not terminated
        self._running = not (terminated or truncated)
        info = {"success": terminated, "unstable": False, "metrics": self._metrics()}
        return self._observe(), float(reward), terminated, truncated, info

    @property
    def full_observation(self) -> NDArray[np.float64]:
        """The state (5,), whatever the policy observes; for experts."""
        return np.asarray(self._env.get_obs(), np.float64)

    def render(self) -> NDArray[np.uint8]:
        """The table from above, with the target in green; (h, w, 3)."""
        if self._render_size is None:
            raise ValueError("render_size is None: give make_env(render_size=(h, w)) to render")
        if self._steps == 0 and not self._running:
            raise RuntimeError("there is nothing to see before the first reset: call reset")
        return self._draw(self._render_size)

    def _observe(self) -> Observations:
        state = self.full_observation
        if self._suite.observation == "keypoints":
            corners = self._env.get_keypoints(self._env._block_shapes)
            state = np.concatenate([state[:2], corners.ravel()])
        state = state[: STATE_DIMS[self._suite.observation]]
        observation: Observations = {"state": state.astype(np.float32)}
        if self._suite.observation in ("pixels", "mixed"):
            observation[CAMERA] = self._draw(self._suite.image_size)
        return observation

    def _draw(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        height, width = size
        return np.asarray(self._env._get_img(self._env._draw(), width=width, height=height))

    def _metrics(self) -> dict[str, float]:
        return {"coverage": self._coverage}


def _open() -> Any:
    return _library().PushTEnv(obs_type="state")


@functools.cache
def _library() -> Any:
    """The library, or how to install it."""
    try:
        with _quiet():
            import gym_pusht.envs  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"PushT needs the package gym-pusht, and {error.name} is missing: "
            "pip install 'embodied-policies[pusht]'",
            name="gym_pusht",
        ) from error
    return gym_pusht.envs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps pygame from greeting and from looking for a display; the library draws in memory."""
    wanted = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pygame's pkg_resources
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
