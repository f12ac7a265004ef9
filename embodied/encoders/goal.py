"""Encodes goals: a state to reach, or what cameras should see, alone or as a change from the start.

What words ask for is mostly a change ("push it left"), which no goal shows without the start: GRIF
(Myers et al. 2023, arXiv:2307.00117, Sec. 4.1) encodes both together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from embodied.encoders.base import ModalityEncoder, start_of
from embodied.networks.vision import ResNet, SpatialSoftmax, shift
from embodied.noise import Noise
from embodied.normalize import ZScore
from embodied.structs import Condition, Observation, Spec


class GoalStateEncoder(ModalityEncoder):
    """One token for a goal state, through a two-layer MLP.

    Args:
        start: whether it sees the start and the change from it to the goal, instead of the goal.
        columns: which numbers of the state it sees; None means all. Those of the robot tell a
            policy little about what is asked, and are easily learnt by heart.
        jitter: standard deviation, in those of the data, of what training adds to start and goal
            alike: changes mean the same elsewhere, as crops of both images alike tell GRIF.
    """

    modality = "goal_state"

    def __init__(
        self,
        *,
        spec: Spec,
        obs_horizon: int,
        dim: int,
        start: bool = False,
        columns: Sequence[int] | None = None,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(dim)
        chosen = tuple(range(spec.state_dim)) if columns is None else tuple(columns)
        wrong = [i for i in chosen if not -spec.state_dim <= i < spec.state_dim]
        if wrong or not chosen:
            raise ValueError(f"columns must lie within the {spec.state_dim} numbers, got {chosen}")
        if jitter < 0:
            raise ValueError(f"jitter must be 0 or more, got {jitter}")
        self.start, self.columns, self.jitter = start, list(chosen), jitter
        self.normalizer = ZScore(spec.state_dim)
        self.mlp = nn.Sequential(
            nn.Linear((1 + start) * len(chosen), 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        self.normalizer.fit(observation.state.flatten(0, 1))

    def _seen(self, observation: Observation) -> Tensor:
        state: Tensor = self.normalizer(observation.state[:, -1])
        return state[:, self.columns]

    def embed(
        self, observation: Observation, condition: Condition, *, noise: Noise | None
    ) -> Tensor:
        assert condition.goal is not None
        seen = self._seen(condition.goal)
        moved = torch.zeros_like(seen)
        if noise is not None and self.jitter:
            moved = self.jitter * noise.normal(*seen.shape, device=seen.device)
        if self.start:
            before = self._seen(start_of(condition))
            seen = torch.cat([before + moved, seen - before], dim=-1)
        else:
            seen = seen + moved
        found: Tensor = self.mlp(seen)
        return found[:, None]


class GoalImageEncoder(ModalityEncoder):
    """One token for goal images: a residual network for each camera, added up.

    Args:
        start: whether the start's image is seen too.
        stacked: how: True stacks it upon the goal's (GRIF's six channels); False tells by how much
            the goal's features, seen by the same network, differ from the start's. That needs
            fewer labels, where a change means the same wherever it happens.
        cameras: which of the spec's; None means all.
        channels: widths of the network's stages, see `ResNet`.
        shift: training moves goal and start of a row together by up to so many pixels.
    """

    modality = "goal_image"

    def __init__(
        self,
        *,
        spec: Spec,
        obs_horizon: int,
        dim: int,
        start: bool = False,
        stacked: bool = True,
        cameras: Sequence[str] | None = None,
        channels: Sequence[int] = (16, 32, 64, 64),
        shift: int = 4,
    ) -> None:
        super().__init__(dim)
        self.cameras = tuple(spec.cameras if cameras is None else cameras)
        unknown = sorted(set(self.cameras) - spec.cameras.keys())
        if unknown or not self.cameras:
            raise ValueError(
                f"GoalImageEncoder needs cameras out of {sorted(spec.cameras)}, got "
                f"{list(self.cameras)}; give data with images, or leave this encoder out"
            )
        if shift < 0:
            raise ValueError(f"shift must be 0 pixels or more, got {shift}")
        self.start, self.stacked, self.shift = start, stacked, shift
        extra = 3 if start and stacked else 0
        self.networks = nn.ModuleList(ResNet(channels, 3 + extra) for _ in self.cameras)
        self.keypoints = SpatialSoftmax()
        self.out = nn.Sequential(
            nn.Linear(3 * channels[-1] * len(self.cameras), 2 * dim),
            nn.GELU(),
            nn.Linear(2 * dim, dim),
        )

    def embed(
        self, observation: Observation, condition: Condition, *, noise: Noise | None
    ) -> Tensor:
        found = [self._features(i, condition, noise) for i in range(len(self.cameras))]
        embedding: Tensor = self.out(torch.cat(found, dim=-1))
        return embedding[:, None]

    def _features(self, index: int, condition: Condition, noise: Noise | None) -> Tensor:
        assert condition.goal is not None
        camera = self.cameras[index]
        images = condition.goal.images[camera][:, -1]
        if self.start:
            images = torch.cat([start_of(condition).images[camera][:, -1], images], dim=1)
        if noise is not None and self.shift:
            draws = noise.uniform(len(images), 2, device=images.device)
            right, down = (draws * (2 * self.shift + 1)).long().unbind(1)
            images = shift(images, right - self.shift, down - self.shift)
        scaled = images.float() / 127.5 - 1
        if self.start and not self.stacked:
            before, after = (self._found(index, x) for x in torch.split(scaled, 3, dim=1))
            return after - before
        return self._found(index, scaled)

    def _found(self, index: int, images: Tensor) -> Tensor:
        features = self.networks[index](images)
        return torch.cat([self.keypoints(features), features.mean((2, 3))], dim=-1)
