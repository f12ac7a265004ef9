"""Drills a robot controller on every fault in simulation: `python scripts/drill_robot.py robot=X`

Prints a card with a line for each fault, and exits with status 1 if the robot did not survive one.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="drill_robot", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait

    with clear_errors():
        from embodied.deploy.drill.session import drill

        sys.exit(drill(config))


if __name__ == "__main__":
    main()
