"""zarr replay buffers: as the zarr library sees them, and hostile ones."""

import bz2
import functools
import gzip
import json
import lzma
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embodied.structs import Episode, Spec
from embodied.testing import check_episodes
from embodied_datasets.chunk_codecs import unpack
from embodied_datasets.faults import DataError
from embodied_datasets.formats import all_formats, find_format, open_episodes
from embodied_datasets.zarr_safe import Folder, open_array

RNG = np.random.default_rng(0)


def _buffer(path: Path, *, compressors: Any = None, **changes: Any) -> Path:
    """Three episodes of 3, 2 and 4 steps, written by the zarr library alone."""
    arrays = {
        "state": RNG.standard_normal((9, 5), np.float32),
        "action": RNG.uniform(-1, 1, (9, 2)).astype(np.float32),
        "keypoint": RNG.standard_normal((9, 9, 2), np.float32),
        "img": RNG.integers(0, 256, (9, 8, 6, 3), dtype=np.uint8),
    }
    root = zarr.create_group(zarr.storage.LocalStore(path), zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    ends = changes.pop("episode_ends", np.array([3, 5, 9]))
    for group, name, values in [
        *((data, name, x) for name, x in (arrays | changes).items() if x is not None),
        (meta, "episode_ends", ends),
    ]:
        chunks = tuple(max(1, size // 2) for size in values.shape)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=compressors
        )
        array[:] = values
    return path


@pytest.mark.parametrize(
    "codec",
    [
        None,
        numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE),
        numcodecs.Blosc("zstd", 1),
        numcodecs.Zstd(3),
        numcodecs.LZ4(),
        numcodecs.Zlib(1),
        numcodecs.GZip(1),
        numcodecs.BZ2(1),
        numcodecs.LZMA(),
    ],
    ids=lambda codec: "none" if codec is None else codec.codec_id,
)
def test_a_buffer_of_the_library_is_read_whatever_packs_it(codec: Any, tmp_path: Path) -> None:
    path = _buffer(tmp_path / "pusht.zarr", compressors=codec)
    assert find_format(path).name == "zarr"
    episodes = open_episodes(path)
    check_episodes(episodes)
    data = zarr.open_group(str(path), mode="r")["data"]
    last = episodes[2]
    for found, name in (
        (last.state, "state"),
        (last.action, "action"),
        (last.images["img"], "img"),
        (last.extras["keypoint"], "keypoint"),
    ):
        np.testing.assert_array_equal(found, data[name][5:9])
    assert episodes.spec.cameras == {"img": (8, 6)}
    assert (last.instruction, last.terminated, last.truncated) == ("pusht", False, False)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    chunks=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    rows=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    order=st.sampled_from("CF"),
)
def test_slices_are_those_of_the_library(
    shape: list[int],
    chunks: list[int],
    rows: tuple[int, int],
    order: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("zarr")
    values = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    array = zarr.create_array(
        zarr.storage.LocalStore(path),
        name="a",
        shape=shape,
        dtype="i4",
        chunks=chunks[: len(shape)],
        fill_value=7,
        order=order,
        zarr_format=2,
    )
    array[: max(1, shape[0] // 2)] = values[: max(1, shape[0] // 2)]  # some chunks stay absent
    found = open_array(Folder(path), "a", 2**20)
    np.testing.assert_array_equal(found[slice(*rows)], array[slice(*rows)])
    np.testing.assert_array_equal(found[:], array[:])


@pytest.mark.parametrize("suffix", ["", ".zarr.zip"])
def test_the_library_reads_what_we_write(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    spec = Spec(3, 2, (-9.0, -9.0), (9.0, 9.0), 10.0, cameras={"front": (300, 200)})
    episodes = [
        Episode(
            RNG.standard_normal((size, 3), np.float32),
            RNG.uniform(-9, 9, (size, 2)).astype(np.float32),
            "go",
            images={"front": RNG.integers(0, 256, (size, 300, 200, 3), dtype=np.uint8)},
            extras={"obs/qpos": RNG.standard_normal((size, 4)), "state": np.arange(size)},
        )
        for size in (5, 1, 7)
    ]
    with all_formats()["zarr"].create(path, spec) as writer:
        for i, episode in enumerate(episodes):
            writer.add(str(i), episode)
        writer.finalize()
    store = zarr.storage.ZipStore(path, mode="r") if suffix else zarr.storage.LocalStore(path)
    root = zarr.open_group(store, mode="r", zarr_format=2)
    np.testing.assert_array_equal(root["meta/episode_ends"][:], [5, 6, 13])
    for name, arrays in (
        ("state", [x.state for x in episodes]),
        ("action", [x.action for x in episodes]),
        ("front", [x.images["front"] for x in episodes]),
        ("obs.qpos", [x.extras["obs/qpos"] for x in episodes]),
        ("extras.state", [x.extras["state"] for x in episodes]),
    ):
        np.testing.assert_array_equal(root[f"data/{name}"][:], np.concatenate(arrays))
    assert root["data/front"].chunks == (5, 300, 200, 3)  # about a megabyte
    again = open_episodes(path)
    np.testing.assert_array_equal(again[2].extras["state"], np.arange(7))


def test_pixels_as_floats_are_rounded_and_others_refused(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (9, 4, 4, 3)).astype(np.float32)
    path = _buffer(tmp_path / "a", img=pixels)
    found = open_episodes(path)
    check_episodes(found)
    np.testing.assert_array_equal(found[1].images["img"], pixels[3:5].astype(np.uint8))
    path = _buffer(tmp_path / "b", img=pixels - 256)
    with pytest.raises(DataError, match="expected 0 to 255"):
        open_episodes(path)[0].images["img"]


def test_arrays_of_other_names_make_state_and_action(tmp_path: Path) -> None:
    path = _buffer(
        tmp_path / "umi",
        state=None,
        action=None,
        robot0_eef_pos=np.ones((9, 3), np.float32),
        robot0_gripper_width=np.zeros((9, 1), np.float64),
        robot0_command=np.full((9, 4), 2, np.float32),
    )
    with pytest.raises(DataError, match="action=NAME"):
        open_episodes(path)
    found = open_episodes(path, action="robot0_command")
    check_episodes(found)
    assert found.spec.state_parts == {"robot0_eef_pos": 3, "robot0_gripper_width": 1}
    np.testing.assert_array_equal(found[0].state, [[1, 1, 1, 0]] * 3)
    chosen = open_episodes(path, action="robot0_command", state=["robot0_eef_pos"])
    assert chosen.spec.state_dim == 3
    assert "robot0_gripper_width" in chosen[0].extras
    assert chosen.fingerprint != found.fingerprint
    with pytest.raises(DataError, match="nix"):
        open_episodes(path, action="robot0_command", state=["nix"])


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = _buffer(tmp_path / "a")
    for chunk in (path / "data" / "img").glob("[0-9]*"):
        chunk.write_bytes(b"damaged")
    episode = open_episodes(path)[0]
    with pytest.raises(DataError, match=r"data/img/0\.0\.0\.0: cannot be unpacked"):
        episode.images["img"]


# Files that lie


def _meta(path: Path, name: str, **changes: Any) -> None:
    file = path / "data" / name / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _blosc_bomb() -> bytes:
    packed = bytearray(numcodecs.Blosc().encode(bytes(100)))
    packed[4:8] = struct.pack("<I", 2**31 - 1)
    return bytes(packed)


def _chunk(path: Path, data: bytes, codec: str | None) -> None:
    compressor = None if codec is None else {"id": codec}
    _meta(path, "state", chunks=[9, 5], compressor=compressor)
    (path / "data" / "state" / "0.0").write_bytes(data)


def _link_out(path: Path) -> None:
    (path.parent / "secret").write_bytes(bytes(180))
    _meta(path, "state", chunks=[9, 5])
    chunk = path / "data" / "state" / "0.0"
    chunk.unlink()
    chunk.symlink_to(path.parent / "secret")


BOMB = bytes(2**25)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "lzma": lambda data: lzma.compress(data, preset=0),
    "zstd": numcodecs.Zstd().encode,
    "lz4": numcodecs.LZ4().encode,
}


@functools.cache
def _bomb(codec: str) -> bytes:
    return bytes(PACK[codec](BOMB))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a shape beyond all memory": lambda p: _meta(p, "state", shape=[2**62, 5]),
    "a chunk beyond all memory": lambda p: _meta(p, "state", chunks=[2**40, 5]),
    "a chunk without size": lambda p: _meta(p, "state", chunks=[0, 5]),
    "a negative size": lambda p: _meta(p, "state", shape=[-9, 5]),
    "a size of text": lambda p: _meta(p, "state", shape=["9", 5]),
    "one axis too few": lambda p: _meta(p, "state", chunks=[9]),
    "too many chunks": lambda p: _meta(p, "img", shape=[9, 2**20, 2**20, 3], chunks=[1, 1, 1, 1]),
    "objects": lambda p: _meta(p, "state", dtype="|O"),
    "records": lambda p: _meta(p, "state", dtype=[["a", "<f4"]]),
    "texts": lambda p: _meta(p, "state", dtype="<U8"),
    "an unknown dtype": lambda p: _meta(p, "state", dtype="<q9"),
    "the pickle codec": lambda p: _meta(p, "state", compressor={"id": "pickle"}),
    "a codec that is a path": lambda p: _meta(p, "state", compressor={"id": "../os"}),
    "no codec's name": lambda p: _meta(p, "state", compressor={"level": 1}),
    "filters": lambda p: _meta(p, "state", filters=[{"id": "pickle"}]),
    "an odd separator": lambda p: _meta(p, "state", dimension_separator="/../../"),
    "an odd order": lambda p: _meta(p, "state", order="K"),
    "a fill value of text": lambda p: _meta(p, "state", fill_value="hello"),
    "metadata that nest": lambda p: (p / "data/state/.zarray").write_text("[" * 10**6),
    "much metadata": lambda p: (p / "data/state/.zarray").write_text(" " * 2**22),
    "metadata that are a list": lambda p: (p / "data/state/.zarray").write_text("[]"),
    "no metadata": lambda p: (p / "meta/episode_ends/.zarray").unlink(),
    "a zlib bomb": lambda p: _chunk(p, _bomb("zlib"), "zlib"),
    "a gzip bomb": lambda p: _chunk(p, _bomb("gzip"), "gzip"),
    "a bz2 bomb": lambda p: _chunk(p, _bomb("bz2"), "bz2"),
    "a lzma bomb": lambda p: _chunk(p, _bomb("lzma"), "lzma"),
    "a zstd bomb": lambda p: _chunk(p, _bomb("zstd"), "zstd"),
    "an lz4 bomb": lambda p: _chunk(p, _bomb("lz4"), "lz4"),
    "a blosc header that lies": lambda p: _chunk(p, _blosc_bomb(), "blosc"),
    "a plain chunk too large": lambda p: _chunk(p, BOMB, None),
    "a chunk cut short": lambda p: _chunk(p, bytes(179), None),
    "a chunk of nothing": lambda p: _chunk(p, b"", "blosc"),
    "a link out of the folder": _link_out,
    "zarr v3": lambda p: (p / "zarr.json").write_text("{}"),
    "ends that fall": lambda p: _buffer(p / "x", episode_ends=np.array([5, 3, 9])).rename(p / "y"),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_buffer_that_lies_is_refused_before_it_costs_memory(
    damage: Callable[[Path], object], packed: bool, tmp_path: Path
) -> None:
    path = _buffer(tmp_path / "a.zarr")
    damage(path)
    path = path / "y" if (path / "y").exists() else path
    if packed:
        if any(file.is_symlink() for file in path.rglob("*")):
            pytest.skip("an archive has no links")
        path = _pack(path, tmp_path / "a.zarr.zip")
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            open_episodes(path, format="zarr", max_bytes=2**24)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert caught.value.fault.file == path


def _pack(folder: Path, path: Path) -> Path:
    import shutil

    return Path(shutil.make_archive(os.fspath(path.with_suffix("")), "zip", folder))


@given(data=st.binary(max_size=60), codec=st.sampled_from(["blosc", "zstd", "lz4", "zlib", "bz2"]))
@example(data=b"(\xb5/\xfd", codec="zstd")
@settings(max_examples=60, deadline=None)
def test_noise_unpacks_to_an_error_and_no_more(data: bytes, codec: str) -> None:
    with pytest.raises(DataError):
        unpack(codec, data, 1000, Path("a"), "b")
