"""Runs a policy on a robot, with you beside it.

    python scripts/run_robot.py robot=sim checkpoint=RUN instruction=WORDS

Docs: docs/robots.md. Options: conf/run_robot.yaml and conf/robot_session.yaml.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("run_robot")
def main(config: DictConfig) -> None:
    from embodied.deploy.running import run_robot

    sys.exit(int(any(went.report.error for went in run_robot(config))))


if __name__ == "__main__":
    main()
