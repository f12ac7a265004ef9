"""What several benchmarks need: made-up data, the shipped policy and the usual item loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset, RandomSampler

from embodied.build import instantiate
from embodied.data.windows import Windows
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Episode, Observation, Spec

CONF = Path(__file__).parents[2] / "conf"
LENGTH = 100  # steps of an episode
STATE_DIM, ACTION_DIM = 39, 4  # Meta-World's
INSTRUCTIONS = tuple(f"put object {i} into its place" for i in range(10))


class RandomEpisodes:
    """Episodes of white noise in Meta-World's sizes; `Episodes` of the data adapters.

    Args:
        cameras: camera name -> (h, w) in pixels.
    """

    def __init__(
        self, num_frames: int, cameras: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.num_episodes = max(1, num_frames // LENGTH)
        self.spec = Spec(
            state_dim=STATE_DIM,
            action_dim=ACTION_DIM,
            action_low=(-1.0,) * ACTION_DIM,
            action_high=(1.0,) * ACTION_DIM,
            rate_hz=80.0,
            cameras=cameras or {},
        )
        self.fingerprint = f"noise-{self.num_episodes}-{sorted(self.spec.cameras)}"

    def __len__(self) -> int:
        return self.num_episodes

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        random = np.random.default_rng(index)
        return Episode(
            state=random.standard_normal((LENGTH, STATE_DIM), np.float32),
            action=random.uniform(-1, 1, (LENGTH, ACTION_DIM)).astype(np.float32),
            instruction=INSTRUCTIONS[index % len(INSTRUCTIONS)],
            images={
                name: random.integers(0, 256, (LENGTH, *size, 3), np.uint8)
                for name, size in self.spec.cameras.items()
            },
        )


def shipped_config(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The policy, algorithm, train and eval nodes that `python train.py` uses by default."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return {
        name: OmegaConf.to_container(config[name], resolve=True)
        for name in ("policy", "algorithm", "train", "eval")
    }


def fitted_policy(config: Mapping[str, Any], windows: Windows, spec: Spec) -> ChunkPolicy:
    """An untrained policy whose normalisers know the data."""
    torch.manual_seed(0)
    policy: ChunkPolicy = instantiate(config["policy"], spec=spec)
    policy.fit_normalizers(
        Observation(state=windows.columns["state"][:, None]),
        Condition(language=windows.texts),
        windows.columns["action"],
    )
    return policy


class Items(Dataset[dict[str, Any]]):
    """One window at a time, the way data sets for PyTorch's DataLoader are usually written."""

    def __init__(self, windows: Windows, *, obs_horizon: int, pred_horizon: int) -> None:
        self.columns = {name: x.numpy() for name, x in windows.columns.items()}
        self.first, self.last = windows.first.tolist(), windows.last.tolist()
        self.text_index, self.texts = windows.text_index.tolist(), windows.texts
        self.back = np.arange(1 - obs_horizon, 1)
        self.ahead = np.arange(pred_horizon)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        past: NDArray[np.int64] = np.maximum(index + self.back, self.first[index])
        ahead: NDArray[np.int64] = index + self.ahead
        item = {name: x[past] for name, x in self.columns.items() if name != "action"}
        return {
            **item,
            "action": self.columns["action"][np.minimum(ahead, self.last[index])],
            "mask": ahead <= self.last[index],
            "language": self.texts[self.text_index[index]],
        }


def item_batches(items: Items, batch_size: int) -> Iterator[Batch]:
    """Endless batches of items drawn with replacement, by DataLoader and its default collate."""
    sampler = RandomSampler(items, replacement=True, num_samples=batch_size * 1_000_000)
    loader = DataLoader(items, batch_size=batch_size, sampler=sampler, num_workers=0)
    return (collated(item) for item in loader)


def collated(items: Mapping[str, Any]) -> Batch:
    """A batch from what the default collate makes of items."""
    images = {
        name.removeprefix("images."): x for name, x in items.items() if name.startswith("images.")
    }
    return Batch(
        observation=Observation(state=items["state"], images=images),
        condition=Condition(language=tuple(items["language"])),
        action=items["action"],
        mask=items["mask"],
    )
