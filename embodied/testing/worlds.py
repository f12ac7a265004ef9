"""The contracts of simulators and of recorded data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from embodied.structs import Episode, Episodes, Spec
from embodied.suites import Expert, NoExpertError, Suite
from embodied.testing.facts import raises, require

Trajectory = list[tuple[dict[str, NDArray[Any]], float, bool, bool]]

_SLACK = 1e-5
"""Of action bounds, environment units: recorded actions and bounds went through float32."""


def check_env(suite: Suite, *, num_steps: int = 10) -> None:
    """A suite and its environments: texts, spaces, bounds, experts, and exact repeatability.

    A suite may lack experts; random actions then take their place.

    Args:
        num_steps: how many steps of each episode are looked at.
    """
    _check_suite(suite)
    env, other = suite.make_env(), suite.make_env()
    try:
        _check_spaces(env)
        for task in suite.tasks:
            _check_episode(suite, env, task, num_steps)
        _check_repeats(suite, env, other, num_steps)
    finally:
        env.close()
        other.close()


def _check_suite(suite: Suite) -> None:
    require(bool(suite.name), "name must not be empty")
    require(len(suite.tasks) > 0, "tasks must name at least one task")
    require(len(set(suite.tasks)) == len(suite.tasks), f"tasks repeat: {suite.tasks}")
    for field in ("num_goals", "max_steps", "rate_hz"):
        value = getattr(suite, field)
        require(value > 0, f"{field} must be above 0, got {value}")
    copy = ForkingPickler.loads(ForkingPickler.dumps(suite))
    require(copy.tasks == suite.tasks, "a suite must survive the way to another process")
    trained: set[str] = set()
    for task in suite.tasks:
        texts = suite.texts(task)
        trained |= {texts.canonical, *texts.paraphrases}
        require(bool(texts.canonical.strip()), f"{task} has an empty canonical instruction")
    for task in suite.tasks:
        leaked = trained.intersection(suite.texts(task).held_out)
        require(not leaked, f"{task} holds out what is trained on: {sorted(leaked)}")


def _check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    observation, action = env.observation_space, env.action_space
    require(isinstance(observation, spaces.Dict), f"observation_space is no Dict: {observation}")
    assert isinstance(observation, spaces.Dict)
    for name, space in observation.items():
        state = name == "state"
        dtype, ndim = (np.float32, 1) if state else (np.uint8, 3)
        fits = isinstance(space, spaces.Box) and space.dtype == dtype and len(space.shape) == ndim
        wanted = "(S,) float32" if state else "(h, w, 3) uint8"
        require(fits, f"observation {name!r} must be a Box of {wanted}, got {space}")
    require("state" in observation.keys(), "observation_space must hold 'state'")  # noqa: SIM118
    require(isinstance(action, spaces.Box), f"action_space is no Box: {action}")
    assert isinstance(action, spaces.Box)
    require(action.dtype == np.float32 and len(action.shape) == 1, f"no (A,) float32: {action}")
    require(action.is_bounded(), f"action_space must have finite bounds, got {action}")


def _start(suite: Suite, env: gymnasium.Env[Any, Any], task: str, seed: int) -> dict[str, Any]:
    options = {
        "task": task,
        "goal": seed % suite.num_goals,
        "benchmark_seed": 0,
        "instruction": suite.texts(task).canonical,
    }
    observation: dict[str, Any] = env.reset(seed=seed, options=options)[0]
    return observation


def _check_observation(env: gymnasium.Env[Any, Any], observation: Any, when: str) -> None:
    inside = env.observation_space.contains(observation)
    require(inside, f"the observation {when} does not lie in observation_space: {observation}")
    require(bool(np.isfinite(observation["state"]).all()), f"the state {when} is not finite")


def _check_episode(suite: Suite, env: gymnasium.Env[Any, Any], task: str, num_steps: int) -> None:
    """The task's expert acts; then extreme actions, which must not break anything either."""
    observation = _start(suite, env, task, seed=1)
    _check_observation(env, observation, f"after reset of {task}")
    assert isinstance(env.action_space, spaces.Box)
    expert = _expert_or_noise(suite, task, env.action_space)
    for step in range(num_steps):
        action = expert(getattr(env.unwrapped, "full_observation", observation["state"]))
        fits = action.dtype == np.float32 and env.action_space.contains(action)
        require(fits, f"the expert's action for {task} is not in {env.action_space}: {action}")
        if step % 2:
            action = env.action_space.high if step % 4 == 1 else env.action_space.low
        observation, reward, terminated, truncated, info = env.step(action)
        _check_observation(env, observation, f"at step {step + 1} of {task}")
        require(
            bool(np.isfinite(float(reward))), f"the reward at step {step + 1} of {task} is {reward}"
        )
        for field in ("success", "unstable"):
            value = info.get(field)
            require(isinstance(value, bool | np.bool_), f"info[{field!r}] is no bool: {value!r}")
        for name, value in info.get("metrics", {}).items():
            finite = isinstance(value, float) and np.isfinite(value)
            require(finite, f"info['metrics'][{name!r}] is no finite float: {value!r}")
        if terminated or truncated:
            break


