"""How long a policy takes from an observation to its chunk, and which delay to set for that."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embodied.build import instantiate, resolve
from embodied.deploy.brain import Brain
from embodied.execution import execution_of
from embodied.latency import made_up
from embodied.loading import POLICY_PARTS, load_policy
from embodied.policies.base import Policy
from embodied.structs import Condition, Observation, Spec

logger = logging.getLogger(__name__)
Infer = Callable[[], Any]
_WARM_UP = 10


@dataclass(frozen=True)
class Response:
    """What was measured in one place.

    Attributes:
        place: a device, or the URL of a server.
        times_ms: (n,) of each chunk, from the observation on the CPU to the chunk on the CPU.
        rate_hz: actions per s.
        pred_horizon: H, actions in a chunk.
    """

    place: str
    times_ms: NDArray[np.float64]
    rate_hz: float
    pred_horizon: int

    @property
    def delay_steps(self) -> int:
        """Steps within which 99 of 100 chunks are there."""
        return math.ceil(float(np.percentile(self.times_ms, 99)) * self.rate_hz / 1000)

    @property
    def action_horizons(self) -> tuple[int, int] | None:
        """The least and the most steps from one plan to the next; None where chunks are too short.

        A policy plans one chunk at a time, so that no plan follows sooner than the last one is
        there; and a chunk must last until the next one is there (`embodied.delayed`).
        """
        least, most = max(1, self.delay_steps), self.pred_horizon - self.delay_steps
        return (least, most) if least <= most else None

    def expiry_s(self, action_horizon: int) -> float:
        """How old the observation behind a plan becomes; `expiry_s` of a robot must be above."""
        return (action_horizon + self.delay_steps + 1) / self.rate_hz

    def __str__(self) -> str:
        p50, p95, p99 = np.percentile(self.times_ms, (50, 95, 99))
        lines = [
            f"{self.place}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms, largest "
            f"{self.times_ms.max():.2f} ms of {len(self.times_ms)} chunks",
            f"  delay_steps={self.delay_steps} at {self.rate_hz:g} Hz",
        ]
        if self.action_horizons is None:
            needed = 2 * self.delay_steps
            return "\n".join(
                [
                    *lines,
                    f"  no action_horizon is safe: chunks of {self.pred_horizon} actions end before"
                    f" the next one is there; train with policy.pred_horizon={needed} or more, or "
                    "sample in fewer steps",
                ]
            )
        least, most = self.action_horizons
        oldest = self.expiry_s(least), self.expiry_s(most)
        return "\n".join(
            [
                *lines,
                f"  action_horizon in [{least}, {most}], with expiry_s above {oldest[0]:.2f} s to "
                f"{oldest[1]:.2f} s",
            ]
        )


def timed(infer: Infer, calls: int) -> NDArray[np.float64]:
    """(calls,) ms of each; the first few, which load and allocate, are not told."""
    for _ in range(_WARM_UP):
        infer()
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        infer()
        found.append(1e3 * (time.perf_counter() - start))
    return np.array(found)


def example(policy: Policy) -> dict[str, NDArray[Any]]:
    """A made-up observation, as a robot gives it."""
    observation, _ = made_up(policy, 1)
    images = {name: x[0, -1].movedim(0, -1) for name, x in observation.images.items()}
    rows = {"state": observation.state[0, -1], **images}
    return {name: row.cpu().numpy() for name, row in rows.items()}


def of_policy(policy: Policy, settings: Mapping[str, Any], calls: int, device: str) -> Response:
    """In this process, as it runs on a robot with these settings of `execution_of`."""
    brain = Brain(policy.to(device), execution=execution_of(settings), action_horizon=1)
    observation = example(policy)
    times = timed(lambda: brain.infer(observation), calls)
    return Response(device, times, policy.spec.rate_hz, policy.pred_horizon)


def of_server(url: str, key: str | None, calls: int, timeout_s: float) -> Response:
    """Through a server of ours, with all that lies between.

    Raises ValueError where the server does not say what it needs.
    """
    from embodied.serve.client import PolicyClient, ServerError  # late: websockets are an extra

    client = PolicyClient(url, key=key, timeout_s=timeout_s)
    try:
        with suppress(ServerError):  # an empty request is refused, on a connection that then stands
            client.infer({})
        request = request_for(client.metadata, url)
        times = timed(lambda: client.infer(request), calls)
        horizon = client.metadata["action_horizon"]
        return Response(url, times, float(client.metadata["rate_hz"]), horizon)
    finally:
        client.close()


def request_for(metadata: Mapping[str, Any], url: str) -> dict[str, NDArray[Any]]:
    """Zeros of all that a server's metadata asks for."""
    missing = [name for name in ("features", "action_horizon", "rate_hz") if name not in metadata]
    if missing:
        raise ValueError(
            f"E_CONFIG_VALUE: url={url}: the server does not say its {', '.join(missing)}, so that "
            "nothing can be made up for it; serve the policy with scripts/serve_policy.py"
        )
    return {
        key: np.zeros(feature["shape"], feature["dtype"])
        for key, feature in metadata["features"].items()
    }


def policy_of(config: Mapping[str, Any]) -> Policy:
    """The trained policy of `checkpoint`, or the untrained one that the config describes."""
    if config["checkpoint"] is not None:
        trusted = config.get("allow_targets", ())
        return load_policy(Path(config["checkpoint"]), "cpu", trusted)[0]
    sizes = dict(config["spec"])
    bounds = {side: (sign * 1.0,) * sizes["action_dim"] for side, sign in _SIDES.items()}
    spec = Spec(**{**sizes, **bounds, "cameras": _pairs(sizes["cameras"])})
    made: Policy = instantiate(config["policy"], allowed=POLICY_PARTS, spec=spec)
    rows = 2
    state, action = torch.randn(rows, 1, spec.state_dim), torch.rand(rows, spec.action_dim)
    images = {
        name: torch.zeros(rows, 1, 3, *size, dtype=torch.uint8)
        for name, size in spec.cameras.items()
    }
    words = Condition(language=("one thing", "another"))
    made.fit_normalizers(Observation(state, images), words, action)
    return made.eval()


_SIDES = {"action_low": -1, "action_high": 1}


def _pairs(cameras: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (int(h), int(w)) for name, (h, w) in cameras.items()}


def responses(config: Mapping[str, Any]) -> Iterator[Response]:
    """What a config asks to be measured."""
    torch.set_num_threads(config["threads"])
    if config["url"] is not None:
        yield of_server(config["url"], config["key"], config["calls"], config["timeout_s"])
        return
    for device in config["devices"]:
        yield of_policy(policy_of(config), config["eval"], config["calls"], device)


def measure(config: Any) -> int:
    """What `scripts/measure_latency.py` does; 1 if nothing is safe."""
    plain = resolve(config)
    found = list(responses(plain))
    print(*found, sep="\n")
    return int(any(each.action_horizons is None for each in found))
