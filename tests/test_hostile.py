"""Files made to harm: none runs anything, reads outside its folder, or costs much memory.

Each is opened, read to its end and checked in a child process, the same for all as long as it
lives. It must end in a ValueError (DataError among them) or an OSError that says what is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embodied.structs import Episode, Spec
from embodied_datasets import lerobot_video
from embodied_datasets.lerobot_writer import LeRobotWriter

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
INFO, STATS = "meta/info.json", "meta/stats.json"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
SPEC = Spec(3, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"front": (16, 24)})
BUDGET_MB = 300
HUGE = 10**12

Place = tuple[Path, Path]  # the data set to write, and a folder outside it with a secret


class Payload:
    """Creates the marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def _episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (6, 16, 24, 3), dtype=np.uint8)
    state, action = rng.normal(size=(6, 3)), rng.uniform(-1, 1, (6, 2))
    return Episode(
        state.astype(np.float32), action.astype(np.float32), "go", images={"front": pixels}
    )


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "master"
    with LeRobotWriter(root, spec=SPEC) as writer:
        for seed in range(3):
            writer.add(f"{seed}", _episode(seed))
        writer.finalize()
    return root


# LeRobot


def info(**changes: Any) -> Callable[[Path, Path], None]:
    def edit(root: Path, outside: Path) -> None:
        content = json.loads((root / INFO).read_text())
        places = {
            k: v.replace("OUTSIDE", str(outside)) for k, v in changes.items() if type(v) is str
        }
        (root / INFO).write_text(json.dumps(content | changes | places))

    return edit


def feature(name: str, **changes: Any) -> Callable[[Path, Path], None]:
    def edit(root: Path, outside: Path) -> None:
        content = json.loads((root / INFO).read_text())
        content["features"][name] |= changes
        (root / INFO).write_text(json.dumps(content))

    return edit


def text(name: str, content: str | bytes) -> Callable[[Path, Path], None]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda root, outside: (root / name).write_bytes(raw) and None


def link(name: str) -> Callable[[Path, Path], None]:
    """Moves a file or folder of the set outside, and links to it: it would read perfectly well."""

    def edit(root: Path, outside: Path) -> None:
        shutil.move(root / name, outside / "moved")
        (root / name).symlink_to(outside / "moved")

    return edit


def cells(name: str, column: str, value: Any) -> Callable[[Path, Path], None]:
    """Gives all rows of a column one value."""

    def edit(root: Path, outside: Path) -> None:
        table = pq.read_table(root / name)
        index = table.schema.names.index(column)
        kind = None if isinstance(value, str) else table.schema.field(index).type
        values = pa.array([value] * len(table), kind)
        pq.write_table(table.set_column(index, column, values), root / name)

    return edit


