"""What resuming needs besides a checkpoint's bytes: that they fit, and the random generators.

Saved tensors and configs are compared with those of the present run; the global generators are put
back to where they were, so that a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.checkpoint import ConfigMismatch
from embodied.checkpoint_files import CheckpointError, some

# Comparing what was saved with what is there


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError with all the differences in names, shapes and dtypes."""
    wrong = [
        f"{name} is {_describe(found[name])} instead of {_describe(tensor)}"
        for name, tensor in expected.items()
        if name in found and _describe(found[name]) != _describe(tensor)
    ]
    groups = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "wrong shape or dtype": wrong,
    }
    lines = [f"  {len(names)} {what}: {some(names)}" for what, names in groups.items() if names]
    if lines:
        raise CheckpointError(
            "E_CKPT_TENSORS: the saved tensors do not fit:\n" + "\n".join(lines) + "\nBuild the "
            "model from the config that is stored in the checkpoint"
        )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def config_difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differing leaves of two plain configs, as sorted lines "key: saved -> now"."""
    return [f"{key}: {before} -> {after}" for key, before, after in _differences(saved, now)]


def check_resumable(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, harmless: Collection[str] = ()
) -> list[str]:
    """Returns the harmless differences of two configs, to be shown to the user.

    Args:
        harmless: `fnmatch` patterns of dotted keys that may differ, such as "logger.*".

    Raises:
        ConfigMismatch: some other key differs; all are listed.
    """
    allowed: list[str] = []
    refused: list[str] = []
    for key, before, after in _differences(saved, now):
        ok = any(fnmatchcase(key, pattern) for pattern in harmless)
        (allowed if ok else refused).append(f"{key}: {before} -> {after}")
    if refused:
        raise ConfigMismatch(
            "E_CONFIG_MISMATCH: this run was started with another config:\n  "
            + "\n  ".join(refused)
            + "\nSet these keys back, or start a new run in another directory"
        )
    return allowed


def _differences(
    saved: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    before, after = dict(_leaves(saved)), dict(_leaves(now))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, "(absent)"), after.get(key, "(absent)")
        if old != new:
            yield key, old, new


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, list | tuple):
        value = dict(enumerate(value)) or []
    if not isinstance(value, Mapping) or not value:
        if key:
            yield key, repr(value)
        return
    for name, item in value.items():
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


# Random generators


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of the global generators of Python, NumPy, torch and every CUDA device.

    Returns:
        tensors and a document for `save`. CUDA counts only once the process uses it.
    """
    version, words, gauss = random.getstate()
    generator: Any = np.random.get_state(legacy=False)
    twister = generator["state"]
    devices = torch.cuda.device_count() if _cuda_in_use() else 0
    tensors = {
        "python": torch.tensor(words),
        "numpy": torch.from_numpy(twister["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
        **{f"cuda.{index}": torch.cuda.get_rng_state(index) for index in range(devices)},
    }
    document = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {**generator, "state": {"pos": twister["pos"]}},
        "cuda": devices,
    }
    return tensors, document


def restore_random_state(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Puts back what `random_state` returned; where a part is missing, nothing is changed.

    Raises:
        CheckpointError: a generator's state is missing, or the number of CUDA devices differs.
    """
    saved = int(document.get("cuda", 0))
    names = {"python", "numpy", "torch", *(f"cuda.{index}" for index in range(saved))}
    missing = (names - tensors.keys()) | ({"python", "numpy", "cuda"} - document.keys())
    if missing:
        raise CheckpointError(
            f"E_RANDOM_STATE: no saved state of the generator {some(missing)}, so the run would "
            "not go on as it would have; use another checkpoint"
        )
    devices = torch.cuda.device_count() if saved or _cuda_in_use() else 0
    if saved != devices:
        raise CheckpointError(
            f"E_RANDOM_STATE: saved with {saved} CUDA generators, this process has {devices}; "
            "resume on as many devices, or start a new run from these weights"
        )
    python, generator = document["python"], document["numpy"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state({**generator, "state": {**generator["state"], "key": key}})
    torch.set_rng_state(tensors["torch"])
    for index in range(saved):
        torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
