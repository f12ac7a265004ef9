"""Serves a page on which a person draws the path of the hand: python scripts/sketch.py image=a.png

What is drawn is saved as a trace (`embodied.data.sketches.Trace`). Drawn in an episode of a policy
(`checkpoint=RUN goal=3`), it is what the policy is told there, and a film shows what comes of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from embodied.commands import command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embodied.data.sketches import Trace


@command("sketch")
def main(config: DictConfig) -> None:
    from embodied.build import resolve

    plain = resolve(config)
    if plain["checkpoint"] is not None:
        follow(plain)
    elif plain["image"] is not None:
        ask(plain, read_image(Path(plain["image"])))
    else:
        draw_scene(plain)


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture file as (h, w, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def ask(config: dict[str, Any], image: NDArray[np.uint8], **facts: Any) -> Trace:
    """Serves the page until the path is saved."""
    from embodied.sketching import ask_for_sketch

    size = config["sketch_size"]
    settings = {
        "heights": tuple(config["heights"]),
        "sketch_size": None if size is None else tuple(size),
        "width": config["width"],
        **facts,
    }
    output = Path(config["output"])
    trace = ask_for_sketch(
        image,
        announce=lambda url: print(f"draw the path at {url}", flush=True),
        output=output,
        host=config["host"],
        port=config["port"],
        **settings,
    )
    print(f"{len(trace.points)} points in {output}")
    return trace


def draw_scene(config: dict[str, Any]) -> None:
    """Draws on the first frame of an episode of the task's suite."""
    from embodied.build import instantiate
    from embodied.sketching.scene import find_episode, first_view

    suite = drawn(instantiate(config["task"]["suite"]), config)
    episode = find_episode(instantiate(config["protocol"]), suite, config["scene"], config["goal"])
    ask(config, first_view(suite, episode).image, title=episode.instruction)


def drawn(suite: Any, config: dict[str, Any], camera: str | None = None) -> Any:
    """The suite, seen by the camera alone and as large as a person likes to draw."""
    from dataclasses import replace

    from embodied.sketching.scene import first_camera
    from embodied_datasets.rendered import with_cameras

    chosen = config["camera"] if camera is None else camera
    chosen = first_camera(suite) if chosen is None else chosen
    if getattr(suite, "observation", None) == "pixels":
        suite = replace(suite, observation="mixed")
    return with_cameras(suite, [chosen], config["image_size"], config["render_profile"])


def follow(config: dict[str, Any]) -> None:
    """Draws in an episode of the policy's own world, and films how it follows."""
    from embodied.build import instantiate, read_stored
    from embodied.loading import load_policy
    from embodied.sketching.scene import Follower, find_episode, first_view, overlay, style_of
    from embodied.video import encode_mp4

    policy, found = load_policy(Path(config["checkpoint"]), config["device"])
    stored = read_stored(found.documents["config"])
    style = style_of(stored)
    suite = instantiate(config["suite"] or stored["task"]["suite"])
    protocol = instantiate(stored["protocol"])
    episode = find_episode(protocol, suite, config["scene"], config["goal"])
    camera = first_view(suite, episode).camera
    size = style.size or policy.spec.cameras[camera]
    image = first_view(drawn(suite, config, camera), episode).image
    trace = ask(config, image, title=episode.instruction, sketch_size=size, width=style.width)
    horizon = config["eval"]["action_horizon"] or stored["eval"]["action_horizon"]
    settings = {**config, "eval": {"action_horizon": horizon}}
    follower = Follower(policy, suite, size, style, settings, config["words"])
    steps = config["max_steps"] or protocol.max_steps
    outcome, frames = follower.follow(trace, episode, max_steps=steps, success=protocol.success)
    if camera == str(suite.cameras[0]):  # the film's
        frames = [overlay(frame, trace) for frame in frames]
    film = Path(config["film"])
    film.parent.mkdir(parents=True, exist_ok=True)
    film.write_bytes(encode_mp4(frames, fps=suite.rate_hz / config["video"]["every"]))
    verdict = "success" if outcome.success else outcome.reason or "no success"
    print(f"{verdict} after {outcome.steps} steps: {film}")


if __name__ == "__main__":
    main()
