"""Reading a data set's metadata, whichever version of LeRobot wrote it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embodied_datasets import lerobot_catalog_v1 as v1
from embodied_datasets import lerobot_catalog_v2 as v2
from embodied_datasets import lerobot_catalog_v3 as v3
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.faults import Report, refuse
from embodied_datasets.files import inside, read_json
from embodied_datasets.lerobot_entries import Catalog, Options
from embodied_datasets.lerobot_incoming import read_incoming
from embodied_datasets.lerobot_video import size_of


def read_catalog(root: Path, options: Options | None = None, report: Report = refuse) -> Catalog:
    """Reads the metadata of a finalised set, or else of one that is still being recorded.

    Args:
        report: what is done with faults after which reading can go on.

    Raises DataError for others.
    """
    catalog = _read(root, options or Options(), report)
    return catalog if options is None or options.video_folder is None else _resize(catalog)


def _read(root: Path, options: Options, report: Report) -> Catalog:
    if (root / schema.RECORDING_PATH).exists() and not schema.is_final(root):
        return read_incoming(root, options)
    if not (root / schema.INFO_PATH).exists():
        if any((root / v1.FOLDER).glob("*.arrow")):
            return v1.read(root, options)
        message = f"{root} has no {schema.INFO_PATH}, so it is no LeRobot data set"
        remedy = "name the folder that holds meta/, data/ and videos/"
        schema.fail("E_DATA_MISSING", None, message, remedy)
    path = inside(root, schema.INFO_PATH)
    info = read_json(path)
    version = info.get("codebase_version")
    if version in v2.VERSIONS:
        return v2.read(root, info, options, report)
    if version != schema.CODEBASE_VERSION:
        known = [*v2.VERSIONS, schema.CODEBASE_VERSION]
        message = f"has codebase_version {version!r}, expected one of {known}"
        remedy = "convert the set with LeRobot's own conversion script"
        schema.fail("E_DATA_VERSION", path, message, remedy)
    return v3.read(root, info, options, report)


def _resize(catalog: Catalog) -> Catalog:
    """With the sides of the videos that there are: another folder may hold other sizes."""
    cameras = dict(catalog.layout.cameras)
    for name, camera in cameras.items():
        files = (entry.videos[name][0] for entry in catalog.entries if name in entry.videos)
        first = next((path for path in files if path.is_file()), None)
        if first is not None:
            cameras[name] = dataclasses.replace(camera, shape=size_of(first))
    return dataclasses.replace(catalog, layout=dataclasses.replace(catalog.layout, cameras=cameras))
