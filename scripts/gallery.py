"""Draws one picture of all worlds: python scripts/gallery.py [--output docs/worlds.jpg]

A row for each file in conf/task, with some of its library's tasks a few steps after their start. A
world whose packages are not installed is left out with a message.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
_LABEL = 14  # pixels of a line of text
_GREY, _BLACK, _WHITE = (110, 110, 110), (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """A picture (h, w, 3) of a task, and what is written below it."""

    image: NDArray[np.uint8]
    label: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 if there was anything to draw."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rows: dict[str, list[Tile]] = {}
    shown: set[str] = set()  # several files may name one library
    for name in options.worlds or _worlds():
        try:
            rows[name] = list(tiles(suite_of(name), options, shown))
            shown |= {tile.label for tile in rows[name]}
            print(f"{name}: {len(rows[name])} tasks")
        except (ImportError, RuntimeError) as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    if not rows:
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    grid(rows, options).save(options.output, quality=options.quality, optimize=True)
    print(f"written: {options.output}, {options.output.stat().st_size / 1000:.0f} kB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("worlds", nargs="*", help="names of files in conf/task; all by default")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "worlds.jpg")
    parser.add_argument("--tasks", type=int, default=6, help="at most, of each world")
    parser.add_argument("--size", type=int, default=160, help="side of a picture in pixels")
    parser.add_argument("--steps", type=int, default=30, help="of the expert, before the picture")
    parser.add_argument("--quality", type=int, default=80, help="of a JPEG")
    return parser


def _worlds() -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))


def suite_of(world: str) -> Any:
    """The suite that conf/task/<world>.yaml names."""
    from hydra import compose, initialize_config_dir

    from embodied.build import instantiate, resolve

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=[f"task={world}", "run_dir=runs"])
    return instantiate(resolve(config)["task"]["suite"])


def tiles(suite: Any, options: argparse.Namespace, shown: set[str]) -> Iterator[Tile]:
    """Pictures of tasks from all over the library's list, but for those that were shown."""
    for task in tasks_of(suite, options.tasks, shown):
        one = replace(suite, tasks=(task,)) if _takes_tasks(suite) else suite
        yield Tile(picture(one, task, options), task)


def tasks_of(suite: Any, count: int, shown: Collection[str] = ()) -> list[str]:
    """Up to so many of the library's tasks, spread over its list, that were not shown."""
    choices = suite.catalogue() if hasattr(suite, "catalogue") else suite.tasks
    names = [task for task in choices if task not in shown]
    if not names:
        return []
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))]


def _takes_tasks(suite: Any) -> bool:
    return "tasks" in {field.name for field in fields(suite)}


def picture(suite: Any, task: str, options: argparse.Namespace) -> NDArray[np.uint8]:
    """The task after some steps of its expert, or a few at random where it has none."""
    from embodied.suites import NoExpertError

    with closing(suite.make_env(render_size=(options.size, options.size))) as env:
        observation, _ = env.reset(seed=0, options={"task": task, "goal": 0})
        env.action_space.seed(0)
        try:
            expert, steps = suite.expert(task, seed=0), options.steps
        except NoExpertError:
            expert, steps = (lambda _: env.action_space.sample()), options.steps // 5
        for _ in range(steps):
            state = getattr(env.unwrapped, "full_observation", observation["state"])
            observation, _, terminated, truncated, _ = env.step(expert(state))
            if terminated or truncated:
                break
        image: NDArray[np.uint8] = env.render()
        return image


def grid(rows: dict[str, list[Tile]], options: argparse.Namespace) -> Any:
    """All tiles with their labels, a PIL image."""
    from PIL import Image, ImageDraw

    side, width = options.size, max(len(row) for row in rows.values())
    height = side + 2 * _LABEL + 8
    sheet = Image.new("RGB", (width * (side + 4) + 4, len(rows) * height + 4), _WHITE)
    pen = ImageDraw.Draw(sheet)
    for i, (name, row) in enumerate(rows.items()):
        top = i * height + 4
        pen.text((4, top), name, fill=_BLACK, font_size=_LABEL - 2)
        for j, tile in enumerate(row):
            left = j * (side + 4) + 4
            sheet.paste(Image.fromarray(tile.image), (left, top + _LABEL + 2))
            label = _shortened(pen, tile.label, side)
            pen.text((left, top + _LABEL + 2 + side), label, fill=_GREY, font_size=_LABEL - 4)
    return sheet


def _shortened(pen: Any, text: str, width: int) -> str:
    while pen.textlength(text, font_size=_LABEL - 4) > width:
        text = text[:-4] + "..."
    return text


if __name__ == "__main__":
    sys.exit(main())
