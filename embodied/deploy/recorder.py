"""The recorder process: it hears every tick, word and inference, and keeps the episode.

Nobody waits for it. If it stalls, ticks are lost and counted; if its disk is full, the episode is
lost, those before are intact, and the robot does not notice.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from embodied.build import instantiate
from embodied.deploy.control import Ready
from embodied.deploy.episodes import Setting, Tape
from embodied.deploy.feed import Wire
from embodied.deploy.thinker import Thought
from embodied.deploy.words import Word
from embodied.structs import Episode
from embodied.video import encode_mp4

logger = logging.getLogger(__name__)
_WAIT_S = 0.02
_FILM_HZ = 25.0
_CAPTION = 26  # pixels


class Writer(Protocol):
    """Where episodes are kept, such as `embodied_datasets.lerobot_writer.LeRobotWriter`."""

    @property
    def keys(self) -> frozenset[str]: ...
    @property
    def is_final(self) -> bool: ...
    def add(self, key: str, episode: Episode) -> None: ...


@dataclass(frozen=True)
class Keeping:
    """What is kept of a session, and where; it travels to the process.

    Attributes:
        writer: config of the `Writer`, which is also given the spec of the setting.
        film: (camera, folder) of an MP4 of each episode; None for none.
    """

    setting: Setting
    writer: Mapping[str, Any]
    film: tuple[str, Path] | None = None


@dataclass(frozen=True)
class End:
    """The session is over.

    Attributes:
        success: whether its task was done.
        terminated: whether the task ended it.
        info: further facts, JSON-able.
    """

    success: bool
    terminated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What became of a session.

    Attributes:
        key: of its episode; empty if none was kept.
        steps, interventions: how many it has.
        error: why it was not kept, or not filmed.
        film: where; empty for nowhere.
    """

    key: str = ""
    steps: int = 0
    interventions: int = 0
    error: str = ""
    film: str = ""


@contextmanager
def opened(keeping: Keeping) -> Iterator[Writer]:
    """The writer; raises ValueError, before a robot moves, where it takes no more episodes."""
    with instantiate(keeping.writer, spec=keeping.setting.spec) as writer:
        if writer.is_final:
            raise ValueError(
                f"E_CONFIG_VALUE: {keeping.writer.get('root')} is finalised; name another output"
            )
        yield writer


def keep(tape: Tape, keeping: Keeping, end: End, writer: Writer) -> Kept:
    """Writes the episode on the tape, and its film; what cannot be written is said."""
    episode = tape.episode(
        keeping.setting, success=end.success, terminated=end.terminated, info=end.info
    )
    if episode is None:
        return Kept(error="the robot never followed a plan, so there is nothing to keep")
    key = f"{len(writer.keys):06d}"
    try:
        writer.add(key, episode)
    except (OSError, ValueError) as error:
        logger.exception("the episode was not kept")
        return Kept(error=f"the episode was not kept: {error}")
    found = Kept(key, len(episode), len(episode.info["interventions"]))
    return found if keeping.film is None else _filmed(found, tape, *keeping.film)


def _filmed(found: Kept, tape: Tape, camera: str, folder: Path) -> Kept:
    path = folder / f"{found.key}.mp4"
    try:
        path.write_bytes(film(tape, camera))
    except (OSError, ImportError, ValueError) as error:
        return Kept(found.key, found.steps, found.interventions, f"no film: {error}")
    return Kept(found.key, found.steps, found.interventions, "", str(path))


def film(tape: Tape, camera: str) -> bytes:
    """An MP4 of what a camera saw of a session, with what was said beneath it."""
    moments = tape.moments
    start, stop = moments[0].tick.time, moments[-1].tick.time
    times = np.array([each.tick.time for each in moments])
    shown = np.searchsorted(times, np.arange(start, stop + 1, 1e9 / _FILM_HZ), side="left")
    frames = []
    for index in shown.tolist():
        tick = moments[index].tick
        spoken = [word.text for word in tape.words if word.text and word.time <= tick.time]
        thought = tape.thoughts.get(tick.request_id)
        lines = (
            f"person: {spoken[-1] if spoken else ''}",
            f"policy: {thought.said if thought else ''}  {tick.state}",
        )
        frames.append(captioned(moments[index].seen.values[camera], lines))
    return encode_mp4(frames, fps=_FILM_HZ)


def captioned(frame: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """A picture (h, w, 3), at least 256 wide, with lines of text beneath it."""
    scale = max(1, -(-256 // frame.shape[1]))
    large = frame.repeat(scale, 0).repeat(scale, 1)
    height, width = large.shape[:2]
    image = Image.new("RGB", (width, height + _CAPTION * len(lines)))
    image.paste(Image.fromarray(large))
    canvas = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        canvas.text((6, height + _CAPTION * row + 6), line, fill=(255, 255, 255))
    return np.asarray(image)


def record(ready: Ready, keeping: Keeping, folder: Path, inbox: Any, pipe: Connection) -> None:
    """The process: sends None once it listens; after an `End` in the inbox, a `Kept`. What keeps it
    from that is sent as text.

    Where its parent dies it keeps what it has heard until then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the session, and this keeps it
    try:
        _record(ready, keeping, folder, inbox, pipe)
    except Exception as error:
        pipe.send(str(error) or type(error).__name__)
        raise


def _record(ready: Ready, keeping: Keeping, folder: Path, inbox: Any, pipe: Connection) -> None:
    wire = Wire(ready.name, ready.features, ready.limits, creates=False, folder=folder)
    with opened(keeping) as writer:
        pipe.send(None)
        tape = Tape()
        end = _hear(tape, wire, inbox, _parent_lives)
        found = keep(tape, keeping, end, writer)
        wire.close()
        pipe.send(found)


def _hear(tape: Tape, wire: Wire, inbox: Any, parent_lives: Callable[[], bool]) -> End:
    while parent_lives():
        tape.moments += wire.take()
        message = _next(inbox)
        if isinstance(message, End):
            tape.moments += wire.take()
            return message
        if message is not None:
            tape.note(message)
    return End(False, info={"why": "the policy's process died"})


def _next(inbox: Any) -> Word | Thought | End | None:
    try:
        message: Word | Thought | End = inbox.get(timeout=_WAIT_S)
    except queue.Empty:
        return None
    return message


def _parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()
