"""Opens the simulators that a suite describes, as the config asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from embodied.build import instantiate
from embodied.devices import available_cores
from embodied.suites import Suite


@contextmanager
def open_envs(
    suite: Suite, settings: Mapping[str, Any], render_size: tuple[int, int] | None = None
) -> Iterator[Any]:
    """Vector environments over the suite, closed at the end.

    Args:
        settings: `num_envs`, `workers` (None for one for each core) and `timeout_s` of `make_vec`.
    """
    workers = settings["workers"]
    envs = instantiate(
        {"_target_": "embodied_envs.vector.make_vec"},
        suite=suite,
        num_envs=settings["num_envs"],
        workers=available_cores() if workers is None else workers,
        timeout_s=settings["timeout_s"],
        render_size=render_size,
    )
    try:
        yield envs
    finally:
        envs.close()
