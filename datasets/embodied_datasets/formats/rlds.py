"""RLDS episodes in TFRecords (Ramos et al. 2021; arXiv:2111.02767), as Open X-Embodiment has them.

Read without TensorFlow: a folder `NAME/1.0.0` as TensorFlow Datasets writes it, with
`features.json`, or bare TFRecord files. RLDS calls the action of an episode's last step
meaningless, but robot data record a real one, so that all steps are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.structs import Episode, Episodes, Spec
from embodied_datasets.budget import damaged
from embodied_datasets.formats import Writer

_SHARD = re.compile(r"(?P<set>.+)-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5})-of-(?P<of>\d{5})")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class RLDS:
    name = "rlds"

    def matches(self, path: Path) -> bool:
        """Whether it is a TFRecord file, or a folder (or its version) of such files."""
        return ".tfrecord" in path.name if path.is_file() else bool(_folders(path))

    def open(self, path: Path, **options: Any) -> Episodes:
        """The episodes; `split` ("train") chooses files, for the rest see `RLDSEpisodes`."""
        from embodied_datasets.rlds import RLDSEpisodes

        return RLDSEpisodes(path, find_files(path, options.pop("split", None)), **options)

    def create(self, path: Path, spec: Spec, **options: Any) -> Writer:
        raise NotImplementedError("rlds is only read; write lerobot, zarr or robomimic instead")

    def losses(self, spec: Spec, episode: Episode) -> Sequence[str]:
        return ("everything: this format is only read",)


FORMAT = RLDS()


def _folders(path: Path) -> list[Path]:
    """The folder itself or its versions, newest last, that hold TFRecords."""
    if not path.is_dir():
        return []
    versions = [each for each in path.iterdir() if _VERSION.fullmatch(each.name)]
    versions.sort(key=lambda each: [int(number) for number in each.name.split(".")])
    return [each for each in (*versions, path) if any(each.glob("*.tfrecord*"))]


def find_files(path: Path, split: str | None = None) -> list[Path]:
    """The TFRecord files of a split, in order; None means "train", or else the only split.

    Raises ValueError for an unknown split, DataError where shards are missing.
    """
    if path.is_file():
        return [path]
    folders = _folders(path)
    files = sorted(folders[-1].glob("*.tfrecord*")) if folders else []
    shards = [(file, match) for file in files if (match := _SHARD.fullmatch(file.name))]
    splits = sorted({match["split"] for _, match in shards})
    wanted = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
    if wanted not in splits:
        raise ValueError(f"{path} has no split {wanted!r}; it has {splits}")
    chosen = [(file, match) for file, match in shards if match["split"] == wanted]
    found = [int(match["shard"]) for _, match in chosen]
    if found != list(range(int(chosen[0][1]["of"]))):
        message = f"has the shards {found} of {int(chosen[0][1]['of'])} of split {wanted!r}"
        raise damaged(folders[-1], message)
    return [file for file, _ in chosen]
