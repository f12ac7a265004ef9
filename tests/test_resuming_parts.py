"""What is resumed fits what was saved, and chance goes on as it would have."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.checkpoint import ConfigMismatch, save
from embodied.checkpoint_files import CheckpointError, load
from embodied.resume import (
    check_resumable,
    check_tensors,
    config_difference,
    random_state,
    restore_random_state,
)

# Comparing


def test_all_tensor_differences_are_listed_at_once() -> None:
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(1), "same": torch.zeros(4)}
    expected |= {f"layer{i}.weight": torch.zeros(1) for i in range(7)}
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(1).double(), "same": torch.ones(4)}
    found |= {"extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        check_tensors(expected, found)
    text = str(caught.value)
    assert "7 missing: layer0.weight, layer1.weight, layer2.weight" in text
    assert "and 2 more" in text
    assert "1 unexpected: extra" in text
    assert (
        "2 wrong shape or dtype: a is float32[3, 2] instead of float32[2, 3], b is float64" in text
    )
    check_tensors(expected, expected)


SAVED_CONFIG: Mapping[str, Any] = {
    "policy": {"dim": 64, "heads": ["edm", {"steps": 4}], "bias": None},
    "logger": {"project": "a"},
    "empty": {},
    "1": True,
}


def test_equal_configs_do_not_differ_after_json() -> None:
    now = {**SAVED_CONFIG, "policy": {**SAVED_CONFIG["policy"], "heads": ("edm", {"steps": 4})}}
    now[1] = now.pop("1")  # type: ignore[index]
    assert config_difference(SAVED_CONFIG, now) == []
    assert config_difference({}, {}) == []


def test_config_differences_are_flat_lines() -> None:
    now = {
        "policy": {"dim": "64", "heads": ["edm", {"steps": 5}]},
        "logger": {},
        "empty": [],
        "1": 1,
    }
    assert config_difference(SAVED_CONFIG, now) == [
        "1: True -> 1",
        "empty: {} -> []",
        "logger: (absent) -> {}",
        "logger.project: 'a' -> (absent)",
        "policy.bias: None -> (absent)",
        "policy.dim: 64 -> '64'",
        "policy.heads.1.steps: 4 -> 5",
    ]


def test_a_changed_config_is_refused_but_for_harmless_keys() -> None:
    now = {**SAVED_CONFIG, "logger": {"project": "b"}, "steps": 10}
    with pytest.raises(ConfigMismatch) as caught:
        check_resumable(SAVED_CONFIG, now, harmless=["log*"])
    assert "steps: (absent) -> 10" in str(caught.value)
    assert "logger" not in str(caught.value)
    assert check_resumable(SAVED_CONFIG, now, harmless=["logger.*", "steps"]) == [
        "logger.project: 'a' -> 'b'",
        "steps: (absent) -> 10",
    ]


# Random generators


@pytest.fixture
def _same_randomness_after() -> Iterator[None]:
    state = random_state()
    yield
    restore_random_state(*state)


def draw() -> list[float]:
    values = [random.random(), random.gauss(0, 1), float(np.random.rand())]
    return [*values, float(np.random.randn()), float(torch.randn(()))]


@pytest.mark.usefixtures("_same_randomness_after")
def test_randomness_goes_on_as_it_would_have(tmp_path: Path) -> None:
    draw()  # one Gaussian of each pair is now waiting in Python's and NumPy's generators
    tensors, document = random_state()
    path = save(tmp_path, 1, tensors={"random": tensors}, documents={"random": document})
    wanted = [draw() for _ in range(3)]
    found = load(path)
    restore_random_state(found.tensors["random"], found.documents["random"])
    assert [draw() for _ in range(3)] == wanted


@pytest.mark.usefixtures("_same_randomness_after")
@pytest.mark.parametrize("part", ["python", "numpy", "torch", "cuda"])
def test_a_missing_generator_is_an_error_and_changes_nothing(part: str) -> None:
    tensors, document = random_state()
    after = draw()
    fewer = {key: value for key, value in tensors.items() if key != part}
    less = {key: value for key, value in document.items() if key != part}
    broken = [(fewer, document)] * (part in tensors) + [(tensors, less)] * (part in document)
    assert broken
    for state in broken:
        restore_random_state(tensors, document)
        with pytest.raises(CheckpointError, match=f"E_RANDOM_STATE: .* {part}"):
            restore_random_state(*state)
        assert draw() == after


class FakeCuda:
    """Two devices with one-byte generators."""

    def __init__(self, patch: pytest.MonkeyPatch, devices: int = 2) -> None:
        self.states = [torch.tensor([index], dtype=torch.uint8) for index in range(devices)]
        patch.setattr(torch.cuda, "is_initialized", lambda: devices > 0)
        patch.setattr(torch.cuda, "device_count", lambda: devices)
        patch.setattr(torch.cuda, "get_rng_state", lambda index: self.states[index].clone())
        patch.setattr(torch.cuda, "set_rng_state", self.set)

    def set(self, state: Tensor, index: int) -> None:
        self.states[index] = state


@pytest.mark.usefixtures("_same_randomness_after")
def test_every_cuda_generator_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    tensors, document = random_state()
    cuda.states = [torch.tensor([9], dtype=torch.uint8)] * 2
    restore_random_state(tensors, document)
    assert [int(state) for state in cuda.states] == [0, 1]
    with pytest.raises(CheckpointError, match=r"E_RANDOM_STATE: .* cuda\.1"):
        restore_random_state({k: v for k, v in tensors.items() if k != "cuda.1"}, document)
    for devices in (0, 1, 3):
        FakeCuda(monkeypatch, devices)
        with pytest.raises(CheckpointError, match=f"2 CUDA generators, this process has {devices}"):
            restore_random_state(tensors, document)


@pytest.mark.usefixtures("_same_randomness_after")
def test_a_run_from_the_cpu_does_not_go_on_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state()
    FakeCuda(monkeypatch)
    with pytest.raises(CheckpointError, match="0 CUDA generators, this process has 2"):
        restore_random_state(*state)
