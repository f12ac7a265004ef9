"""Frames per second of Meta-World's scenes, and how far each profile is from the library's picture.

    python -m scripts.bench.render [--rounds 5] [--seconds 0.5] [--sizes 64 84 128 224]

The first case is MuJoCo's own renderer with the settings of the models, which is how Meta-World
draws. All tasks of MT10 are drawn by a corner camera, each as it stands after 40 steps of its
expert. Differences are to the first case, in the levels of a pixel's channels, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embodied_envs.metaworld import MetaWorld
from embodied_envs.rendering import PROFILES, FrameRenderer, require_backend
from scripts.bench._common import Case, Rates, Report, arguments, figure, measure, ratios

CAMERA = "corner2"
BASE = "mujoco.Renderer, the model's settings"
EXPERT_STEPS = 40
VISIBLE = 16  # levels
LIMIT = (
    "the vertices: the scene's 67,000 triangles are transformed once for the picture, once for "
    "each light with shadows and once for each mirror, whatever the size of the picture. Then the "
    "texels of the shadow map, and multisampling, which a software renderer does in full."
)


class Picture(NamedTuple):
    """What one case made of one task: its rates in each round, and its distance from the base."""

    rates: Rates
    psnr_db: float
    visibly_off: float


@contextmanager
def standing(suite: MetaWorld, task: str) -> Iterator[tuple[Any, Any]]:
    """Model and data of a task in the middle of its expert's work."""
    with closing(suite.make_env()) as env:
        env.reset(options={"task": task, "goal": 0})
        expert = suite.expert(task)
        for _ in range(EXPERT_STEPS):
            env.step(expert(env.full_observation))
        assert env._simulator is not None
        yield env._simulator.model, env._simulator.data


def draw_task(
    model: Any, data: Any, side: int, profiles: Sequence[str], options: Any
) -> dict[str, Picture]:
    """Times and compares MuJoCo's own renderer and the profiles, in turn."""
    import mujoco  # type: ignore[import-untyped]

    with ExitStack() as stack:
        own = stack.enter_context(mujoco.Renderer(model, side, side))

        def base() -> NDArray[np.uint8]:
            own.update_scene(data, camera=CAMERA)
            image: NDArray[np.uint8] = own.render()
            return image[::-1, ::-1]  # the corner cameras hang upside down

        draw: dict[str, Callable[[], NDArray[np.uint8]]] = {BASE: base}
        for name in profiles:
            renderer = FrameRenderer(model, (side, side), camera=CAMERA, profile=PROFILES[name])
            frame = stack.enter_context(renderer).frame
            draw[name] = lambda frame=frame: frame(data)  # type: ignore[misc]
        cases = [Case(name, lambda f=f: float(len(f()) > 0)) for name, f in draw.items()]  # type: ignore[misc]
        rates = measure(cases, rounds=options.rounds, seconds=options.seconds)
        wanted = base()
        return {each.name: Picture(each, *distance(draw[each.name](), wanted)) for each in rates}


def distance(image: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB, and the share of pixels that are visibly off."""
    difference = np.abs(image.astype(float) - wanted)
    error = float(np.mean(difference**2))
    psnr = 10 * np.log10(255**2 / error) if error else np.inf
    return float(psnr), float((difference.max(-1) > VISIBLE).mean())


def rows(drawn: Sequence[dict[str, Picture]]) -> list[dict[str, str]]:
    """A line for each case; figures are means over the tasks, and beside them the worst task's."""
    found = []
    for name in drawn[0]:
        pictures = [task[name] for task in drawn]
        gains = {
            kind: [
                median(ratios(getattr(task[name].rates, kind), getattr(task[BASE].rates, kind)))
                for task in drawn
            ]
            for kind in ("wall", "cpu")
        }
        psnr, off = [p.psnr_db for p in pictures], [p.visibly_off for p in pictures]
        found.append(
            {
                "case": name,
                "frames/s": figure(mean(median(p.rates.wall) for p in pictures)),
                "ratio": both(gains["wall"], min),
                "frames/CPU-s": figure(mean(median(p.rates.cpu) for p in pictures)),
                "CPU ratio": both(gains["cpu"], min),
                "PSNR dB": both(psnr, min),
                f"off by more than {VISIBLE}": f"{mean(off):.1%} ({max(off):.1%})",
            }
        )
    return found


def both(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> str:
    return f"{mean(values):.1f} ({worst(values):.1f})"


def pooled(drawn: Sequence[dict[str, Picture]]) -> list[Rates]:
    """The rates of all tasks and rounds, for the file."""
    return [
        Rates(
            name,
            tuple(x for task in drawn for x in task[name].rates.wall),
            tuple(x for task in drawn for x in task[name].rates.cpu),
        )
        for name in drawn[0]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("render", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each visit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 84, 128, 224], help="pixels")
    parser.add_argument("--tasks", type=int, default=10, help="how many of MT10's")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    require_backend()
    report, suite = Report("render", options), MetaWorld("MT10")
    drawn: dict[int, list[dict[str, Picture]]] = {side: [] for side in options.sizes}
    for task in suite.tasks[: options.tasks]:
        with standing(suite, task) as (model, data):
            for side in options.sizes:
                drawn[side].append(draw_task(model, data, side, tuple(PROFILES), options))
    for side, pictures in drawn.items():
        report.add(f"{side} x {side} pixels (worst task)", rows(pictures), pooled(pictures))
    report.close(LIMIT)


if __name__ == "__main__":
    main()
