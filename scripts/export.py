"""Writes a policy as one graph: `python scripts/export.py checkpoint=RUN instruction="go left"`."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="export", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.export import export_policy

        print(f"exported: {export_policy(config)}")


if __name__ == "__main__":
    main()
