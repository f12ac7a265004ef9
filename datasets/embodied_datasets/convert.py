"""Converting a data set from one format to another, episode by episode.

Everything is written into a hidden folder beside the target and moved into place at the end, so
that nothing stands at the target before it is complete. Who gives the same command again after an
interruption goes on where it ended.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from embodied.structs import Episode, Episodes
from embodied_datasets.files import move_into_place, read_json, write_json
from embodied_datasets.formats import Format, Writer, all_formats, find_format
from embodied_datasets.lazy import Lazy
from embodied_datasets.options import fitting

_STATE = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """What was done.

    Attributes:
        losses: what the target's format could not hold, each in a few words.
        num_kept: episodes that an interrupted conversion had already written.
    """

    target: Path
    num_episodes: int
    num_steps: int
    num_kept: int
    losses: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    from_: str | None = None,
    episodes: str | None = None,
    cameras: Sequence[str] | None = None,
    read: Mapping[str, Any] | None = None,
    write: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Conversion:
    """Writes the episodes at `source` to `target`, which must not exist.

    Args:
        to: name of the target's format.
        from_: name of the source's format; None looks.
        episodes: which, such as "0:10,15"; None takes all.
        cameras: which; None takes all.
        read, write: options of the source's reader and of the target's writer.
        progress: whether to draw a bar.

    Raises ValueError if the target exists, if the folder beside it belongs to another conversion,
    or if an option does not fit; RuntimeError if what was written does not open again.
    """
    form, options = _format(to), dict(write or {})
    if target.exists():
        raise ValueError(f"{target} exists already; choose another path, or remove it first")
    reader = _format(from_) if from_ is not None else find_format(source)
    with fitting(reader.name):
        chosen = Selection(reader.open(source, **(read or {})), episodes, cameras)
    work = target.absolute().parent / f".converting-{target.name}"
    state = _begin(work, chosen, to, options)
    kept, written = 0, work / target.name
    with _create(form, written, chosen, options) as writer:
        done = writer.keys
        for place, key in enumerate(tqdm(chosen.keys, unit="episode", disable=not progress)):
            if key in done:
                kept += 1
                continue
            episode = chosen[place]
            _note_losses(state, form.losses(chosen.spec, episode))
            writer.add(key, episode)
        writer.finalize()
    num_steps = _compare(chosen, form.open(written), target)
    _put_in_place(written, target)
    losses = tuple(read_json(state)["losses"])
    shutil.rmtree(work)
    return Conversion(target, len(chosen), num_steps, kept, losses)


def _put_in_place(written: Path, target: Path) -> None:
    move_into_place(written, target)


class Selection:
    """Some of the episodes and cameras of a data set; implements `embodied.structs.Episodes`.

    Args:
        numbers: such as "0:10,15"; None takes all.
        cameras: None takes all.
    """

    def __init__(
        self, episodes: Episodes, numbers: str | None, cameras: Sequence[str] | None
    ) -> None:
        self._episodes = episodes
        self.numbers = list(range(len(episodes)))
        if numbers is not None:
            self.numbers = parse_numbers(numbers, len(episodes))
        known = episodes.spec.cameras
        unknown = sorted(set(cameras or ()) - set(known))
        if unknown:
            raise ValueError(f"cameras {unknown} are not recorded; there are {sorted(known)}")
        self._cameras = [name for name in known if cameras is None or name in cameras]
        sizes = {name: known[name] for name in self._cameras}
        self.spec = dataclasses.replace(episodes.spec, cameras=sizes)

    @property
    def keys(self) -> list[str]:
        """One for each episode, in the same order: its number in the source."""
        return [f"{number:06d}" for number in self.numbers]

    @property
    def fingerprint(self) -> str:
        return f"{self._episodes.fingerprint}/{self._cameras}/{self.numbers}"

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        episode = self._episodes[self.numbers[index]]
        dropped = {f"images.{name}" for name in episode.images if name not in self._cameras}
        return dataclasses.replace(
            episode,
            images=Lazy({name: _look(episode, name) for name in self._cameras}),
            final={name: x for name, x in episode.final.items() if name not in dropped},
            annotations=tuple(
                each for each in episode.annotations if each.camera in (None, *self._cameras)
            ),
        )


def _look(episode: Episode, camera: str) -> Any:
    def look() -> NDArray[np.uint8]:
        return episode.images[camera]

    return look


def parse_numbers(text: str, count: int) -> list[int]:
    """The numbers that a text such as "0:10,15" names, ascending, each once.

    Raises ValueError for anything else, and for numbers that are not in [0, count).
    """
    found: set[int] = set()
    for part in text.split(","):
        first, colon, last = (each.strip() for each in part.partition(":"))
        try:
            start = int(first or 0) if colon else int(first)
            stop = int(last or count) if colon else start + 1
        except ValueError as error:
            message = f"episodes must be like '0:10,15', got {text!r}"
            raise ValueError(message) from error
        if not 0 <= start < stop <= count:
            raise ValueError(f"episodes {part!r} do not lie in [0, {count})")
        found.update(range(start, stop))
    return sorted(found)


def _format(name: str) -> Format:
    known = all_formats()
    if name not in known:
        raise ValueError(f"format must be one of {sorted(known)}, got {name!r}")
    return known[name]


def _create(form: Format, path: Path, chosen: Selection, options: Mapping[str, Any]) -> Writer:
    """A writer; if there can be none, nothing is left behind."""
    try:
        with fitting(form.name):
            return form.create(path, chosen.spec, **options)
    except (ValueError, NotImplementedError, ImportError):
        if [each.name for each in path.parent.iterdir()] == [_STATE]:
            shutil.rmtree(path.parent)
        raise


def _begin(work: Path, chosen: Selection, to: str, write: Mapping[str, Any]) -> Path:
    """The file that tells which conversion the folder belongs to, and what was lost so far."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / _STATE
    wanted = {"source": chosen.fingerprint, "to": to, "write": dict(write)}
    if path.exists():
        found = read_json(path)
        if {name: found.get(name) for name in wanted} != json.loads(json.dumps(wanted)):
            raise ValueError(
                f"{work} was left by another conversion to the same path; give that command "
                "again, or remove the folder"
            )
    else:
        write_json(path, {**wanted, "losses": []})
    return path


def _note_losses(path: Path, losses: Sequence[str]) -> None:
    state = read_json(path)
    new = [loss for loss in losses if loss not in state["losses"]]
    if new:
        write_json(path, {**state, "losses": [*state["losses"], *new]})


def _compare(chosen: Selection, written: Episodes, target: Path) -> int:
    """The number of steps; RuntimeError unless both sets have the same episodes' lengths."""
    wanted, found = [len(each) for each in chosen], [len(each) for each in written]
    if wanted != found:
        pairs = zip(wanted, found, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(found)))
        raise RuntimeError(
            f"what was written for {target} has {len(found)} episodes with {sum(found)} steps, the "
            f"source {len(wanted)} with {sum(wanted)}; they differ from episode {place} on. "
            "Nothing was put at the target; report this as a bug"
        )
    return sum(found)
