"""Meta-World v3: 50 tasks for one robot arm, with state, pixel or mixed observations.

Observations, rewards and success are the library's own, bit for bit. Unlike the library's
environments, one environment runs every task of its suite, an episode's goal is chosen by its
index, and an unstable simulation is reported instead of being silently reset.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert, Texts
from embodied_envs.metaworld_goals import ALL_TASKS, BENCHMARKS, NUM_GOALS, goal_vectors
from embodied_envs.metaworld_simulator import aim, build_simulator, working_model
from embodied_envs.metaworld_text import TEXTS

if TYPE_CHECKING:
    import mujoco
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    from embodied_envs.rendering import FrameRenderer

CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
FULL_DIM = 39  # 18 of this step, 18 of the step before, 3 of the goal
PROPRIOCEPTION_DIM = 4  # the hand's xyz in m and the gripper's opening in [0, 1]
_OPTIONS = ("task", "goal", "benchmark_seed", "instruction")

Observations = dict[str, Any]  # of arrays; gymnasium types a Dict space so


@dataclass(frozen=True)
class MetaWorld:
    """A Meta-World benchmark; a `Suite`.

    Actions are (4,): the hand's displacement in cm, each in [-1, 1], and the gripper's effort,
    -1 opens and 1 closes. Episodes never terminate: success is for the evaluator to judge.

    Attributes:
        benchmark: "MT1", "MT10", "MT25" or "MT50", "ML1", "ML10", "ML25" or "ML45".
        task: the one task of MT1 and ML1, such as "reach-v3"; None elsewhere.
        split: "train", or "test" for ML. ML1 tests other goals, the larger ones other tasks.
        goal_visible: whether the goal stands in the state and the images; by default in MT only.
        observation: what the policy senses: "state" is the (39,) vector; "pixels" is images with
            (4,) proprioception as the state; "mixed" is images with the (39,) vector.
        cameras: any of `CAMERAS`; used where images are observed, the first one by `render`.
        image_size: (h, w) of an observed image in pixels.
        reward_version: the library's reward functions, "v1" or "v2".
    """

    benchmark: str = "MT10"
    task: str | None = None
    split: Literal["train", "test"] = "train"
    goal_visible: bool | None = None
    observation: Literal["state", "pixels", "mixed"] = "state"
    cameras: tuple[str, ...] = ("corner2",)
    image_size: tuple[int, int] = (84, 84)
    reward_version: Literal["v1", "v2"] = "v2"

    num_goals: int = NUM_GOALS
    max_steps: int = 500
    rate_hz: float = 80.0
