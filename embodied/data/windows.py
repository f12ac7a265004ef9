"""Training windows over recorded episodes: flat arrays and one gather for a whole batch."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embodied.structs import Batch, Condition, Episode, Episodes, Observation

Array = NDArray[Any]


def _columns(episode: Episode, label: str) -> dict[str, Array]:
    if label not in ("action", "expert_action"):
        raise ValueError(f"label must be 'action' or 'expert_action', got {label!r}")
    action = episode.action if label == "action" else episode.expert_action
    if action is None:
        raise ValueError(f"label {label!r} is not recorded in these episodes; use label='action'")
    images = {f"images.{name}": np.moveaxis(x, -1, 1) for name, x in episode.images.items()}
    return {"state": episode.state, "action": action, **images}


class Windows:
    """N frames of whole episodes, end to end, gathered as windows that never cross episodes.

    Attributes:
        columns: "state" (N, S), "action" (N, A), "images.<camera>" (N, 3, h, w) uint8; tensors in
            memory, on a device, or memory-mapped.
        first, last: (N,) index of the first and last frame of each frame's episode.
        texts: the distinct instructions and their rewordings; text_index (N,) points into them.
    """

    def __init__(
        self,
        columns: Mapping[str, Tensor],
        lengths: Tensor,
        instructions: list[str],
        rewordings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if len(lengths) != len(instructions):
            raise ValueError(f"{len(lengths)} episodes but {len(instructions)} instructions")
        self.columns = dict(columns)
        ends = lengths.cumsum(0)
        self.lengths, self.starts = lengths, ends - lengths
        self.first = (ends - lengths).repeat_interleave(lengths)
        self.last = (ends - 1).repeat_interleave(lengths)
        recorded = tuple(dict.fromkeys(instructions))
        choices = [tuple((rewordings or {}).get(text, (text,))) for text in recorded]
        self.texts = tuple(dict.fromkeys([*recorded, *itertools.chain(*choices)]))
        rank = {text: i for i, text in enumerate(self.texts)}
        self._num_choices = torch.tensor([len(each) for each in choices])
        self._choices = nn.utils.rnn.pad_sequence(
            [torch.tensor([rank[text] for text in each]) for each in choices], batch_first=True
        )
        self.text_index = torch.tensor([rank[x] for x in instructions]).repeat_interleave(lengths)

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def load(
        cls,
        episodes: Episodes,
        *,
        label: str = "expert_action",
        keep: Callable[[Episode], bool] = lambda episode: True,
        rewordings: Mapping[str, Sequence[str]] | None = None,
        cache: Path | None = None,
    ) -> Windows:
        """Reads the episodes that `keep` accepts.

        Args:
            label: which recorded action is the target.
            rewordings: instruction -> the wordings that `gather` may give instead of it.
            cache: a folder for memory-mapped columns, for data larger than memory; it is filled
                once for each fingerprint of the data and choice of episodes.
        """
        chosen = {
            i: episode for i, episode in enumerate(episodes) if keep(episode) and len(episode)
        }
        if not chosen:
            raise ValueError(
                f"none of {len(episodes)} episodes can be trained on (are all marked failed?)"
            )
        lengths = torch.tensor([len(episode) for episode in chosen.values()])
        rows = (_columns(episode, label) for episode in chosen.values())
        total = int(lengths.sum())
        if cache is None:
            columns = _fill(rows, total, np.empty)
        else:
            content = f"{episodes.fingerprint}/{label}/{list(chosen)}"
            key = hashlib.sha256(content.encode()).hexdigest()[:16]
            columns = _map_columns(rows, total, cache / key)
        tensors = {name: torch.from_numpy(array) for name, array in columns.items()}
        instructions = [episode.instruction for episode in chosen.values()]
        return cls(tensors, lengths, instructions, rewordings)

    def to(self, device: torch.device) -> Windows:
        """Moves the data, so that gathers run there. Instructions stay on the host."""
        self.columns = {name: x.to(device) for name, x in self.columns.items()}
        return self

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """`size` frames: an episode uniformly, then a frame of it; a CPU generator."""
        episode = torch.randint(len(self.lengths), (size,), generator=generator)
        place = torch.rand(size, generator=generator, dtype=torch.float64)
        return self.starts[episode] + (place * self.lengths[episode]).long()

    def gather(
        self,
        index: Tensor,
        *,
        obs_horizon: int,
        pred_horizon: int,
        wording: Tensor | None = None,
    ) -> Batch:
        """Windows around the frames `index` (B,), on the host: the last `obs_horizon`
        observations up to each and the `pred_horizon` actions from it on.

        Before an episode's start the first observation repeats; past its end the last action
        repeats and `mask` is False.

        Args:
            wording: (B,) in [0, 1), which of each instruction's rewordings is given; None gives
                the recorded one.
        """
        device = self.columns["state"].device
        first, last = self.first[index, None], self.last[index, None]
        back = torch.arange(1 - obs_horizon, 1)
        ahead = index[:, None] + torch.arange(pred_horizon)
        past = torch.maximum(index[:, None] + back, first).to(device, non_blocking=True)
        future = torch.minimum(ahead, last).to(device, non_blocking=True)
        images = {
            name.removeprefix("images."): _take(x, past)
            for name, x in self.columns.items()
            if name.startswith("images.")
        }
        return Batch(
            observation=Observation(state=_take(self.columns["state"], past), images=images),
            condition=Condition(language=self._language(self.text_index[index], wording)),
            action=_take(self.columns["action"], future),
            mask=(ahead <= last).to(device, non_blocking=True),
        )

    def _language(self, text: Tensor, wording: Tensor | None) -> tuple[str, ...]:
        if wording is not None:
            text = self._choices[text, (wording * self._num_choices[text]).long()]
        return tuple(self.texts[i] for i in text.tolist())


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x[index], which for rows of images is 9 times slower on a CPU."""
    return x.index_select(0, index.flatten()).reshape(*index.shape, *x.shape[1:])


def _fill(
    rows: Iterable[Mapping[str, Array]], total: int, allocate: Callable[..., Array]
) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    position = 0
    for row in rows:
        size = len(row["action"])
        for name, x in row.items():
            if name not in columns:
                columns[name] = allocate((total, *x.shape[1:]), x.dtype)
            columns[name][position : position + size] = x
        position += size
    return columns


def _map_columns(rows: Iterable[Mapping[str, Array]], total: int, folder: Path) -> dict[str, Array]:
    done = folder / "columns.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names: list[str] = []

        def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            names.append(f"{len(names):02d}.npy")
            return np.lib.format.open_memmap(
                folder / names[-1], mode="w+", dtype=dtype, shape=shape
            )

        columns = _fill(rows, total, allocate)
        for array in columns.values():
            array.flush()  # type: ignore[attr-defined]
        partial = done.with_suffix(".tmp")
        partial.write_text(json.dumps(dict(zip(columns, names, strict=True))))
        os.replace(partial, done)
    files = json.loads(done.read_text())
    # Copy-on-write: torch wants writable memory, and nothing must reach the cache.
    return {name: np.load(folder / file, mmap_mode="c") for name, file in files.items()}
