"""A policy as one graph gives the policy's actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from embodied import export
from embodied.export import WholeLoop, distance, load, save
from embodied.heads.edm import EDMHead
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Condition
from tests.conftest import Compose, compose_config

Make = Callable[..., ChunkPolicy]


def looped(make_policy: Make, **head: Any) -> WholeLoop:
    policy = make_policy(obs_horizon=2)
    if head:
        sizes = {"num_layers": 1, "num_heads": 2, **policy.head_sizes}
        policy.head = EDMHead(**sizes, **head)
    return WholeLoop(policy, Condition(language=("go to the red pad",)))


def test_inputs_are_what_is_sensed_and_what_is_drawn(make_policy: Make) -> None:
    loop = looped(make_policy)
    assert loop.names == ("state", "noise_0")
    assert loop.facts() == [
        {"name": "state", "shape": [1, 2, 10], "dtype": "float32", "kind": "sensed"},
        {"name": "noise_0", "shape": [1, 4, 2], "dtype": "float32", "kind": "normal"},
    ]
    assert len(looped(make_policy, sampler="euler_ancestral", num_steps=3).draws) == 4


def test_the_loop_is_the_policy(make_policy: Make) -> None:
    from embodied.noise import RowNoise
    from embodied.structs import Observation

    loop = looped(make_policy)
    state, noise = loop.example(seed=5)
    drawn = RowNoise([torch.Generator().manual_seed(5)])
    with torch.no_grad():
        expected = loop.policy.act(Observation(state), loop.condition, noise=drawn)
        assert torch.equal(loop(state, noise), expected)


@pytest.mark.slow  # exports a whole loop
@pytest.mark.parametrize("sampler", ["ddim", "heun", "euler_ancestral"])
def test_an_exported_loop_gives_the_same_actions(
    make_policy: Make, tmp_path: Path, sampler: str
) -> None:
    loop = looped(make_policy, sampler=sampler, num_steps=3)
    path = tmp_path / "policy.pt2"
    save(loop, path, "torch")
    run = load(path, "torch")
    assert distance(loop, run) < 1e-5
    state, *noise = loop.example()
    with torch.no_grad():
        there, here = run(state + 1, *noise), run(state, *noise)
    assert not torch.equal(there, here), "the state is an input"


def test_what_is_asked_is_part_of_the_graph(make_policy: Make) -> None:
    policy = make_policy()
    red, blue = (
        WholeLoop(policy, Condition(language=(f"go to the {colour} pad",)))
        for colour in ("red", "blue")
    )
    assert distance(red, export.export(red).module()) < 1e-5
    assert distance(blue, export.export(red).module()) > 1e-4


@pytest.mark.slow
def test_a_run_is_exported_by_its_command(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from embodied.experiment import train

    run = tmp_path / "run"
    train(compose(run))
    config = compose_config(f"checkpoint={run}", "sampling={num_steps: 2}", name="export")
    folder = export.export_policy(config)
    assert folder == run / "export"
    facts = json.loads((folder / "export.json").read_text())
    assert facts["head"]["num_steps"] == 2
    assert [each["kind"] for each in facts["inputs"]] == ["sensed", "normal"]
    assert facts["files"]["torch"]["distance"] < 1e-5
    assert "differ from the policy's by at most" in capsys.readouterr().out
    program = torch.export.load(folder / facts["files"]["torch"]["path"])
    chunk = program.module()(*(torch.zeros(each["shape"]) for each in facts["inputs"]))
    assert list(chunk.shape) == facts["output"]["shape"]


def test_a_graph_that_acts_otherwise_is_an_error(
    make_policy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = looped(make_policy)
    monkeypatch.setattr(export, "load", lambda *_: lambda *inputs: loop(*inputs) + 0.1)
    with pytest.raises(RuntimeError, match=r"does not give the policy's actions: .* by 0.1"):
        export._write(loop, tmp_path, "torch")


def test_unknown_formats_are_refused(make_policy: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="formats must be among torch, inductor, onnx, got 'tf'"):
        save(looped(make_policy), tmp_path / "x", "tf")


def test_a_missing_package_is_named_with_its_extra(
    make_policy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx, onnxscript: pip install .*\[export\]"):
        save(looped(make_policy), tmp_path / "x.onnx", "onnx")


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra `export`",
)
def test_onnx_runtime_gives_the_same_actions(make_policy: Make, tmp_path: Path) -> None:
    loop = looped(make_policy)
    save(loop, tmp_path / "policy.onnx", "onnx")
    assert distance(loop, load(tmp_path / "policy.onnx", "onnx")) < 1e-4


@pytest.mark.slow  # a compiler works for a minute
@pytest.mark.timeout(900)
def test_a_compiled_graph_gives_the_same_actions(make_policy: Make, tmp_path: Path) -> None:
    loop = looped(make_policy)
    save(loop, tmp_path / "policy.aoti.pt2", "inductor")
    assert distance(loop, load(tmp_path / "policy.aoti.pt2", "inductor")) < 1e-5
