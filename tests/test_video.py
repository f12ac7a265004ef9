"""Films: every frame is there, in its colours, at its rate."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from embodied.video import encode_mp4

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))


def frame(colour: tuple[int, int, int], height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def decode(film: bytes) -> tuple[list[NDArray[np.uint8]], Fraction, str]:
    with av.open(io.BytesIO(film)) as container:
        stream = container.streams.video[0]
        frames = [each.to_ndarray(format="rgb24") for each in container.decode(stream)]
        return frames, stream.average_rate, stream.codec_context.name


def test_frames_come_back_in_order_and_colour() -> None:
    frames, _, codec = decode(encode_mp4([frame(colour) for colour in COLOURS], fps=20.0))
    assert codec == "h264"
    assert len(frames) == len(COLOURS)
    for found, colour in zip(frames, COLOURS, strict=True):
        assert found.shape == (32, 48, 3)
        assert np.abs(found.astype(int) - colour).mean() < 20  # lossy, but the colour is clear


@pytest.mark.parametrize("fps", [20.0, 2.5, 80 / 3])
def test_a_film_plays_at_its_rate(fps: float) -> None:
    _, rate, _ = decode(encode_mp4([frame(COLOURS[0])] * 5, fps=fps))
    assert float(rate) == pytest.approx(fps, rel=1e-3)


def test_odd_sizes_lose_a_row_and_a_column() -> None:
    frames, _, _ = decode(encode_mp4([frame(COLOURS[1], 33, 49)], fps=10.0))
    assert frames[0].shape == (32, 48, 3)


def test_a_browser_finds_the_index_first() -> None:
    film = encode_mp4([frame(COLOURS[0])], fps=10.0)
    assert film.index(b"moov") < film.index(b"mdat")


def test_a_film_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame, got none"):
        encode_mp4([], fps=10.0)
