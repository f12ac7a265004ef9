"""What `scripts/replay.py` does: a recorded episode's actions on the robot, and how far it drifts.

The actions pass the same limits and watchdog as a policy's. In a world that repeats itself nothing
drifts; on a real robot the drift tells what a controller, a load or a moved table have changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied.build import instantiate, resolve
from embodied.deploy.casting import Player
from embodied.deploy.control import Ready
from embodied.deploy.limits import Array
from embodied.deploy.minds import Replay
from embodied.deploy.operator import Speech
from embodied.deploy.running import Config, sessions
from embodied.deploy.session import Went
from embodied.people.terminal import Phrasebook
from embodied.structs import Episode
from embodied.targets import ConfigError


@dataclass(frozen=True)
class Drift:
    """How far a replay went from its recording.

    Attributes:
        seen: the share of the steps that were sensed.
        mean, most, last: (S,) of the absolute differences of the states, in their units: the root
            of their mean square, the largest, and at the last step.
    """

    seen: float
    mean: Array
    most: Array
    last: Array

    def __str__(self) -> str:
        rows = [
            f"  state {i}: rms {mean:.4g}, largest {most:.4g}, at the end {last:.4g}"
            for i, (mean, most, last) in enumerate(
                zip(self.mean, self.most, self.last, strict=True)
            )
        ]
        return "\n".join([f"drift over {self.seen:.0%} of the steps", *rows])


def drift_of(replay: Replay) -> Drift | None:
    """None where no step was sensed."""
    if not len(replay.steps):
        return None
    off = np.abs(replay.drift)
    seen = len(replay.steps) / len(replay.episode)
    return Drift(seen, np.sqrt((off**2).mean(0)), off.max(0), off[-1])


def replay(config: Any) -> tuple[Went, Drift | None]:
    """Replays the episode that the config names, prints how far it drifted, and gives both."""
    plain = resolve(config)
    episode, rate_hz = read(plain)
    chosen: list[Replay] = []

    def choose(config: Config, ready: Ready) -> Player:
        chosen.append(Replay(episode, ready.limits, dt_s=1 / rate_hz))
        return Player(chosen[0], Speech(Phrasebook((), is_open=False)), rate_hz)

    (went,) = sessions({**plain, "episodes": 1, "replan_s": 1 / rate_hz}, choose)
    drift = drift_of(chosen[0])
    print(drift or "no step of it was replayed")
    return went, drift


def read(config: Config) -> tuple[Episode, float]:
    """The episode of a data set, by its number, and the rate of its steps in Hz."""
    target = {"_target_": "embodied_datasets.lerobot.LeRobotDataset", "only_success": False}
    episodes = instantiate(target, root=str(Path(config["episodes_from"])))
    number = config["episode"]
    if not 0 <= number < len(episodes):
        raise ConfigError(
            f"E_CONFIG_VALUE: episode must lie in [0, {len(episodes) - 1}], got {number}"
        )
    return episodes[number], float(episodes.spec.rate_hz)
