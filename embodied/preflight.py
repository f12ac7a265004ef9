"""What can be found wrong before a run spends its hours: sizes, protocols, spaces."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from embodied.build import instantiate
from embodied.delayed import check_delay
from embodied.execution import execution_of
from embodied.parts import MAIN, asked
from embodied.policies.base import Policy
from embodied.prompting import check_prompts
from embodied.robustness import check_arms
from embodied.structs import Spec
from embodied.suites import Suite, image_profile
from embodied.targets import ConfigError

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]

_COUNTS = (
    ("train.steps", 0),
    ("train.batch_size", 1),
    ("train.save_every", 1),
    ("train.log_every", 1),
    ("train.keep", 1),
    ("env.num_envs", 1),
    ("eval.inference_batch", 1),
    ("video.per_task", 0),
    ("video.every", 1),
)


def check_config(config: Config, suite: Suite) -> None:
    """Raises ConfigError naming every count out of range, and ValueError for a bad protocol.

    Builds the protocol, the probes and the arms of `robustness`, draws their episodes and checks
    that what they show can be shown, so that none fails after training.
    """
    problems = count_problems(config, _COUNTS) + _evaluation_problems(config)
    if problems:
        raise ConfigError("\n".join(problems))
    for part in asked(config, suite):
        part.trials()
        check_prompts(part.suite, part.protocol.modalities)
    check_arms(config, suite, instantiate(config["protocol"]))


def count_problems(config: Config, counts: Sequence[tuple[str, int]]) -> list[str]:
    """A line for each of the keys whose value is no whole number of at least that much."""
    return [line for key, least in counts for line in _count_problems(config, key, least)]


def check_counts(config: Config, counts: Sequence[tuple[str, int]]) -> None:
    """Raises ConfigError with the lines of `count_problems`."""
    if problems := count_problems(config, counts):
        raise ConfigError("\n".join(problems))


def _count_problems(config: Config, key: str, least: int) -> list[str]:
    group, _, name = key.partition(".")
    value = config.get(group, {}).get(name, least)  # evaluation has no `train`
    if type(value) is int and value >= least:
        return []
    return [f"E_CONFIG_VALUE: {key} must be a whole number >= {least}, got {value!r}"]


def _evaluation_problems(config: Config) -> list[str]:
    shards, timeout_s = config["shards"], config["env"]["timeout_s"]
    budget_ms = config["eval"].get("latency_ms")
    found = []
    if shards is not None and not (type(shards) is int and shards >= 1):
        found.append(f"shards must be a whole number >= 1, or null, got {shards!r}")
    if not (isinstance(timeout_s, int | float) and timeout_s > 0):
        found.append(f"env.timeout_s must be a number of seconds > 0, got {timeout_s!r}")
    if budget_ms is not None and not (isinstance(budget_ms, int | float) and budget_ms > 0):
        found.append(f"eval.latency_ms must be a number of ms > 0, or null, got {budget_ms!r}")
    if MAIN in config.get("probes", {}):
        found.append(f"probes.{MAIN} has the name of the main protocol; rename it")
    return [f"E_CONFIG_VALUE: {line}" for line in found]


def check_policy(config: Config, policy: Policy, suite: Suite) -> None:
    """Raises ValueError unless the policy can act in the suite, and in those of the probes."""
    check_action_horizon(config, policy)
    check_execution(config, policy)
    seen: list[Suite] = []  # suites need not be hashable
    for part in asked(config, suite):
        if part.suite in seen:
            continue
        seen.append(part.suite)
        env = part.suite.make_env()
        try:
            check_spaces(policy.spec, env.observation_space, env.action_space, name=part.suite.name)
        finally:
            env.close()
        _warn_of_profile(policy.spec, part.suite)


def check_action_horizon(config: Config, policy: Policy) -> None:
    """Raises ConfigError unless a chunk has as many actions as are to be executed of it."""
    action_horizon = config["eval"]["action_horizon"]
    if type(action_horizon) is not int or not 1 <= action_horizon <= policy.pred_horizon:
        raise ConfigError(
            f"E_CONFIG_VALUE: eval.action_horizon must lie in [1, {policy.pred_horizon}] (the "
            f"policy's pred_horizon), got {action_horizon!r}"
        )


def check_execution(config: Config, policy: Policy) -> None:
    """Raises ConfigError unless the policy's chunks can be executed as `eval` says."""
    settings = config["eval"]
    try:
        execution_of(settings).check(policy, settings["action_horizon"])
        delay = settings.get("delay_steps") or 0
        check_delay(delay, settings["action_horizon"], policy.pred_horizon)
        if delay and config.get("person"):
            raise ValueError(f"delay_steps must be 0 beside a person, got {delay}")
    except ValueError as error:
        raise ConfigError(f"E_CONFIG_VALUE: eval.{error}") from error


def _warn_of_profile(spec: Spec, suite: Suite) -> None:
    learned, shown = spec.render_profile, image_profile(suite)
    if None not in (learned, shown) and learned != shown:
        logger.warning(
            "the policy learned from images drawn with render_profile=%s and will see %s: the "
            "results measure that too, and are named by what it sees",
            learned,
            shown,
        )


def check_spaces(
    spec: Spec, observation_space: Any, action_space: gymnasium.Space[Any], *, name: str
) -> None:
    """Raises ValueError listing all that the policy and the environment see differently."""
    sizes = {camera: (h, w, 3) for camera, (h, w) in spec.cameras.items()}
    expected = {"state": (spec.state_dim,), "action": (spec.action_dim,), **sizes}
    spaces = {**observation_space.spaces, "action": action_space}
    found = {key: spaces[key].shape if key in spaces else None for key in expected}
    wrong = [
        f"{key}: expected {x}, found {found[key]}" for key, x in expected.items() if found[key] != x
    ]
    if wrong:
        raise ValueError(
            f"E_SPEC_MISMATCH: the policy does not fit the suite {name!r}: {'; '.join(wrong)}. "
            "Evaluate it on the suite that it was trained for, or train one for this suite"
        )
