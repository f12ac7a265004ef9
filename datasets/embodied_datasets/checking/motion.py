"""One episode's motion: copies, units within it, and parts that do not move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embodied.structs import Episode, Spec
from embodied_datasets.checking.common import Array, Faults, columns, is_table, rows
from embodied_datasets.faults import Fault

_MIN_STEPS = 10
_MAX_LAG = 3
_RADIANS = 180 / np.pi


def stuck_state(index: int, episode: Episode, spec: Spec) -> Faults:
    state, action = episode.state, episode.action
    if not (is_table(state) and is_table(action)) or len(episode) < _MIN_STEPS:
        return
    if not np.ptp(state, axis=0).any() and (np.ptp(action, axis=0) > 0).all():
        yield Fault(
            "E_DATA_STATE_STUCK",
            "never changes while all actions do",
            "record it again; the state was read once instead of at each step",
            episode=index,
            field="state",
            count=len(episode),
        )


def copied_actions(index: int, episode: Episode, spec: Spec) -> Faults:
    """The action is the state of the same step, so that nothing was commanded."""
    if _comparable(episode) and np.array_equal(episode.action, episode.state):
        yield Fault(
            "E_DATA_ACTION_COPY",
            "equals the state of the same step throughout; copying it solves the set",
            "record what was commanded, or use the next state as the action",
            severity="warning",
            episode=index,
            field="action",
            count=len(episode),
        )


def late_actions(index: int, episode: Episode, spec: Spec) -> Faults:
    """The action matches an earlier state, so that the two streams are shifted."""
    if not _comparable(episode) or len(episode) <= 2 * _MAX_LAG:
        return
    state, action = rows(episode.state), rows(episode.action)
    now = _rms(action - state)
    next_ = _rms(action[:-1] - state[1:])
    for lag in range(1, _MAX_LAG + 1):
        if _rms(action[lag:] - state[:-lag]) < 0.05 * min(now, next_):
            yield Fault(
                "E_DATA_ACTION_LAG",
                f"matches the state {lag} steps earlier, so it comes {lag} steps late",
                f"shift the actions by {lag} steps",
                episode=index,
                field="action",
                count=len(episode) - lag,
            )
            return


def degrees_against_radians(index: int, episode: Episode, spec: Spec) -> Faults:
    """States and actions of the same joints whose spreads differ by 180 / pi in all of them."""
    if not _comparable(episode):
        return
    spread = rows(episode.state).std(0), rows(episode.action).std(0)
    if len(spread[0]) < 3 or min(s.min() for s in spread) < 1e-6:
        return
    ratio = spread[0] / spread[1]
    for name, r in (("state", ratio), ("action", 1 / ratio)):
        if bool((abs(r / _RADIANS - 1) < 0.25).all()):
            other = "action" if name == "state" else "state"
            yield Fault(
                "E_DATA_ANGLE_UNIT",
                f"varies {np.median(r):.1f} times as much as the {other} in all dimensions, which "
                "looks like degrees beside radians",
                "convert one of them; angles are radians here",
                episode=index,
                field=name,
                count=len(episode),
            )


def quaternions_off_the_sphere(index: int, episode: Episode, spec: Spec) -> Faults:
    for name, values in _parts(episode, spec, "quat"):
        if values.shape[1] % 4:
            continue
        norm = np.linalg.norm(values.reshape(-1, 4), axis=1).reshape(len(values), -1)
        bad = (abs(norm - 1) > 0.05).any(1)
        if bad.any():
            frame = int(bad.argmax())
            yield Fault(
                "E_DATA_QUATERNION",
                f"has norm {norm[frame].min():.4g}, expected 1",
                "normalise it, or look whether these are four other numbers",
                episode=index,
                frame=frame,
                field=name,
                count=int(bad.sum()),
            )


def outside_bounds(index: int, episode: Episode, spec: Spec) -> Faults:
    """Actions beyond the declared bounds; far beyond is another unit."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    if not is_table(episode.action, len(low)):
        return
    half = np.maximum((high - low) / 2, 1e-6)
    excess = (abs(rows(episode.action) - (low + high) / 2) / half - 1).max(1)
    bad = excess > 1e-3
    if bad.any():
        far = excess.max() > 30
        yield Fault(
            "E_DATA_BOUNDS",
            f"exceeds the declared bounds {excess.max():.3g} times over"
            + ("; is it in another unit (mm for m)?" if far else ""),
            "convert the unit or correct the bounds" if far else "clip, or correct the bounds",
            severity="error" if far else "warning",
            episode=index,
            frame=int(bad.argmax()),
            field="action",
            count=int(bad.sum()),
        )


def _comparable(episode: Episode) -> bool:
    """Whether states and actions may be of the same joints."""
    both = is_table(episode.state) and is_table(episode.action)
    if not both or len(episode) < _MIN_STEPS:
        return False
    return episode.state.shape == episode.action.shape and bool(np.ptp(episode.state) > 0)


def _parts(episode: Episode, spec: Spec, word: str) -> Iterator[tuple[str, Array]]:
    """The (L, D) parts of the state and the extras whose name holds a word."""
    start = 0
    for name, size in spec.state_parts.items():
        if word in name.lower() and is_table(episode.state, spec.state_dim):
            yield name, rows(episode.state)[:, start : start + size]
        start += size
    for name, values in columns(episode).items():
        if name.startswith("extras.") and word in name.lower() and is_table(values):
            yield name, rows(values)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
