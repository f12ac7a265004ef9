"""HDF5 and Arrow files that lead elsewhere, lie, or hold what only code can read."""

import functools
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from embodied_datasets import hdf5_vetting
from embodied_datasets.faults import DataError
from embodied_datasets.formats import find_format, open_episodes
from embodied_datasets.formats.d4rl import D4RL
from embodied_datasets.formats.minari import Minari
from embodied_datasets.formats.robomimic import Robomimic
from embodied_datasets.hdf5 import Hdf5
from tests.roundtrip import SPEC, make_episode, write

EPISODES = {f"{i}": make_episode(i, 4, SPEC) for i in range(2)}
SECRET = b"nobody may read this" * 4
Damage = Callable[[h5py.File, Path], None]


def _secret(folder: Path) -> Path:
    path = folder / "secret.bin"
    path.write_bytes(SECRET)
    with h5py.File(folder / "secret.hdf5", "w") as file:
        file["x"] = np.frombuffer(SECRET, np.uint8)
    return path


def _replace(file: h5py.File, name: str, *args: Any, **kwargs: Any) -> h5py.Dataset:
    del file[name]
    return file.create_dataset(name, *args, **kwargs)


def external_storage(file: h5py.File, folder: Path) -> None:
    secret = _secret(folder)
    _replace(file, "actions", (8, 2), "u4", external=[(str(secret), 0, 64)])


def external_link(file: h5py.File, folder: Path) -> None:
    _secret(folder)
    file["infos/more"] = h5py.ExternalLink(str(folder / "secret.hdf5"), "/x")


def virtual_dataset(file: h5py.File, folder: Path) -> None:
    _secret(folder)
    layout = h5py.VirtualLayout((80,), "u1")
    layout[:] = h5py.VirtualSource(str(folder / "secret.hdf5"), "x", (80,))
    file.create_virtual_dataset("infos/more", layout)


def soft_link_through_an_external_one(file: h5py.File, folder: Path) -> None:
    _secret(folder)
    file["aaa"] = h5py.SoftLink("/zzz/x")
    file["zzz"] = h5py.ExternalLink(str(folder / "secret.hdf5"), "/")


def dangling_soft_link(file: h5py.File, folder: Path) -> None:
    file["infos/more"] = h5py.SoftLink("/nothing/here")


def soft_links_in_a_circle(file: h5py.File, folder: Path) -> None:
    file["infos/a"], file["infos/b"] = h5py.SoftLink("/infos/b"), h5py.SoftLink("/infos/a")


def soft_link_to_the_root(file: h5py.File, folder: Path) -> None:
    file["infos/again"] = h5py.SoftLink("/")


def hard_links_in_a_circle(file: h5py.File, folder: Path) -> None:
    file["infos/deep/again"] = file["infos"]


def a_ladder_of_hard_links(file: h5py.File, folder: Path) -> None:
    group = file["infos"].create_group("g")
    for _ in range(10):
        after = group.create_group("a")
        group["b"] = after
        group = after


def nested_too_deep(file: h5py.File, folder: Path) -> None:
    file["infos/" + "/".join("x" * 40)] = np.ones(8)


def references(file: h5py.File, folder: Path) -> None:
    dataset = file.create_dataset("infos/more", (8,), h5py.ref_dtype)
    dataset[0] = file["actions"].ref


def ragged(file: h5py.File, folder: Path) -> None:
    file.create_dataset("infos/more", (8,), h5py.vlen_dtype(np.float64))


def compound(file: h5py.File, folder: Path) -> None:
    _replace(file, "actions", (8, 2), np.dtype([("a", "f4"), ("b", "f4")]))


def words_for_numbers(file: h5py.File, folder: Path) -> None:
    _replace(file, "rewards", data=np.array([b"1"] * 8))


def complex_numbers(file: h5py.File, folder: Path) -> None:
    _replace(file, "rewards", data=np.ones(8, np.complex64))


