"""Meta-World's compiled models: one for each XML and process, and one on disk for all processes.

Compiling takes a third of a second, for the convex hulls of the arm's meshes; loading what it gave,
a twentieth of that. `EMBODIED_CACHE` names the directory of the compiled models (by default
`$XDG_CACHE_HOME/embodied` or `~/.cache/embodied`); where it is empty, nothing is kept on disk.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embodied_envs.vitals import log_warnings

if TYPE_CHECKING:
    import mujoco  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)


def compiled_model(task: str) -> mujoco.MjModel:
    """A task's model as compiled, shared by the whole process: copy it before any change."""
    log_warnings()
    from metaworld.env_dict import ENV_CLS_MAP

    library_class: Any = ENV_CLS_MAP[task]
    return _model_of(Path(library_class.model_name.fget(None)))  # the same for all its objects


def cache_directory() -> Path | None:
    """Where compiled models are kept; None where they are not."""
    chosen = os.environ.get("EMBODIED_CACHE")
    if chosen is not None:
        return Path(chosen).expanduser() / "metaworld" if chosen else None
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "embodied" / "metaworld"


@functools.cache  # tasks share files, and all simulators of a file its compiled model
def _model_of(xml: Path) -> mujoco.MjModel:
    directory = cache_directory()
    if directory is None:
        return _compiled(xml)
    file = directory / f"{xml.stem}-{_content_key(xml.parents[1], xml)}.mjb"
    model = _loaded(file)
    if model is None:
        model = _compiled(xml)
        _save(model, file)
    return model


def _compiled(xml: Path) -> mujoco.MjModel:
    import mujoco

    model = mujoco.MjModel.from_xml_path(str(xml))
    # as gymnasium does: room for its default picture
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, 480)
    model.vis.global_.offheight = max(model.vis.global_.offheight, 480)
    return model


def _loaded(file: Path) -> mujoco.MjModel | None:
    """The model of a file, or None where there is none or it is damaged."""
    import mujoco

    try:
        content = file.read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError("its checksum is wrong")
        return mujoco.MjModel.from_binary_path(file.name, {file.name: content[:-32]})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("compiling again what %s should hold: %s", file, error)
        return None


def _save(model: mujoco.MjModel, file: Path) -> None:
    """Adds a file at once whole, so that other processes never read half of one."""
    import mujoco
    import numpy as np

    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    content = buffer.tobytes()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial:
            partial.write(content + hashlib.sha256(content).digest())
        os.replace(partial.name, file)
    except OSError as error:  # a full disk or a read-only home
        _log.warning("the compiled model was not kept on disk: %s", error)


def _content_key(assets: Path, xml: Path) -> str:
    """Names the result of compiling by all that goes into it."""
    import mujoco

    parts = (mujoco.__version__, str(xml.relative_to(assets)), _digest(assets))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _digest(folder: Path) -> str:
    """Of the names and contents of all files below: an XML includes others, and they meshes."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).digest()
        total.update(str(file.relative_to(folder)).encode() + b"\0" + content)
    return total.hexdigest()
