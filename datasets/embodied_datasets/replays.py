"""What recorded segments look like: from their images, or by running their episodes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.structs import Episodes
from embodied.suites import Suite
from embodied_datasets.rendered import again

Clip = NDArray[np.uint8]
Film = Callable[[int, int, int], Clip]
"""(episode, first step, number of steps) -> (steps, h, w, 3)."""


def recorded_film(episodes: Episodes, camera: str | None = None) -> Film:
    """Films of what a camera recorded, the first one unless it is named.

    Raises ValueError where there is no such camera.
    """
    cameras = sorted(episodes.spec.cameras)
    name = cameras[0] if camera is None and cameras else camera
    if name not in cameras:
        raise ValueError(f"camera must be one of {cameras} (recorded), got {camera!r}")

    def film(episode: int, start: int, length: int) -> Clip:
        found: Clip = episodes[episode].images[str(name)][start : start + length]
        return found

    return film


class Replay:
    """Films of episodes of states that `scripts/collect.py` recorded, run again with a camera on.

    Args:
        suite: the suite that they were collected in, with one camera (`rendered.with_cameras`).
    """

    def __init__(self, suite: Suite, episodes: Episodes) -> None:
        self.episodes = episodes
        self._env: Any = suite.make_env()
        shown: Any = self._env.observation_space
        self._camera = next(name for name in shown if name != "state")

    def __call__(self, episode: int, start: int, length: int) -> Clip:
        """Raises ValueError where the episode does not come out as it was recorded."""
        whole, frames = self.episodes[episode], []
        for step, observation in enumerate(again(self._env, f"number {episode}", whole)):
            if step >= start:
                frames.append(np.array(observation[self._camera]))
            if len(frames) == length:
                break
        return np.stack(frames)

    def close(self) -> None:
        """Closes the simulator."""
        self._env.close()
