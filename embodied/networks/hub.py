"""Vision models of `transformers`, from the hub or a folder."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from embodied.networks.pretrained import IMAGENET_MEAN, IMAGENET_STD, Network


class HubNetwork(Network):
    """The last features of a vision model such as DINOv2, ViT, ResNet, ConvNeXt, CLIP or SigLIP.

    Only safetensors are read, never pickled weights, and no code of the model's authors is run.

    Args:
        model: a hub id, such as "facebook/dinov2-small", which is downloaded once, or a local
            folder with `config.json` and `model.safetensors`.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        source = str(Path(model).expanduser()) if Path(model).expanduser().exists() else model
        found = _load(source)
        # Models of images with words have a tower for each.
        self.model = getattr(found, "vision_model", found)
        config = self.model.config
        size = getattr(config, "image_size", 224)
        self.image_size = int(size if isinstance(size, int) else size[0])
        self.patch: int | None = getattr(config, "patch_size", None)
        self.mean, self.std = _normalisation(source)
        takes = inspect.signature(self.model.forward).parameters
        name = "interpolate_pos_encoding"  # so that other sizes than its own are taken
        self.options = {name: True} if name in takes else {}

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=x, **self.options).last_hidden_state
        if found.ndim == 4:
            return found
        patch = self.patch if isinstance(self.patch, int) else max(x.shape)
        height, width = x.shape[-2] // patch, x.shape[-1] // patch
        if not 0 < height * width <= found.shape[1]:
            raise ValueError(
                f"{type(self.model).__name__} gives {found.shape[1]} tokens for "
                f"{height} x {width} patches; give a model that keeps a map or its patches, such "
                "as DINOv2, ViT or ResNet"
            )
        # Tokens of the class and registers come first.
        patches = found[:, found.shape[1] - height * width :]
        return rearrange(patches, "b (h w) c -> b c h w", h=height)


def _load(source: str) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from transformers import AutoModel
    except ModuleNotFoundError as error:
        raise ImportError(
            f"backbone model {source!r} needs the package transformers: pip install transformers"
        ) from error
    try:
        return AutoModel.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"cannot load the backbone's model {source!r}: give a hub id that can be reached, or "
            "a folder with config.json and model.safetensors (pickled weights are not read)"
        ) from error


def _normalisation(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the model's own preparation of images takes, channel by
    channel; ImageNet's where it does not tell."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        told = {}
    if told.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    mean, std = told.get("image_mean") or IMAGENET_MEAN, told.get("image_std") or IMAGENET_STD
    return tuple(map(float, mean)), tuple(map(float, std))
