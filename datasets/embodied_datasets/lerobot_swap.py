"""Putting a new layout in the place of an old one, whole for who reads it at any moment.

Three folders cannot be renamed at once. Each is first swapped for a link that leads to where it
went, by way of one link that all three share; pointing that one elsewhere is the change. Then each
link is swapped for the folder that it leads to.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from embodied_datasets.files import exchange, sync

FOLDERS = ("data", "videos", "meta")
UNFINISHED = ".staging-unfinished"
"""Folder in which a layout is made before it takes the old one's place."""

SHOWN = ".staging-shown"
"""Link to the folder whose layout is shown while the root holds links."""

_OLD = ".staging-old"
_NEXT = ".staging-next"
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EXDEV)


def replace_layout(root: Path, new: Path) -> None:
    """Moves the layout in `new`, a folder in `root`, to the root and deletes what it replaces.

    Killed at any time, it leaves the old layout or the new one, which `settle` makes plain folders.
    Where the file system cannot swap two names (NFS, or not Linux), folders are moved one by one,
    and a kill in between leaves no `meta/`; calling it again then goes on.
    """
    settle(root)
    if _is_whole(root) and _is_whole(new):
        try:
            _swap(root, new)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            settle(root)
    _move(root, new)  # what is not there yet
    shutil.rmtree(new)


def settle(root: Path) -> None:
    """Turns what an interrupted change left into plain folders, of the layout that is shown."""
    for name in FOLDERS:
        if _is_ours(root / name):
            exchange(root / name, root / SHOWN / name)
            (root / SHOWN / name).unlink()
            sync(root)
    for link in (SHOWN, _NEXT):
        (root / link).unlink(missing_ok=True)
    shutil.rmtree(root / _OLD, ignore_errors=True)


def _swap(root: Path, new: Path) -> None:
    (root / _OLD).mkdir()
    (root / SHOWN).symlink_to(_OLD)
    for name in FOLDERS:
        if _is_real(root / name) and _is_real(new / name):
            link = root / _OLD / name
            link.symlink_to(_target(name))  # which is right once it lies in the root
            exchange(root / name, link)
    (root / _NEXT).symlink_to(new.name)
    (root / _NEXT).replace(root / SHOWN)
    sync(root)
    settle(root)


def _move(root: Path, new: Path) -> None:
    names = [name for name in FOLDERS if _is_real(new / name)]
    if "meta" in names:  # the old one's, which would describe what is no longer there
        shutil.rmtree(root / "meta", ignore_errors=True)
    for name in names:  # meta last: it is what makes the layout whole
        shutil.rmtree(root / name, ignore_errors=True)
        (new / name).rename(root / name)
        sync(root)


def _is_whole(folder: Path) -> bool:
    return _is_real(folder / "data") and (folder / "meta" / "info.json").is_file()


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and os.readlink(path) == _target(path.name)


def _target(name: str) -> str:
    return f"{SHOWN}/{name}"
