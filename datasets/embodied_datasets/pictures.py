"""Decoding PNG and JPEG bytes whose size is checked first. Pillow is imported when needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.budget import MAX_PIXELS, damaged

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def is_picture(data: bytes) -> bool:
    """Whether bytes begin like a PNG or JPEG."""
    return data.startswith(_MAGIC)


def picture_size(data: bytes, file: Path, field: str | None = None) -> tuple[int, int]:
    """(h, w) in pixels, from the header alone."""
    with _open(data, file, field) as picture:
        return picture.height, picture.width


def decode_pictures(
    pictures: Sequence[bytes], size: tuple[int, int], file: Path, field: str
) -> NDArray[np.uint8]:
    """(L, h, w, 3) RGB; DataError if one has another size than (h, w), or is damaged."""
    found = np.empty((len(pictures), *size, 3), np.uint8)
    for frame, data in enumerate(pictures):
        with _open(data, file, field, frame) as picture:
            if (picture.height, picture.width) != size:
                message = f"has {picture.height} x {picture.width} pixels, expected {size}"
                raise damaged(file, message, field=field, frame=frame)
            try:
                found[frame] = np.asarray(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                message = f"cannot be decoded ({error})"
                raise damaged(file, message, field=field, frame=frame) from error
    return found


def _open(data: bytes, file: Path, field: str | None, frame: int | None = None) -> Any:
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"holds no PNG or JPEG ({error})"
        raise damaged(file, message, field=field, frame=frame) from error
    if picture.width * picture.height > MAX_PIXELS:
        message = f"has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS}"
        raise damaged(file, message, field=field, frame=frame)
    return picture
