"""Steers a robot by the keyboard; nothing is kept: `python scripts/teleop.py robot=sim`

Docs: docs/robots.md. Options: conf/teleop.yaml and conf/robot_session.yaml.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("teleop")
def main(config: DictConfig) -> None:
    from embodied.deploy.running import teleop

    sys.exit(int(any(went.report.error for went in teleop(config))))


if __name__ == "__main__":
    main()
