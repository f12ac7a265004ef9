"""Films of episodes as H.264 in MP4, which every browser plays."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray


def encode_mp4(frames: Sequence[NDArray[np.uint8]], *, fps: float) -> bytes:
    """Frames (h, w, 3) uint8 -> the bytes of an MP4 file. Odd sizes lose a row or column.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("a film needs at least one frame, got none")
    with TemporaryDirectory() as folder:
        # A file, because moving the index to the front reads back what was written.
        path = Path(folder) / "film.mp4"
        _write(path, frames, fps)
        return path.read_bytes()


def _write(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    import av

    height, width = (size - size % 2 for size in frames[0].shape[:2])
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "25", "preset": "veryfast"}
        for frame in frames:
            image = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
