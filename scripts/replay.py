"""Replays a recorded episode on a robot, and says how far it drifts from the recording.

    python scripts/replay.py robot=sim episodes_from=FOLDER episode=0 arm=true

Docs: docs/robots.md. Options: conf/replay.yaml and conf/robot_session.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="replay", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.deploy.replaying import replay

        went, drift = replay(config)
        sys.exit(int(bool(went.report.error) or drift is None))


if __name__ == "__main__":
    main()
