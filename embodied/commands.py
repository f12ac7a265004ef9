"""Commands whose settings Hydra composes: errors are one clear message, and a misspelt key is
answered by the one that was meant."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from embodied.cli import clear_errors

Task = Callable[[DictConfig], Any]


def command(config_name: str, *, config_path: str = "../conf") -> Callable[[Task], Task]:
    """Makes `main(config)` of a script what the script runs; `hydra.main` with our errors.

    The script imports what is slow, torch above all, in that function: --help must not wait.

    Args:
        config_name: of the folder `config_path`, which is relative to the script.
    """

    def decorate(task: Task) -> Task:
        @functools.wraps(task)
        def clearly(config: DictConfig) -> Any:
            # One job of a sweep that fails hands its error on, so that the others still run.
            with clear_errors(exits=HydraConfig.get().mode != RunMode.MULTIRUN):
                return task(config)

        composed = hydra.main(config_path, config_name, version_base="1.3")(clearly)

        @functools.wraps(task)
        def run(config: DictConfig | None = None) -> Any:
            try:
                return composed(config)
            except SystemExit as ended:
                if ended.code:
                    folder = Path(inspect.getfile(task)).resolve().parent / config_path
                    for line in meant(folder.resolve(), config_name, sys.argv[1:]):
                        print(f"error: {line}", file=sys.stderr)
                raise

        return run

    return decorate


def meant(folder: Path, config_name: str, arguments: Sequence[str]) -> list[str]:
    """What to write instead of each key among the arguments that the config does not have."""
    settings = [x for x in arguments if x.startswith("~") or ("=" in x and x[0] not in "-+")]
    try:
        keys = [x.key_or_group for x in OverridesParser.create().parse_overrides(settings)]
        is_group = [_is_group(folder, key) for key in keys]
        groups = [x for x, chooses in zip(settings, is_group, strict=True) if chooses]
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra.compose(config_name, groups)
    except HydraException:  # which has said what is wrong, and what there is to choose from
        return []
    plain = OmegaConf.to_container(config, resolve=False)
    others = [key for key, chooses in zip(keys, is_group, strict=True) if not chooses]
    return [
        f"there is no {key}{_hint(key, list(_paths(plain)))}"
        for key in others
        if not key.startswith("hydra.") and not _has(plain, key)
    ]


def _is_group(folder: Path, key: str) -> bool:
    group = key.partition("@")[0]
    return "/" in group or (folder / group).is_dir()


def _has(node: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(node, Mapping):
            return node is not None  # of what a list holds Hydra knows more
        if name not in node:
            return False
        node = node[name]
    return True


def _hint(key: str, known: Sequence[str]) -> str:
    """The keys of that name elsewhere, or else the most similar ones."""
    name = key.rpartition(".")[2]
    same = [path for path in known if path.rpartition(".")[2] == name]
    near = same[:3] or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _paths(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{path}{key}"
        yield from _paths(value, f"{path}{key}.")
