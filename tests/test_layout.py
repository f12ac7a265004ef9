"""Who may import whom, and what may be loaded from disk: read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "embodied": ROOT / "embodied",
    "embodied_envs": ROOT / "envs" / "embodied_envs",
    "embodied_datasets": ROOT / "datasets" / "embodied_datasets",
}
# A module imports from its own row and from those above it. What is not listed sits on top.
LAYERS = (
    ("structs", "feedback", "suites", "devices"),
    ("conditions", "noise", "normalize", "networks", "objectives"),
    ("encoders", "heads"),
    ("policies",),
    ("algorithms", "ema", "distributed"),
    ("checkpoint_files",),
    (
        *("data", "sources", "trainer", "checkpoint", "loggers", "resume", "protocols"),
        *("learning_curve", "early_stop"),
    ),
    ("execution", "past", "actors"),
    ("rollout",),
)
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from embodied import checkpoint` names a module, `from embodied.ema import EMA` not.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str, *names: str) -> set[str]:
    """Modules of a package that import any of the named packages."""
    return {
        module_name(package, path)
        for path in files(package)
        if any(name.split(".")[0] in names for name in imports(path))
    }


def layer(part: str) -> int:
    rows = [i for i, row in enumerate(LAYERS) if part in row]
    return rows[0] if rows else len(LAYERS)


def core_imports() -> Iterator[tuple[str, str]]:
    """(importing part, imported part) of `embodied`, such as ("trainer", "sources")."""
    for path in files("embodied"):
        name = module_name("embodied", path).split(".")
        for imported in imports(path):
            root, _, rest = imported.partition(".")
            if root == "embodied" and len(name) > 1:
                yield name[1], rest.split(".")[0]


def test_the_layers_name_what_exists() -> None:
    parts = {path.stem for path in PACKAGES["embodied"].iterdir()}
    assert {part for row in LAYERS for part in row} <= parts


def test_imports_point_from_the_training_loop_down_to_the_records() -> None:
    upward = {(a, b) for a, b in core_imports() if layer(b) > layer(a)}
    assert upward == set()


def test_encoders_and_heads_do_not_know_each_other() -> None:
    pairs = set(core_imports())
    assert ("encoders", "heads") not in pairs
    assert ("heads", "encoders") not in pairs


def test_the_core_knows_neither_simulators_nor_data_sets() -> None:
    names = ("embodied_envs", "embodied_datasets", "metaworld", "mujoco", "dm_control")
    assert importers("embodied", *names) == set()


def test_trackers_and_configs_stay_in_their_modules() -> None:
    assert importers("embodied", "wandb") == {"embodied.loggers"}
    assert importers("embodied", "ray") == {"embodied.ray_launcher"}
    assert importers("embodied", "hydra", "omegaconf") == {"embodied.build", "embodied.commands"}
    for package in ("embodied_envs", "embodied_datasets"):
        assert importers(package, "wandb", "hydra", "omegaconf") == set()


def test_environments_need_no_torch() -> None:
    assert importers("embodied_envs", "torch", "embodied_datasets") == set()


PURE = tuple(  # mathematics on arrays
    f"embodied.data.{name}" for name in ("motions", "preferences", "sketches", "sketch_sources")
)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("embodied_envs", {"embodied.suites"}),
        ("embodied_datasets", {"embodied.suites", "embodied.structs", *PURE}),
    ],
)
def test_the_outer_packages_know_the_interfaces_only(package: str, allowed: set[str]) -> None:
    used = {
        imported.rpartition(".")[0]
        for path in files(package)
        for imported in imports(path)
        if imported.split(".")[0] == "embodied"
    }
    assert used <= allowed


@pytest.mark.parametrize("folder", ["envs", "datasets"])
def test_the_outer_folders_are_no_packages(folder: str) -> None:
    # `datasets` would hide Hugging Face's library of that name.
    assert not (ROOT / folder / "__init__.py").exists()


LOADERS = {"embodied.networks.efficientnet"}  # of one file, whose hash it knows


def all_sources() -> list[Path]:
    scripts = [ROOT / "train.py", *sorted((ROOT / "scripts").rglob("*.py"))]
    return [path for package in PACKAGES for path in files(package)] + scripts


@pytest.mark.parametrize("path", all_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_on_disk_is_unpickled(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots.isdisjoint(PICKLERS)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            assert (node.arg, value) not in {("allow_pickle", True), ("weights_only", False)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert ".".join(path.relative_to(ROOT).with_suffix("").parts) in LOADERS
            assert "weights_only=True" in map(ast.unparse, node.keywords)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "torch.save"


def run(code: str) -> str:
    """Standard output of Python code in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_environments_loads_no_torch() -> None:
    code = "import sys, embodied_envs.point, embodied_envs.vector; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_importing_embodied_is_cheap() -> None:
    code = "import sys, embodied; print({'torch', 'hydra', 'numpy', 'wandb'} & set(sys.modules))"
    assert run(code) == "set()"


def test_every_module_imports_without_the_packages_that_only_some_runs_need() -> None:
    code = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("wandb", "av", "dm_control", "metaworld", "ray", "transformers"):
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
for name in ("experiment", "trainer", "films", "video", "loggers", "encoders.language", "testing"):
    importlib.import_module(f"embodied.{name}")
for name in ("ray_launcher", "judging"):
    importlib.import_module(f"embodied.{name}")
import embodied_datasets.lerobot, embodied_datasets.scripted, embodied_envs.point
print(callable(importlib.import_module("embodied").train))
"""
    assert run(code) == "True"
