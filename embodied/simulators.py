"""Opens the simulators that a suite describes, as the config asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from embodied import robustness
from embodied.build import instantiate
from embodied.devices import available_cores
from embodied.suites import Suite


@contextmanager
def open_envs(
    suite: Suite, settings: Mapping[str, Any], render_size: tuple[int, int] | None = None
) -> Iterator[Any]:
    """The environments of `make_envs`, closed at the end."""
    envs = make_envs(suite, settings, render_size)
    try:
        yield envs
    finally:
        envs.close()


def make_envs(
    suite: Suite, settings: Mapping[str, Any], render_size: tuple[int, int] | None = None
) -> Any:
    """Vector environments over the suite.

    Args:
        settings: `num_envs`, `workers` (None for one for each core), `timeout_s` and `backend` of
            `make_vec`.
    """
    workers = settings["workers"]
    return instantiate(
        {"_target_": "embodied_envs.vector.make_vec"},
        suite=suite,
        num_envs=settings["num_envs"],
        workers=available_cores() if workers is None else workers,
        timeout_s=settings["timeout_s"],
        render_size=render_size,
        backend=settings["backend"],
    )


def choose_backend(config: Mapping[str, Any], suite: Suite) -> str:
    """The one that runs everything that is evaluated: arms are compared with their base, and people
    can watch but one.

    Raises:
        ImportError, RuntimeError, ValueError: the one that `env.backend` names cannot run it all.
    """
    arms = robustness.arms(config).values()
    chosen = {
        instantiate(
            {"_target_": "embodied_envs.envpool_chunk.choose_backend"},
            backend=config["env"]["backend"],
            suite=each,
        )
        for each in (suite, *(perturbation.perturb(suite) for perturbation in arms))
    }
    if config.get("person"):
        chosen.add("python")
    return "python" if len(chosen) > 1 else str(chosen.pop())


def place(backend: str) -> str:
    """What a protocol's name says of the backend: figures of different ones do not mix."""
    return "" if backend == "python" else f"@{backend}"
