"""Replays a recorded episode on a robot, and says how far it drifts from the recording.

    python scripts/replay.py robot=sim episodes_from=FOLDER episode=0 arm=true

Docs: docs/robots.md. Options: conf/replay.yaml and conf/robot_session.yaml.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("replay")
def main(config: DictConfig) -> None:
    from embodied.deploy.replaying import replay

    went, drift = replay(config)
    sys.exit(int(bool(went.report.error) or drift is None))


if __name__ == "__main__":
    main()
