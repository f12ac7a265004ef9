"""Drills a robot controller on every fault in simulation: `python scripts/drill_robot.py robot=X`

Prints a card with a line for each fault, and exits with status 1 if the robot did not survive one.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("drill_robot")
def main(config: DictConfig) -> None:
    from embodied.deploy.drill.session import drill

    sys.exit(drill(config))


if __name__ == "__main__":
    main()
