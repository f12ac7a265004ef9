"""Adds images to recorded episodes: python scripts/render.py task=metaworld cameras=[corner2]

Every episode of `source` is run again with cameras on and written to `target`; its states must come
out as they were recorded. A second run resumes the first.
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("render")
def main(config: DictConfig) -> None:
    from embodied.build import instantiate
    from embodied_datasets.rendered import render, with_cameras

    suite = with_cameras(
        instantiate(config.task.suite),
        config.cameras,
        config.image_size,
        config.render_profile,
    )
    count = render(suite, config.source, config.target, workers=config.workers)
    print(f"{count} episodes with images in {config.target}")


if __name__ == "__main__":
    main()
