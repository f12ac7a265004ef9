"""Where training data live: on the device, on the host with batches made ahead, or on the disk."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Literal, get_args

import torch

from embodied.data.blocks import Blocks
from embodied.data.goals import Goals
from embodied.data.prefetch import Prefetch
from embodied.data.windows import Windows
from embodied.sources import Offline, Source

Placement = Literal["auto", "device", "host", "stream"]
_SHARE = 0.5  # of free memory: the rest is for the network, its gradients and its optimiser
_log = logging.getLogger(__name__)


def make_source(
    windows: Windows,
    device: torch.device,
    *,
    batch_size: int,
    obs_horizon: int,
    pred_horizon: int,
    seed: int,
    past_actions: bool = False,
    placement: Placement = "auto",
    device_bytes: int | None = None,
    host_bytes: int | None = None,
    block_bytes: int = 2**26,
    pool_blocks: int = 16,
    goals: Goals | None = None,
) -> Source:
    """Batches of windows, with the data in the fastest place that holds them.

    Args:
        placement: "device" puts all data on the device; "host" leaves them in memory, or in
            mapped files, and makes batches ahead in a thread; "stream" reads blocks of the files
            in turn (see `embodied.data.blocks`, also for the sampling law, which differs). All
            others give the same batches. "auto" takes the first that fits.
        past_actions: see `Windows.gather`.
        device_bytes, host_bytes: what data may take there; None means half of what is free.
    """
    images = any(name.startswith("images.") for name in windows.columns)
    chosen = choose(placement, windows.nbytes, device, device_bytes, host_bytes, images=images)
    _log.info("data: %.3g GB, placement %s", windows.nbytes / 1e9, chosen)
    offline = functools.partial(
        Offline,
        batch_size=batch_size,
        obs_horizon=obs_horizon,
        pred_horizon=pred_horizon,
        past_actions=past_actions,
        goals=goals,
        seed=seed,
    )
    if chosen == "stream":
        blocks = Blocks(
            windows,
            batch_size=batch_size,
            seed=seed,
            block_bytes=block_bytes,
            pool_blocks=pool_blocks,
        )
        return Prefetch(offline(blocks), device)
    placed = windows.to(device) if chosen == "device" else windows
    source = offline(placed.laid_out(obs_horizon=obs_horizon, pred_horizon=pred_horizon))
    return source if chosen == "device" else Prefetch(source, device)


def choose(
    placement: str,
    nbytes: int,
    device: torch.device,
    device_bytes: int | None = None,
    host_bytes: int | None = None,
    *,
    images: bool = False,
) -> Placement:
    """Where `nbytes` of data go; see `make_source`. On a CPU, "device" makes each batch when its
    turn comes, which costs less than handing it over unless there are images to copy."""
    if placement not in get_args(Placement):
        raise ValueError(f"placement must be one of {get_args(Placement)}, got {placement!r}")
    if placement != "auto":
        return placement  # type: ignore[return-value]
    host = host_bytes if host_bytes is not None else int(_SHARE * free_memory())
    if device.type == "cuda":
        on_device = device_bytes
        if on_device is None:
            on_device = int(_SHARE * torch.cuda.mem_get_info(device)[0])
        if nbytes <= on_device:
            return "device"
        return "host" if nbytes <= host else "stream"
    if nbytes > host:
        return "stream"
    return "host" if images else "device"


def free_memory() -> int:
    """Bytes that this process could still fill, by what the system and its container say."""
    fields = dict(line.split(":") for line in _read("/proc/meminfo").splitlines())
    free = [int(fields["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in fields else []
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free.append(max(0, int(limit) - int(used)))
    return min(free, default=2**33)


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
