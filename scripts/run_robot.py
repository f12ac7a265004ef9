"""Runs a policy on a robot, with you beside it.

    python scripts/run_robot.py robot=sim checkpoint=RUN instruction=WORDS

Docs: docs/robots.md. Options: conf/run_robot.yaml and conf/robot_session.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="run_robot", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.deploy.running import run_robot

        sys.exit(int(any(went.report.error for went in run_robot(config))))


if __name__ == "__main__":
    main()
