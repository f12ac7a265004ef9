"""What to look at before a robot is switched on: `python scripts/check_robot.py robot=NAME`

Prints a list of checks, and exits with status 1 if one of them failed. Moves nothing.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="check_robot", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait

    with clear_errors():
        from embodied.deploy.startup import check

        sys.exit(check(config))


if __name__ == "__main__":
    main()
