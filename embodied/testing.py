"""Contracts that every part must keep, ours and third parties' alike; needs no test framework.

    def test_my_head_keeps_the_contract() -> None:
        check_head(MyHead(...), context, action)

Each `check_*` raises an AssertionError that says what was expected and what was found, or lets
through the error of the part itself. What a check does to a module is undone before it returns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from embodied.algorithms.base import Algorithm
from embodied.heads.base import ActionHead
from embodied.noise import RowNoise
from embodied.normalize import Statistics
from embodied.policies.base import Policy
from embodied.structs import Batch, Condition, Episode, Episodes, Spec, Struct
from embodied.suites import Suite

S = TypeVar("S", bound=Struct)

_TOLERANCE = 1e-5
"""Slack of action bounds: recorded actions went through float32."""


def _require(fact: bool, message: str) -> None:
    # Not an assert: checks must hold under `python -O` too.
    if not fact:
        raise AssertionError(message)


def _require_tensor(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    _require(tuple(x.shape) == shape, f"{name} must have shape {shape}, got {tuple(x.shape)}")
    _require(x.dtype == torch.float32, f"{name} must be float32, got {x.dtype}")
    _require(bool(torch.isfinite(x).all()), f"{name} holds values that are not finite")


def _noise(rows: Sequence[int]) -> RowNoise:
    """Noise whose row i depends on rows[i] alone."""
    return RowNoise([torch.Generator().manual_seed(1000 + row) for row in rows])


def _take(record: S, rows: Sequence[int]) -> S:
    """The given rows of a record, in the given order."""

    def pick(x: Any) -> Any:
        return x[list(rows)] if isinstance(x, Tensor) else tuple(x[row] for row in rows)

    return record._replace_leaves(pick, (Tensor, tuple))


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Puts weights, buffers, gradients and mode back at the end."""
    before = {name: x.clone() for name, x in module.state_dict().items()}
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        module.load_state_dict(before)
        module.zero_grad(set_to_none=True)
        for part, training in modes.items():
            part.training = training


