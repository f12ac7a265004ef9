"""Trains, evaluates, films and reports: `python train.py task=metaworld`."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from embodied.commands import command


@command("config", config_path="conf")
def main(config: DictConfig) -> float | None:
    from embodied.experiment import main as run

    job = HydraConfig.get()
    # In a sweep run_dir is what all jobs share, and Hydra gives each a directory in it.
    is_sweep = job.mode == RunMode.MULTIRUN
    return run({**config, "run_dir": job.runtime.output_dir} if is_sweep else config)


if __name__ == "__main__":
    main()
