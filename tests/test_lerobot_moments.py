"""What stands in a recorder's folder just before each of its changes to the disk.

A folder copied at that moment is what a kill at that moment leaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import lerobot_swap
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter
from tests.plain_lerobot import assert_plain

SPEC = Spec(3, 2, (-1.0, -2.0), (1.0, 2.0), 10.0)
FILMED = dataclasses.replace(SPEC, cameras={"top": (16, 16)})
CHANGES = ("link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")

Act = Callable[[LeRobotWriter], None]


def _episode(words: str, spec: Spec, **fields: Any) -> Episode:
    rng = np.random.default_rng(len(words))
    state = rng.standard_normal((2, 3), np.float32)
    images = {name: np.zeros((2, *shape, 3), np.uint8) for name, shape in spec.cameras.items()}
    return Episode(state, state[:, :2], words, images=images, **fields)


def _annotate(writer: LeRobotWriter) -> None:
    said = (Annotation("motion", "go", 0),)
    writer.add("c", _episode("new", writer.spec, annotations=said))


def _replace(writer: LeRobotWriter) -> None:
    writer.add("a", _episode("new", writer.spec))


def _finalize(writer: LeRobotWriter) -> None:
    writer.finalize()


def _recording(root: Path, spec: Spec) -> Path:
    """A set of two episodes."""
    with LeRobotWriter(root, spec=spec) as writer:
        writer.add("a", _episode("old", spec))
        writer.add("b", _episode("other", spec))
    return root


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is most of the time here, and a kill does not lose what the system
    holds."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@contextlib.contextmanager
def _before_each_change(patch: pytest.MonkeyPatch, look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` before each change to the disk that is asked for in Python."""
    looking = False

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal looking
            if not looking:
                looking = True
                look()
                looking = False
            return change(*args, **kwargs)

        return call

    with patch.context() as watching:
        for name in CHANGES:
            watching.setattr(os, name, watched(getattr(os, name)))
        watching.setattr(lerobot_swap, "exchange", watched(lerobot_swap.exchange))
        yield


def _moments(root: Path, act: Callable[[], None], patch: pytest.MonkeyPatch) -> list[Path]:
    """A copy of the folder before each of the changes that `act` makes to it, and after them all;
    one of those that are alike but for what lies in a layout that is not shown."""
    moments: list[Path] = []
    seen: list[tuple[str, int]] = []

    def look() -> None:
        paths = [(path.relative_to(root), path.lstat().st_ino) for path in sorted(root.rglob("*"))]
        shown = (root / lerobot_swap.SHOWN).resolve().name
        found = [
            (path.as_posix(), inode)
            for path, inode in paths
            if len(path.parts) < 3 or path.parts[0] in {"incoming", "data", "meta", "videos", shown}
        ]
        if found != seen:
            seen[:] = found
            moments.append(root.with_name(f"{root.name}-{len(moments)}"))
            shutil.copytree(root, moments[-1], symlinks=True)

    with _before_each_change(patch, look):
        act()
    look()
    assert len(moments) > 8
    return moments


def _moments_of(act: Act, root: Path, spec: Spec, patch: pytest.MonkeyPatch) -> list[Path]:
    with LeRobotWriter(_recording(root, spec), spec=spec) as writer:
        return _moments(root, lambda: act(writer), patch)


def _read(root: Path) -> list[str]:
    return [episode.instruction for episode in LeRobotDataset(root)]


def _assert_tidy(root: Path, *names: str) -> None:
    wanted = [".lock", "data", "meta", *names]
    assert sorted(path.name for path in root.iterdir()) == sorted(wanted)
    left = [p for p in root.rglob("*") if p.is_symlink() or p.name.startswith(".tmp-")]
    assert not left


@pytest.mark.slow  # every file operation is a moment
def test_the_layout_stands_all_through_the_first_annotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for root in _moments_of(_annotate, tmp_path / "set", FILMED, monkeypatch):
        shown.append(sorted(assert_plain(root)))
        with LeRobotWriter(root, spec=FILMED) as writer:
            if "c" not in writer.keys:
                _annotate(writer)
        assert assert_plain(root) == _read(root) == ["old", "other", "new"]
        _assert_tidy(root, "videos", "incoming")
    change = shown.index(["new", "old", "other"])
    assert shown == [["old", "other"]] * change + [["new", "old", "other"]] * (len(shown) - change)


