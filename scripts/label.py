"""Serves a page on which a person compares recorded segments: python scripts/label.py task=TASK

Two clips play side by side; the arrow keys say which is better, the one below that neither is, S
skips. Each answer is kept at once beside the data set, so that one may stop and come back at any
time. To learn from them: python train.py task=TASK algorithm=cpl comparisons=saved
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from embodied.commands import command

if TYPE_CHECKING:
    from embodied.data.preferences import Preferences
    from embodied.labelling import Session
    from embodied.structs import Episodes


@command("label_page")
def main(config: DictConfig) -> None:
    from embodied.build import resolve

    label(resolve(config))


def label(config: dict[str, Any]) -> None:
    """Asks until every pair is answered or skipped; a task's own episodes are recorded first."""
    from embodied.build import instantiate
    from embodied.labelling import ask_for_labels
    from embodied_datasets.compared import folder
    from embodied_datasets.formats import open_episodes

    path, collect = Path(config["path"]), config["task"].get("collect")
    if collect and path == Path(collect["root"]):  # or what is missing of it
        instantiate(collect)(instantiate(config["task"]["suite"]))
    episodes = open_episodes(path)
    session = open_session(config, path, episodes)
    file = folder(path) / f"{config['name']}.safetensors"
    print(f"{len(session)} pairs; labels are kept in {file}", flush=True)
    film = open_film(config, episodes)
    try:
        ask_for_labels(
            session,
            film,
            announce=lambda url: print(f"compare at {url}", flush=True),
            rate_hz=episodes.spec.rate_hz * config["speed"],
            title=episodes[0].instruction,
            every=config["every"],
            host=config["host"],
            port=config["port"],
        )
    finally:
        if hasattr(film, "close"):
            film.close()
    done = session.progress()
    print(f"{done['answered']} answered, {done['skipped']} skipped: {file}")


def open_session(config: dict[str, Any], path: Path, episodes: Episodes) -> Session:
    """The questions, and what was answered before."""
    from embodied.labelling import Session
    from embodied.labelling.session import draw_questions
    from embodied_datasets.compared import load_preferences, save_preferences, sets

    name, lengths = config["name"], [len(episode) for episode in episodes]
    before = load_preferences(path, name, episodes) if name in sets(path) else None
    if before is not None and before.first.length != config["length"]:
        raise ValueError(
            f"the labels {name!r} are of segments of {before.first.length} steps, got "
            f"length={config['length']}; take that length, or another name"
        )
    first, second = draw_questions(
        lengths,
        config["length"],
        config["num_pairs"],
        held_out=config["held_out"],
        seed=config["seed"],
    )

    def save(preferences: Preferences) -> None:
        save_preferences(path, name, preferences, episodes)

    return Session(first, second, labeller=config["labeller"], save=save, before=before)


def open_film(config: dict[str, Any], episodes: Episodes) -> Any:
    """What draws segments: the recorded images, or else the suite with a camera on."""
    from embodied.build import instantiate
    from embodied.sketching.scene import first_camera
    from embodied_datasets.rendered import with_cameras
    from embodied_datasets.replays import Replay, recorded_film

    if episodes.spec.cameras:
        return recorded_film(episodes, config["camera"])
    if "suite" not in config["task"]:
        raise ValueError(
            f"{config['path']} has no images, and task={config['task']['name']} no suite to run "
            "its episodes again in: name the task that they were collected in"
        )
    suite = instantiate(config["task"]["suite"])
    camera = first_camera(suite) if config["camera"] is None else config["camera"]
    shown = with_cameras(suite, [camera], config["image_size"], config["render_profile"])
    return Replay(shown, episodes)


if __name__ == "__main__":
    main()
