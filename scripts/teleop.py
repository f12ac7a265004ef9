"""Steers a robot by the keyboard; nothing is kept: `python scripts/teleop.py robot=sim`

Docs: docs/robots.md. Options: conf/teleop.yaml and conf/robot_session.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="teleop", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.deploy.running import teleop

        sys.exit(int(any(went.report.error for went in teleop(config))))


if __name__ == "__main__":
    main()
