"""Backbones that were trained on pictures of the world."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from embodied.networks.vision import Backbone, FiLM, resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(nn.Module, ABC):
    """A pretrained network without its classifier.

    Attributes:
        image_size: pixels, sides of the images that it was trained on.
        mean, std: of each channel, which images in [0, 1] are standardised by.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Standardised images (B, 3, h, w) to features (B, C, h', w')."""


class Pretrained(Backbone):
    """A pretrained network, as it is or trained further; images are resized and standardised.

    Frozen, its weights stay out of checkpoints: these name the network and keep its answer to one
    picture, so that a network with other weights is refused. Trained, they are in checkpoints.
    Either way the network computes as in evaluation: batch normalisation has become the scale and
    shift that it amounts to, so that no row sees the batch, and nothing is dropped at random.

    Args:
        network: makes the network, such as `embodied.networks.efficientnet.EfficientNetLite0`.
        frozen: whether its weights stay as they are.
        image_size: pixels, that both sides are resized to; None means as the network was trained.
        extra_channels: of what enters beside the image in the first layer, through weights that
            begin at zero (RT-Trajectory, Gu et al. 2024, arXiv:2311.01977, Sec. 3.3); 0 for
            nothing. Not for a frozen network.
        film_dim: width of what modulates the last features; 0 for nothing.
    """

    answer: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        network: Callable[[], Network],
        frozen: bool = True,
        image_size: int | None = None,
        extra_channels: int = 0,
        film_dim: int = 0,
    ) -> None:
        super().__init__()
        if extra_channels and frozen:
            raise ValueError(
                "early needs a first layer that learns, and the backbone's are frozen; give "
                "backbone.frozen=false, or sketch and goal image an encoder of their own"
            )
        built = network().eval()
        fix_norms(built)
        self.frozen, self.extra_channels = frozen, extra_channels
        self.image_size = built.image_size if image_size is None else image_size
        self.register_buffer("mean", _column(built.mean), persistent=False)
        self.register_buffer("std", _column(built.std), persistent=False)
        if extra_channels:
            widen(built, extra_channels)
        # A tuple hides a frozen network from the parameters, the optimiser and the state dict.
        self._hidden: tuple[Network, ...] = (built.requires_grad_(False),) if frozen else ()
        self.network = None if frozen else built
        found = self._try()
        self.channels = len(found)
        if frozen:
            self.register_buffer("answer", found.detach())
        self.film = FiLM(film_dim, self.channels) if film_dim else None

    @torch.enable_grad()
    def _try(self) -> Tensor:
        """(C,) the mean features of one picture. What takes no part in them is not trained."""
        size = self.image_size
        if size < 1:
            raise ValueError(f"image_size must be 1 pixel or more, got {size}")
        picture = torch.sin(torch.arange(3.0 * size * size) * 0.37).view(1, 3, size, size)
        found = self._features(picture, None).mean((0, 2, 3))
        if self.network is not None:
            found.sum().backward()  # type: ignore[no-untyped-call]
            for x in self.network.parameters():
                x.requires_grad_(x.grad is not None)
            self.network.zero_grad(set_to_none=True)
        return found

    def forward(
        self, x: Tensor, extra: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        if self.network is None:
            with torch.no_grad():
                features = self._features(x, None)
        else:
            features = self._features(x, extra)
        if self.film is not None:
            features = self.film(features, words)
        return features

    def _features(self, x: Tensor, extra: Tensor | None) -> Tensor:
        size = (self.image_size, self.image_size)
        stacked = ((resize(x, size) + 1) / 2 - self.mean) / self.std
        if self.extra_channels:
            beside = x.new_zeros(len(x), self.extra_channels, *size)
            beside = beside if extra is None else resize(extra, size)
            stacked = torch.cat([stacked, beside], dim=1)
        network = self._hidden[0] if self.network is None else self.network
        features: Tensor = network(stacked)
        return features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pretrained:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._hidden:  # it goes to the device that the others go to
            network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        if self.network is not None:
            self.network.eval()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}answer")
        if self.frozen and saved is not None and saved.shape == self.answer.shape:
            mine, saved = self.answer.cpu(), saved.cpu()
            # Other machines round otherwise; other weights differ by more.
            if not torch.allclose(mine, saved, rtol=1e-2, atol=1e-3 * float(mine.abs().max())):
                raise ValueError(
                    "the frozen backbone's weights are not those that the policy was trained "
                    "with; give the very model that its config names"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FixedNorm(nn.Module):
    """What batch normalisation does in evaluation: a scale and a shift of each channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a pretrained network's batch normalisation must have statistics")
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        self.weight = nn.Parameter(scale)
        self.bias = nn.Parameter(shift if norm.bias is None else shift + norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def fix_norms(network: nn.Module) -> None:
    """Puts a `FixedNorm` for each batch normalisation, changing the network in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            _put(network, name, FixedNorm(module))


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


class StackedConv(nn.Module):
    """A convolution, and another one with zeros for weights of the channels behind its own."""

    def __init__(self, conv: nn.Conv2d, extra_channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        # Two convolutions and not one over all channels: apart, the first rounds as it did alone.
        self.extra = copy.deepcopy(conv)
        self.extra.in_channels, self.extra.bias = extra_channels, None
        zeros = torch.zeros(conv.out_channels, extra_channels, *conv.kernel_size)
        self.extra.weight = nn.Parameter(zeros)

    @property
    def weight(self) -> Tensor:
        """The convolution's own, whose type models ask for, as they do for its sizes."""
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        own = self.conv.in_channels
        found: Tensor = self.conv(x[:, :own].contiguous()) + self.extra(x[:, own:])
        return found


def widen(network: nn.Module, extra_channels: int) -> None:
    """Lets further channels into the first layer, changing the network in place.

    Raises ValueError where it does not begin with a convolution of three channels.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            _put(network, name, StackedConv(module, extra_channels))
            break
    else:
        raise ValueError(
            f"early cannot enter {type(network).__name__}: no layer of it is a convolution of "
            "three channels; give sketch and goal image an encoder of their own"
        )
    for module in network.modules():  # models of transformers check their inputs by it
        if getattr(module, "num_channels", None) == 3:
            module.num_channels = 3 + extra_channels  # type: ignore[assignment]


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)
