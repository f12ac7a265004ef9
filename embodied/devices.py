"""What of this machine a process may use: its device, cores and threads."""

from __future__ import annotations

import os

import torch


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one; anything else is taken by its word."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name} was asked for, but torch sees no GPU; use device=cpu")
    return device


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int | None) -> None:
    """Gives each process on this machine its share of the cores."""
    share = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads or share)
