"""From config to objects: the only module that imports Hydra."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import hydra.utils
from omegaconf import OmegaConf

from embodied.targets import TARGETS, ConfigError, check


def instantiate(
    node: Any,
    *,
    allowed: Sequence[str] = TARGETS,
    extra_targets: Sequence[str] = (),
    **runtime: Any,
) -> Any:
    """Builds the object that a config node describes, with Hydra's rules.

    Args:
        node: a mapping with `_target_`, a container of such nodes, or None, which gives None.
        allowed: patterns of the targets that may be built; narrower for files of others.
        extra_targets: further patterns, such as "my_pkg.*". They come from the command line
            (`+allow_targets=[...]`), never from a file.
        runtime: built objects and sizes for the outermost target; passed on as they are.

    Raises:
        ConfigError: a target is refused, or is given keys that it does not take. Nothing has
            been built then.
    """
    if node is None:
        return None
    plain = _plain(node)
    check(plain, allowed=allowed, extra_targets=extra_targets)
    if not (isinstance(plain, dict) and "_target_" in plain):
        if runtime:
            raise ConfigError(
                f"E_CONFIG_KEY: {', '.join(runtime)} given to a node without _target_"
            )
        return hydra.utils.instantiate(plain, _convert_="all")
    partial = plain.pop("_partial_", False)
    # Through a partial, since Hydra would turn dataclasses among the arguments into configs.
    factory = hydra.utils.instantiate(plain, _partial_=True, _convert_="all")
    return functools.partial(factory, **runtime) if partial else factory(**runtime)


def resolve(config: Any) -> dict[str, Any]:
    """A composed config as plain dicts and lists, every reference replaced by its value."""
    config = config if OmegaConf.is_config(config) else OmegaConf.create(config)
    if missing := sorted(OmegaConf.missing_keys(config)):
        keys = ", ".join(missing)
        raise ConfigError(f"E_CONFIG_MISSING: {keys} must be given; add {missing[0]}=VALUE")
    found = OmegaConf.to_container(config, resolve=True)
    if not isinstance(found, dict):
        raise ConfigError(f"E_CONFIG_KEY: expected a mapping, got {type(found).__name__}")
    return {str(key): value for key, value in found.items()}


def read_stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config that came with a checkpoint; refuses `${...}`.

    Configs are resolved before they are saved. A reference in one was put there to read this
    machine's environment or files when it is resolved here.
    """
    _refuse_references(config)
    return copy.deepcopy(dict(config))


def _plain(node: Any) -> Any:
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    # Hydra will resolve once more, and would follow a reference that was escaped until now.
    _refuse_references(node)
    return OmegaConf.to_container(OmegaConf.create(node))


def _refuse_references(value: Any, path: str = "") -> None:
    if isinstance(value, str) and "${" in value:
        raise ConfigError(
            f"E_CONFIG_REFERENCE: {path.rstrip('.')} = {value!r} refers to something outside this "
            "config; write the value itself"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_references(str(key), path)
            _refuse_references(item, f"{path}{key}.")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_references(item, f"{path}{index}.")
