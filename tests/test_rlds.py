"""RLDS without TensorFlow: framing, protocol buffers, features, and records that lie."""

import io
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from embodied.structs import Annotation
from embodied.testing import check_episodes
from embodied_datasets import tfrecord
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.formats import find_format, open_episodes
from embodied_datasets.protobuf import parse_example, varints

REALDATA = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data"))
Values = list[bytes] | NDArray[Any]

# A slow and obvious writer of the same bytes.


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _message(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _feature(values: Values) -> bytes:
    if isinstance(values, list):
        return _message(1, b"".join(_message(1, value) for value in values))
    if values.dtype.kind == "f":
        return _message(2, _message(1, values.astype("<f4").tobytes()))
    return _message(
        3, _message(1, b"".join(map(_varint, values.astype(np.int64).ravel().tolist())))
    )


def _example(features: Mapping[str, Values]) -> bytes:
    entries = (
        _message(1, _message(1, name.encode()) + _message(2, _feature(values)))
        for name, values in features.items()
    )
    return _message(1, b"".join(entries))


def _frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    masks = [struct.pack("<I", tfrecord.masked_crc(each)) for each in (length, data)]
    return length + masks[0] + data + masks[1]


def _picture(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


# Framing


def test_crc32c_is_the_one_of_the_standard() -> None:
    # RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending.
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


@given(data=st.binary(max_size=200))
@settings(max_examples=20, deadline=None)
def test_our_crc32c_is_the_library_s(data: bytes) -> None:
    library = pytest.importorskip("google_crc32c")
    assert tfrecord.crc32c(data) == library.value(data)


def test_records_are_found_and_their_checksums_verified(tmp_path: Path) -> None:
    path, records = tmp_path / "a.tfrecord", [b"one", b"", b"three" * 100]
    path.write_bytes(b"".join(map(_frame, records)))
    found = tfrecord.find_records(path)
    assert [tfrecord.read_record(each, 2**20) for each in found] == records
    with pytest.raises(DataError, match="max_bytes"):
        tfrecord.read_record(found[2], 499)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="fails its checksum"):
        tfrecord.read_record(found[2], 2**20)


@given(
    bytes_=st.lists(st.binary(max_size=9), max_size=5),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    integers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
)
@settings(max_examples=30, deadline=None)
def test_an_example_is_read_as_it_was_written(
    bytes_: list[bytes], floats: list[float], integers: list[int]
) -> None:
    features: dict[str, Values] = {
        "a": bytes_,
        "b/\u00e9": np.array(floats, np.float32),
        "c": np.array(integers, np.int64),
    }
    found = parse_example(_example(features))
    assert list(found["a"]) == bytes_
    np.testing.assert_array_equal(found["b/\u00e9"], features["b/\u00e9"])
    np.testing.assert_array_equal(found["c"], features["c"])


def test_numbers_may_come_one_at_a_time() -> None:
    singles = b"".join(_varint(1 << 3 | 5) + struct.pack("<f", x) for x in (1.5, -2.0))
    integers = b"".join(_varint(1 << 3 | 0) + _varint(x) for x in (3, -4, 500))
    entries = [
        _message(1, _message(1, name) + _message(2, _message(kind, values)))
        for name, kind, values in ((b"f", 2, singles), (b"i", 3, integers))
    ]
    found = parse_example(_message(1, b"".join(entries)))
    np.testing.assert_array_equal(found["f"], [1.5, -2.0])
    np.testing.assert_array_equal(found["i"], [3, -4, 500])


@given(data=st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_noise_is_an_example_or_a_value_error(data: bytes) -> None:
    for parse in (parse_example, lambda x: varints(np.frombuffer(x, np.uint8))):
        try:
            parse(data)
        except ValueError:
            continue


# Episodes

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def _steps(length: int = 4, **changes: Any) -> dict[str, Values]:
    steps = np.arange(length)
    features: dict[str, Values] = {
        "steps/observation/state": np.arange(3 * length, dtype=np.float32),
        "steps/observation/image": [_picture(x) for x in PIXELS[:length]],
        "steps/action": np.linspace(-1, 1, 2 * length, dtype=np.float32),
        "steps/reward": (steps == length - 1).astype(np.float32),
        "steps/is_first": steps == 0,
        "steps/is_last": steps == length - 1,
        "steps/is_terminal": np.zeros(length, bool),
        "steps/language_instruction": [b"put the cup away"] * length,
        "steps/gripper": steps,
        "episode_metadata/file_path": [b"/data/1.npy"],
        "episode_metadata/goal": np.array([1.5, 2.5], np.float32),
    }
    return {name: x for name, x in (features | changes).items() if x is not None}


def _write(folder: Path, episodes: Sequence[Mapping[str, Values]], described: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = b"".join(_frame(_example(episode)) for episode in episodes)
    (folder / "cups-train.tfrecord-00000-of-00001").write_bytes(data)
    if described:
        (folder / "features.json").write_text(json.dumps(DESCRIPTION))
    return folder


def _tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"tensor": {"shape": sizes, "dtype": dtype, "encoding": encoding}}


def _dict(**features: Any) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


STEPS: dict[str, Any] = {
    "observation": _dict(
        state=_tensor("float32", 3),
        image={
            "image": {
                "shape": {"dimensions": ["6", "8", "3"]},
                "dtype": "uint8",
                "encodingFormat": "png",
            }
        },
        depth=_tensor("uint16", 2, 2, encoding="bytes"),
        mask=_tensor("int8", 4, encoding="zlib"),
        points={"sequence": {"feature": _tensor("float32", 3)}},
    ),
    "action": _tensor("float64", 2),
    "reward": _tensor("float32"),
    **{name: _tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
    "language_instruction": {"text": {}},
    "gripper": _tensor("int32"),
}
DESCRIPTION = _dict(
    steps={"sequence": {"feature": _dict(**STEPS)}},
    episode_metadata=_dict(file_path={"text": {}}, goal=_tensor("float32", 2)),
)


def _encoded(length: int = 4) -> dict[str, Values]:
    depth = np.arange(4, dtype=np.uint16).tobytes()
    return {
        "steps/observation/depth": [depth] * length,
        "steps/observation/mask": [zlib.compress(bytes([1, 2, 3, 4]))] * length,
    }


@pytest.mark.parametrize("described", [True, False])
def test_an_episode_is_what_its_features_say(described: bool, tmp_path: Path) -> None:
    more = _encoded() if described else {}
    terminal = np.array([0, 0, 1])
    short = {**_steps(3, **{"steps/is_terminal": terminal}), **(_encoded(3) if described else {})}
    path = _write(tmp_path / "1.0.0", [{**_steps(), **more}, short], described)
    for place in (path, tmp_path):
        assert find_format(place).name == "rlds"
    episodes = open_episodes(tmp_path, rate_hz=5.0)
    check_episodes(episodes)
    first, second = episodes
    np.testing.assert_array_equal(first.state, np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(first.reward, np.array([0, 0, 0, 1], np.float32))
    np.testing.assert_array_equal(first.images["image"], PIXELS[:4])
    np.testing.assert_array_equal(first.extras["gripper"], np.arange(4))
    assert first.instruction == "put the cup away"
    assert first.info == {"file_path": "/data/1.npy", "goal": [1.5, 2.5]}
    assert (first.terminated, first.truncated) == (False, True)
    assert (second.terminated, second.truncated) == (True, False)
    assert episodes.spec.cameras == {"image": (6, 8)}
    assert episodes.spec.action_low == pytest.approx((-1, -5 / 7))
    if described:
        np.testing.assert_array_equal(first.extras["observation/depth"][3], [[0, 1], [2, 3]])
        np.testing.assert_array_equal(second.extras["observation/mask"][2], [1, 2, 3, 4])


def test_an_instruction_that_changes_is_a_subtask_from_there_on(tmp_path: Path) -> None:
    texts = [b"open", b"open", b"close", b"close"]
    path = _write(tmp_path / "a", [_steps(**{"steps/language_instruction": texts})])
    episode = open_episodes(path)[0]
    assert episode.instruction == "open"
    assert episode.annotations == (
        Annotation("subtask", "open", 0),
        Annotation("subtask", "close", 2),
    )


def test_actions_and_states_in_parts_are_joined_by_name(tmp_path: Path) -> None:
    parts = {
        "steps/action": None,
        "steps/action/world_vector": np.ones(12, np.float32),
        "steps/action/gripper": np.zeros(4, np.float32),
        "steps/observation/state": None,
        "steps/observation/pose": np.full(8, 2, np.float32),
        "steps/observation/joints": np.full(12, 3, np.float32),
        "steps/observation/natural_language_embedding": np.zeros(64, np.float32),
    }
    path = _write(tmp_path / "a", [_steps(**parts)])
    found = open_episodes(path)
    np.testing.assert_array_equal(found[0].action[0], [0, 1, 1, 1])
    np.testing.assert_array_equal(found[0].state[0], [3, 3, 3, 2, 2])
    assert found.spec.state_parts == {"observation/joints": 3, "observation/pose": 2}
    chosen = open_episodes(path, state=["observation/pose"], action=["action/world_vector"])
    assert (chosen.spec.state_dim, chosen.spec.action_dim) == (2, 3)
    assert chosen.fingerprint != found.fingerprint
    with pytest.raises(DataError, match="nix"):
        open_episodes(path, state=["nix"])


def test_splits_are_chosen_and_missing_shards_noticed(tmp_path: Path) -> None:
    _write(tmp_path, [_steps(4)])
    train = tmp_path / "cups-train.tfrecord-00000-of-00001"
    val = tmp_path / "cups-val.tfrecord-00000-of-00002"
    val.write_bytes(train.read_bytes())
    assert len(open_episodes(tmp_path)) == 1
    with pytest.raises(DataError, match=r"shards \[0\] of 2"):
        open_episodes(tmp_path, split="val")
    (tmp_path / "cups-val.tfrecord-00001-of-00002").write_bytes(train.read_bytes())
    assert len(open_episodes(tmp_path, split="val")) == 2
    assert len(open_episodes(val)) == 1
    with pytest.raises(ValueError, match=r"no split 'test'; it has \['train', 'val'\]"):
        open_episodes(tmp_path, split="test")


def test_shards_hold_what_the_set_s_description_counts(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", [_steps(), _steps()])
    info = path / "dataset_info.json"
    for counts in (["2"], ["3"], "x"):
        info.write_text(json.dumps({"splits": [{"name": "train", "shardLengths": counts}]}))
        if counts == ["2"]:
            assert len(open_episodes(path)) == 2
            continue
        with pytest.raises(DataError, match=r"says 3|how long"):
            open_episodes(path)


def test_known_bounds_save_the_look_at_every_record(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", [_steps(), _steps()])
    file = next(path.iterdir())
    data = bytearray(file.read_bytes())
    data[-10] ^= 1  # in the second record
    file.write_bytes(data)
    found = open_episodes(path, action_bounds=((-1, -1), (1, 1)))
    assert found.spec.action_high == (1, 1)
    assert len(found[0]) == 4
    with pytest.raises(DataError, match="checksum") as caught:
        found[1]
    assert caught.value.fault.episode == 1
    with pytest.raises(DataError, match="checksum"):
        open_episodes(path)


def test_numbers_that_are_not_finite_are_located(tmp_path: Path) -> None:
    state = np.zeros(12, np.float32)
    state[7] = np.nan
    bad = _steps(**{"steps/observation/state": state})
    path = _write(tmp_path / "a", [_steps(), bad])
    with pytest.raises(DataError, match="not finite"):
        open_episodes(path)
    faults: list[Fault] = []
    found = open_episodes(path, report=faults.append, action_bounds=((-1, -1), (1, 1)))
    assert len(found[1]) == 4
    assert [(x.episode, x.frame, x.field) for x in faults] == [(1, 2, "state")]


# Records that lie


def _huge_png() -> bytes:
    data = bytearray(_picture(PIXELS[0]))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _image(data: bytes) -> dict[str, Values]:
    return {"steps/observation/image": [data] * 4}


BAD_EPISODES: dict[str, dict[str, Any]] = {
    "a picture of 3.6 gigapixels": _image(_huge_png()),
    "a picture of another size": _image(_picture(PIXELS[0, :3])),
    "a picture cut short": _image(_picture(PIXELS[0])[:-60]),
    "a picture of another kind": _image(_picture(PIXELS[0], "BMP")),
    "too few pictures": {"steps/observation/image": [_picture(PIXELS[0])]},
    "too few numbers": {"steps/action": np.zeros(7, np.float32)},
    "texts for numbers": {"steps/action": [b"a"] * 4},
    "numbers for texts": {"steps/language_instruction": np.zeros(4)},
    "no steps": {f"steps/is_{name}": None for name in ("first", "last", "terminal")},
    "two first steps": {"steps/is_first": np.array([1, 0, 1, 0])},
    "an early last step": {"steps/is_last": np.array([0, 1, 0, 0])},
    "a deflated bomb": {"steps/observation/mask": [zlib.compress(bytes(2**25))] * 4},
    "too few bytes": {"steps/observation/depth": [b"abc"] * 4},
}


@pytest.mark.parametrize("changes", BAD_EPISODES.values(), ids=BAD_EPISODES.keys())
def test_an_episode_that_lies_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    features = {name: x for name, x in (_steps() | _encoded() | changes).items() if x is not None}
    path = _write(tmp_path / "a", [features], described=True)

    def read() -> None:
        assert open_episodes(path)[0].images["image"].shape

    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert caught.value.fault.file is not None


def _bytes_of(make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(make(file.read_bytes()))


def _nested(data: bytes) -> bytes:
    return _frame(_message(1, _message(1, _message(2, _message(1, b"\x0a\xff\xff\xff\xff\x07a")))))


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "a length that lies": _bytes_of(lambda data: b"\xff" * 7 + data[7:]),
    "an honest length beyond the file": _bytes_of(
        lambda data: (
            struct.pack("<Q", 2**60)
            + struct.pack("<I", tfrecord.masked_crc(struct.pack("<Q", 2**60)))
            + data[12:]
        )
    ),
    "half a record": _bytes_of(lambda data: data[:-100]),
    "half a head": _bytes_of(lambda data: data + b"abc"),
    "nothing": _bytes_of(lambda data: b""),
    "no example": _bytes_of(lambda data: _frame(b"\xff" * 50)),
    "a field beyond the record": _bytes_of(_nested),
    "a group": _bytes_of(lambda data: _frame(b"\x0b\x0c")),
    "endless entries": _bytes_of(lambda data: _frame(_message(1, b"\x0a\x00" * 2_000_000))),
    "endless integers": _bytes_of(
        lambda data: _frame(
            _message(1, _message(1, _message(2, _message(3, _message(1, bytes(2**25))))))
        )
    ),
    "features that are a list": lambda file: (file.parent / "features.json").write_text("[]"),
    "features that nest": lambda file: (file.parent / "features.json").write_text(
        '{"featuresDict":{"features":{"a":' * 50_000
    ),
    "much about features": lambda file: (file.parent / "features.json").write_text(" " * 2**23),
    "a shape beyond all memory": lambda file: (file.parent / "features.json").write_text(
        json.dumps(
            _dict(
                steps={
                    "sequence": {
                        "feature": _dict(**(STEPS | {"action": _tensor("float32", 2**62)}))
                    }
                }
            )
        )
    ),
}


@pytest.mark.parametrize("damage", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_lies_is_refused_before_it_costs_memory(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    path = _write(tmp_path / "a", [_steps()])
    damage(path / "cups-train.tfrecord-00000-of-00001")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            open_episodes(path)
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "steps"),
    [("bridge_dataset", 250), ("bridge_dataset/1.0.0", 250), ("older_variable_length", None)],
)
def test_bridge_opens(name: str, steps: int | None) -> None:
    path = REALDATA / "bridge_rlds_sample" / name
    if not path.exists():
        pytest.skip(f"{path} is absent; EMBODIED_REALDATA names the folder of the public data")
    episodes = open_episodes(path)
    check_episodes(episodes)
    lengths = [len(each) for each in episodes]
    assert len(lengths) == 25
    assert sum(lengths) == steps if steps else (min(lengths), max(lengths)) == (4, 13)
    assert episodes.spec.cameras == {f"image_{i}": (64, 64) for i in range(4)}
    instructions = [each.instruction for each in episodes]
    assert instructions.count("put carrot on plate") == 8
    assert len(set(instructions)) == 4
    np.testing.assert_allclose(
        np.linalg.norm(episodes[0].extras["language_embedding"], axis=1), 1, 1e-4
    )
