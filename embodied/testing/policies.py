"""The contracts of action heads and policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from embodied.encoders.base import held
from embodied.heads.base import ActionHead, DensityHead
from embodied.normalize import Statistics
from embodied.policies.base import Policy
from embodied.structs import Batch
from embodied.testing.facts import (
    noise_of,
    raises,
    require,
    require_equal,
    require_gradients,
    require_tensor,
    take,
    undrawn,
    untouched,
)

_ALONE = "a row must not depend on its neighbours or on its place in the batch"


def check_head(head: ActionHead, context: Tensor, action: Tensor) -> None:
    """Shapes, finiteness, gradients, repeatability and independence of rows.

    Of a `DensityHead` also that a step's log-probability does not know later steps.

    Args:
        context: (B, L, D), at least 2 distinct rows.
        action: (B, H, A), normalised to [-1, 1].
    """
    rows = range(len(action))
    back = rows[::-1]
    with untouched(head), torch.no_grad(), undrawn():
        head.eval()
        loss = head.loss(context, action, noise=noise_of(rows))
        sample = head.sample(context, noise=noise_of(rows))
        require_tensor("loss", loss, tuple(action.shape[:2]))
        require_tensor("sample", sample, tuple(action.shape))
        turned = head.sample(context.flip(0), noise=noise_of(back))
        require_equal(f"sample: {_ALONE}", sample, turned.flip(0))
        turned = head.loss(context.flip(0), action.flip(0), noise=noise_of(back))
        require_equal(f"loss: {_ALONE}", loss, turned.flip(0))
        again = head.sample(context, noise=noise_of(rows))
        require_equal("the same noise must give the same sample", sample, again)
        again = head.loss(context, action, noise=noise_of(rows))
        require_equal("the same noise must give the same loss", loss, again)
        if isinstance(head, DensityHead):
            _check_log_prob(head, context, action)
    with untouched(head):
        leaf = context.detach().clone().requires_grad_()
        require_gradients(head, lambda: head.loss(leaf, action, noise=noise_of(rows)).mean())
        require(leaf.grad is not None and bool(leaf.grad.any()), "no gradient reaches the context")


def _check_log_prob(head: DensityHead, context: Tensor, action: Tensor) -> None:
    log_prob = head.log_prob(context, action)
    require_tensor("log_prob", log_prob, tuple(action.shape[:2]))
    turned = head.log_prob(context.flip(0), action.flip(0))
    require_equal(f"log_prob: {_ALONE}", log_prob, turned.flip(0))
    for h in range(1, action.shape[1]):
        later = action.clone()
        later[:, h:] = -later[:, h:]
        earlier = head.log_prob(context, later)[:, :h]
        require_equal("log_prob of a step must not know later steps", log_prob[:, :h], earlier)


def check_policy(policy: Policy, batch: Batch) -> None:
    """The contract of a policy whose normalisers are fitted.

    Shapes, bounds, gradients, no state between calls, rows that do not depend on each other, masks,
    rows with and without each modality in one batch, and errors where statistics are missing.

    Args:
        batch: at least 3 distinct rows, with all the modalities that the policy uses.
    """
    require(len(batch.action) >= 3, f"batch needs at least 3 rows, got {len(batch.action)}")
    with untouched(policy), torch.no_grad():
        policy.eval()
        action = _act(policy, batch)
        _check_actions(policy, action, rows=len(batch.action))
        _check_rows(policy, batch, action)
        _check_present(policy, batch, action)
        _check_loss_and_mask(policy, batch)
    with untouched(policy):
        mixed = _without(batch, [0])
        require_gradients(policy, lambda: _loss(policy, mixed))
    _check_state_dict(policy)
    _check_statistics(policy, batch)


def _act(policy: Policy, batch: Batch, order: Sequence[int] | None = None) -> Tensor:
    noise = noise_of(order or range(len(batch.action)))
    return policy.act(batch.observation, batch.condition, noise=noise)


def _loss(policy: Policy, batch: Batch) -> Tensor:
    loss, metrics = policy(batch, noise_of(range(len(batch.action))))
    require_tensor("loss", loss, ())
    for name, value in metrics.items():
        attached = isinstance(value, Tensor) and value.requires_grad
        require(not attached, f"metric {name!r} must be detached")
    return torch.as_tensor(loss)


def _check_actions(policy: Policy, action: Tensor, rows: int) -> None:
    spec = policy.spec
    require_tensor("action", action, (rows, policy.pred_horizon, spec.action_dim))
    low, high = action.new_tensor(spec.action_low), action.new_tensor(spec.action_high)
    inside = bool(((action >= low) & (action <= high)).all())
    require(inside, f"actions leave the spec's bounds {spec.action_low} to {spec.action_high}")


def _check_rows(policy: Policy, batch: Batch, action: Tensor) -> None:
    order = list(range(len(action)))[::-1]
    turned = _act(policy, take(batch, order), order)
    require_equal(f"action: {_ALONE}", action, turned.flip(0))
    again = _act(policy, batch)
    require_equal("the same noise must give the same action, whatever came between", action, again)


def _without(batch: Batch, rows: list[int]) -> Batch:
    """The batch with every modality marked absent in some rows."""
    everywhere = torch.ones(len(batch.action), dtype=torch.bool, device=batch.action.device)
    present = dict(batch.condition.present)
    for name in held(batch.condition):
        present[name] = present.get(name, everywhere).clone()
        present[name][rows] = False
    return replace(batch, condition=replace(batch.condition, present=present))


def _check_present(policy: Policy, batch: Batch, action: Tensor) -> None:
    absent = _act(policy, _without(batch, list(range(len(action)))))
    mixed = _act(policy, _without(batch, [0]))
    kept = "a row with its condition must not notice a row without"
    require_equal(kept, action[1:], mixed[1:])
    left = "a row without a condition must not notice the conditions of others"
    require_equal(left, absent[:1], mixed[:1])


def _check_loss_and_mask(policy: Policy, batch: Batch) -> None:
    mask = batch.mask.clone()
    mask[0] = False
    other = batch.action.clone()
    other[0] = other[0] / 2
    masked = _loss(policy, replace(batch, mask=mask))
    changed = _loss(policy, replace(batch, mask=mask, action=other))
    require_equal("actions of a row that is masked must not change the loss", masked, changed)
    empty = float(_loss(policy, replace(batch, mask=torch.zeros_like(mask))))
    require(empty == 0.0, f"the loss without any valid step must be 0, got {empty}")


def _check_state_dict(policy: Policy) -> None:
    state = {name: x.clone() for name, x in policy.state_dict().items()}
    for name in state:
        lacking = {key: x for key, x in state.items() if key != name}
        with untouched(policy):
            refused = raises(lambda lacking=lacking: policy.load_state_dict(lacking))  # type: ignore[misc]
        require(refused, f"a state dict without {name!r} must be refused")


def _check_statistics(policy: Policy, batch: Batch) -> None:
    for name, part in policy.named_modules():
        if isinstance(part, Statistics):
            with untouched(policy):
                part.load_state_dict({k: x * torch.nan for k, x in part.state_dict().items()})
                refused = raises(lambda: _act(policy, batch))
            require(refused, f"{name} without its statistics must raise when it is used")