def _require_gradients(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Every trained parameter gets a gradient within three steps.

    One step is not enough: behind an output layer that starts at zero all gradients are zero.
    """
    missing = {name: x for name, x in module.named_parameters() if x.requires_grad}
    optimizer = torch.optim.SGD(list(missing.values()), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        missing = {k: x for k, x in missing.items() if x.grad is None or not x.grad.any()}
        optimizer.step()
    _require(not missing, f"no gradient reaches the parameters {sorted(missing)}")


def check_head(head: ActionHead, context: Tensor, action: Tensor) -> None:
    """Shapes, finiteness, gradients, repeatability and independence of rows of an action head.

    Args:
        context: (B, L, D), B at least 2 and rows distinct.
        action: (B, H, A), normalised to [-1, 1].
    """
    rows = range(len(action))
    with _untouched(head), torch.no_grad():
        head.eval()
        losses = head.loss(context, action, noise=_noise(rows))
        sample = head.sample(context, noise=_noise(rows))
        _require_tensor("loss", losses, tuple(action.shape[:2]))
        _require_tensor("sample", sample, tuple(action.shape))
        again = head.sample(context, noise=_noise(rows))
        _require(torch.equal(sample, again), "the same noise must give the same sample")
        turned = head.sample(context.flip(0), noise=_noise(rows[::-1])).flip(0)
        _require_rows_alone("sample", sample, turned)
        turned = head.loss(context.flip(0), action.flip(0), noise=_noise(rows[::-1])).flip(0)
        _require_rows_alone("loss", losses, turned)
    with _untouched(head):
        leaf = context.detach().clone().requires_grad_()
        _require_gradients(head, lambda: head.loss(leaf, action, noise=_noise(rows)).mean())
        _require(leaf.grad is not None and bool(leaf.grad.any()), "no gradient reaches the context")


def _require_rows_alone(name: str, expected: Tensor, found: Tensor) -> None:
    _require(
        torch.equal(expected, found),
        f"{name}: a row must not depend on its neighbours or its place in the batch, differs by "
        f"{float((expected - found).abs().max()):.3g}",
    )


def check_policy(policy: Policy, batch: Batch) -> None:
    """The contract of a policy with fitted normalisers.

    Shapes, bounds, gradients, no state between calls, rows that do not depend on each other, masks,
    rows with and without each modality in one batch, and errors for statistics that are missing.

    Args:
        batch: at least 3 distinct rows, with all the modalities that the policy uses.
    """
    _require(len(batch.action) >= 3, f"batch must have at least 3 rows, got {len(batch.action)}")
    with _untouched(policy), torch.no_grad():
        policy.eval()
        action = _act(policy, batch)
        _check_actions(policy, batch, action)
        _check_rows(policy, batch, action)
        _check_present(policy, batch, action)
        _check_mask(policy, batch)
    with _untouched(policy):
        mixed = replace(batch, condition=_without(batch.condition, 0))
        _require_gradients(policy, lambda: _loss(policy, mixed))
    _check_state_dict(policy, batch)


def _act(policy: Policy, batch: Batch, order: Sequence[int] | None = None) -> Tensor:
    noise = _noise(order or range(len(batch.action)))
    return policy.act(batch.observation, batch.condition, noise=noise)


def _loss(policy: Policy, batch: Batch) -> Tensor:
    loss, metrics = policy(batch, _noise(range(len(batch.action))))
    _require(loss.shape == (), f"loss must be 0-d, got shape {tuple(loss.shape)}")
    for name, value in metrics.items():
        attached = isinstance(value, Tensor) and value.requires_grad
        _require(not attached, f"metric {name!r} must be detached")
    return loss if isinstance(loss, Tensor) else torch.tensor(loss)


def _check_actions(policy: Policy, batch: Batch, action: Tensor) -> None:
    spec = policy.spec
    shape = (len(batch.action), policy.pred_horizon, spec.action_dim)
    _require_tensor("action", action, shape)
    low, high = action.new_tensor(spec.action_low), action.new_tensor(spec.action_high)
    inside = bool(((action >= low) & (action <= high)).all())
    _require(inside, f"actions leave the spec's bounds {spec.action_low} to {spec.action_high}")
    _require_tensor("loss", _loss(policy, batch), ())


def _check_rows(policy: Policy, batch: Batch, action: Tensor) -> None:
    order = list(range(len(action)))[::-1]
    turned = _act(policy, _take(batch, order), order)
    _require_rows_alone("action", action, turned.flip(0))
    again = _act(policy, batch)
    _require(torch.equal(action, again), "the same noise must give the same action on every call")


def _modalities(condition: Condition) -> tuple[str, ...]:
    """The names under which `Condition.present` may mark what this condition holds."""
    goal = condition.goal
    given = {
        "language": condition.language is not None,
        "goal_state": goal is not None and goal.state.shape[-1] > 0,
        "goal_image": goal is not None and bool(goal.images),
        "sketch": condition.sketch is not None,
        "motion": condition.motion is not None,
    }
    return tuple(name for name, is_given in given.items() if is_given)


def _without(condition: Condition, *rows: int) -> Condition:
    """The condition with every modality marked absent in some rows."""
    present = dict(condition.present)
    for name in _modalities(condition):
        present[name] = present.get(name, _all_rows(condition)).clone()
        present[name][list(rows)] = False
    return replace(condition, present=present)


def _all_rows(condition: Condition) -> Tensor:
    tensors: list[Tensor] = []
    condition.map(lambda x: (tensors.append(x), x)[1])  # type: ignore[func-returns-value]
    size = len(tensors[0]) if tensors else len(condition.language or condition.motion or ())
    device = tensors[0].device if tensors else None
    return torch.ones(size, dtype=torch.bool, device=device)


def _check_present(policy: Policy, batch: Batch, action: Tensor) -> None:
    if not _modalities(batch.condition):
        return
    device = batch.action.device
    none = _without(batch.condition, *range(len(action))).to(device)
    mixed = _without(batch.condition, 0).to(device)
    absent = _act(policy, replace(batch, condition=none))
    found = _act(policy, replace(batch, condition=mixed))
    _require_rows_alone("action of rows with a condition", action[1:], found[1:])
    _require_rows_alone("action of a row without a condition", absent[:1], found[:1])


def _check_mask(policy: Policy, batch: Batch) -> None:
    mask = batch.mask.clone()
    mask[0] = False
    other = batch.action.clone()
    other[0] = batch.action[0].flip(0) / 2
    masked, changed = (replace(batch, mask=mask, action=x) for x in (batch.action, other))
    same = torch.equal(_loss(policy, masked), _loss(policy, changed))
    _require(same, "actions of a row whose mask is False must not change the loss")
    empty = _loss(policy, replace(batch, mask=torch.zeros_like(mask)))
    _require(float(empty) == 0.0, f"the loss without any valid step must be 0, got {float(empty)}")


def _check_state_dict(policy: Policy, batch: Batch) -> None:
    state = {name: x.clone() for name, x in policy.state_dict().items()}
    for name in state:
        lacking = {k: x for k, x in state.items() if k != name}
        error = _error_of(lambda lacking=lacking: policy.load_state_dict(lacking))  # type: ignore[misc]
        _require(error is not None, f"a state dict without {name!r} must be refused")
    for name, part in policy.named_modules():
        if isinstance(part, Statistics):
            with _untouched(policy):
                part.load_state_dict({k: x * torch.nan for k, x in part.state_dict().items()})
                error = _error_of(lambda: _act(policy, batch))
                _require(error is not None, f"{name} without statistics must raise when used")


def _error_of(act: Callable[[], Any]) -> Exception | None:
    try:
        act()
    except (RuntimeError, ValueError) as error:
        return error
    return None


def check_algorithm(make: Callable[[], Algorithm], batch: Batch) -> None:
    """Updates change the policy, repeat exactly, and continue exactly from a saved state.

    Args:
        make: builds an algorithm with a fitted policy; equal weights every time.
    """
    first, second = make(), make()
    before = first.inference_state()
    for step in range(2):
        metrics = first.update(batch, step)
        for name, value in metrics.items():
            _require(bool(np.isfinite(float(value))), f"metric {name!r} is {float(value)}")
        second.update(batch, step)
    _require_same("the same updates", first, second)
    after = first.inference_state()
    changed = any(not torch.equal(before[name], x) for name, x in after.items())
    _require(changed, "two updates left inference_state as it was")
    first.policy.load_state_dict(after)
    first = make()
    groups, document = second.state_dict()
    copies = {
        name: {k: x.clone() for k, x in group.items()}
        for name, group in {**groups, "policy": second.inference_state()}.items()
    }
    first.load_state_dict(copies, json.loads(json.dumps(document)))
    _require_same("a loaded state", first, second)
    for algorithm in (first, second):
        algorithm.update(batch, 2)
    _require_same("an update after loading", first, second)


def _require_same(what: str, first: Algorithm, second: Algorithm) -> None:
    groups = [{**x.state_dict()[0], "policy": x.inference_state()} for x in (first, second)]
    for name, group in groups[0].items():
        for key, x in group.items():
            same = torch.equal(x, groups[1][name][key])
            _require(same, f"{what} must give the same {name}.{key} to the last bit")
