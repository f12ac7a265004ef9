"""Adds images to recorded episodes: python scripts/render.py task=metaworld cameras=[corner2]

Every episode of `source` is run again with cameras on and written to `target`; its states must come
out as they were recorded. A second run resumes the first.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="render", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
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
