"""Encodes camera images, with sketches, goal images and words taken in early."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.encoders.base import Encoder
from embodied.encoders.fuse import MakeEncoder
from embodied.networks.vision import MakeBackbone, ResNet, SpatialSoftmax, shift
from embodied.noise import Noise
from embodied.structs import Condition, Observation, Spec

EARLY = ("sketch", "goal_image")
CHANNELS = (32, 64, 96, 128)


class ImageEncoder(Encoder):
    """A token for each step of each camera: a backbone and what it finds where.

    Each camera has a backbone of its own. A token is made of the expected positions of the last
    channels' activations and of their means.

    Args:
        cameras: which to look through; None means all of the spec's.
        channels: widths of the stages of the `ResNet` that is the backbone unless another is given;
            None means 32, 64, 96 and 128.
        backbone: makes another one, such as `embodied.networks.vit.ViT`.
        shift: training moves each row's images by up to so many pixels (Kostrikov et al. 2020,
            arXiv:2004.13649, Sec. 3.1), all T steps alike; 0 leaves them in place.
        early: "sketch" or "goal_image" -> the camera beside whose images it enters the network as
            further channels, None for not at all (RT-Trajectory, Gu et al. 2024, arXiv:2311.01977,
            Sec. 3.3; goals as in SOAR, Zhou et al. 2024, arXiv:2407.20635). It moves with the
            image; absent, it is zeros, which are a sketch's blank canvas.
        film: makes the encoder whose mean token modulates every stage, as words do in BC-Z and
            RT-1 (Brohan et al. 2022, arXiv:2212.06817), or a pretrained backbone's features; None
            leaves them as they are.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        obs_horizon: int,
        dim: int,
        cameras: Sequence[str] | None = None,
        channels: Sequence[int] | None = None,
        backbone: MakeBackbone | None = None,
        shift: int = 4,
        early: Mapping[str, str | None] | None = None,
        film: MakeEncoder | None = None,
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
        if backbone is not None and channels is not None:
            raise ValueError(
                "channels are of the residual network that a given backbone replaces; give "
                "channels=null, and to the backbone what it takes"
            )
        make = backbone or functools.partial(ResNet, channels or CHANNELS)
        self.shift = shift
        self.early = self._checked({x: y for x, y in (early or {}).items() if y is not None})
        self.num_tokens = obs_horizon * len(self.cameras)
        self.sizes = {name: spec.cameras[name] for name in self.cameras}
        networks = [
            make(
                extra_channels=3 * list(self.early.values()).count(camera),
                film_dim=0 if film is None else dim,
            )
            for camera in self.cameras
        ]
        self.networks = nn.ModuleList(networks)
        self.keypoints = SpatialSoftmax()
        self.projections = nn.ModuleList(nn.Linear(3 * x.channels, dim) for x in networks)
        self.film = None if film is None else film(spec=spec, obs_horizon=obs_horizon, dim=dim)

    def _checked(self, early: dict[str, str]) -> dict[str, str]:
        wrong = {x: y for x, y in early.items() if x not in EARLY or y not in self.cameras}
        if wrong:
            raise ValueError(
                f"early must map any of {EARLY} to one of the cameras {list(self.cameras)}, got "
                f"{wrong}"
            )
        return early

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        if self.film is not None:
            self.film.fit_normalizers(observation, condition)

    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        words = None
        if self.film is not None:
            words = self.film(observation, condition, noise=noise).mean(1)
        tokens = [
            self._tokens(i, observation, condition, words, noise) for i in range(len(self.cameras))
        ]
        return torch.cat(tokens, dim=1)

    def _tokens(
        self,
        index: int,
        observation: Observation,
        condition: Condition,
        words: Tensor | None,
        noise: Noise | None,
    ) -> Tensor:
        camera = self.cameras[index]
        images = self._images(camera, observation)
        rows, steps = images.shape[:2]
        early = [name for name, beside in self.early.items() if beside == camera]
        drawn = [self._drawn(name, camera, condition, images) for name in early]
        stacked = torch.cat([images.flatten(1, 2), *drawn], dim=1)
        if noise is not None and self.shift:
            stacked = self._moved(stacked, noise)
        pixels, *drawn = torch.split(stacked, [3 * steps, *(3 for _ in early)], dim=1)
        scaled = [_scale(name, x, condition) for name, x in zip(early, drawn, strict=True)]
        features = self.networks[index](
            rearrange(pixels, "b (t c) h w -> (b t) c h w", t=steps).float() / 127.5 - 1,
            torch.cat(scaled, dim=1).repeat_interleave(steps, dim=0) if early else None,
            None if words is None else words.repeat_interleave(steps, dim=0),
        )
        found = torch.cat([self.keypoints(features), features.mean((2, 3))], dim=-1)
        tokens: Tensor = rearrange(self.projections[index](found), "(b t) d -> b t d", b=rows)
        return tokens

    def _images(self, camera: str, observation: Observation) -> Tensor:
        if camera not in observation.images:
            raise ValueError(
                f"the observation has images of {sorted(observation.images)}, not of {camera!r}, "
                "which this policy was trained with; give them"
            )
        return self._sized(f"images of {camera!r}", camera, observation.images[camera])

    def _sized(self, what: str, camera: str, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != tuple(self.sizes[camera]):
            raise ValueError(
                f"{what} must be {tuple(self.sizes[camera])} pixels, as in training, got "
                f"{tuple(images.shape[-2:])}; resize them"
            )
        return images

    def _drawn(self, name: str, camera: str, condition: Condition, like: Tensor) -> Tensor:
        """What enters beside a camera's images (B, T, 3, h, w), (B, 3, h, w) uint8."""
        found = condition.sketch
        if name == "goal_image":
            goal = condition.goal
            found = goal.images[camera][:, 0] if goal and camera in goal.images else None
        if found is None:
            return torch.zeros_like(like[:, 0])
        return self._sized(f"the {name.replace('_', ' ')}", camera, found)

    def _moved(self, images: Tensor, noise: Noise) -> Tensor:
        draws = noise.uniform(len(images), 2, device=images.device)
        right, down = (draws * (2 * self.shift + 1)).long().unbind(1)
        return shift(images, right - self.shift, down - self.shift)


def _scale(name: str, drawn: Tensor, condition: Condition) -> Tensor:
    """What the network sees of (B, 3, h, w) uint8: 0 for a sketch's black and for all absent."""
    if name == "sketch":
        scaled, given = drawn.float() / 255, condition.sketch is not None
    else:
        scaled = drawn.float() / 127.5 - 1
        given = condition.goal is not None and bool(condition.goal.images)
    present = condition.present.get(name)
    if present is None:
        return scaled if given else torch.zeros_like(scaled)
    return scaled * present[:, None, None, None].to(scaled)