def nothing_at_all(file: h5py.File, folder: Path) -> None:
    file["infos/more"] = h5py.Empty("f4")


def named_type(file: h5py.File, folder: Path) -> None:
    file["infos/more"] = np.dtype("f8")


def floats_of_no_machine(file: h5py.File, folder: Path) -> None:
    kind = h5py.h5t.NATIVE_FLOAT.copy()
    kind.set_ebias(2**20)
    space = h5py.h5s.create_simple((8,))
    h5py.h5d.create(file["infos"].id, b"more", kind, space)


def name_in_no_known_letters(file: h5py.File, folder: Path) -> None:
    h5py.h5g.create(file.id, b"\xff\xfe")


def groups_for_data(file: h5py.File, folder: Path) -> None:
    del file["metadata/embodied/facts"]
    file.create_group("metadata/embodied/facts")


def rare_filter(file: h5py.File, folder: Path) -> None:
    file.create_dataset("infos/more", data=np.arange(8), chunks=(8,), scaleoffset=0)


def huge_and_unwritten(file: h5py.File, folder: Path) -> None:
    for name in ("observations", "actions"):
        _replace(file, name, (10**12, 2), "f4", chunks=(10**5, 2))
    for name in ("rewards", "terminals", "timeouts"):
        _replace(file, name, (10**12,), "i1", chunks=(10**5,))


def within_the_budget_but_made_of_nothing(file: h5py.File, folder: Path) -> None:
    total = 2 * 10**8
    for name in ("observations", "actions"):
        _replace(file, name, (total, 2), "f4", chunks=(10**5, 2))
    for name in ("rewards", "terminals", "timeouts"):
        _replace(file, name, (total,), "i1", chunks=(10**5,), fillvalue=1)


def one_episode_of_zeros(file: h5py.File, folder: Path) -> None:
    total = 6 * 10**7
    for name in ("observations", "actions"):
        _replace(file, name, (total, 2), "f4", chunks=(10**5, 2), compression="gzip")
    for name in ("rewards", "terminals", "timeouts"):
        _replace(file, name, (total,), "i1", chunks=(10**5,), compression="gzip")


def huge_chunk(file: h5py.File, folder: Path) -> None:
    shape, chunk = (8, 2), (2**28, 2)
    data = _replace(file, "actions", shape, "f4", chunks=chunk, maxshape=(None, 2))
    data.id.write_direct_chunk((0, 0), b"\0" * 8)


def chunk_that_inflates(file: h5py.File, folder: Path) -> None:
    shape, chunk = (8, 2), (100_000, 2)
    options: dict[str, Any] = {"chunks": chunk, "maxshape": (None, 2), "compression": "gzip"}
    data = _replace(file, "actions", shape, "f4", **options)
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**24)) for _ in range(16)]  # 256 MB from a quarter of one
    data.id.write_direct_chunk((0, 0), b"".join([*parts, packer.flush()]))


def chunk_larger_than_it_says(file: h5py.File, folder: Path) -> None:
    options: dict[str, Any] = {"chunks": (8, 2), "compression": "lzf"}
    data = _replace(file, "actions", (8, 2), "f4", **options)
    data.id.write_direct_chunk((0, 0), os.urandom(2**20))


def facts_that_are_no_json(file: h5py.File, folder: Path) -> None:
    _replace(file, "metadata/embodied/facts", data=np.frombuffer(b"{'a': 1}", np.uint8))


def facts_of_many_lists(file: h5py.File, folder: Path) -> None:
    text = b'{"a": [' + b"[]," * (2 * 10**6) + b"[]]}"
    _replace(file, "metadata/embodied/facts", data=np.frombuffer(text, np.uint8))


def facts_nested_too_deep(file: h5py.File, folder: Path) -> None:
    text = b"[" * 200_000 + b"]" * 200_000
    _replace(file, "metadata/embodied/facts", data=np.frombuffer(text, np.uint8))


def facts_without_their_arrays(file: h5py.File, folder: Path) -> None:
    del file["metadata/embodied/0"]


