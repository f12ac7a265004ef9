"""Converts recorded data: python scripts/convert.py FROM TO --to FORMAT

Episodes are streamed; what the target's format cannot hold is told at the end. Give the same
command again after an interruption, and it goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO", help="must not exist")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="of the target")
    parser.add_argument("--from", dest="from_", metavar="FORMAT", help="of the source; else looks")
    parser.add_argument("--episodes", metavar="LIST", help="such as 0:10,15; else all")
    parser.add_argument("--cameras", nargs="*", metavar="CAMERA", help="else all")
    for name, whose in (("read", "source's reader"), ("write", "target's writer")):
        text = f"options of the {whose}, such as rate_hz=20"
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="NAME=VALUE", help=text)
    arguments = vars(parser.parse_args())
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied_datasets.convert import convert
        from embodied_datasets.options import read_options

        options = {name: read_options(arguments.pop(name)) for name in ("read", "write")}
        done = convert(**arguments, **options, progress=True)
        kept = f", {done.num_kept} of them from an earlier run" if done.num_kept else ""
        print(f"{done.num_episodes} episodes, {done.num_steps} steps in {done.target}{kept}")
        for loss in done.losses:
            print(f"lost: {loss}")


if __name__ == "__main__":
    main()
