"""The columns of recorded frames, read around many frames at once where they lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from embodied.data.pieces import Column, take
from embodied.data.runs import Spans
from embodied.structs import Observation


class Table:
    """N frames of episodes, end to end. Frames are asked for, as indices, from the host.

    Args:
        columns: "state" (N, S), "action" (N, A), "images.<camera>" (N, 3, h, w) uint8; on one
            device.
        runs: (column, W) -> what `Spans.lay_out` makes of it for windows of W frames.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        runs: Mapping[tuple[str, int], Tensor] | None = None,
    ) -> None:
        self.columns = dict(columns)
        self._runs = dict(runs or {})

    @property
    def device(self) -> torch.device:
        return self.columns["state"].device

    def to(self, device: torch.device) -> Table:
        """The same columns on a device."""
        return Table({name: x.to(device) for name, x in self.columns.items()}, self._runs)

    def read(self, rows: Sequence[slice]) -> Table:
        """These rows copied into memory, one slice after another."""
        return Table({n: torch.cat([x[each] for each in rows]) for n, x in self.columns.items()})

    def laid_out(self, spans: Spans, *, obs_horizon: int, pred_horizon: int) -> Table:
        """With states and actions stored a second time, for windows of these horizons."""
        state, action = self.columns["state"], self.columns["action"]
        runs = {
            ("state", obs_horizon): spans.lay_out(state, before=obs_horizon - 1),
            ("action", pred_horizon): spans.lay_out(action, after=pred_horizon - 1),
        }
        return Table(self.columns, runs)

    def rows(self, name: str, frames: Tensor) -> Tensor:
        """Rows `frames` (...,) of a column, on its device."""
        return take(self.columns[name], self.bring(frames))

    def window(self, name: str, frames: Tensor, index: Tensor, number: Tensor) -> Tensor:
        """Rows `frames` (B, W) of a column, which are the window at `index` of episode `number`."""
        size = frames.shape[1]
        run = self._runs.get((name, size))
        if run is None:
            return self.rows(name, frames)
        rows = self.bring(index + number * (size - 1))
        return run.index_select(0, rows).view(len(rows), size, -1)

    def history(self, index: Tensor, past: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """What was done between the observations `past` (B, T), and how many there are."""
        done = self.rows("action", past[:, :-1])
        steps = self.bring((index - first + 1).clamp(max=past.shape[1]))
        horizon = torch.arange(past.shape[1] - 1, 0, -1, device=self.device)
        return done * (horizon < steps[:, None])[..., None], steps

    def images(self, frames: Tensor) -> dict[str, Tensor]:
        """(B, T, 3, h, w) of each camera at the frames (B, T)."""
        names = [name for name in self.columns if name.startswith("images.")]
        if not names:
            return {}
        frames = self.bring(frames)
        return {name.removeprefix("images."): take(self.columns[name], frames) for name in names}

    def frame(self, index: Tensor, parts: Collection[str]) -> Observation:
        """What is seen at the frames `index` (B,), with T = 1, of the parts "state", "images"."""
        frames = index[:, None]
        state = self.rows("state", frames)
        state = state if "state" in parts else state[..., :0]
        return Observation(state, self.images(frames) if "images" in parts else {})

    def bring(self, x: Tensor) -> Tensor:
        """A tensor of the host's on the device, without waiting."""
        return x.to(self.device, non_blocking=True)
