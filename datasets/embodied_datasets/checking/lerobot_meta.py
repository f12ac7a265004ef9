"""Whether a LeRobot folder's metadata agree, and which files are missing or left over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied_datasets import lerobot_schema
from embodied_datasets.checking.lerobot_files import RawEpisode, RawSet, relative
from embodied_datasets.faults import Fault, Report

_INFO = Path(lerobot_schema.INFO_PATH)
_LEFT = (".tmp-*", ".*.tmp", ".staging*", "incoming", "images")


def check_metadata(raw: RawSet, report: Report) -> None:
    """Counts, indices, leftovers and videos of a folder, everything but its rows."""
    _check_counts(raw, report)
    _check_indices(raw, report)
    _check_leftovers(raw, report)
    _check_videos(raw, report)


def _check_counts(raw: RawSet, report: Report) -> None:
    found = {
        "total_episodes": len(raw.episodes),
        "total_frames": sum(episode.length for episode in raw.episodes),
        "total_tasks": len(raw.tasks),
    }
    for name, count in found.items():
        if raw.info.get(name) != count:
            report(
                Fault(
                    "E_DATA_COUNTS",
                    f"says {raw.info.get(name)!r}, the tables hold {count}",
                    "correct the count (--fix does), or fetch what is missing",
                    file=_INFO,
                    field=name,
                )
            )
    for name, split in (raw.info.get("splits") or {}).items():
        stop = str(split).rpartition(":")[2]
        if stop.isdigit() and int(stop) > len(raw.episodes):
            report(
                Fault(
                    "E_DATA_COUNTS",
                    f"goes to episode {stop}, the set has {len(raw.episodes)}",
                    "correct the split (--fix does)",
                    file=_INFO,
                    field=f"splits.{name}",
                )
            )


def _check_indices(raw: RawSet, report: Report) -> None:
    for episode in raw.episodes:
        wanted = {
            "episode_index": episode.index,
            "dataset_from_index": episode.start,
            "dataset_to_index": episode.start + episode.length,
        }
        for name, value in wanted.items():
            if episode.facts[name] != value:
                report(
                    Fault(
                        "E_DATA_INDEX",
                        f"is {episode.facts[name]}, expected {value}",
                        "write the set anew (--fix does); its rows would be mixed up",
                        file=Path("meta/episodes"),
                        episode=episode.index,
                        field=name,
                    )
                )


def _check_leftovers(raw: RawSet, report: Report) -> None:
    used = {episode.file for episode in raw.episodes}
    used |= {path for episode in raw.episodes for path, _ in episode.videos.values()}
    stored = [*(raw.root / "data").rglob("*.parquet"), *(raw.root / "videos").rglob("*.mp4")]
    for path in sorted(set(stored) - used):
        if not path.name.startswith("."):
            report(
                Fault(
                    "E_DATA_FILE_EXTRA",
                    "belongs to no episode",
                    "remove it, or restore the table that names it",
                    severity="warning",
                    file=relative(raw.root, path),
                )
            )
    left = {path for pattern in _LEFT for path in raw.root.glob(pattern)}
    left |= {path for path in raw.root.rglob(".tmp-*")}
    for path in sorted(left):
        report(
            Fault(
                "E_DATA_LEFTOVER",
                "was left by a writer that was interrupted",
                "finish the recording, or remove it",
                severity="warning",
                file=relative(raw.root, path),
            )
        )


def _check_videos(raw: RawSet, report: Report) -> None:
    members: dict[tuple[str, Path], list[RawEpisode]] = defaultdict(list)
    for episode in raw.episodes:
        for camera, (path, _) in episode.videos.items():
            members[camera, path].append(episode)
    for (camera, path), episodes in members.items():
        _check_video(raw, camera, path, episodes, report)


def _check_video(
    raw: RawSet, camera: str, path: Path, episodes: Sequence[RawEpisode], report: Report
) -> None:
    place: dict[str, Any] = {"file": relative(raw.root, path), "field": camera}
    again = "fetch or record it again"
    if not path.is_file():
        first = episodes[0].index
        message = f"is missing, though {len(episodes)} episodes lie in it"
        report(Fault("E_DATA_FILE_MISSING", message, again, episode=first, **place))
        return
    try:
        sides, frames, rate = _measure(path)
    except (OSError, ValueError, IndexError) as error:
        message = f"cannot be opened ({str(error)[:120]})"
        report(Fault("E_DATA_FILE_DAMAGED", message, again, episode=episodes[0].index, **place))
        return
    if sides != raw.cameras[camera]:
        message = f"has frames of {sides}, the header says {raw.cameras[camera]}"
        report(Fault("E_DATA_IMAGE_SIZE", message, "correct the header", **place))
    if rate and abs(rate / raw.rate_hz - 1) > 0.01:
        message = f"plays at {rate:g} Hz, the header says {raw.rate_hz:g} Hz"
        report(Fault("E_DATA_RATE", message, "correct fps, or encode it again", **place))
    for episode in episodes:
        end = round(episode.videos[camera][1] * raw.rate_hz) + episode.length
        if end > frames:
            message = f"has {frames} frames, this episode needs {end}"
            report(Fault("E_DATA_VIDEO_SHORT", message, again, episode=episode.index, **place))


def _measure(path: Path) -> tuple[tuple[int, int], int, float]:
    """Sides, number of frames and rate of a video, without decoding it."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sides = (stream.codec_context.height, stream.codec_context.width)
        frames = stream.frames or sum(1 for p in container.demux(stream) if p.dts is not None)
        return sides, frames, float(stream.average_rate or 0)
