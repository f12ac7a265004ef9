"""A run's policy at some point of its training, as one who acts in a data set."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.checkpoint import step_path
from embodied.checkpoint_files import CheckpointError
from embodied.learning_curve import RETURN, points
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.policies.actor import ActorPolicy
from embodied.rollout import Controller
from embodied.suites import Assignment

Act = Callable[[NDArray[np.floating[Any]]], NDArray[np.float32]]


@dataclass(frozen=True)
class TrainedPolicy:
    """An `ActorPolicy` of a run, such as the half-trained one of D4RL's "medium" data.

    Args:
        run: its directory.
        share: see `reached`; None takes the newest checkpoint.
        explores: whether it acts as it did while it learned, or as it is evaluated.
    """

    run: str
    share: float | None = None
    explores: bool = True

    def __call__(self, task: str, env: Any, seed: int) -> Act:
        """Acts in an episode; task and environment are those that it was trained in."""
        policy = _load(str(reached(Path(self.run), self.share)))
        actor = Controller(policy, 1, action_horizon=1, inference_batch=1, explores=self.explores)
        actor.reset(0, Assignment(task, 0, 0, seed, ""))
        here, dim = np.ones(1, bool), policy.spec.state_dim

        def act(state: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
            actor.observe({"state": np.asarray(state[None, :dim], np.float32)}, here)
            action: NDArray[np.float32] = actor.plan(here)[0, 0]
            return action

        return act


def reached(run: Path, share: float | None) -> Path:
    """The first checkpoint of a run whose evaluation came a share of the way.

    The way leads from the first evaluation's return to the last one's, since returns may be
    negative; D4RL's "medium" policies (Fu et al. 2020, arXiv:2004.07219) had come about a third.

    Args:
        share: in (0, 1]; None means the newest checkpoint, evaluated or not.

    Raises CheckpointError where no checkpoint that is kept was evaluated so well.
    """
    if share is None:
        return run
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], or be null, got {share}")
    file = run / "metrics.jsonl"
    curve = points(read_jsonl(file), RETURN) if file.exists() else []
    if curve:
        (_, first), (_, last) = curve[0], curve[-1]
        level = first + share * (last - first)
        for step, value in curve:
            path = step_path(run / "checkpoints", step)
            if value >= level and path.is_dir():
                return path
    raise CheckpointError(
        f"E_CKPT_MISSING: {run} keeps no checkpoint whose evaluation came {share:.0%} of the way "
        "to the last one's return; train with eval.every, train.save_every=${eval.every} and "
        "train.keep=1000"
    )


@functools.lru_cache(maxsize=4)  # every episode asks
def _load(path: str) -> ActorPolicy:
    policy, _ = load_policy(Path(path), device="cpu")
    if not isinstance(policy, ActorPolicy):
        raise TypeError(f"{path} holds a {type(policy).__name__}; data need an ActorPolicy's run")
    return policy
