"""Runs shards on a Ray cluster. Ray is imported only when this launcher opens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from embodied.evaluation import Outcomes
from embodied.launchers import ShardDied, ShardFailed, Task, spoken
from embodied.shards import Shard


@dataclass
class Ray:
    """Runs each shard as a Ray task with cores of its own; it needs the extra `ray`.

    Its machines need this project and the simulators installed, in the same versions, but no
    common disk: the policy travels in the task. A Ray that is already running is used as it is.

    Attributes:
        address: of a cluster, such as "auto" or "ray://head:10001"; None starts Ray here.
        gpus: of each shard; may be a fraction. Without one the policy computes on the CPU.
    """

    address: str | None = None
    gpus: float = 0.0
    _started: bool = field(default=False, init=False)

    def open(self) -> int:
        ray = _import()
        if not ray.is_initialized():
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            ray.init(self.address or "local", include_dashboard=None if self.address else False)
            self._started = True
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def start(self, shard: Shard, name: str) -> Task:
        ray = _import()
        options = {
            "num_cpus": max(1, shard.settings["workers"]),
            "num_gpus": self.gpus,
            "num_returns": "streaming",
            "max_retries": 0,  # whoever gathers the shards knows what is missing
            "name": name,
        }
        return _RayTask(ray.remote(_run).options(**options).remote(shard), name)

    def wait(self, tasks: Sequence[_RayTask], timeout_s: float) -> Sequence[Task]:
        by_stream = {task.stream: task for task in tasks}
        ready, _ = _import().wait(list(by_stream), timeout=timeout_s, fetch_local=False)
        return [by_stream[stream] for stream in ready]

    def close(self) -> None:
        if self._started:
            _import().shutdown()
            self._started = False


def _import() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "launcher=ray needs Ray: pip install 'embodied-policies[ray]'"
        ) from error
    return ray


def _run(shard: Shard) -> Iterator[Outcomes]:
    yield from spoken(shard)


class _RayTask:
    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name = stream, name
        self.has_begun = False

    def receive(self) -> Outcomes | None:
        ray = _import()
        try:
            outcomes: Outcomes = ray.get(next(self.stream))
        except StopIteration:
            return None
        except ray.exceptions.RayTaskError as error:
            raise ShardFailed(f"{self.name} failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            what = str(error).strip().splitlines()[0]
            raise ShardDied(f"{self.name} died: {type(error).__name__}: {what}") from error
        self.has_begun = True
        return outcomes

    def kill(self) -> None:
        _import().cancel(self.stream, force=True)
