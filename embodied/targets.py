"""What a config may build: which targets are allowed, and what they lead to.

A `_target_` is a request to run code, and configs travel in checkpoints. So every target, however
deep, is found and looked up before anything is built, and is refused unless both its dotted path
and the object that it leads to belong to the allowed packages. Hydra's own list of forbidden names
is not enough: it cannot know what other modules offer under another name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

TARGETS = (
    "embodied.*",
    "embodied_envs.*",
    "embodied_datasets.*",
    "torch.optim.Adam",
    "torch.optim.AdamW",
)
"""What a config may build: `package.*`, or one exact name."""

# Parts of ours that start, load, lock or delete by name: a config that could call them could do
# anything, for instance allow more targets.
_MACHINERY = (
    "embodied.assessment",
    "embodied.build",
    "embodied.checkpoint",
    "embodied.checkpoint_files",
    "embodied.data.cache",
    "embodied.commands",
    "embodied.dataset_task",
    "embodied.deploy.casting",
    "embodied.deploy.control",
    "embodied.deploy.crew",
    "embodied.deploy.drill",
    "embodied.deploy.feed",
    "embodied.deploy.lock",
    "embodied.deploy.recorder",
    "embodied.deploy.replaying",
    "embodied.deploy.ring",
    "embodied.deploy.running",
    "embodied.deploy.session",
    "embodied.deploy.shared",
    "embodied.deploy.slot",
    "embodied.deploy.startup",
    "embodied.evaluate",
    "embodied.experiment",
    "embodied.exam",
    "embodied.export",
    "embodied.films",
    "embodied.gathering",
    "embodied.judging",
    "embodied.labelling",
    "embodied.loading",
    "embodied.locks",
    "embodied.oracle",
    "embodied.people.live",
    "embodied.people.session",
    "embodied.preference_data",
    "embodied.preference_task",
    "embodied.preflight",
    "embodied.response",
    "embodied.resume",
    "embodied.robustness",
    "embodied.shards",
    "embodied.simulators",
    "embodied.sketching",
    "embodied.stopwatch",
    "embodied.suite_task",
    "embodied.targets",
    "embodied.train",
)
_SPECIAL = {"_target_", "_args_", "_partial_", "_convert_", "_recursive_"}


class ConfigError(ValueError):
    """A config cannot be built; all the reasons are listed with their key paths."""


def check(
    node: Any, *, allowed: Sequence[str] = TARGETS, extra_targets: Sequence[str] = ()
) -> None:
    """Raises ConfigError unless every target in a plain container is allowed and takes its keys.

    Imports modules of the allowed packages, and calls nothing.
    """
    patterns = _patterns(allowed, extra_targets)
    problems: list[str] = []
    for path, target in _targets(node):
        try:
            found = locate(target["_target_"], patterns)
        except ConfigError as error:
            problems.append(f"E_TARGET_REFUSED: {path}_target_ = {target['_target_']!r}: {error}")
        else:
            problems += _unknown_keys(path, target, found)
    if problems:
        raise ConfigError("\n".join(problems))


def locate(target: Any, allowed: Sequence[str] = TARGETS) -> Callable[..., Any]:
    """The class or function of a dotted path, without calling it or importing other packages.

    Raises:
        ConfigError: the path, or what it leads to, is not allowed, or there is no such thing.
    """
    if not isinstance(target, str) or not all(map(_is_public, target.split("."))):
        raise ConfigError("not a dotted path of public names; write package.module.Name")
    if reason := _refusal(allowed, target):
        raise ConfigError(reason)
    found = _walk(target, allowed)
    if not (inspect.isclass(found) or inspect.isfunction(found) or inspect.ismethod(found)):
        raise ConfigError(f"a {type(found).__name__}, neither a class nor a function")
    if target not in allowed:  # an exact name is trusted to lead where its package says
        _check_owner(found, allowed)
    return found


_REMEDY = "if you trust it, add its package on the command line: '+allow_targets=[package.*]'"


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _refusal(allowed: Sequence[str], name: str) -> str | None:
    if any(f"{name}.".startswith(f"{module}.") for module in _MACHINERY):
        return "it runs, loads or deletes what its arguments name, which no config may ask for"
    if not any(fnmatchcase(name, pattern) for pattern in allowed):
        return f"outside the allowed packages ({', '.join(allowed)}); {_REMEDY}"
    return None


def _patterns(allowed: Sequence[str], extra_targets: Sequence[str]) -> tuple[str, ...]:
    for pattern in extra_targets:
        root, _, rest = pattern.partition(".")
        if not root.isidentifier() or not rest:
            raise ConfigError(
                f"E_TARGET_REFUSED: allow_targets has {pattern!r}; name a package, as in 'my_pkg.*'"
            )
    return (*allowed, *extra_targets)


def _walk(target: str, allowed: Sequence[str]) -> Any:
    first, *rest = target.split(".")
    found: Any = _import(first)
    for name in rest:
        if isinstance(found, ModuleType):
            found = _member(found, name)
        elif inspect.isclass(found):
            _check_owner(found, allowed)
            found = getattr(found, name, None)
        else:
            raise ConfigError(f"{name!r} is looked up in a {type(found).__name__}; name a class")
    return found


def _member(module: ModuleType, name: str) -> Any:
    path = f"{module.__name__}.{name}"
    if not hasattr(module, name) and hasattr(module, "__path__"):
        return _import(path)
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{module.__name__} has no {name!r}{hint}")
    if isinstance(found, ModuleType) and found.__name__ != path:
        # Otherwise every module that ours import, such as torch, could be reached through them.
        raise ConfigError(f"{path} is the module {found.__name__} under another name")
    return found


def _import(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # it exists, and something that it needs is not installed
            raise
        raise ConfigError(f"there is no module {path}; correct the path or install it") from error


def _check_owner(found: Any, allowed: Sequence[str]) -> None:
    owner = f"{found.__module__}.{found.__qualname__}"
    if reason := _refusal(allowed, owner):
        raise ConfigError(f"leads to {owner}: {reason}")


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, item in node.items():
            yield from _targets(item, f"{path}{key}.")
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _targets(item, f"{path}{index}.")


def _unknown_keys(path: str, node: Mapping[str, Any], found: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(found).parameters
    except ValueError:  # written in C, without a signature
        return []
    known = {name for name, x in parameters.items() if x.kind is not x.VAR_KEYWORD}
    if len(known) < len(parameters):
        options = _options(found)
        if options is None:
            return []
        known |= options
    problems = []
    for key in sorted(map(str, node.keys() - _SPECIAL - known)):
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}?" if near else "it takes no arguments"
        problems.append(f"E_CONFIG_KEY: {path}{key}: {node['_target_']} takes no {key!r}; {hint}")
    return problems


def _options(found: Callable[..., Any]) -> set[str] | None:
    """The names of `**options: Unpack[SomeTypedDict]`; None where any name will do."""
    function = found.__init__ if inspect.isclass(found) else found
    for hint in typing.get_type_hints(function).values():
        if typing.get_origin(hint) is typing.Unpack:
            return set(typing.get_args(hint)[0].__annotations__)
    return None
