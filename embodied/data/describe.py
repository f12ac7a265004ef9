"""What a data set looks like, inferred from it, as a table to be shown before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from embodied.data.adapted import PREVIOUS_ACTION
from embodied.data.pieces import take
from embodied.data.windows import Windows
from embodied.structs import Spec

Row = Mapping[str, str]
_MOST = 5000  # frames looked at
_FOLLOWS = 0.3  # a command is where the robot goes: it misses by less of its own spread
_MOVES = 0.7  # a command is how far it goes: their correlation


def describe(windows: Windows, spec: Spec) -> list[Row]:
    """One row for each feature: its name, shape, and what is known of it."""
    rate = f"{spec.rate_hz:g} Hz"
    seconds = len(windows) / spec.rate_hz
    rows = [
        ("episodes", f"{len(windows.lengths)}", _lengths(windows)),
        ("frames", f"{len(windows):,}", f"{rate}, {seconds / 60:.1f} min"),
        ("state", f"{spec.state_dim}", _parts(spec) or _range(windows, "state")),
        ("action", f"{spec.action_dim}", f"{_meaning(windows, spec)}; {_range(windows, 'action')}"),
        *((f"camera {name}", f"{h} x {w}", "") for name, (h, w) in spec.cameras.items()),
        ("instructions", f"{len(windows.told)}", _texts(windows.told)),
    ]
    if len(windows.sources) > 1:
        names = enumerate(windows.sources)
        rows += [(f"data set {name}", *_source(windows, i)) for i, name in names]
    return [{"feature": name, "size": size, "what is in it": what} for name, size, what in rows]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table of aligned columns."""
    heads = list(rows[0])
    lines = [heads, *(list(row.values()) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    cells = ([text.ljust(w) for text, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)


def _meaning(windows: Windows, spec: Spec) -> str:
    """Without the actions that are told as a part of the state, which they would all "follow"."""
    sizes = spec.state_parts or {"state": spec.state_dim}
    sensed = [name != PREVIOUS_ACTION for name, size in sizes.items() for _ in range(size)]
    return infer_action(windows, torch.tensor(sensed))


def infer_action(windows: Windows, sensed: Tensor | None = None) -> str:
    """What actions seem to be, by what the state does after them; a guess, said as one.

    Args:
        sensed: (S,) which numbers of the state are looked at; None means all.
    """
    if sensed is not None and not sensed.any():
        return "of unknown meaning"
    frames = windows.frames()
    frames = frames[windows.last[frames] > frames]
    if len(frames) < 10:
        return "too short to tell"
    frames = frames[torch.linspace(0, len(frames) - 1, min(_MOST, len(frames))).long()]
    state = take(windows.columns["state"], frames).double().cpu()
    after = take(windows.columns["state"], frames + 1).double().cpu()
    action = take(windows.columns["action"], frames).double().cpu()
    if sensed is not None:
        state, after = state[:, sensed], after[:, sensed]
    kinds = [_kind(action[:, i], state, after) for i in range(action.shape[1])]
    found = {kind: [i for i, each in enumerate(kinds) if each == kind] for kind in kinds}
    return ", ".join(f"{_spans(where)} {kind}" for kind, where in found.items())


def _kind(action: Tensor, state: Tensor, after: Tensor) -> str:
    spread = action.std()
    if spread < 1e-6:
        return "constant"
    misses = ((after - action[:, None]) ** 2).mean(0).sqrt().min() / spread
    if misses < _FOLLOWS:
        return "look absolute (the state follows)"
    moves = after - state
    both = (moves - moves.mean(0)) * (action - action.mean())[:, None]
    correlation = both.mean(0) / (moves.std(0).clamp(min=1e-9) * spread)
    return "look like deltas" if correlation.abs().max() > _MOVES else "of unknown meaning"


def _spans(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    starts = [i for i in numbers if i - 1 not in numbers]
    ends = [i for i in numbers if i + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in pairs)


def _lengths(windows: Windows) -> str:
    lengths = windows.lengths
    middle = int(lengths.median())
    return f"{int(lengths.min())} to {int(lengths.max())} steps, median {middle}"


def _parts(spec: Spec) -> str:
    return ", ".join(f"{name} {size}" for name, size in spec.state_parts.items())


def _range(windows: Windows, name: str) -> str:
    values = take(windows.columns[name], windows.frames())
    return f"in [{float(values.min()):.3g}, {float(values.max()):.3g}]"


def _texts(texts: Sequence[str]) -> str:
    return ", ".join(repr(text) for text in texts[:3]) + (", ..." if len(texts) > 3 else "")


def _source(windows: Windows, index: int) -> tuple[str, str]:
    mine = windows.episode_source == index
    weights = windows.weights
    share = 0.0 if weights is None else float(weights[mine].sum() / weights.sum())
    frames = int(windows.lengths[mine].sum())
    return f"{int(mine.sum())}", f"episodes, {frames:,} frames, drawn with probability {share:.3g}"
