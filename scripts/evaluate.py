"""Evaluates a checkpoint: `python scripts/evaluate.py checkpoint=RUN protocol=mt-v3`."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.assessment import evaluate

        print(f"results: {evaluate(config)}")


if __name__ == "__main__":
    main()
