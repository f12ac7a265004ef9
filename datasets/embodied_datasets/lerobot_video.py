"""Camera streams as MP4: encoding an episode, joining episodes, and reading frames by time.

PyAV is imported inside the functions, so that data without cameras needs no video library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from embodied_datasets.lerobot_schema import fail

# A keyframe at every second frame keeps random access cheap, as in LeRobot. Without B-frames the
# packets lie in order of display, so that episodes can be joined by shifting their times. The
# macroblock tree looks ahead, which so few frames between keyframes do not need, and made a few
# encodings in a hundred of the same small pictures differ (x264 core 165).
_OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0", "x264-params": "mbtree=0"}
_KEYFRAME_INTERVAL = 2
MAX_PIXELS = 16 * 10**6


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV; install it with: pip install av") from error
    return av


def rate(fps: float) -> Fraction:
    """A frame rate in Hz as the fraction that a container stores."""
    return Fraction(fps).limit_denominator(1001)


def describe() -> dict[str, Any]:
    """What a video feature's `info` tells about the encoding."""
    return {
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.g": _KEYFRAME_INTERVAL,
        "video.crf": int(_OPTIONS["crf"]),
    }


def encode(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Writes (L, h, w, 3) RGB frames as H.264, which plays everywhere; h and w must be even."""
    av = _av()
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        message = f"a video needs even sides, got {height} x {width}"
        fail("E_DATA_IMAGE_SIZE", None, message, "crop or resize it")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate(fps), options=_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = _KEYFRAME_INTERVAL
        stream.codec_context.thread_count = 1  # the bytes must not depend on the machine's cores
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def join(path: Path, parts: Sequence[tuple[Path, int]], fps: float) -> None:
    """Joins videos of one encoding, given with their numbers of frames, without re-encoding."""
    av = _av()
    start = Fraction(0)
    with av.open(str(path), "w") as output:
        stream = None
        for part, num_frames in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                _copy_packets(source, video, output, stream, start)
            start += num_frames / rate(fps)


def _copy_packets(source: Any, video: Any, output: Any, stream: Any, start: Fraction) -> None:
    shift = round(start / video.time_base)
    for packet in source.demux(video):
        if packet.dts is None:  # the demuxer's end mark
            continue
        packet.pts += shift
        packet.dts += shift
        packet.stream = stream
        output.mux(packet)


def decode(
    path: Path, times: NDArray[np.float64], shape: tuple[int, int], fps: float
) -> NDArray[np.uint8]:
    """The frames shown at ascending `times` (L,) in s, as (L, h, w, 3) RGB.

    Raises DataError if the video has other sides than `shape` (h, w), or if no frame lies within
    half a period of a time asked for.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        check_size(path, (stream.codec_context.height, stream.codec_context.width), shape)
        stream.codec_context.thread_count = 1
        container.seek(max(0, int((times[0] - 0.5 / fps) / stream.time_base)), stream=stream)
        found = np.empty((len(times), *shape, 3), np.uint8)
        converter = _av().video.reformatter.VideoReformatter()  # one for all frames: 4x as fast
        count = 0
        for frame in _frames(path, container, stream):
            while count < len(times) and abs(frame.time - times[count]) < 0.5 / fps:
                found[count] = converter.reformat(frame, format="rgb24").to_ndarray()
                count += 1
            if count == len(times) or frame.time > times[count] + 0.5 / fps:
                break
    if count < len(times):
        _refuse_short(path, times, count)
    return found


def times_of(path: Path) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The times (n,) in s at which a video shows its frames, in order, without decoding them, and
    its sides (h, w)."""
    with _open(path) as container:
        stream = container.streams.video[0]
        try:
            packets = [packet.pts for packet in container.demux(stream)]
        except _av().FFmpegError as error:
            _refuse_damage(path, error)
        times = [float(pts * stream.time_base) for pts in packets if pts is not None]
        return np.sort(times), (stream.codec_context.height, stream.codec_context.width)


def check_times(
    path: Path, shown: NDArray[np.float64], times: NDArray[np.float64], fps: float
) -> None:
    """Raises DataError unless a frame is shown within half a period of each of the `times`."""
    near = np.searchsorted(shown, times - 0.5 / fps)
    missing = (near == len(shown)) | (shown[np.minimum(near, len(shown) - 1)] > times + 0.5 / fps)
    if not len(shown) or missing.any():
        _refuse_short(path, times, int(missing.argmax()))


def size_of(path: Path) -> tuple[int, int]:
    """The sides (h, w) of a video."""
    with _open(path) as container:
        context = container.streams.video[0].codec_context
        return context.height, context.width


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        remedy = (
            "fetch it, leave out such episodes with skip_missing_videos=True, name another folder "
            "with video_folder, or read without images with cameras=[]"
        )
        fail("E_DATA_VIDEO_MISSING", path, "is missing", remedy)
    try:
        container = _av().open(str(path))
    except _av().FFmpegError as error:
        _refuse_damage(path, error)
    with container:
        if not container.streams.video:
            fail("E_DATA_UNREADABLE", path, "holds no video", "fetch it again")
        yield container


def _frames(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.decode(stream)
    except _av().FFmpegError as error:
        _refuse_damage(path, error)


def _refuse_damage(path: Path, error: Exception) -> NoReturn:
    message = f"is no video that can be decoded ({error})"
    fail("E_DATA_UNREADABLE", path, message, "fetch or record it again")


def _refuse_short(path: Path, times: NDArray[np.float64], count: int) -> NoReturn:
    message = (
        f"has no frame at {times[count]:.4f} s (frame {count} of {len(times)} asked for); the "
        "video is shorter than its table or damaged"
    )
    fail("E_DATA_VIDEO_SHORT", path, message, "fetch it again", frame=count)


def check_size(path: Path, found: tuple[int, int], shape: tuple[int, int]) -> None:
    """Raises DataError if a video has other sides (h, w) than `info.json` says, or huge ones."""
    if found != shape or shape[0] * shape[1] > MAX_PIXELS:
        message = (
            f"has frames of {found[0]} x {found[1]} pixels, info.json says "
            f"{shape[0]} x {shape[1]}, and at most {MAX_PIXELS} are read"
        )
        fail("E_DATA_IMAGE_SIZE", path, message, "correct info.json")
