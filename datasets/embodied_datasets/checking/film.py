"""Short films for a page: an episode in real time, small, as H.264 in a data URI."""

from __future__ import annotations

import base64
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

_MAX_FRAMES = 150
_MAX_SIDE = 192


def data_uri(frames: NDArray[np.uint8], rate_hz: float) -> str:
    """Frames (L, h, w, 3), thinned and shrunk, as the source of a <video>.

    Raises ImportError if PyAV is not installed.
    """
    stride = max(1, -(-len(frames) // _MAX_FRAMES))
    small = _shrink(frames[::stride])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        _encode(path, small, rate_hz / stride)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _shrink(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means over blocks of pixels, so that no side exceeds the limit and both are even."""
    block = max(1, -(-max(frames.shape[1:3]) // _MAX_SIDE))
    odd = [(0, 0), *((0, -side % (2 * block)) for side in frames.shape[1:3]), (0, 0)]
    padded = np.pad(frames, odd, mode="edge")
    length, height, width, _ = padded.shape
    blocks = padded.reshape(length, height // block, block, width // block, block, 3)
    return np.asarray(blocks.mean((2, 4)), np.uint8)


def _encode(path: Path, frames: NDArray[np.uint8], rate_hz: float) -> None:
    try:
        import av
    except ImportError as error:
        raise ImportError("films need PyAV; install it with: pip install av") from error
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"crf": "28", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        for pixels in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
