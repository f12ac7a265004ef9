"""The contract of algorithms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from embodied.algorithms.base import Algorithm
from embodied.structs import Batch
from embodied.testing.facts import require, require_equal


def check_algorithm(make: Callable[[], Algorithm], batch: Batch) -> None:
    """Updates change the policy, repeat exactly, and go on exactly from a saved state.

    Args:
        make: builds an algorithm with a policy of its own, fitted, with equal weights every time.
    """
    first, second = make(), make()
    start = first.inference_state()
    for step in range(2):
        _update(first, batch, step)
        _update(second, batch, step)
    _require_same("the same updates must give", first, second)
    end = first.inference_state()
    changed = any(not x.equal(start[name]) for name, x in end.items())
    require(changed, "two updates left inference_state as it was")
    first.policy.load_state_dict(end)  # as an evaluation does
    _check_resume(make(), second, batch)


def _check_resume(fresh: Algorithm, trained: Algorithm, batch: Batch) -> None:
    groups, document = trained.state_dict()
    groups = {**groups, "policy": trained.inference_state()}
    # Copies, as they come from a file: a fresh algorithm must not share memory with the old one.
    tensors = {name: {k: x.clone() for k, x in group.items()} for name, group in groups.items()}
    fresh.load_state_dict(tensors, json.loads(json.dumps(document)))
    _require_same("loading must restore", fresh, trained)
    for algorithm in (fresh, trained):
        _update(algorithm, batch, 2)
    _require_same("an update after loading must give", fresh, trained)


def _update(algorithm: Algorithm, batch: Batch, step: int) -> None:
    for name, value in algorithm.update(batch, step).items():
        require(math.isfinite(value), f"metric {name!r} is {float(value)} at step {step}")


def _require_same(what: str, first: Algorithm, second: Algorithm) -> None:
    groups, others = (
        {**x.state_dict()[0], "inference": x.inference_state()} for x in (first, second)
    )
    for name, group in groups.items():
        require(group.keys() == others[name].keys(), f"{what} the same names in {name!r}")
        for key, x in group.items():
            require_equal(f"{what} the same {name}.{key}", x, others[name][key])
