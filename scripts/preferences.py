"""A table of runs that learned from comparisons: python scripts/preferences.py runs/can/*

Runs are rows by learner and columns by the folder that they lie in. Each cell has the share of
held-out comparisons that the learner agreed with, ties aside, pooled over the runs of that learner
(folds, seeds); where the policy also acted, its success or return; and the divergence from its
reference, where it has one. Where training was to stop early, "unstopped" are the short evaluations
at the reference and at the end, which show what the loss did by itself. Intervals are 95 %:
Wilson's of pooled pairs and episodes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What is known of a run.

    Attributes:
        agreed, pairs: held-out comparisons.
        solved, episodes: of the final evaluation; `returns` are those of its episodes.
        kl: from the reference at the end, nats; None for learners without one.
        unstopped: the measure that training was stopped by, where it began to count and at the
            end; None without.
    """

    agreed: int
    pairs: int
    solved: int
    episodes: int
    returns: tuple[float, ...]
    kl: float | None
    unstopped: tuple[float, float] | None


def read(run: Path) -> Row:
    """Raises FileNotFoundError where a run has no results yet."""
    from embodied.loggers import read_jsonl

    results = json.loads((run / "results.json").read_text())
    logged = read_jsonl(run / "metrics.jsonl")
    rows = [row for row in logged if "held_out/agreement" in row]
    pairs = round(rows[-1]["held_out/pairs"])
    outcomes = [each for each in results.get("episodes", ()) if each["valid"]]
    return Row(
        agreed=round(rows[-1]["held_out/agreement"] * pairs),
        pairs=pairs,
        solved=sum(each["success"] for each in outcomes),
        episodes=len(outcomes),
        returns=tuple(each["reward"] for each in outcomes),
        kl=rows[-1].get("reference/kl"),
        unstopped=_unstopped(results.get("config", {}), logged),
    )


def _unstopped(
    config: Mapping[str, Any], rows: Sequence[Mapping[str, float]]
) -> tuple[float, float] | None:
    stop = config.get("train", {}).get("early_stop")
    if not stop:
        return None
    name = stop["measure"]
    counted = [row[name] for row in rows if name in row and row["step"] >= stop["after"]]
    return (counted[0], counted[-1]) if counted else None


def cell(rows: Sequence[Row], *, by_return: bool) -> str:
    """Agreement, what acting came to, and the divergence."""
    import numpy as np

    from embodied.statistics import wilson

    parts = []
    if pairs := sum(row.pairs for row in rows):
        agreed = wilson(sum(row.agreed for row in rows), pairs)
        parts.append(f"{agreed.mean:.2f} [{agreed.low:.2f}, {agreed.high:.2f}] n={pairs}")
    if episodes := sum(row.episodes for row in rows):
        if by_return:
            returns = [value for row in rows for value in row.returns]
            spread = np.std(returns, ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
            parts.append(f"return {np.mean(returns):.0f} ± {1.96 * spread:.0f}")
        else:
            solved = wilson(sum(row.solved for row in rows), episodes)
            interval = f"[{solved.low:.2f}, {solved.high:.2f}]"
            parts.append(f"success {solved.mean:.2f} {interval} n={episodes}")
    curves = [row.unstopped for row in rows if row.unstopped is not None]
    if curves:
        begin, end = (np.mean(values) for values in zip(*curves, strict=True))
        parts.append(f"unstopped {begin:.2f} → {end:.2f}")
    known = [row.kl for row in rows if row.kl is not None]
    if known:
        parts.append(f"KL {np.mean(known):.2f}")
    return "; ".join(parts) or "-"


def table(runs: Mapping[str, Mapping[str, Sequence[Row]]], by_return: Sequence[str]) -> str:
    """Markdown; learner -> set -> runs."""
    sets = list(dict.fromkeys(name for found in runs.values() for name in found))
    lines = [f"| learner | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    for learner, found in runs.items():
        cells = [cell(found.get(name, ()), by_return=name in by_return) for name in sets]
        lines.append(f"| `{learner}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="FOLDER/LEARNER or FOLDER/LEARNER-FOLD")
    parser.add_argument(
        "--by-return", nargs="*", default=[], help="folders whose tasks are judged by the return"
    )
    options = parser.parse_args(argv)
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(options.runs):
        if (run / "results.json").exists():
            learner = run.name.split("-")[0]
            found[learner][run.parent.name].append(read(run))
        elif run.is_dir():
            print(f"{run} has no results yet, and is left out")
    print(table(found, options.by_return))


if __name__ == "__main__":
    main()
