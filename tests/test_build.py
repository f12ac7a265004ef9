"""Only what is allowed is built from a config, and nothing else is even called."""

import functools
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from embodied import build, suites
from embodied.build import instantiate, read_stored, resolve
from embodied.structs import Spec
from embodied.suites import Assignment, Texts
from embodied.targets import ConfigError, locate

PACKAGE = {
    "__init__.py": "from my_pkg._parts import Part as Shown\n",
    "_parts.py": "class Part:\n    def __init__(self, size=1): self.size = size\n",
    "parts.py": """
        import os
        from os import system as innocent
        class Part:
            def __init__(self, size, parts=(), extra=None):
                self.size, self.parts, self.extra = size, parts, extra
            @classmethod
            def double(cls, size): return cls(2 * size)
        class Popen(__import__("subprocess").Popen): pass
        def anything(**kwargs): return kwargs
        constant = 3
        instance = Part(1)
    """,
    "broken.py": "import a_package_that_nobody_has\n",
}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def my_pkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "site" / "my_pkg"
    folder.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / name).write_text(text.replace("\n        ", "\n"))
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        monkeypatch.delitem(sys.modules, name)
    return "my_pkg.*"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that every harmful target would write; the payloads that need files have them."""
    path = tmp_path / "marker"
    payload = Payload(f"touch {path}")
    np.save(tmp_path / "payload.npy", np.array([payload], dtype=object), allow_pickle=True)
    torch.save(payload, tmp_path / "payload.pt")
    (tmp_path / "payload.pkl").write_bytes(pickle.dumps(payload))
    (tmp_path / "payload_module.py").write_text(f"open({str(path)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "payload_module", raising=False)
    monkeypatch.setattr(suites, "innocent", os.system, raising=False)
    monkeypatch.setattr(suites, "Process", subprocess.Popen, raising=False)
    monkeypatch.setattr(suites, "write", Path.write_text, raising=False)
    monkeypatch.setattr(suites, "bound", functools.partial(os.system), raising=False)
    monkeypatch.setattr(suites, "locks", sys.modules["os"], raising=False)
    monkeypatch.chdir(tmp_path)
    return path


# {m} is the marker's path; every one of these writes it when it is called.
HARMFUL: dict[str, dict[str, Any]] = {
    "torch.load": {"f": "payload.pt", "weights_only": False},
    "torch.serialization.load": {"f": "payload.pt", "weights_only": False},
    "numpy.load": {"file": "payload.npy", "allow_pickle": True},
    "builtins.open": {"file": "{m}", "mode": "w"},
    "io.open": {"file": "{m}", "mode": "w"},
    "os.open": {"_args_": ["{m}", os.O_CREAT]},
    "builtins.eval": {"_args_": ["open('{m}', 'w')"]},
    "builtins.exec": {"_args_": ["open('{m}', 'w')"]},
    "os.system": {"_args_": ["touch {m}"]},
    "posix.system": {"_args_": ["touch {m}"]},
    "subprocess.Popen": {"args": ["touch", "{m}"]},
    "subprocess.run": {"args": ["touch", "{m}"]},
    "importlib.import_module": {"name": "payload_module"},
    "runpy.run_path": {"path_name": "payload_module.py"},
    "pickle.loads": {"_args_": [b"cos\nsystem\n(S'touch {m}'\ntR."]},
    "shutil.copy": {"src": "payload.pt", "dst": "{m}"},
    "pathlib.Path.write_text": {"_args_": [Path("marker"), "x"]},
    "embodied.resume.torch.load": {"f": "payload.pt", "weights_only": False},
    "embodied.normalize.torch.load": {"f": "payload.pt", "weights_only": False},
    "embodied.structs.np.load": {"file": "payload.npy", "allow_pickle": True},
    "embodied.locks.os.system": {"_args_": ["touch {m}"]},
    "embodied.checkpoint.os.system": {"_args_": ["touch {m}"]},
    "embodied.checkpoint.shutil.copy": {"src": "payload.pt", "dst": "{m}"},
    "embodied.checkpoint.Path.write_text": {"_args_": [Path("marker"), "x"]},
    "embodied.targets.importlib.import_module": {"name": "payload_module"},
    "embodied.build.hydra.utils.call": {
        "config": {"_target_": "shutil.copy", "src": "payload.pt", "dst": "{m}"}
    },
    "embodied.checkpoint_files.write": {"path": "{m}", "data": b"x"},
    "embodied.locks.RunLock.__enter__.__globals__": {},
    "embodied.suites.innocent": {"_args_": ["touch {m}"]},
    "embodied.suites.Process": {"args": ["touch", "{m}"]},
    "embodied.suites.write": {"_args_": [Path("marker"), "x"]},
    "embodied.suites.bound": {"_args_": ["touch {m}"]},
    "embodied.suites.locks.system": {"_args_": ["touch {m}"]},
}

# The same, but harmless by themselves: they hand out what does the harm.
GIVERS: dict[str, dict[str, Any]] = {
    "embodied.build.torch.hub.load": {"repo_or_dir": "x/y", "model": "z"},
    "embodied.resume.torch.hub.load": {"repo_or_dir": "x/y", "model": "z"},
    "hydra.utils.get_method": {"path": "os.system"},
    "hydra.utils.get_class": {"path": "subprocess.Popen"},
    "hydra.utils.get_object": {"path": "os.system"},
    "hydra.utils.instantiate": {"config": {}},
    "functools.partial": {"_args_": ["os.system"]},
    "operator.attrgetter": {"_args_": ["system"]},
    "embodied.build.hydra.utils.get_method": {"path": "os.system"},
    "embodied.build.functools.partial": {"_args_": ["os.system"]},
    "embodied.build.instantiate": {"node": {}, "extra_targets": ["os.*"]},
    "embodied.targets.locate": {"target": "os.system", "allowed": ["os.*"]},
    "embodied.checkpoint.save": {"directory": ".", "step": 1},
    "embodied.locks.RunLock": {"directory": "."},
    "embodied.train": {"config": {}},
    "embodied.build": {},
    "embodied.suites.Texts.__class__": {},
    "embodied.suites.Texts.__init__": {},
    "embodied_evil.Thing": {},
    "embodied": {},
    "": {},
    "embodied..structs": {},
    "embodied.structs.Struct.map.__globals__.get": {},
}


def filled(value: Any, marker: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, marker) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, marker) for item in value]
    if isinstance(value, bytes):
        return value.replace(b"{m}", str(marker).encode())
    return value.replace("{m}", str(marker)) if isinstance(value, str) else value


WRAPPINGS: dict[str, Callable[[Any], Any]] = {
    "outermost": lambda node: node,
    "argument": lambda node: {**texts(), "canonical": node},
    "list": lambda node: {**texts(), "paraphrases": ["a", [node]]},
    "positional": lambda node: {"_target_": TEXTS, "_args_": [node, [], []]},
    "plain mapping": lambda node: {"a": {"b": [{"c": node}]}},
    "plain list": lambda node: [[node]],
    "partial parent": lambda node: {**texts(), "_partial_": True, "canonical": node},
    "partial": lambda node: {**texts(), "canonical": {**node, "_partial_": True}},
    "left alone": lambda node: {**texts(), "_recursive_": False, "canonical": {"deep": node}},
    "tuple": lambda node: {**texts(), "paraphrases": ({"deep": (node,)},)},
}
TEXTS = "embodied.suites.Texts"


def texts() -> dict[str, Any]:
    return {"_target_": TEXTS, "canonical": "reach", "paraphrases": [], "held_out": []}


def called(target: str, arguments: dict[str, Any]) -> None:
    """What an unguarded builder would do."""
    keywords = dict(arguments)
    found = pkgutil.resolve_name(target)(*keywords.pop("_args_", ()), **keywords)
    if isinstance(found, subprocess.Popen):
        found.wait()
    if hasattr(found, "close"):
        found.close()


@pytest.mark.parametrize("target", [t for t in HARMFUL if not t.endswith("__")])
def test_the_payloads_work_where_nothing_guards(target: str, marker: Path) -> None:
    called(target, filled(HARMFUL[target], marker))
    assert marker.exists()


@pytest.mark.parametrize("target", [*HARMFUL, *GIVERS])
def test_no_harmful_target_runs_wherever_it_stands(target: str, marker: Path) -> None:
    node = {"_target_": target, **filled((HARMFUL | GIVERS)[target], marker)}
    before = set(marker.parent.iterdir())
    for name, wrap in WRAPPINGS.items():
        with pytest.raises(ConfigError, match="E_TARGET_REFUSED") as caught:
            instantiate(wrap(node))
        assert repr(target) in str(caught.value), name
    assert set(marker.parent.iterdir()) == before


def test_refusing_imports_nothing(marker: Path) -> None:
    with pytest.raises(ConfigError, match="outside the allowed packages"):
        instantiate({"_target_": "payload_module.Thing"})
    assert "payload_module" not in sys.modules
    assert not marker.exists()


def test_nothing_is_built_when_a_later_target_is_refused(my_pkg: str, marker: Path) -> None:
    first = {"_target_": "my_pkg.parts.Popen", "args": ["touch", str(marker)]}
    with pytest.raises(ConfigError, match="E_TARGET_REFUSED"):
        instantiate([first, {"_target_": "os.getpid"}], extra_targets=[my_pkg])
    assert not marker.exists()


def test_an_error_lists_every_target_with_its_path_reason_and_remedy() -> None:
    node = {"policy": {"heads": [{"_target_": "torch.load"}]}, "data": {"_target_": "os.system"}}
    with pytest.raises(ConfigError) as caught:
        instantiate(node)
    first, second = str(caught.value).splitlines()
    assert first.startswith("E_TARGET_REFUSED: policy.heads.0._target_ = 'torch.load': outside")
    assert second.startswith("E_TARGET_REFUSED: data._target_ = 'os.system': outside")
    assert "+allow_targets=" in first


def test_a_node_becomes_an_object_with_plain_arguments() -> None:
    node = OmegaConf.create({"words": ["touch"], "texts": {**texts(), "paraphrases": "${words}"}})
    built = instantiate(node.texts)
    assert isinstance(built, Texts)
    assert type(built.paraphrases) is list  # type: ignore[comparison-overlap]
    assert list(built.paraphrases) == ["touch"]


def test_runtime_objects_reach_the_outermost_target_as_they_are(my_pkg: str) -> None:
    spec = Spec(1, 1, (0.0,), (1.0,), 10.0)
    node = {"_target_": "my_pkg.parts.Part", "size": 2, "parts": [texts()]}
    built = instantiate(node, extra_targets=[my_pkg], extra=spec)
    assert built.extra is spec
    assert built.parts == [Texts("reach", [], [])]  # type: ignore[arg-type]


def test_partial_nodes_become_factories(my_pkg: str) -> None:
    inner = {"_target_": "my_pkg.parts.Part", "_partial_": True}
    outer = instantiate({**inner, "extra": inner}, extra_targets=[my_pkg], size=3)
    built = outer()
    assert (built.size, built.extra(size=4).size) == (3, 4)
    assert build.instantiate(None) is None


def test_modules_are_built_though_they_are_callable() -> None:
    model = torch.nn.Linear(2, 1)
    node = {"_target_": "torch.optim.AdamW", "lr": 0.5}
    optimizer = instantiate(node, params=model.parameters())
    assert optimizer.param_groups[0]["lr"] == 0.5
    linear = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
    assert isinstance(instantiate(linear, extra_targets=["torch.nn.*"]), torch.nn.Linear)


def test_containers_of_nodes_are_built_and_take_no_runtime_objects() -> None:
    assert instantiate({"a": [texts()], "b": 1}) == {"a": [Texts("reach", [], [])], "b": 1}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without _target_"):
        instantiate({"a": texts()}, spec=1)


def test_other_packages_are_allowed_by_argument_only(my_pkg: str) -> None:
    node = {"_target_": "my_pkg.parts.Part", "size": 1}
    with pytest.raises(ConfigError, match=r"allow_targets=\[package"):
        instantiate({**node, "allow_targets": ["my_pkg.*"], "extra_targets": ["my_pkg.*"]})
    assert instantiate(node, extra_targets=[my_pkg]).size == 1
    assert instantiate({**node, "_target_": "my_pkg.Shown"}, extra_targets=[my_pkg]).size == 1
    assert instantiate({**node, "_target_": "my_pkg.parts.Part.double"}, extra_targets=[my_pkg])


def test_a_narrower_list_shuts_out_the_rest() -> None:
    with pytest.raises(ConfigError, match="E_TARGET_REFUSED"):
        instantiate(texts(), allowed=["embodied.structs.*"])


@pytest.mark.parametrize("pattern", ["*", "*.*", "", "my_pkg", "m*.parts.Part", "?s.system"])
def test_a_pattern_must_name_a_package(pattern: str) -> None:
    with pytest.raises(ConfigError, match="name a package"):
        instantiate(texts(), extra_targets=[pattern])


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("my_pkg.parts.constant", "a int, neither a class nor a function"),
        ("my_pkg.parts.instance", "a Part, neither a class nor a function"),
        ("my_pkg.parts.instance.double", "looked up in a Part"),
        ("my_pkg.parts.innocent", "a builtin_function_or_method"),
        ("my_pkg.parts.os.getcwd", "is the module os under another name"),
        ("my_pkg.parts.Popen.communicate", "leads to subprocess.Popen.communicate: outside"),
        ("my_pkg.parts.Prat", "has no 'Prat'; did you mean 'Part'"),
        ("my_pkg.part.Part", "there is no module my_pkg.part"),
        ("my_pkg._parts.Part", "public names"),
        ("my_pkg.parts", "a module"),
    ],
)
def test_a_refusal_says_why(target: str, why: str, my_pkg: str) -> None:
    with pytest.raises(ConfigError, match=why):
        instantiate({"_target_": target}, extra_targets=[my_pkg])


def test_a_module_that_lacks_a_package_says_which(my_pkg: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        locate("my_pkg.broken.Thing", [my_pkg])


def test_a_misspelt_key_is_named_with_target_and_nearest_name() -> None:
    node = {"task": {**texts(), "heldout": ["x"]}, "b": [{**texts(), "cannonical": ""}]}
    with pytest.raises(ConfigError) as caught:
        instantiate(node)
    assert str(caught.value).splitlines() == [
        f"E_CONFIG_KEY: task.heldout: {TEXTS} takes no 'heldout'; did you mean 'held_out'?",
        f"E_CONFIG_KEY: b.0.cannonical: {TEXTS} takes no 'cannonical'; did you mean 'canonical'?",
    ]


def test_a_target_with_open_keywords_takes_any_key(my_pkg: str) -> None:
    node = {"_target_": "my_pkg.parts.anything", "whatever": 1}
    assert instantiate(node, extra_targets=[my_pkg]) == {"whatever": 1}


def test_resolve_gives_plain_values() -> None:
    config = {"a": 1, "b": {"c": "${a}", "d": ["${b.c}"]}}
    found = resolve(OmegaConf.create(config))
    assert found == resolve(config) == {"a": 1, "b": {"c": 1, "d": [1]}}
    assert type(found["b"]["d"]) is list


def test_resolve_names_the_key_that_has_no_value() -> None:
    with pytest.raises(Exception, match=r"b\.c"):
        resolve(OmegaConf.create({"b": {"c": "???"}}))


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"b": ["${oc.env:HOME}"]}},
        {"a": {"b": [r"\${oc.env:HOME}"]}},
        {"a": {"b": ["x ${oc.decode:${oc.env:HOME}} y"]}},
        {"a": {"${oc.env:HOME}": 1}},
    ],
)
def test_a_stored_config_may_not_reach_outside(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"E_CONFIG_REFERENCE: a\.?"):
        read_stored(config)
    with pytest.raises(ConfigError, match="E_CONFIG_REFERENCE"):
        instantiate({**texts(), "canonical": config})


def test_an_escaped_reference_is_not_followed_on_the_second_pass() -> None:
    config = OmegaConf.create({**texts(), "canonical": r"\${oc.env:HOME}"})
    with pytest.raises(ConfigError, match="E_CONFIG_REFERENCE"):
        instantiate(config)


def test_a_stored_config_is_copied() -> None:
    config = {"a": {"b": [1]}}
    copy = read_stored(config)
    copy["a"]["b"].append(2)
    assert config == {"a": {"b": [1]}}


@dataclass
class Node:
    """A structured config, as Hydra's users may write."""

    _target_: str = "os.getpid"


def test_structured_configs_and_dict_configs_are_checked_too() -> None:
    for node in (OmegaConf.structured(Node), Node(), DictConfig({"_target_": "os.getpid"})):
        with pytest.raises(ConfigError, match="E_TARGET_REFUSED"):
            instantiate(node)


def test_assignments_can_be_built_by_position() -> None:
    node = {"_target_": "embodied.suites.Assignment", "_args_": ["reach", 0, 1, 2, "go"]}
    assert instantiate(node) == Assignment("reach", 0, 1, 2, "go")
