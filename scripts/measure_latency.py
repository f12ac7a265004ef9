"""How long a policy takes, and which delay and action horizon to set for that.

    python scripts/measure_latency.py checkpoint=runs/mine 'devices=[cpu, cuda]'
    python scripts/measure_latency.py policy.pred_horizon=32 head=flow spec.rate_hz=50
    python scripts/measure_latency.py url=ws://127.0.0.1:8000

Percentiles of the time from an observation to its chunk, for each device or through a server.
Exits with status 1 where chunks are too short for any action horizon.
"""

import sys

from omegaconf import DictConfig

from embodied.commands import command


@command("measure_latency")
def main(config: DictConfig) -> None:
    from embodied.response import measure

    sys.exit(measure(config))


if __name__ == "__main__":
    main()