def fewer_rewards(file: h5py.File, folder: Path) -> None:
    _replace(file, "rewards", data=np.zeros(7))


def fewer_ends(file: h5py.File, folder: Path) -> None:
    file["timeouts"][3] = file["terminals"][3] = False


def flat_observations(file: h5py.File, folder: Path) -> None:
    _replace(file, "observations", data=np.zeros(8))


def observations_that_are_a_group(file: h5py.File, folder: Path) -> None:
    del file["observations"]
    file.create_group("observations")


def no_steps(file: h5py.File, folder: Path) -> None:
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        shape = file[name].shape
        _replace(file, name, (0, *shape[1:]), "f4")


CASES: dict[Damage, str] = {
    external_storage: "E_DATA_HDF5_EXTERNAL",
    external_link: "E_DATA_HDF5_EXTERNAL",
    virtual_dataset: "E_DATA_HDF5_EXTERNAL",
    soft_link_through_an_external_one: "E_DATA_HDF5_EXTERNAL",
    dangling_soft_link: "E_DATA_HDF5_LINK",
    soft_links_in_a_circle: "E_DATA_HDF5_LINK",
    soft_link_to_the_root: "E_DATA_HDF5_LINK",
    hard_links_in_a_circle: "E_DATA_HDF5_LINK",
    a_ladder_of_hard_links: "E_DATA_HDF5_LINK",
    nested_too_deep: "E_DATA_BUDGET",
    references: "E_DATA_DTYPE",
    ragged: "E_DATA_DTYPE",
    compound: "E_DATA_DTYPE",
    words_for_numbers: "E_DATA_DTYPE",
    complex_numbers: "E_DATA_DTYPE",
    nothing_at_all: "E_DATA_SHAPE",
    floats_of_no_machine: "E_DATA_DTYPE",
    named_type: "E_DATA_DTYPE",
    name_in_no_known_letters: "E_DATA_UNREADABLE",
    groups_for_data: "E_DATA_UNREADABLE",
    rare_filter: "E_DATA_HDF5_FILTER",
    huge_and_unwritten: "E_DATA_BUDGET",
    within_the_budget_but_made_of_nothing: "E_DATA_BUDGET",
    one_episode_of_zeros: "E_DATA_BUDGET",
    huge_chunk: "E_DATA_BUDGET",
    chunk_that_inflates: "E_DATA_BUDGET",
    chunk_larger_than_it_says: "E_DATA_BUDGET",
    facts_that_are_no_json: "E_DATA_UNREADABLE",
    facts_of_many_lists: "E_DATA_UNREADABLE",
    facts_nested_too_deep: "E_DATA_UNREADABLE",
    facts_without_their_arrays: "E_DATA_UNREADABLE",
    fewer_rewards: "E_DATA_SHAPE",
    fewer_ends: "E_DATA_UNREADABLE",
    flat_observations: "E_DATA_SHAPE",
    observations_that_are_a_group: "E_DATA_SHAPE",
    no_steps: "E_DATA_SHAPE",
}


