"""The record of a correction: one for all levels, kept with the episode as JSON and annotations."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embodied.conditions import (
    GoalImage,
    GoalState,
    Language,
    LanguageMotion,
    Part,
    Row,
    Sketch,
)
from embodied.people.corrections import LEVELS, Level
from embodied.structs import Episode

KEY = "interventions"
"""Of `Episode.info`."""

_PARTS: Mapping[str, type[Part]] = {kind.__name__: kind for kind in get_args(Part)}
_MOST = 10_000  # interventions in an episode
_LONGEST = 16_000_000  # characters of one content
_LARGEST = 4096 * 4096  # pixels of one picture
_MOST_FLOAT = float(np.finfo(np.float32).max)
_PNG = "data:image/png;base64,"
_NO_PNG = (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Intervention:
    """A person corrected a policy.

    Attributes:
        step: when they did, the first one it could have had an effect on.
        since, last: the first and the last step that were executed under it; both None where the
            episode ended before the policy was asked again.
        level: what they corrected.
        content: kind of part, such as "LanguageMotion" -> what was said or shown: words, a state
            as a JSON list, an image as a PNG's data URL, images as a JSON object of those. Empty
            for actions: those lie in the episode.
        who: the person's name.
        said: the phrase that the policy acted by until then; empty if none.
    """

    step: int
    since: int | None
    last: int | None
    level: Level
    content: Mapping[str, str]
    who: str
    said: str = ""

    def until(self, step: int) -> Intervention:
        """As far as it had come before a step."""
        if self.since is None or self.last is None or self.since >= step:
            return replace(self, since=None, last=None)
        return replace(self, last=min(self.last, step - 1))

    @property
    def parts(self) -> Row:
        """The parts that were given. Raises ValueError where an image cannot be read."""
        return [_part(kind, content) for kind, content in self.content.items()]

    @property
    def words(self) -> str:
        """What was said; empty where nothing was."""
        texts = [self.content.get(kind, "") for kind in ("LanguageMotion", "Language")]
        return next((text for text in texts if text), "")

    @property
    def num_steps(self) -> int:
        """How many steps were executed under it."""
        return 0 if self.since is None or self.last is None else self.last - self.since + 1


def content_of(parts: Row) -> dict[str, str]:
    """`Intervention.content` for some parts; images are copied without loss."""
    return {type(part).__name__: _written(part) for part in parts}


def to_json(interventions: Sequence[Intervention]) -> list[dict[str, Any]]:
    """What stands in `info["interventions"]`."""
    return [asdict(each) | {"content": dict(each.content)} for each in interventions]


def read_interventions(episode: Episode) -> tuple[Intervention, ...]:
    """The interventions of an episode, in their order; none where nobody recorded any.

    Raises:
        ValueError: naming the first thing that no writer of ours wrote.
    """
    found = episode.info.get(KEY, [])
    if not isinstance(found, list) or len(found) > _MOST:
        raise ValueError(f"info[{KEY!r}] must be a list of at most {_MOST} records")
    return tuple(_read(each, index, len(episode)) for index, each in enumerate(found))


def _read(facts: Any, index: int, length: int) -> Intervention:
    names = {field.name for field in fields(Intervention)}
    if not isinstance(facts, Mapping) or set(facts) != names:
        raise ValueError(f"intervention {index} must be an object with the fields {sorted(names)}")
    problem = _problem(facts, length)
    if problem:
        raise ValueError(f"intervention {index}: {problem}")
    return Intervention(**{**facts, "content": dict(facts["content"])})


def _problem(facts: Mapping[str, Any], length: int) -> str:
    level, content, step = facts["level"], facts["content"], facts["step"]
    if level not in LEVELS:
        return f"level must be one of {LEVELS}"
    for name in ("who", "said"):
        if not isinstance(facts[name], str) or len(facts[name]) > _LONGEST:
            return f"{name} must be text of at most {_LONGEST} characters"
    if not _is_step(step, length):
        return f"step must be a whole number in [0, {length})"
    if (facts["since"] is None) is not (facts["last"] is None):
        return "since and last must both be given or both be null"
    if facts["since"] is not None and not (
        _is_step(facts["since"], length)
        and _is_step(facts["last"], length)
        and step <= facts["since"] <= facts["last"]
    ):
        return f"step <= since <= last must be whole numbers in [0, {length})"
    if not isinstance(content, Mapping) or not set(content) <= set(_PARTS):
        return f"content must be an object with some of the keys {sorted(_PARTS)}"
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in content.values()):
        return f"content must hold texts of at most {_LONGEST} characters"
    if bool(content) is (level == "action"):
        return "content must be empty for actions, and for them alone"
    return ""


def _is_step(value: Any, length: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


def _written(part: Part) -> str:
    if isinstance(part, Language | LanguageMotion):
        return part.text
    if isinstance(part, GoalState):
        return json.dumps(np.asarray(part.state, np.float32).tolist())
    if isinstance(part, Sketch):
        return _to_url(part.image)
    return json.dumps({camera: _to_url(image) for camera, image in part.images.items()})


def _part(kind: str, text: str) -> Part:
    if kind == "Language":
        return Language(text)
    if kind == "LanguageMotion":
        return LanguageMotion(text)
    if kind == "Sketch":
        return Sketch(_from_url(text))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the content of a {kind} is not JSON: {error}") from error
    if kind == "GoalState":
        return GoalState(_numbers(found))
    if not isinstance(found, dict):
        raise ValueError("the content of a GoalImage must be an object of pictures")
    return GoalImage({camera: _from_url(url) for camera, url in found.items()})


def _numbers(found: Any) -> NDArray[np.float32]:
    plain = isinstance(found, list) and all(
        type(x) in (int, float) and abs(x) < _MOST_FLOAT for x in found
    )
    state = np.asarray(found if plain else [], np.float32)
    if not plain or not len(state) or not np.isfinite(state).all():
        raise ValueError("the content of a GoalState must be a list of finite numbers")
    return state


def _to_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return _PNG + base64.b64encode(file.getvalue()).decode()


def _from_url(url: Any) -> NDArray[np.uint8]:
    if not isinstance(url, str) or not url.startswith(_PNG):
        raise ValueError(f"a picture must begin with {_PNG!r}")
    try:
        file = io.BytesIO(base64.b64decode(url.removeprefix(_PNG), validate=True))
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > _LARGEST:
                raise ValueError(f"a picture may have {_LARGEST} pixels, got {image.size}")
            return np.array(image.convert("RGB"))
    except _NO_PNG as error:
        raise ValueError(f"a picture is no PNG: {error}") from error
