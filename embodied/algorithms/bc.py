"""Behaviour cloning: minimise the policy's loss on recorded actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from embodied.algorithms.base import Algorithm
from embodied.distributed import World, spread
from embodied.ema import EMA
from embodied.noise import BatchNoise, seeded
from embodied.policies.base import Policy
from embodied.structs import Batch, Metrics

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def warmup_cosine(step: int, *, warmup: int, total: int, floor: float = 0.0) -> float:
    """Factor of the learning rate: linear up over `warmup` steps, then half a cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where matrix units for it exist (CUDA Ampere on, CPUs with AMX)."""
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_amx_tile_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _train_only(policy: Policy, patterns: Sequence[str]) -> None:
    """Freezes all parameters but those whose names match one of the patterns.

    Raises ValueError for a pattern that matches none.
    """
    names = [name for name, _ in policy.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"algorithm.train_only has {pattern!r}, which no parameter matches; the policy's "
                f"parts are {', '.join(parts)}: write for instance {parts[0] + '.*'!r}"
            )
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


class BC(Algorithm):
    """AdamW with warm-up and cosine decay, gradient clipping, and an average of the weights.

    Args:
        steps: length of the learning-rate schedule.
        precision: "auto", "fp32" or "bf16" (autocast; parameters stay float32).
        accumulate: micro-batches for each step.
        strategy: "ddp" or "fsdp", where there are several processes.
        compile: whether `torch.compile` the forward pass; slow to start, faster per step on GPUs.
        train_only: patterns of names of parameters, such as "phrase_level.*"; all others are
            frozen. None trains all.
        seed: of the noise in the loss; the noise of step s depends on (seed, s) alone.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        world: World,
        steps: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        warmup_steps: int = 100,
        max_grad_norm: float = 1.0,
        ema_decay: float = 0.999,
        precision: str = "auto",
        accumulate: int = 1,
        strategy: str = "ddp",
        compile: bool = False,
        train_only: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if train_only is not None:
            _train_only(policy, train_only)
        self.policy, self.world = policy, world
        self.steps, self.learning_rate, self.warmup_steps = steps, learning_rate, warmup_steps
        self.max_grad_norm, self.accumulate, self.seed = max_grad_norm, accumulate, seed
        self.dtype = choose_precision(precision, world.device)
        self.module = spread(policy, world, strategy)
        if compile:
            self.module.compile()
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=learning_rate,
            betas=(betas[0], betas[1]),
            weight_decay=weight_decay,
            fused=True,
        )
        self.ema = EMA(policy, decay=ema_decay)

    def update(self, batch: Batch, step: int) -> Metrics:
        self._set_learning_rate(step)
        self.policy.train()
        self.policy.begin_step(step)
        totals: dict[str, Tensor] = {}
        for i, share in enumerate(self._shares(batch.mask)):
            with self._no_sync(last=i == self.accumulate - 1):
                loss, metrics = self._loss(batch, step, i)
                (loss * share).backward()
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros(())) + value * share
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        return {**totals, "grad_norm": _full(norm.detach())}

    def _shares(self, mask: Tensor) -> Tensor:
        """What each part's loss, a mean over its own valid steps, counts in the batch's mean."""
        if len(mask) % self.accumulate:
            raise ValueError(
                f"algorithm.accumulate must divide the {len(mask)} rows of each process "
                f"(train.batch_size / processes), got {self.accumulate}"
            )
        valid = mask.reshape(self.accumulate, -1).sum(1).float()
        return valid / self.world.mean(valid.sum())  # ranks are averaged, parts are added

    def _loss(self, batch: Batch, step: int, part: int) -> tuple[Tensor, Metrics]:
        rows = len(batch.action)
        size = rows // self.accumulate
        noise = BatchNoise(
            seeded(self.seed, step, self.world.device),
            start=self.world.rank * rows + part * size,
            total=rows * self.world.size,
        )
        piece = batch.rows(part * size, (part + 1) * size)
        with torch.autocast(
            self.world.device.type, self.dtype, enabled=self.dtype != torch.float32
        ):
            loss, metrics = self.module(piece, noise)
        return loss, metrics

    def _no_sync(self, *, last: bool) -> Any:
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()

    def _set_learning_rate(self, step: int) -> None:
        factor = warmup_cosine(step, warmup=self.warmup_steps, total=self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def inference_state(self) -> dict[str, Tensor]:
        with self.ema.applied():
            return {name: x.clone() for name, x in self._parameters().items()}

    def _parameters(self) -> dict[str, Tensor]:
        found = get_model_state_dict(self.policy, options=_FULL)
        return {name: x for name, x in found.items() if isinstance(x, Tensor)}

    def state_dict(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        optimizer: Any = get_optimizer_state_dict(self.policy, self.optimizer, options=_FULL)
        moments = {
            f"{name}.{moment}": x
            for name, moments in optimizer.get("state", {}).items()  # the first rank has all
            for moment, x in moments.items()
        }
        return (
            {"parameters": self._parameters(), "optimizer": moments},
            {"param_groups": optimizer.get("param_groups"), "ema_updates": self.ema.num_updates},
        )

    def load_state_dict(
        self, tensors: dict[str, dict[str, Tensor]], document: dict[str, Any]
    ) -> None:
        """Takes the groups of `state_dict` plus "policy", the `inference_state`."""
        set_model_state_dict(self.policy, dict(tensors["policy"]), options=_FULL)
        self.ema = EMA(self.policy, decay=self.ema.decay)
        self.ema.num_updates = document["ema_updates"]
        set_model_state_dict(self.policy, dict(tensors["parameters"]), options=_FULL)
        moments: dict[str, dict[str, Tensor]] = {}
        for key, x in tensors["optimizer"].items():
            name, _, moment = key.rpartition(".")
            moments.setdefault(name, {})[moment] = x
        moments = {**self._untouched(moments), **moments}
        state: Any = {"state": moments, "param_groups": document["param_groups"]}
        set_optimizer_state_dict(self.policy, self.optimizer, state, options=_FULL)

    def _untouched(self, moments: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """The moments of parameters that no step has touched yet, which are zeros."""
        kinds = next(iter(moments.values()), {})
        return {
            name: {
                kind: torch.zeros(() if kind == "step" else p.shape, dtype=x.dtype)
                for kind, x in kinds.items()
            }
            for name, p in self.policy.named_parameters()
            if p.requires_grad and name not in moments
        }


def _full(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x