def _hostile(damage: Damage, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "set.hdf5"
    path.write_bytes(_plain())
    with h5py.File(path, "r+") as file:
        file["infos/plain"] = np.ones(8)
        damage(file, folder)
    return path


@functools.cache
def _plain() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(D4RL(), Path(folder) / "set.hdf5", SPEC, EPISODES).read_bytes()


def _read_all(path: Path, format: str = "d4rl") -> None:
    for episode in open_episodes(path, format=format):
        dict(episode.images)


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_a_hostile_file_is_refused_by_name(damage: Damage, tmp_path: Path) -> None:
    path = _hostile(damage, tmp_path)
    with pytest.raises(DataError) as caught:
        _read_all(path)
    fault = caught.value.fault
    assert fault.code == CASES[damage]
    assert fault.message
    assert fault.remedy
    assert fault.file in (Path("set.hdf5"), None)


def test_refusing_costs_no_memory(tmp_path: Path) -> None:
    for damage in CASES:
        _hostile(damage, tmp_path / damage.__name__)
    code = f"""
import resource, sys
from pathlib import Path
import h5py, numpy
from embodied_datasets.formats import open_episodes
from embodied_datasets.formats.d4rl import D4RL
import embodied_datasets.d4rl
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path({str(tmp_path)!r}).glob("*/set.hdf5")):
    try:
        for episode in open_episodes(path, format="d4rl"):
            dict(episode.images)
        print(path, "was read")
    except ValueError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200  # MB, where the bombs declare up to terabytes


def test_plain_links_filters_and_words_are_read(tmp_path: Path) -> None:
    path = write(D4RL(), tmp_path / "set.hdf5", SPEC, EPISODES)
    with h5py.File(path, "r+") as file:
        del file["metadata"]
        file["metadata/algorithm"] = "SAC"
        values = np.arange(8.0)
        for name, options in {
            "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
            "lzf": {"compression": "lzf"},
        }.items():
            file.create_dataset(f"infos/{name}", data=values, chunks=(3,), **options)
        file["infos/soft"] = h5py.SoftLink("/infos/gzip")
        file["infos/hard"] = file["infos/lzf"]
        file["infos/text"] = ["a"] * 8
    episode = open_episodes(path)[1]
    assert episode.extras.keys() == {"gzip", "lzf", "soft", "hard"}
    for name in episode.extras:
        np.testing.assert_array_equal(episode.extras[name], values[4:])
    assert episode.info["metadata"] == {"algorithm": "SAC"}


def test_large_chunks_that_keep_their_word_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, 64, 64, 3), np.uint8)
    zeros = np.zeros(10**6, np.uint8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("noise", data=noise, chunks=noise.shape, compression="gzip")
        file.create_dataset("zeros", data=zeros, chunks=zeros.shape, compression="gzip")
    source = Hdf5(tmp_path / "a.hdf5")
    with source.open() as file:
        np.testing.assert_array_equal(source.read(file["noise"]), noise)
        np.testing.assert_array_equal(source.read(file["zeros"], 10, 20), zeros[10:20])


def test_too_many_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(D4RL(), tmp_path / "set.hdf5", SPEC, EPISODES)
    monkeypatch.setattr(hdf5_vetting, "_MAX_ITEMS", 8)
    with pytest.raises(DataError, match=r"E_DATA_BUDGET.*8 items"):
        D4RL().open(path)


def test_a_budget_is_kept(tmp_path: Path) -> None:
    path = write(D4RL(), tmp_path / "set.hdf5", SPEC, EPISODES)
    with pytest.raises(DataError, match=r"E_DATA_BUDGET.*max_bytes = 50"):
        list(D4RL().open(path, max_bytes=50))


def test_a_file_that_changes_is_looked_through_again(tmp_path: Path) -> None:
    path = write(D4RL(), tmp_path / "set.hdf5", SPEC, EPISODES)
    found = D4RL().open(path)
    assert len(found[0]) == 4
    with h5py.File(path, "r+") as file:
        external_link(file, tmp_path)
    with pytest.raises(DataError, match="E_DATA_HDF5_EXTERNAL"):
        found[0]


@pytest.mark.parametrize("kept", [8, 100, 900])
def test_a_torn_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = write(D4RL(), tmp_path / "set.hdf5", SPEC, EPISODES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="E_DATA_UNREADABLE"):
        D4RL().open(path)
    with pytest.raises(ValueError, match="looks like none"):
        find_format(path)


def test_flipped_bytes_are_an_error_and_never_a_crash(tmp_path: Path) -> None:
    path = write(Robomimic(), tmp_path / "set.hdf5", SPEC, EPISODES)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    code = """
import sys
from embodied_datasets.formats import open_episodes
for path in sys.argv[1:]:
    try:
        list(open_episodes(path, format="robomimic"))
    except ValueError:
        pass
"""
    paths = []
    for number in range(40):
        data = bytearray(whole)
        for place in rng.integers(8, len(data), 6):
            data[place] = rng.integers(256)
        paths.append(tmp_path / f"{number}.hdf5")
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# robomimic and Minari


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("data/demo_1/actions", np.zeros((4, 3)), "E_DATA_SHAPE"),
        ("data/demo_1/actions", np.zeros((3, 2)), "E_DATA_SHAPE"),
        ("data/demo_1/obs/state", np.zeros((5, 3)), "E_DATA_SHAPE"),
        ("data/demo_1/rewards", np.zeros((2,)), "E_DATA_SHAPE"),
        ("data/demo_1/embodied/facts", np.zeros(3, np.uint8), "E_DATA_UNREADABLE"),
        ("embodied/facts", np.frombuffer(b'{"spec": {"a": 1}}', np.uint8), "E_DATA_UNREADABLE"),
        ("data/demo_1/actions", np.array([b"a"]), "E_DATA_SHAPE"),
    ],
)
def test_robomimic_names_what_does_not_fit(
    name: str, value: Any, code: str, tmp_path: Path
) -> None:
    path = write(Robomimic(), tmp_path / "set.hdf5", SPEC, EPISODES)
    with h5py.File(path, "r+") as file:
        _replace(file, name, data=value)
    with pytest.raises(DataError) as caught:
        list(Robomimic().open(path))
    assert caught.value.fault.code == code
    assert caught.value.fault.episode == (1 if "demo_1" in name else None)


def _metadata(change: dict[str, Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return damage


def _box(shape: list[int]) -> str:
    return json.dumps({"type": "Box", "dtype": "float32", "shape": shape, "low": 0, "high": 1})


def _nested(depth: int) -> str:
    return '{"type": "Dict", "subspaces": {"a": ' * depth + _box([1]) + "}}" * depth


def link_to_elsewhere(root: Path) -> None:
    path = root / "main_data.hdf5"
    path.rename(root.parent.parent / "elsewhere.hdf5")
    path.symlink_to(root.parent.parent / "elsewhere.hdf5")


def no_json(root: Path) -> None:
    (root / "metadata.json").write_text("{")


def torn(root: Path) -> None:
    with h5py.File(root / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (link_to_elsewhere, "E_DATA_PATH"),
        (no_json, "E_DATA_JSON"),
        (torn, "E_DATA_SHAPE"),
        (_metadata({"data_format": "pickle"}), "E_DATA_UNREADABLE"),
        (_metadata({"total_episodes": 3}), "E_DATA_UNREADABLE"),
        (_metadata({"total_episodes": -1}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": None}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": "[]"}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": '{"type": "Graph"}'}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": _nested(30)}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": _box([10**9, 10**9])}), "E_DATA_UNREADABLE"),
        (_metadata({"observation_space": _box([4])}), "E_DATA_SHAPE"),
        (_metadata({"action_space": _box([3])}), "E_DATA_UNREADABLE"),
        (_metadata({"embodied": {"spec": 1}}), "E_DATA_UNREADABLE"),
    ],
)
def test_minari_names_what_does_not_fit(
    damage: Callable[[Path], None], code: str, tmp_path: Path
) -> None:
    path = write(Minari(), tmp_path / "set-v0", SPEC, EPISODES)
    damage(path / "data")
    with pytest.raises(DataError) as caught:
        _read_all(path, "minari")
    assert caught.value.fault.code == code


def _rewrite(
    root: Path, change: Callable[[pa.Table], pa.Table], episode: str = "1", **options: Any
) -> None:
    path = root / episode / "part-0.arrow"
    table = change(pa.ipc.open_file(path.read_bytes()).read_all())
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)


def compressed(root: Path) -> None:
    _rewrite(root, lambda table: table, compression="zstd")


def dictionary(root: Path) -> None:
    _rewrite(root, lambda table: table.append_column("x", pa.array(["a"] * 5).dictionary_encode()))


def rows_of_nothing(root: Path) -> None:
    nothing = pa.table({"rewards": pa.nulls(10**9)})
    _rewrite(root, lambda table: nothing)


def missing_values(root: Path) -> None:
    column = pa.array([1.0, None, 1.0, 1.0, 1.0])
    _rewrite(root, lambda table: table.set_column(2, "rewards", column))


def words(root: Path) -> None:
    _rewrite(root, lambda table: table.set_column(2, "rewards", pa.array(["a"] * 5)))


def without_actions(root: Path) -> None:
    _rewrite(root, lambda table: table.drop_columns(["actions"]))


def narrower(root: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5, np.float32)), 1)
    _rewrite(root, lambda table: table.set_column(1, "actions", column))


def no_arrow(root: Path) -> None:
    (root / "1" / "part-0.arrow").write_bytes(b"PAR1" + bytes(64))


def torn_arrow(root: Path) -> None:
    path = root / "1" / "part-0.arrow"
    path.write_bytes(path.read_bytes()[:300])


def huge_offset(root: Path) -> None:
    path = root / "1" / "part-0.arrow"
    data = bytearray(path.read_bytes())
    data[16:20] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(data)


def two_files(root: Path) -> None:
    (root / "1" / "part-1.arrow").write_bytes(b"")


def arrow_elsewhere(root: Path) -> None:
    path = root / "1" / "part-0.arrow"
    path.rename(root.parent.parent / "elsewhere.arrow")
    path.symlink_to(root.parent.parent / "elsewhere.arrow")


def missing_folder(root: Path) -> None:
    (root / "1").rename(root / "7")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (compressed, "E_DATA_UNREADABLE"),
        (dictionary, "E_DATA_UNREADABLE"),
        (rows_of_nothing, "E_DATA_UNREADABLE"),
        (missing_values, "E_DATA_DTYPE"),
        (words, "E_DATA_DTYPE"),
        (without_actions, "E_DATA_SHAPE"),
        (narrower, "E_DATA_SHAPE"),
        (no_arrow, "E_DATA_UNREADABLE"),
        (torn_arrow, "E_DATA_UNREADABLE"),
        (huge_offset, "E_DATA_UNREADABLE"),
        (two_files, "E_DATA_UNREADABLE"),
        (arrow_elsewhere, "E_DATA_PATH"),
        (missing_folder, "E_DATA_UNREADABLE"),
    ],
)
def test_arrow_files_that_lie_are_refused(
    damage: Callable[[Path], None], code: str, tmp_path: Path
) -> None:
    path = write(Minari(), tmp_path / "set-v0", SPEC, EPISODES, data_format="arrow")
    damage(path / "data")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as caught:
        _read_all(path, "minari")
    assert caught.value.fault.code == code
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024


def _large_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("image", [_large_jpeg(), b"no image"], ids=["large", "none"])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_images_that_are_not_what_the_space_says_are_refused(
    data_format: str, image: bytes, tmp_path: Path
) -> None:
    path = write(Minari(), tmp_path / "set-v0", SPEC, {"0": EPISODES["0"]}, data_format=data_format)
    pixels = {"type": "Box", "dtype": "uint8", "shape": [40, 40, 3], "low": 0, "high": 255}
    space = json.dumps({"type": "Dict", "subspaces": {"pixels": pixels}})
    _metadata({"observation_space": space, "embodied": None})(path / "data")
    if data_format == "hdf5":
        with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
            rows = np.frombuffer(image * 5, np.uint8).reshape(5, -1)
            del file["episode_0/observations"]
            file["episode_0/observations/pixels"] = rows
    else:
        column = pa.StructArray.from_arrays([pa.array([image] * 5)], names=["pixels"])
        _rewrite(path / "data", lambda table: table.set_column(0, "observations", column), "0")
    with pytest.raises(DataError, match=r"E_DATA_IMAGE.*pixels"):
        _read_all(path, "minari")