def _expert_or_noise(suite: Suite, task: str, space: spaces.Box) -> Expert:
    try:
        return suite.expert(task)
    except NoExpertError as error:
        require(bool(str(error)), f"{task} has no expert, and the error does not say so")
    random = np.random.default_rng(0)
    return lambda _: random.uniform(space.low, space.high).astype(np.float32)


def _check_repeats(
    suite: Suite, env: gymnasium.Env[Any, Any], other: gymnasium.Env[Any, Any], num_steps: int
) -> None:
    first, last = suite.tasks[0], suite.tasks[-1]
    expected = _play(suite, env, first, 3, num_steps)
    _play(suite, env, last, 4, num_steps // 2)  # another episode, left in the middle
    what = "the same task, goal and seed must give the same trajectory"
    _require_same(f"{what} whatever ran before", expected, _play(suite, env, first, 3, num_steps))
    again = _play(suite, other, first, 3, num_steps)
    _require_same(f"{what} in a new environment", expected, again)


def _play(
    suite: Suite, env: gymnasium.Env[Any, Any], task: str, seed: int, num_steps: int
) -> Trajectory:
    """What an episode shows under random actions."""
    trajectory: Trajectory = [(_start(suite, env, task, seed), 0.0, False, False)]
    start = {name: x.copy() for name, x in trajectory[0][0].items()}
    assert isinstance(env.action_space, spaces.Box)
    random = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    for _ in range(num_steps):
        action = random.uniform(low, high).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        trajectory.append((observation, float(reward), terminated, truncated))
        if terminated or truncated:
            break
    kept = all(np.array_equal(x, trajectory[0][0][name]) for name, x in start.items())
    require(kept, "an observation changed after it was returned; return a copy")
    return trajectory


def _require_same(what: str, first: Trajectory, second: Trajectory) -> None:
    require(len(first) == len(second), f"{what}, but one ends after {len(second) - 1} steps")
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        require(a[1:] == b[1:], f"{what}, but at step {step} {a[1:]} became {b[1:]}")
        for name in a[0]:
            same = np.array_equal(a[0][name], b[0][name])
            require(same, f"{what}, but {name!r} differs at step {step}")


def check_episodes(episodes: Episodes) -> None:
    """Recorded episodes agree with their spec, and are the same however they are read."""
    require(len(episodes) > 0, "there are no episodes")
    require(bool(episodes.fingerprint), "fingerprint must not be empty")
    spec = episodes.spec
    for name in ("action_low", "action_high"):
        size = len(getattr(spec, name))
        require(size == spec.action_dim, f"spec.{name} has {size} values, not {spec.action_dim}")
    require(spec.rate_hz > 0, f"spec.rate_hz must be above 0, got {spec.rate_hz}")
    count = 0
    for index, episode in enumerate(episodes):
        _check_recorded(f"episode {index}", episode, spec)
        same = np.array_equal(episode.action, episodes[index].action)
        require(same, f"episode {index} differs when read by its index")
        count += 1
    require(count == len(episodes), f"iteration gives {count} episodes, len {len(episodes)}")
    require(raises(lambda: episodes[count]), f"episodes[{count}] must raise an IndexError")


def _check_recorded(who: str, episode: Episode, spec: Spec) -> None:
    size = len(episode)
    require(size > 0, f"{who} has no steps")
    _check_array(f"{who}: state", episode.state, (size, spec.state_dim))
    for name in ("action", "expert_action"):
        value = getattr(episode, name)
        if value is not None:
            _check_array(f"{who}: {name}", value, (size, spec.action_dim))
    if episode.reward is not None:
        _check_array(f"{who}: reward", episode.reward, (size,))
    low, high = np.asarray(spec.action_low) - _SLACK, np.asarray(spec.action_high) + _SLACK
    inside = bool(((episode.action >= low) & (episode.action <= high)).all())
    require(inside, f"{who}: actions leave the spec's bounds")
    require(bool(episode.instruction), f"{who} has no instruction")
    _check_images(who, episode.images, size, spec)
    json.dumps(dict(episode.info))


def _check_array(name: str, x: NDArray[Any], shape: tuple[int, ...]) -> None:
    require(x.shape == shape, f"{name} must have shape {shape}, got {x.shape}")
    require(x.dtype == np.float32, f"{name} must be float32, got {x.dtype}")
    require(bool(np.isfinite(x).all()), f"{name} holds values that are not finite")


def _check_images(who: str, images: Mapping[str, NDArray[np.uint8]], size: int, spec: Spec) -> None:
    require(set(images) == set(spec.cameras), f"{who}: cameras {set(images)}, not {spec.cameras}")
    for name, image in images.items():
        shape = (size, *spec.cameras[name], 3)
        fits = image.shape == shape and image.dtype == np.uint8
        require(fits, f"{who}: {name} must be {shape} uint8, got {image.shape} {image.dtype}")
