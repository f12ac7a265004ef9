"""Which trade-off a FamO2O policy chooses in which states: along an episode, and over a data set.

    python scripts/coefficients.py RUN PATH [--episode 0] [--axes 0 1] [--png FILE] [--json FILE]

RUN is a run or one checkpoint, PATH a data set of any readable format, --axes the two numbers of
the state that the picture of the data set is drawn over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embodied.loading import load_policy
from embodied.policies.actor import ActorPolicy
from embodied.results import write_atomically
from embodied.structs import Observation

Floats = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 2 if it was refused."""
    options = _parser().parse_args(arguments)
    try:
        policy = family(options.run)
        episodes = states_of(options.path, policy.spec.state_dim)
        if not 0 <= options.episode < len(episodes):
            raise ValueError(
                f"--episode must lie in [0, {len(episodes)}) (the set), got {options.episode}"
            )
        if not all(0 <= axis < policy.spec.state_dim for axis in options.axes):
            raise ValueError(
                f"--axes must lie in [0, {policy.spec.state_dim}) (the state), got {options.axes}"
            )
    except (TypeError, ValueError, OSError) as error:
        print(f"coefficients: {error}", file=sys.stderr)
        return 2
    chosen = [coefficients(policy, states) for states in episodes]
    figures = summary(np.concatenate(chosen))
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if options.json:
        data = {**figures, "episodes": [each.tolist() for each in chosen]}
        write_atomically(options.json, json.dumps(data) + "\n")
    if options.png:
        draw(options.png, episodes, chosen, options.episode, options.axes)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("path", type=Path, metavar="PATH", help="the data set")
    parser.add_argument("--episode", type=int, default=0, help="which one is drawn step by step")
    parser.add_argument("--axes", type=int, nargs=2, default=(0, 1), metavar=("X", "Y"))
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all as JSON")
    return parser


def family(run: Path) -> ActorPolicy:
    """The policy of a run; raises TypeError where it is no family."""
    policy, _ = load_policy(run, device="cpu")
    if not isinstance(policy, ActorPolicy) or policy.balance is None:
        raise TypeError(f"{run} holds one policy, no family: train with algorithm=famo2o_iql")
    return policy


def states_of(path: Path, state_dim: int) -> list[Floats]:
    """The states (L, S) of each episode of a data set."""
    from embodied_datasets.formats import open_episodes

    episodes = open_episodes(path)
    if episodes.spec.state_dim != state_dim:
        raise ValueError(
            f"{path} has states of {episodes.spec.state_dim} numbers, the policy {state_dim}"
        )
    return [episode.state for episode in episodes]


@torch.inference_mode()
def coefficients(policy: ActorPolicy, states: Floats) -> Floats:
    """What the balance model chooses in states (L, S), (L,)."""
    assert policy.balance is not None
    features = policy.features(Observation(torch.from_numpy(states)[:, None]))
    found: Floats = policy.balance(features, noise=None)[0].numpy()
    return found


def summary(chosen: Floats) -> dict[str, Any]:
    quantiles = np.quantile(chosen, [0.1, 0.5, 0.9]).tolist()
    names = ("10 %", "median", "90 %")
    return {"mean": float(chosen.mean()), **dict(zip(names, quantiles, strict=True))}


def draw(
    path: Path,
    states: Sequence[Floats],
    chosen: Sequence[Floats],
    episode: int,
    axes: Sequence[int],
) -> None:
    """The episode's coefficients over its steps, and the data set's over two numbers of states."""
    from matplotlib.figure import Figure  # heavy, and only pictures need it

    picture = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = picture.subplots(1, 2)
    left.plot(chosen[episode])
    left.set_xlabel(f"step of episode {episode}")
    left.set_ylabel("coefficient")
    rows = np.concatenate(states)
    marks = right.scatter(
        rows[:, axes[0]], rows[:, axes[1]], c=np.concatenate(chosen), s=4, linewidths=0
    )
    right.set_xlabel(f"state {axes[0]}")
    right.set_ylabel(f"state {axes[1]}")
    picture.colorbar(marks, label="coefficient")
    picture.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
