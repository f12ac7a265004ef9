"""How often conservative exploration does worse than it may, and what that costs; in tables.

    python scripts/conservative.py episodes=10000

Prints, for each rule and share alpha, the worlds' violating episodes and their mean regret.
"""

from __future__ import annotations

import sys

from embodied.algorithms.stepmix import (
    boltzmann,
    eps_mix,
    explore,
    random_worlds,
    step_mix,
    unconstrained,
)

RULES = {"unconstrained": unconstrained, "eps_mix": eps_mix, "step_mix": step_mix}
DEFAULTS = {"episodes": 3000, "worlds": 6, "seed": 0}


def main(arguments: list[str]) -> None:
    """Reads key=value, plays and prints."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if unknown := sorted(given.keys() - DEFAULTS.keys()):
        raise SystemExit(f"unknown: {', '.join(unknown)}; choose among {', '.join(DEFAULTS)}")
    chosen = {**DEFAULTS, **{name: int(value) for name, value in given.items()}}
    worlds = random_worlds(chosen["worlds"], chosen["seed"])
    baseline = boltzmann(worlds, temperature=0.1)
    print(f"{'alpha':>6} {'rule':>14} {'violations':>24} {'regret':>8}")
    for alpha in (0.1, 0.05):
        for name, rule in RULES.items():
            found = explore(worlds, baseline, rule, episodes=chosen["episodes"], alpha=alpha)
            violations = found.violated.sum(1).tolist()
            print(f"{alpha:6g} {name:>14} {violations!s:>24} {found.regret.sum(1).mean():8.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
