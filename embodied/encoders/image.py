"""Encodes camera images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.encoders.base import Encoder
from embodied.networks.vision import ResNet, SpatialSoftmax, shift
from embodied.noise import Noise
from embodied.structs import Condition, Observation, Spec


class ImageEncoder(Encoder):
    """A token for each step of each camera: a residual network and what it finds where.

    Each camera has a network of its own. A token is made of the expected positions of the last
    channels' activations and of their means.

    Args:
        cameras: which to look through; None means all of the spec's.
        channels: widths of the network's stages, see `ResNet`.
        shift: training moves each row's images by up to so many pixels (Kostrikov et al. 2020,
            arXiv:2004.13649, Sec. 3.1), all T steps alike; 0 leaves them in place.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        obs_horizon: int,
        dim: int,
        cameras: Sequence[str] | None = None,
        channels: Sequence[int] = (32, 64, 96, 128),
        shift: int = 4,
    ) -> None:
        super().__init__()
        self.cameras = tuple(spec.cameras if cameras is None else cameras)
        unknown = sorted(set(self.cameras) - spec.cameras.keys())
        if unknown or not self.cameras:
            raise ValueError(
                f"ImageEncoder needs cameras out of {sorted(spec.cameras)}, got "
                f"{list(self.cameras)}; give data with images, or leave this encoder out"
            )
        if shift < 0:
            raise ValueError(f"shift must be 0 pixels or more, got {shift}")
        self.shift = shift
        self.num_tokens = obs_horizon * len(self.cameras)
        self.sizes = {name: spec.cameras[name] for name in self.cameras}
        self.networks = nn.ModuleList(ResNet(channels) for _ in self.cameras)
        self.keypoints = SpatialSoftmax()
        self.projections = nn.ModuleList(nn.Linear(3 * channels[-1], dim) for _ in self.cameras)

    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        tokens = [self._tokens(i, observation, noise) for i in range(len(self.cameras))]
        return torch.cat(tokens, dim=1)

    def _tokens(self, index: int, observation: Observation, noise: Noise | None) -> Tensor:
        images = self._images(self.cameras[index], observation)
        if noise is not None and self.shift:
            images = self._moved(images, noise)
        steps = images.shape[1]
        pixels = rearrange(images, "b t c h w -> (b t) c h w").float() / 127.5 - 1
        features = self.networks[index](pixels)
        found = torch.cat([self.keypoints(features), features.mean((2, 3))], dim=-1)
        tokens: Tensor = rearrange(self.projections[index](found), "(b t) d -> b t d", t=steps)
        return tokens

    def _images(self, camera: str, observation: Observation) -> Tensor:
        if camera not in observation.images:
            raise ValueError(
                f"the observation has images of {sorted(observation.images)}, not of {camera!r}, "
                "which this policy was trained with; give them"
            )
        images = observation.images[camera]
        if tuple(images.shape[-2:]) != tuple(self.sizes[camera]):
            raise ValueError(
                f"images of {camera!r} must be {tuple(self.sizes[camera])} pixels, as in training, "
                f"got {tuple(images.shape[-2:])}; resize them"
            )
        return images

    def _moved(self, images: Tensor, noise: Noise) -> Tensor:
        draws = noise.uniform(len(images), 2, device=images.device)
        right, down = (draws * (2 * self.shift + 1)).long().unbind(1)
        return shift(images, right - self.shift, down - self.shift)
