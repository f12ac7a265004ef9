"""What to look at before a robot is switched on: `python scripts/check_robot.py robot=NAME`

Prints a list of checks, and exits with status 1 if one of them failed. Moves nothing.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("check_robot")
def main(config: DictConfig) -> None:
    from embodied.deploy.startup import check

    sys.exit(check(config))


if __name__ == "__main__":
    main()
