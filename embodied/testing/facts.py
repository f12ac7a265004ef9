"""What the contracts are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from embodied.noise import RowNoise
from embodied.structs import Struct

S = TypeVar("S", bound=Struct)


def require(fact: bool, message: str) -> None:
    """An assert that also holds under `python -O`."""
    if not fact:
        raise AssertionError(message)


def require_tensor(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Float32, finite and of this shape."""
    require(tuple(x.shape) == shape, f"{name} must have shape {shape}, got {tuple(x.shape)}")
    require(x.dtype == torch.float32, f"{name} must be float32, got {x.dtype}")
    require(bool(torch.isfinite(x).all()), f"{name} holds values that are not finite")


def require_equal(what: str, expected: Tensor, found: Tensor) -> None:
    """Equal to the last bit."""
    require(expected.shape == found.shape, f"{what}, but {expected.shape} became {found.shape}")
    if not torch.equal(expected, found):
        gap = float((expected.float() - found.float()).abs().max())
        raise AssertionError(f"{what}, but values differ by up to {gap:.3g}")


def noise_of(rows: Sequence[int]) -> RowNoise:
    """Noise whose row i depends on rows[i] alone."""
    return RowNoise([torch.Generator().manual_seed(1000 + row) for row in rows])


def take(record: S, rows: Sequence[int]) -> S:
    """The given rows of a record, in the given order."""

    def pick(x: Any) -> Any:
        return x[list(rows)] if isinstance(x, Tensor) else tuple(x[row] for row in rows)

    return record._replace_leaves(pick, (Tensor, tuple))


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
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


@contextmanager
def undrawn() -> Iterator[None]:
    """Requires that nothing is drawn from torch's own generator of the CPU meanwhile."""
    before = torch.get_rng_state()
    yield
    same = torch.equal(before, torch.get_rng_state())
    require(same, "all that is random must be drawn from noise, not from torch's own generator")


def require_gradients(module: nn.Module, loss: Callable[[], Tensor]) -> None:
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
    require(not missing, f"no gradient reaches the parameters {sorted(missing)}")


def raises(act: Callable[[], Any]) -> bool:
    """Whether it ends in an error of the kinds that refuse a wrong input or state."""
    try:
        act()
    except (LookupError, RuntimeError, ValueError):
        return True
    return False
