"""Whether a MuJoCo simulation can still be trusted after a step."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

_RENDERERS_WARNING = 3  # mjWARN_VGEOMFULL: a full scene is no trouble of the simulation


class VitalSigns(NamedTuple):
    """What tells that a simulation went on undisturbed: its clock in s and its warnings."""

    time: float
    warnings: tuple[int, ...]


def vital_signs(data: mujoco.MjData) -> VitalSigns:
    counts = data.warning.number.tolist()
    counts[_RENDERERS_WARNING] = 0
    return VitalSigns(data.time, tuple(counts))


def trouble(before: VitalSigns, after: VitalSigns, observation: NDArray[np.float64]) -> str | None:
    """Why the step between two vital signs cannot be trusted, or None where it can."""
    if after.warnings != before.warnings:
        return f"MuJoCo warned of {', '.join(_raised(before, after))}"
    if after.time <= before.time:
        return f"the simulator's clock ran from {before.time:.4f} s back to {after.time:.4f} s"
    if not all_finite(observation):
        return f"the observation is not finite at {np.flatnonzero(~np.isfinite(observation))}"
    return None


def all_finite(vector: NDArray[np.floating[Any]]) -> bool:
    """Whether all numbers of a vector are finite."""
    return all(map(math.isfinite, vector.tolist()))  # faster than NumPy's for so few


def log_warnings() -> None:
    """Sends MuJoCo's warnings to the log; it would write MUJOCO_LOG.TXT where the user works."""
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger(__name__).warning)


def _raised(before: VitalSigns, after: VitalSigns) -> list[str]:
    import mujoco

    pairs = enumerate(zip(before.warnings, after.warnings, strict=True))
    return [mujoco.mjtWarning(kind).name for kind, (old, new) in pairs if new > old]
