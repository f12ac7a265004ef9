"""Trains, evaluates, films and reports: `python train.py task=metaworld`."""

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    job = HydraConfig.get()
    is_sweep = job.mode == RunMode.MULTIRUN
    with clear_errors(exits=not is_sweep):
        from embodied.experiment import main as run

        # In a sweep run_dir is what all jobs share, and Hydra gives each a directory in it.
        return run({**config, "run_dir": job.runtime.output_dir} if is_sweep else config)


if __name__ == "__main__":
    main()
