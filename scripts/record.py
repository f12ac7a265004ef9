"""Records demonstrations on a robot: `python scripts/record.py output=FOLDER by=keyboard|expert`

Docs: docs/robots.md. Options: conf/record.yaml and conf/robot_session.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="record", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.deploy.running import record

        sys.exit(int(any(went.report.error for went in record(config))))


if __name__ == "__main__":
    main()
