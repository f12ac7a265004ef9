"""One process or many: what torchrun started, and how the policy is spread."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from embodied.devices import choose_device
from embodied.networks.transformer import Block


@dataclass(frozen=True)
class World:
    """This process among its peers. `device` is where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def mean(self, x: Tensor) -> Tensor:
        """Average of x over ranks."""
        if self.size == 1:
            return x
        x = x.clone()
        dist.all_reduce(x)
        return x / self.size

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, so that all act alike."""
        if self.size == 1:
            return flag
        x = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return bool(x)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def join(device: str = "auto") -> World:
    """Joins the process group that torchrun announced in the environment, if any."""
    chosen = choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, chosen)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, chosen)


def spread(policy: nn.Module, world: World, strategy: str) -> nn.Module:
    """The module whose forward trains the policy on all ranks.

    Args:
        strategy: "ddp" copies the policy to each rank; "fsdp" shards parameters, gradients and
            optimiser state with torch's `fully_shard`, for policies too large for one device.
    """
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"strategy must be 'ddp' or 'fsdp', got {strategy!r}")
    if world.size == 1:
        return policy
    if strategy == "ddp":
        with (
            warnings.catch_warnings()
        ):  # torch 2.13 renames the argument; older ones know only this
            warnings.simplefilter("ignore", FutureWarning)
            # Of a policy that trains in stages not all parameters take part in every one.
            return DistributedDataParallel(
                policy,
                broadcast_buffers=False,
                find_unused_parameters=getattr(policy, "trains_in_stages", False),
            )
    for module in policy.modules():
        if isinstance(module, Block):
            fully_shard(module)
    fully_shard(policy)
    return policy
