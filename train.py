"""Trains, evaluates, films and reports: `python train.py task=metaworld`."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | None:
    from embodied.experiment import main as run  # late: --help must not wait for torch

    return run(config)


if __name__ == "__main__":
    main()