def many_rows(root: Path, outside: Path) -> None:
    """Six million equal rows in some kilobytes."""
    table = pq.read_table(root / DATA)
    count = 10**6
    columns = {
        name: pa.DictionaryArray.from_arrays(
            np.zeros(count, np.int32), table[name][:1].combine_chunks()
        )
        for name in table.schema.names
        if not pa.types.is_nested(table.schema.field(name).type)
    }
    block = pa.table({name: column.dictionary_decode() for name, column in columns.items()})
    for name in ("observation.state", "action"):
        size = table.schema.field(name).type.list_size
        flat = pa.array(np.zeros(count * size, np.float32))
        kind = table.schema.field(name).type
        block = block.append_column(name, pa.FixedSizeListArray.from_arrays(flat, type=kind))
    with pq.ParquetWriter(root / DATA, block.schema, compression="zstd") as writer:
        for _ in range(6):
            writer.write_table(block)
    cells(EPISODES, "length", 6 * 10**6 // 3)(root, outside)


def long_texts(name: str, column: str) -> Callable[[Path, Path], None]:
    """One text of a megabyte in ten thousand rows: kilobytes on disk, gigabytes as strings."""

    def edit(root: Path, outside: Path) -> None:
        table = pq.read_table(root / name)
        count = 10**4
        rows = pa.concat_tables([table] * (count // len(table) + 1)).slice(0, count)
        words = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(["x" * 10**6]))
        index = rows.schema.names.index(column)
        pq.write_table(rows.set_column(index, column, words), root / name, compression="zstd")

    return edit


def many_episodes(root: Path, outside: Path) -> None:
    table = pa.table({"episode_index": np.zeros(10**6 + 1, np.int64)})
    for name in pq.read_schema(root / EPISODES).names[2:]:
        table = table.append_column(name, table["episode_index"])
    pq.write_table(table, root / EPISODES)


def png(width: int, height: int) -> bytes:
    """A PNG that declares its sides and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**4))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def large_video(root: Path, outside: Path) -> None:
    frames = np.zeros((2, 1024, 1024, 3), np.uint8)
    lerobot_video.encode(root / VIDEO, frames, 10.0)


def recording(**changes: Any) -> Callable[[Path, Path], None]:
    """A set that claims to be still in recording."""

    def edit(root: Path, outside: Path) -> None:
        shutil.rmtree(root / "meta")
        (root / "incoming").mkdir()
        shutil.move(root / DATA, root / "incoming" / "0.parquet")
        facts = {
            "robot_type": None, "state_dim": 3, "action_dim": 2, "action_low": [-1, -1],
            "action_high": [1, 1], "rate_hz": 10.0, "cameras": {}, "render_profile": None,
        }  # fmt: skip
        (root / "incoming/recording.json").write_text(json.dumps(facts | changes))

    return edit


LEROBOT: dict[str, Callable[[Path, Path], None]] = {
    "data above the root": info(data_path="../outside/moved"),
    "data at an absolute path": info(data_path="OUTSIDE/secret.parquet"),
    "data path that reads attributes": info(data_path="{chunk_index.__class__.__mro__}"),
    "data path that reads globals": info(data_path="{video_key.__init__.__globals__}"),
    "data path of a gigabyte": info(data_path="{chunk_index:01000000000d}"),
    "data path with a conversion": info(data_path="{chunk_index!r:>999999999}"),
    "data path with a nested width": info(data_path="{chunk_index:{file_index}}"),
    "data path by position": info(data_path="{0}{1}"),
    "data path with a zero byte": info(data_path="data/\0/{chunk_index}"),
    "data path that is no text": info(data_path=["a"]),
    "video above the root": info(video_path="../outside/secret{chunk_index}"),
    "video path that reads attributes": info(video_path="{video_key.__class__}"),
    "data file that is a link": link(DATA),
    "data folder that is a link": link("data"),
    "header that is a link": link(INFO),
    "tasks that are a link": link(TASKS),
    "episodes that are a link": link("meta/episodes"),
    "video that is a link": link(VIDEO),
    "header of 20 megabytes": text(INFO, '{"a": "' + "x" * 20 * 2**20 + '"}'),
    "header of 100,000 lists": text(INFO, "[" * 10**5 + "]" * 10**5),
    "header of 100,000 objects": text(INFO, '{"a":' * 10**5 + "1" + "}" * 10**5),
    "header that is no text": text(INFO, b"\xff\xfe\x00\x01"),
    "header that is a list": text(INFO, "[]"),
    "a number of 100,000 digits": text(INFO, '{"fps": ' + "9" * 10**5 + "}"),
    "an infinite rate": text(INFO, '{"codebase_version": "v3.0", "fps": 1e999, "features": {}}'),
    "a state of a trillion numbers": feature("observation.state", shape=[HUGE]),
    "a state of minus one number": feature("observation.state", shape=[-1]),
    "images of a trillion pixels": feature("observation.images.front", shape=[10**6, 10**6, 3]),
    "features that are a list": info(features=[1, 2]),
    "six million equal rows": many_rows,
    "long texts as tasks": long_texts(TASKS, "task"),
    "long texts as facts": long_texts(EPISODES, "info"),
    "a million and one episodes": many_episodes,
    "an episode of 2^62 steps": cells(EPISODES, "length", 2**62),
    "an episode of -6 steps": cells(EPISODES, "length", -6),
    "a chunk of 10^18": cells(EPISODES, "data/chunk_index", 10**18),
    "a film that starts at NaN": cells(
        EPISODES, "videos/observation.images.front/from_timestamp", float("nan")
    ),
    "a task of 2^62": cells(DATA, "task_index", 2**62),
    "texts as actions": cells(DATA, "action", "x" * 100),
    "data that are noise": text(DATA, b"PAR1" + bytes(range(256)) * 40 + b"PAR1"),
    "data that are empty": text(DATA, b""),
    "a film that is a PNG of 60,000 x 60,000": text(VIDEO, png(60_000, 60_000)),
    "a film that is larger than declared": large_video,
    "a film that is text": text(VIDEO, "#EXTM3U\n/etc/passwd\n"),
    "a film that plays another file": text(VIDEO, "ffconcat version 1.0\nfile '/etc/hostname'\n"),
    "a recording of a trillion numbers": recording(state_dim=HUGE),
    "a recording without facts": recording(),
}  # fmt: skip


def lerobot(name: str) -> Callable[[Path, Path, Path], Path]:
    def make(folder: Path, outside: Path, master: Path) -> Path:
        root = Path(shutil.copytree(master, folder / "set"))
        LEROBOT[name](root, outside)
        return root

    return make


# HDF5, in the flat layout of D4RL


def d4rl(edit: Callable[[Any, Path], None]) -> Callable[[Path, Path, Path], Path]:
    def make(folder: Path, outside: Path, master: Path) -> Path:
        h5py = pytest.importorskip("h5py")
        path = folder / "flat.hdf5"
        with h5py.File(path, "w") as file:
            for key, shape in {"observations": (8, 3), "actions": (8, 2), "rewards": (8,)}.items():
                file[key] = np.zeros(shape, np.float32)
            file["terminals"] = file["timeouts"] = np.arange(8) == 7
            del file["observations"]
            edit(file, outside)
        return path

    return make


def external_storage(file: Any, outside: Path) -> None:
    secret = [(str(outside / "secret.bin"), 0, 96)]
    file.create_dataset("observations", (8, 3), "f4", external=secret)


def external_link(file: Any, outside: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(outside / "secret.hdf5", "w") as other:
        other["observations"] = np.ones((8, 3), np.float32)
    file["observations"] = h5py.ExternalLink(str(outside / "secret.hdf5"), "observations")


def soft_loop(file: Any, outside: Path) -> None:
    h5py = pytest.importorskip("h5py")
    file["observations"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/observations")


def unwritten(file: Any, outside: Path) -> None:
    file.create_dataset("observations", (10**9, 300), "f4", chunks=(1000, 300))


def squeezed(file: Any, outside: Path) -> None:
    values = file.create_dataset(
        "observations", (10**5, 1000), "f4", chunks=(10**4, 1000), compression="gzip"
    )
    values[:10] = 0


def objects(file: Any, outside: Path) -> None:
    h5py = pytest.importorskip("h5py")
    file.create_dataset("observations", (8,), h5py.string_dtype())


# NumPy


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def npz(content: Callable[[Path], bytes]) -> Callable[[Path, Path, Path], Path]:
    """An npz with one hostile member, `state`, beside sound ones."""

    def make(folder: Path, outside: Path, master: Path) -> Path:
        path = folder / "set.npz"
        sound = {"action": np.zeros((8, 2), np.float32), "episode_ends": np.array([8])}
        np.savez(path, **sound)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("state.npy", content(outside))
        return path

    return make


def pickled(outside: Path) -> bytes:
    path = outside / "object.npy"
    np.save(path, np.array([Payload(outside / "marker")], object))
    return path.read_bytes()


# Zarr and TFRecord


def zarr(**changes: Any) -> Callable[[Path, Path, Path], Path]:
    """A version 2 group as diffusion_policy writes it; `changes` are those of the state's array."""

    def make(folder: Path, outside: Path, master: Path) -> Path:
        root = folder / "replay.zarr"
        arrays = {"data/state": (8, 3), "data/action": (8, 2), "meta/episode_ends": (1,)}
        for group in (root, root / "data", root / "meta"):
            group.mkdir(parents=True)
            (group / ".zgroup").write_text('{"zarr_format": 2}')
        for name, shape in arrays.items():
            facts = {
                "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "<f4", "order": "C",
                "compressor": None, "fill_value": 0, "filters": None,
            }  # fmt: skip
            ends = name == "meta/episode_ends"
            facts |= {"dtype": "<i8"} if ends else {}
            facts |= changes if name == "data/state" else {}
            (root / name).mkdir()
            (root / name / ".zarray").write_text(json.dumps(facts))
            values = np.array([8], np.int64) if ends else np.zeros(shape, np.float32)
            (root / name / ("0" if ends else "0.0")).write_bytes(values.tobytes())
        return root

    return make


def tfrecord(content: bytes) -> Callable[[Path, Path, Path], Path]:
    def make(folder: Path, outside: Path, master: Path) -> Path:
        root = folder / "set" / "1.0.0"
        root.mkdir(parents=True)
        (root / "set-train.tfrecord-00000-of-00001").write_bytes(content)
        for name in ("dataset_info.json", "features.json"):
            (root / name).write_text("{}")
        return root

    return make


CASES: dict[str, tuple[str, Callable[[Path, Path, Path], Path]]] = {
    **{f"lerobot: {name}": ("lerobot", lerobot(name)) for name in LEROBOT},
    "hdf5: external storage": ("d4rl", d4rl(external_storage)),
    "hdf5: link to another file": ("d4rl", d4rl(external_link)),
    "hdf5: links in a loop": ("d4rl", d4rl(soft_loop)),
    "hdf5: a terabyte never written": ("d4rl", d4rl(unwritten)),
    "hdf5: compressed zeros": ("d4rl", d4rl(squeezed)),
    "hdf5: objects": ("d4rl", d4rl(objects)),
    "npz: pickled objects": ("npz", npz(pickled)),
    "npz: a shape of a trillion": ("npz", npz(lambda _: npy_header(f"({HUGE}, 3)") + bytes(96))),
    "npz: compressed zeros": ("npz", npz(lambda _: npy_header("(50000000,)") + bytes(2 * 10**8))),
    "npz: a header that is code": ("npz", npz(lambda _: npy_header("__import__('os').getcwd()"))),
    "npz: negative shape": ("npz", npz(lambda _: npy_header("(-8, 3)") + bytes(96))),
    "zarr: a chunk of a trillion": ("zarr", zarr(shape=[HUGE, 3], chunks=[HUGE, 3])),
    "zarr: a trillion unwritten rows": ("zarr", zarr(shape=[HUGE, 3], chunks=[8, 3])),
    "zarr: an unknown codec": ("zarr", zarr(compressor={"id": "evil", "path": "/etc/passwd"})),
    "zarr: a pickle codec": ("zarr", zarr(dtype="|O", filters=[{"id": "pickle"}])),
    "zarr: no chunks": ("zarr", zarr(chunks=[0, 0])),
    "tfrecord: 2^63 bytes": ("rlds", tfrecord(struct.pack("<QI", 2**63, 0) + bytes(64))),
    "tfrecord: 4 gigabytes": ("rlds", tfrecord(struct.pack("<QI", 2**32, 0) + bytes(64))),
    "tfrecord: noise": ("rlds", tfrecord(bytes(range(256)) * 4)),
}  # fmt: skip

CHILD = """
import json, sys
from pathlib import Path

import av, numpy, pyarrow.parquet
from embodied_datasets.checking.run import inspect_path
from embodied_datasets.formats import open_episodes

def peak():  # not ru_maxrss, which remembers the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

def read(path, name):
    try:
        episodes = open_episodes(path, format=name, max_bytes=2**26)
    except TypeError:
        episodes = open_episodes(path, format=name)
    for episode in episodes:
        for camera in episode.images:
            episode.images[camera]

for name, path, format in json.load(sys.stdin):
    found = {"name": name}
    try:
        read(Path(path), format)
        found["error"] = None
    except Exception as error:
        found["error"] = [c.__name__ for c in type(error).__mro__], str(error)
    try:
        found["exit"] = inspect_path(Path(path), format=format).exit_code()
    except Exception as error:
        found["crash"] = f"check: {type(error).__name__}: {error}"
    print(json.dumps(found | {"peak": peak()}), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(
    master: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """What became of every file."""
    folder = tmp_path_factory.mktemp("files")
    files: list[tuple[str, str, str]] = []
    for number, (name, (format, make)) in enumerate(CASES.items()):
        case, outside = folder / f"{number}", folder / f"{number}" / "outside"
        outside.mkdir(parents=True)
        (outside / "secret.bin").write_bytes(b"S" * 96)
        shutil.copy(master / DATA, outside / "secret.parquet")
        files.append((name, str(make(case, outside, master)), format))
    found: dict[str, dict[str, Any]] = {}
    while files:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps(files),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found |= {line["name"]: line for line in lines}
        if done.returncode:  # the next file was too much for it
            found[files[len(lines)][0]] = {"crash": done.stderr[-2000:]}
        files = files[len(lines) + 1 :]
    found["markers"] = {str(path): True for path in folder.glob("*/outside/marker")}
    yield found
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    found = outcomes[name]
    assert "crash" not in found, found
    assert found["error"] is not None, "it was read without an error"
    kinds, message = found["error"]
    assert {"ValueError", "OSError"} & set(kinds), f"{kinds[0]}: {message}"
    assert message
    assert len(message) < 5000
    assert found["exit"] in (1, 2)
    assert found["peak"] < BUDGET_MB


def test_no_hostile_file_ran_anything(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["markers"] == {}


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x.npy").write_bytes(pickled(tmp_path / "x"))
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert (tmp_path / "x" / "marker").exists()


def test_there_are_at_least_forty_hostile_files() -> None:
    assert len(CASES) >= 40