@pytest.mark.slow  # every file operation is a moment
def test_the_layout_stands_while_an_episode_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, caught_up = [], []
    for root in _moments_of(_replace, tmp_path / "set", SPEC, monkeypatch):
        shown.append(assert_plain(root)[0])
        with LeRobotWriter(root, spec=SPEC):
            caught_up.append(assert_plain(root)[0])
            assert assert_plain(root) == _read(root)
        _assert_tidy(root, "incoming")
    for words in (shown, caught_up):  # the old one, and from some moment on the new one
        assert words == sorted(words, reverse=True)
        assert set(words) == {"old", "new"}
    assert caught_up.index("new") < shown.index("new")


@pytest.mark.slow  # every file operation is a moment
def test_the_layout_stands_while_it_is_finalised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = []
    for root in _moments_of(_finalize, tmp_path / "set", FILMED, monkeypatch):
        assert assert_plain(root) == _read(root) == ["old", "other"]
        with LeRobotWriter(root, spec=FILMED) as writer:
            final.append(writer.is_final)
            writer.finalize()
        assert assert_plain(root) == _read(root) == ["old", "other"]
        _assert_tidy(root, "videos")
    assert final == sorted(final)


@pytest.mark.slow
@pytest.mark.parametrize("act", [_annotate, _replace, _finalize])
def test_the_layout_stands_while_an_interrupted_change_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    moments = _moments_of(act, tmp_path / "set", SPEC, monkeypatch)
    linked = [root for root in moments if (root / "data").is_symlink()]
    assert len(linked) > 3
    for root in (linked[0], linked[-1]):  # to be undone, and to be completed

        def mend(root: Path = root) -> None:
            with LeRobotWriter(root, spec=SPEC):
                pass

        for again in _moments(root, mend, monkeypatch):
            assert "other" in assert_plain(again)
            mend(again)
            assert assert_plain(again) == _read(again)
            assert not (again / "data").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("act", [_annotate, _replace, _finalize])
def test_a_writer_goes_on_after_any_of_its_changes_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    """A full disk, say, at the k-th change: nothing is lost, and the next attempt completes it."""
    recording = _recording(tmp_path / "set", SPEC)
    for stop in itertools.count():
        root = recording.with_name(str(stop))
        shutil.copytree(recording, root)
        changes = itertools.count()

        def fail(changes: Iterator[int] = changes, stop: int = stop) -> None:
            if next(changes) == stop:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with LeRobotWriter(root, spec=SPEC) as writer:
            with _before_each_change(monkeypatch, fail), contextlib.suppress(OSError):
                act(writer)
            assert "other" in assert_plain(root)
            act(writer)
        assert assert_plain(root) == _read(root)
        _assert_tidy(root, *["incoming"] * (act is not _finalize))
        if next(changes) <= stop:
            break
    assert stop > 10


# Where two names cannot be swapped


def _refuse(first: Path, second: Path) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(first))


@pytest.mark.parametrize(
    "act",
    [*(pytest.param(act, marks=pytest.mark.slow) for act in (_annotate, _replace)), _finalize],
)
def test_without_swaps_no_episode_is_lost_and_the_layout_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(lerobot_swap, "exchange", _refuse)
    for root in _moments_of(act, tmp_path / "set", SPEC, monkeypatch):
        assert "other" in _read(root)
        with LeRobotWriter(root, spec=SPEC) as writer:
            act(writer) if not writer.is_final else None
        assert assert_plain(root) == _read(root)
        _assert_tidy(root, *["incoming"] * (act is not _finalize))


# Recordings of before layouts were replaced at once


@pytest.mark.parametrize("left", [(), ("data",), ("videos",), ("data", "videos")])
def test_a_layout_that_was_taken_away_is_made_again(tmp_path: Path, left: tuple[str, ...]) -> None:
    root = _recording(tmp_path / "set", FILMED)
    for name in {"data", "videos", "meta"} - {*left}:
        shutil.rmtree(root / name)
    with LeRobotWriter(root, spec=FILMED) as writer:
        _annotate(writer)
    assert sorted(assert_plain(root)) == sorted(_read(root)) == ["new", "old", "other"]


@pytest.mark.parametrize("moved", range(4))
def test_a_finalize_that_moved_folder_by_folder_is_completed(tmp_path: Path, moved: int) -> None:
    root, final = _recording(tmp_path / "set", FILMED), _recording(tmp_path / "final", FILMED)
    with LeRobotWriter(final, spec=FILMED) as writer:
        writer.finalize()
    shutil.rmtree(root / "meta")
    (root / ".staging").mkdir()
    for number, name in enumerate(("data", "videos", "meta")):
        target = root if number < moved else root / ".staging"
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(final / name, target / name)
    with LeRobotWriter(root, spec=FILMED) as writer:
        assert writer.is_final
    assert assert_plain(root) == ["old", "other"]
    assert LeRobotDataset(root).fingerprint == LeRobotDataset(final).fingerprint
    _assert_tidy(root, "videos")
