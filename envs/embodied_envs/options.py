"""What suites and resets are given, checked: names among choices, image sizes, episodes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embodied.suites import Suite

OPTIONS = ("task", "goal", "benchmark_seed", "instruction")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raises where a value is none of the choices, and names the nearest one."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value!r}{hint}")


def checked_size(image_size: Sequence[int]) -> tuple[int, int]:
    """An image's (h, w) as a tuple; a configuration file gives a list."""
    size = tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size must be (h, w), both 1 pixel or more, got {size}")
    return size


def complete_options(
    options: Mapping[str, Any], suite: Suite, random: Callable[[], np.random.Generator]
) -> dict[str, Any]:
    """The options of a reset, completed; raises where one is wrong.

    A task or goal left out is drawn; the benchmark seed defaults to 0 and the instruction to the
    task's canonical one.

    Args:
        random: gives the generator to draw with; not called where nothing is left out.
    """
    for key in options:
        check_choice("option", key, OPTIONS)
    task = options["task"] if "task" in options else str(random().choice(suite.tasks))
    check_choice("task", task, suite.tasks)
    goal = options["goal"] if "goal" in options else random().integers(suite.num_goals)
    if not 0 <= goal < suite.num_goals:
        raise ValueError(f"goal must lie in [0, {suite.num_goals - 1}], got {goal}")
    benchmark_seed = options.get("benchmark_seed", 0)
    if not 0 <= benchmark_seed < 2**32 - 1:
        raise ValueError(f"benchmark_seed must lie in [0, 2**32 - 2], got {benchmark_seed}")
    return {
        "task": task,
        "goal": int(goal),
        "benchmark_seed": int(benchmark_seed),
        "instruction": options.get("instruction", suite.texts(task).canonical),
    }
