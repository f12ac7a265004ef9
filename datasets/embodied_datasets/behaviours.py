"""Who acts in data sets for offline learning: nobody in particular, or a published policy.

Policies come as arrays in an .npz file, whose shapes are checked; no code is loaded with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied.suites import Expert
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.scripted_rollout import Behaviour

Floats = NDArray[np.floating[Any]]
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights (out, in) and biases (out,)."""
_STATES = 1e-8  # what published policies of Adroit add to scales of states


@dataclass(frozen=True)
class Uniform:
    """Actions uniform in the bounds."""

    def __call__(self, task: str, env: gymnasium.Env[Any, Any], seed: int) -> Expert:
        low, high = _bounds(env)
        random = np.random.default_rng([seed, 3])

        def act(state: Floats) -> NDArray[np.float32]:
            return random.uniform(low, high).astype(np.float32)

        return act


@dataclass(frozen=True)
class Mixed:
    """In each episode one of several, drawn with its seed."""

    parts: Sequence[Behaviour]

    def __call__(self, task: str, env: gymnasium.Env[Any, Any], seed: int) -> Expert:
        chosen = int(np.random.default_rng([seed, 4]).integers(len(self.parts)))
        return self.parts[chosen](task, env, seed)


@dataclass(frozen=True)
class SquashedActor:
    """A SAC or TQC actor of Stable-Baselines3: tanh of a Gaussian, ReLU between.

    Args:
        path: .npz with `<agent>/<robot>/<layer>.{weight,bias}` for the layers latent_pi.0,
            latent_pi.2, mu and log_std; the robot is the task's name up to its version.
        draw: whether actions are drawn, or are those at the mean.
    """

    path: Path | str
    agent: str = "tqc"
    draw: bool = False

    def __call__(self, task: str, env: gymnasium.Env[Any, Any], seed: int) -> Expert:
        robot = task.partition("-")[0]
        arrays = _Arrays(self.path, f"{self.agent}/{robot}/")
        low, high = _bounds(env)
        width = _state_dim(env)
        hidden = []
        for name in ("latent_pi.0", "latent_pi.2"):
            hidden.append(arrays.layer(f"{name}.weight", f"{name}.bias", width))
            width = len(hidden[-1][1])
        mean, log_std = (
            arrays.layer(f"{name}.weight", f"{name}.bias", width, len(low))
            for name in ("mu", "log_std")
        )
        random = np.random.default_rng([seed, 3])

        def act(state: Floats) -> NDArray[np.float32]:
            x = _perceptron(hidden, state, _relu)
            u = _affine(mean, x)
            if self.draw:
                std = np.exp(np.clip(_affine(log_std, x), -20, 2))
                u = u + std * random.standard_normal(len(u))
            return np.asarray(low + (np.tanh(u) + 1) / 2 * (high - low), np.float32)

        return act


@dataclass(frozen=True)
class ScaledActor:
    """A policy of Rajeswaran et al. 2018 (arXiv:1709.10087): a Gaussian around a tanh perceptron.

    Args:
        path: .npz with `<task>/{w0,b0,w1,b1,w2,b2,in_shift,in_scale,out_shift,out_scale,log_std}`;
            the task is the hand's, such as door of AdroitHandDoor-v1.
        draw: whether actions are drawn, or are those at the mean.
    """

    path: Path | str
    draw: bool = False

    def __call__(self, task: str, env: gymnasium.Env[Any, Any], seed: int) -> Expert:
        name = task.removeprefix("AdroitHand").partition("-")[0].lower()
        arrays = _Arrays(self.path, f"{name}/")
        low, _ = _bounds(env)
        states, width = _state_dim(env), _state_dim(env)
        hidden = []
        for i in (0, 1):
            hidden.append(arrays.layer(f"w{i}", f"b{i}", width))
            width = len(hidden[-1][1])
        last = arrays.layer("w2", "b2", width, len(low))
        in_shift, in_scale = (arrays.get(each, states) for each in ("in_shift", "in_scale"))
        out_shift, out_scale, log_std = (
            arrays.get(each, len(low)) for each in ("out_shift", "out_scale", "log_std")
        )
        random = np.random.default_rng([seed, 3])

        def act(state: Floats) -> NDArray[np.float32]:
            x = (state - in_shift) / (in_scale + _STATES)
            mean = _affine(last, _perceptron(hidden, x, np.tanh)) * out_scale + out_shift
            if self.draw:
                mean = mean + np.exp(log_std) * random.standard_normal(len(mean))
            return np.asarray(mean, np.float32)

        return act


class _Arrays:
    """The arrays of one policy, each with the shape that is asked for."""

    def __init__(self, path: Path | str, prefix: str) -> None:
        self.path, self.prefix = Path(path), prefix
        self._found = _read(str(path))
        if not any(name.startswith(prefix) for name in self._found):
            known = sorted({name.rpartition("/")[0] for name in self._found})
            raise self._wrong(prefix, f"is not there: the file has {', '.join(known)}")

    def get(self, name: str, *shape: int | None) -> NDArray[np.float32]:
        """An array; None stands for any size."""
        key = self.prefix + name
        if key not in self._found:
            raise self._wrong(key, "is not there")
        found = self._found[key]
        sizes = zip(found.shape, shape, strict=False)
        if found.ndim != len(shape) or any(b not in (None, a) for a, b in sizes):
            raise self._wrong(key, f"has shape {found.shape}, expected {shape}")
        if not np.isfinite(found).all():
            raise self._wrong(key, "is not finite")
        return found

    def layer(self, weight: str, bias: str, in_dim: int, out_dim: int | None = None) -> Layer:
        matrix = self.get(weight, out_dim, in_dim)
        return matrix, self.get(bias, len(matrix))

    def _wrong(self, field: str, message: str) -> DataError:
        remedy = "name the file and the task that belong together"
        fault = Fault("E_DATA_SHAPE", message, remedy, file=self.path, field=field)
        return DataError(fault)


@functools.lru_cache(maxsize=4)  # every episode asks
def _read(path: str) -> dict[str, NDArray[np.float32]]:
    with np.load(path) as file:
        return {name: np.asarray(file[name], np.float32) for name in file.files}


def _affine(layer: Layer, x: Floats) -> Floats:
    return layer[0] @ x + layer[1]


def _perceptron(layers: Sequence[Layer], x: Floats, activate: Callable[[Floats], Floats]) -> Floats:
    for layer in layers:
        x = activate(_affine(layer, x))
    return x


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def _bounds(env: gymnasium.Env[Any, Any]) -> tuple[Floats, Floats]:
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    return env.action_space.low, env.action_space.high


def _state_dim(env: gymnasium.Env[Any, Any]) -> int:
    """Of what experts see."""
    spaces = env.observation_space
    assert isinstance(spaces, gymnasium.spaces.Dict)
    return int((spaces["state"].shape or (0,))[0])
