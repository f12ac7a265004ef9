"""Records demonstrations on a robot: `python scripts/record.py output=FOLDER by=keyboard|expert`

Docs: docs/robots.md. Options: conf/record.yaml and conf/robot_session.yaml.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("record")
def main(config: DictConfig) -> None:
    from embodied.deploy.running import record

    sys.exit(int(any(went.report.error for went in record(config))))


if __name__ == "__main__":
    main()
