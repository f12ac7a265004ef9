"""Decoding still images, PNG or JPEG, whose size is checked first."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import MAX_PIXELS

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def is_picture(data: bytes) -> bool:
    """Whether bytes begin like a PNG or JPEG."""
    return data.startswith(_MAGIC)


def picture_size(data: bytes) -> tuple[int, int]:
    """(h, w) in pixels, from the header alone; ValueError if there is none."""
    with _open(data) as picture:
        _check_pixels(picture.height, picture.width)
        return picture.height, picture.width


def decode_picture(
    data: bytes, size: tuple[int, int], mode: Literal["RGB", "L"] = "RGB"
) -> NDArray[np.uint8]:
    """(h, w, 3) of colours, or (h, w) of greys; ValueError if it has another size or is damaged."""
    with _open(data) as picture:
        if (picture.height, picture.width) != size:
            found = f"{picture.height} x {picture.width}"
            raise ValueError(f"it has {found} pixels, expected {size[0]} x {size[1]}")
        _check_pixels(*size)
        try:
            return np.asarray(picture.convert(mode))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"it cannot be decoded: {error}") from error


def _open(data: bytes) -> Any:
    from PIL import Image  # late, since few sets hold stills

    try:
        return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no PNG or JPEG: {error}") from error


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"it has {height} x {width} pixels, more than {MAX_PIXELS} together")
