"""npz files: flat ones and OGBench's, what their arrays mean, and files that lie."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.structs import Episode, Spec
from embodied.testing import check_episodes
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.formats import all_formats, find_format, open_episodes
from embodied_datasets.npz_safe import Npz
from embodied_datasets.zip_safe import leads_out, open_zip

REALDATA = Path(os.environ.get("EMBODIED_REALDATA", "../shared/data"))
SPEC = Spec(2, 1, (-1.0,), (1.0,), 10.0)


def _flat(**changes: Any) -> dict[str, Any]:
    """Two episodes of 3 and 2 steps, as a paper would publish them."""
    arrays = {
        "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
        "actions": np.linspace(-1, 1, 5, dtype=np.float32)[:, None],
        "rewards": np.arange(5, dtype=np.float64),
        "episode_ends": np.array([3, 5]),
    }
    return {name: x for name, x in (arrays | changes).items() if x is not None}


def _save(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


# Flat files


def test_flat_arrays_are_cut_at_episode_ends(tmp_path: Path) -> None:
    arrays = _flat(
        init_qpos=np.array([[0.5, 1.5], [2.5, 3.5]]),
        next_observations=np.arange(2, 12, dtype=np.float32).reshape(5, 2),
        terminals=np.array([0, 0, 1, 0, 0]),
        timeouts=np.array([0, 0, 0, 0, 1]),
        contact=np.array([1, 0, 1, 1, 0]),
    )
    episodes = open_episodes(_save(tmp_path / "open_door.npz", arrays), rate_hz=50.0)
    check_episodes(episodes)
    first, second = episodes
    assert (len(first), len(second)) == (3, 2)
    np.testing.assert_array_equal(second.state, [[6, 7], [8, 9]])
    np.testing.assert_array_equal(second.reward, np.array([3, 4], np.float32))
    np.testing.assert_array_equal(second.final["state"], [10, 11])
    np.testing.assert_array_equal(first.extras["contact"], [1, 0, 1])
    assert first.info == {"init_qpos": [0.5, 1.5]}
    assert (first.terminated, first.truncated) == (True, False)
    assert (second.terminated, second.truncated) == (False, True)
    assert first.instruction == "open door"
    assert episodes.spec.rate_hz == 50.0
    assert (episodes.spec.action_low, episodes.spec.action_high) == ((-1.0,), (1.0,))


def test_pixels_as_observations_become_a_camera(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    episodes = open_episodes(_save(tmp_path / "a.npz", _flat(observations=pixels)))
    check_episodes(episodes)
    assert episodes.spec.cameras == {"image": (4, 6)}
    assert episodes.spec.state_dim == 0
    np.testing.assert_array_equal(episodes[1].images["image"], pixels[3:])


def test_fingerprints_tell_files_and_options_apart(tmp_path: Path) -> None:
    a = _save(tmp_path / "a.npz", _flat())
    changed = _flat()
    changed["rewards"][0] = 7
    b = _save(tmp_path / "b.npz", changed)
    seen = {
        open_episodes(a).fingerprint,
        open_episodes(b).fingerprint,
        open_episodes(a, rate_hz=20).fingerprint,
    }
    assert len(seen) == 3
    assert open_episodes(a).fingerprint in seen


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"episode_ends": np.array([3, 4])}, "state"),
        ({"episode_ends": np.array([3, 3, 5])}, "episode_ends"),
        ({"episode_ends": np.array([5, 3])}, "episode_ends"),
        ({"episode_ends": np.array([0, 5])}, "episode_ends"),
        ({"episode_ends": np.array([], np.int64)}, "episode_ends"),
        ({"episode_ends": np.array([3.0, 5.0])}, "episode_ends"),
        ({"rewards": np.zeros(4)}, "reward"),
        ({"rewards": np.zeros((5, 2))}, "reward"),
        ({"actions": np.zeros(5)}, "action"),
        ({"observations": np.zeros((5, 2, 2))}, "state"),
        ({"next_observations": np.zeros((5, 3))}, "next_observations"),
        ({"terminals": np.zeros(4)}, "terminals"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_named(
    changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    path = _save(tmp_path / "a.npz", _flat(**changes))
    with pytest.raises(DataError) as caught:
        open_episodes(path)
    assert caught.value.fault.field == field
    assert caught.value.fault.file == path


def test_numbers_that_are_not_finite_are_located(tmp_path: Path) -> None:
    arrays = _flat()
    arrays["observations"][[3, 4], 1] = [np.nan, np.inf]
    path = _save(tmp_path / "a.npz", arrays)
    with pytest.raises(DataError, match="not finite in 2 frames"):
        open_episodes(path)
    faults: list[Fault] = []
    assert len(open_episodes(path, report=faults.append)) == 2
    assert [(x.episode, x.frame, x.field, x.count) for x in faults] == [(1, 0, "state", 2)]


def test_images_that_are_not_compressed_stay_on_disk(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 128, 128, 3), dtype=np.uint8)
    spec = Spec(2, 1, (-1.0,), (1.0,), 10.0, cameras={"front": (128, 128)})
    path = tmp_path / "a.npz"
    with all_formats()["npz"].create(path, spec) as writer:
        for i in range(4):
            state, action = np.zeros((16, 2), np.float32), np.zeros((16, 1), np.float32)
            frames = {"front": images[16 * i : 16 * (i + 1)]}
            writer.add(str(i), Episode(state, action, "look", images=frames))
        writer.finalize()
    tracemalloc.start()
    found = open_episodes(path)[2].images["front"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, images[32:48])
    assert peak < 2 * found.nbytes  # of four episodes, one was read


# OGBench


def _ogbench(**changes: Any) -> dict[str, Any]:
    """Two trajectories of 3 and 2 rows."""
    arrays = {
        "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
        "actions": np.linspace(-1, 1, 5, dtype=np.float32)[:, None],
        "terminals": np.array([0, 0, 1, 0, 1], np.float32),
        "qpos": np.arange(15, dtype=np.float64).reshape(5, 3),
    }
    return arrays | changes


def test_the_last_row_of_an_ogbench_trajectory_is_what_was_seen_last(tmp_path: Path) -> None:
    path = _save(tmp_path / "cube-single-play-v0.npz", _ogbench())
    assert find_format(path).name == "ogbench"
    episodes = open_episodes(path)
    check_episodes(episodes)
    assert [len(each) for each in episodes] == [2, 1]
    np.testing.assert_array_equal(episodes[0].final["state"], [4, 5])
    np.testing.assert_array_equal(episodes[1].state, [[6, 7]])
    np.testing.assert_array_equal(episodes[1].extras["qpos"], [[9, 10, 11]])


def test_ogbench_transitions_are_those_of_its_own_loader(tmp_path: Path) -> None:
    ogbench = pytest.importorskip("ogbench.utils")
    path = _save(tmp_path / "a.npz", _ogbench())
    theirs, ours = ogbench.load_dataset(path), list(open_episodes(path))
    for name, rows in (
        ("observations", [x.state for x in ours]),
        ("actions", [x.action for x in ours]),
    ):
        np.testing.assert_array_equal(np.concatenate(rows), theirs[name])
    following = [np.vstack([x.state[1:], x.final["state"]]) for x in ours]
    np.testing.assert_array_equal(np.concatenate(following), theirs["next_observations"])


def test_what_we_write_is_read_by_ogbench_itself(tmp_path: Path) -> None:
    ogbench = pytest.importorskip("ogbench.utils")
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    episode = Episode(
        rng.standard_normal((4, 2), np.float32),
        rng.uniform(-1, 1, (4, 1)).astype(np.float32),
        "push",
        final={"state": np.ones(2, np.float32)},
    )
    with all_formats()["ogbench"].create(path, SPEC) as writer:
        writer.add("a", episode)
        writer.finalize()
    theirs = ogbench.load_dataset(path)
    np.testing.assert_array_equal(theirs["observations"], episode.state)
    np.testing.assert_array_equal(theirs["actions"], episode.action)
    np.testing.assert_array_equal(theirs["next_observations"][-1], [1, 1])


@pytest.mark.parametrize(
    ("masks", "terminated", "success"),
    [
        (None, (False, False), (False, False)),
        ([1, 1, 1, 1, 1], (False, False), (False, False)),
        ([1, 0, 1, 1, 1], (True, False), (True, False)),
        ([1, 1, 0, 1, 1], (True, False), (True, False)),
        ([0, 1, 1, 0, 1], (False, True), (True, True)),
    ],
)
def test_only_masks_say_that_an_ogbench_episode_terminated(
    masks: list[int] | None, terminated: tuple[bool], success: tuple[bool], tmp_path: Path
) -> None:
    changes = {} if masks is None else {"masks": np.array(masks, np.float32)}
    episodes = open_episodes(_save(tmp_path / "a.npz", _ogbench(**changes)))
    assert tuple(x.terminated for x in episodes) == terminated
    assert tuple(x.truncated for x in episodes) == tuple(not each for each in terminated)
    assert tuple(x.success for x in episodes) == success


def test_terminated_episodes_are_masked_in_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with all_formats()["ogbench"].create(path, SPEC) as writer:
        for key, ended in (("a", True), ("b", False)):
            state, action = np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)
            episode = Episode(state, action, "go", terminated=ended, truncated=not ended)
            writer.add(key, episode)
        writer.finalize()
    arrays = np.load(path)
    np.testing.assert_array_equal(arrays["terminals"], [0, 1, 0, 1])
    np.testing.assert_array_equal(arrays["masks"], [1, 0, 1, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"terminals": np.array([0, 0, 1, 0, 0])},  # a trajectory without an end
        {"terminals": np.array([1, 0, 1, 0, 1])},  # one without a transition
        {"terminals": np.zeros(4)},
        {"terminals": np.zeros((5, 1))},
        {"qpos": np.zeros((4, 3))},
    ],
)
def test_ogbench_files_that_do_not_fit_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"terminals|qpos"):
        open_episodes(_save(tmp_path / "a.npz", _ogbench(**changes)))


def test_pixel_sets_keep_ogbench_s_layout(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    source = open_episodes(_save(tmp_path / "a.npz", _ogbench(observations=pixels)))
    with all_formats()["ogbench"].create(tmp_path / "b.npz", source.spec) as writer:
        for i, episode in enumerate(source):
            writer.add(str(i), episode)
        writer.finalize()
    np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["observations"], pixels)
    again = open_episodes(tmp_path / "b.npz")
    np.testing.assert_array_equal(again[0].final["images.image"], pixels[2])


# Writing


def test_a_writer_refuses_what_does_not_fit_its_spec(tmp_path: Path) -> None:
    state, action = np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)
    good = Episode(state, action, "go")
    wrong = {
        "float32": Episode(state.astype(np.float64), action, "go"),
        r"\(2, 2\)": Episode(np.zeros((2, 3), np.float32), action, "go"),
        "no steps": Episode(state[:0], action[:0], "go"),
        "not finite at frame 1": Episode(np.array([[0, 0], [0, np.nan]], np.float32), action, "go"),
        "cameras": Episode(state, action, "go", images={"x": np.zeros((2, 2, 2, 3), np.uint8)}),
        "2 rows": Episode(state, action, "go", extras={"x": np.zeros(3)}),
        "numbers": Episode(state, action, "go", extras={"x": np.array(["a", "b"])}),
        "JSON-able": Episode(state, action, "go", info={"x": np.float32(1)}),
        "cannot name": Episode(state, action, "go", extras={"../x": np.zeros(2)}),
    }
    with all_formats()["npz"].create(tmp_path / "a.npz", SPEC) as writer:
        for message, episode in wrong.items():
            with pytest.raises(ValueError, match=message):
                writer.add("a", episode)
        with pytest.raises(ValueError, match="cannot name a file"):
            writer.add("../a", good)
        assert not writer.keys
        with pytest.raises(ValueError, match="at least one"):
            writer.finalize()
        writer.add("a", good)
        writer.add("b", Episode(state, action, "go", extras={"x": np.zeros(2)}))
        writer.add("c", Episode(state, action, "go", extras={"x": np.zeros((2, 3))}))
        with pytest.raises(ValueError, match="one shape and dtype"):
            writer.finalize()
        assert not (tmp_path / "a.npz").exists()


def test_a_writer_goes_on_where_another_ended(tmp_path: Path) -> None:
    episode = Episode(np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32), "go")
    form, path = all_formats()["npz"], tmp_path / "a.npz"
    with form.create(path, SPEC) as writer:
        writer.add("a", episode)
        with pytest.raises(BlockingIOError, match="another writer"):
            form.create(path, SPEC)
    with pytest.raises(ValueError, match=r"rate_hz: 10.0 in the folder, 20.0 now"):
        form.create(path, Spec(2, 1, (-1.0,), (1.0,), 20.0))
    with form.create(path, SPEC) as writer:
        assert writer.keys == {"a"}
        writer.add("b", episode)
        writer.finalize()
        writer.finalize()
        assert writer.keys == {"a", "b"}
    with form.create(path, SPEC) as writer:
        assert writer.keys == {"a", "b"}
        with pytest.raises(ValueError, match="finalised"):
            writer.add("c", episode)
    assert [x.name for x in tmp_path.iterdir()] == ["a.npz"]


def test_a_writer_does_not_touch_what_others_made(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", _flat())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not written by this project"):
        all_formats()["npz"].create(path, SPEC)
    assert path.read_bytes() == before


# Files that lie


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What a test opens may take 40 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def _header(shape: Any, descr: str = "<f4", version: bytes = b"\1\0") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _hostile() -> dict[str, Callable[[Path], object]]:
    honest = {f"{name}.npy": _npy(x) for name, x in _flat().items()}
    zeros = _header((2**28,)) + bytes(2**20)
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
    long = b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b" " * 1000

    def with_member(name: str, data: bytes) -> Callable[[Path], object]:
        return lambda path: _zip(path, {**honest, name: data})

    def corrupt(path: Path) -> None:
        _zip(path, honest)
        data = bytearray(path.read_bytes())
        data[60:70] = bytes(10)
        path.write_bytes(data)

    def big(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in honest.items():
                if name != "observations.npy":
                    archive.writestr(name, data)
            with archive.open("observations.npy", "w") as file:
                file.write(_header((5, 25 * 2**20)))
                for _ in range(500):
                    file.write(bytes(2**20))

    def duplicate(path: Path) -> None:
        _zip(path, {**honest, "actionz.npy": honest["actions.npy"]})
        path.write_bytes(path.read_bytes().replace(b"actionz", b"actions"))

    def many(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(5000):
                archive.writestr(f"{i}.npy", b"")

    def claims(path: Path) -> None:
        _zip(path, honest)
        data = path.read_bytes()
        end = data.rfind(b"PK\5\6")
        path.write_bytes(data[: end + 8] + b"\xfe\xff\xfe\xff" + data[end + 12 :])

    return {
        "a bomb": big,
        "more bytes than the member has": with_member("rewards.npy", zeros),
        "a shape beyond all memory": with_member("rewards.npy", _header((2**62, 2**62))),
        "a negative size": with_member("rewards.npy", _header((-5,))),
        "pickled objects": with_member("rewards.npy", objects.getvalue()),
        "objects without a pickle": with_member("rewards.npy", _header((5,), "|O")),
        "a record array": with_member("rewards.npy", _npy(np.zeros(5, [("a", "<f4")]))),
        "complex numbers": with_member("rewards.npy", _npy(np.zeros(5, complex))),
        "dates": with_member("rewards.npy", _npy(np.zeros(5, "datetime64[s]"))),
        "a header of two gigabytes": with_member("rewards.npy", long),
        "a header that is code": with_member("rewards.npy", _header("__import__('os')")),
        "deep brackets": with_member("rewards.npy", _header("(" * 9000)),
        "no npy": with_member("rewards.npy", b"hello"),
        "nothing in a member": with_member("rewards.npy", b""),
        "a path out of the archive": with_member("../rewards.npy", _npy(np.zeros(5))),
        "an absolute path": with_member("/etc/rewards.npy", _npy(np.zeros(5))),
        "a path of Windows": with_member("..\\rewards.npy", _npy(np.zeros(5))),
        "facts that are no JSON": with_member("embodied.npy", _npy(np.zeros(9, np.uint8))),
        "facts that nest": with_member("embodied.npy", _npy(np.frombuffer(b"[" * 10**6, np.uint8))),
        "facts of floats": with_member("embodied.npy", _npy(np.zeros(9))),
        "facts that lack things": with_member(
            "embodied.npy", _npy(np.frombuffer(b'{"version": 1, "columns": {}}', np.uint8))
        ),
        "facts that are too long": with_member(
            "embodied.npy", _npy(np.frombuffer(b" " * 2**23, np.uint8))
        ),
        "a flipped byte": corrupt,
        "names twice": duplicate,
        "five thousand members": many,
        "a directory that claims much": claims,
        "no zip": lambda path: path.write_bytes(b"PK\3\4" + bytes(100)),
        "nothing": lambda path: path.write_bytes(b""),
        "half a file": lambda path: path.write_bytes(_zip(path, honest).read_bytes()[:-400]),
    }


@pytest.mark.parametrize("make", _hostile().values(), ids=_hostile().keys())
@pytest.mark.usefixtures("little_memory")
def test_a_file_that_lies_is_refused_before_it_costs_memory(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "hostile.npz"
    make(path)
    with pytest.raises(DataError) as caught:
        open_episodes(path, format="npz", max_bytes=2**24)
    assert caught.value.fault.remedy
    assert caught.value.fault.file == path
    assert [x.name for x in tmp_path.iterdir()] == ["hostile.npz"]


def test_a_damaged_file_is_not_taken_for_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="no intact zip archive"):
        open_episodes(tmp_path / "a.npz")


def test_facts_of_fewer_episodes_than_there_are_are_refused(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.npz", tmp_path / "b.npz"
    with all_formats()["npz"].create(path, SPEC) as writer:
        for key in "abc":
            state, action = np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)
            writer.add(key, Episode(state, action, "go"))
        writer.finalize()
    arrays = dict(np.load(path))
    lines = bytes(arrays["embodied"]).split(b"\n")
    arrays["embodied"] = np.frombuffer(b"\n".join(lines[:3]), np.uint8)
    with pytest.raises(DataError, match="tells of 2 episodes, but there are 3"):
        open_episodes(_save(copy, arrays))
    head = json.loads(lines[0])
    head["spec"]["state_dim"] = 7
    arrays["embodied"] = np.frombuffer(
        b"\n".join([json.dumps(head).encode(), *lines[1:]]), np.uint8
    )
    with pytest.raises(DataError, match="its spec says"):
        open_episodes(_save(copy, arrays))


def test_npz_arrays_are_what_numpy_reads(tmp_path: Path) -> None:
    arrays = {
        "plain": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.int8),
        "text": np.array(["a", "\u00e9"]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
        npz = Npz(tmp_path / "a.npz")
        for name, values in arrays.items():
            for found in (npz[name], npz.mapped(name)):
                assert found.dtype == values.dtype
                np.testing.assert_array_equal(found, values)


def test_an_archive_of_more_than_65535_members_is_counted(tmp_path: Path) -> None:
    # Python's own writer takes seconds for it, so that the entries are laid down by hand.
    path, count = tmp_path / "a.zip", 2**16 + 1
    fixed = struct.pack("<4s6H3L5H2L", b"PK\1\2", *(20, 20, 0, 0, 0, 33), *[0] * 3, 5, *[0] * 6)
    entries = b"".join(fixed + b"%05d" % i for i in range(count))
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entries), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(entries), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(entries + end64 + locator + end)
    with pytest.raises(DataError, match="lists 65537 members"), open_zip(path):
        pass
    with open_zip(path, max_entries=2**17) as archive:
        assert len(archive.namelist()) == count


def test_members_that_lie_outside_the_file_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", _flat())
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\1\2") + 42  # where an entry says that its member begins
    data[place : place + 4] = struct.pack("<L", 2**31)
    path.write_bytes(data)
    with pytest.raises(DataError, match="does not lie in the file"), open_zip(path):
        pass


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "..\\a", "C:\\a", "a\0b"])
def test_names_that_lead_out_are_known(name: str) -> None:
    assert leads_out(name)
    assert not leads_out("a/b..c/.d")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["door_human_demos", "pen_human_demos_sparse"])
def test_adroit_demonstrations_open(name: str) -> None:
    path = REALDATA / "adroit_dapg" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent; EMBODIED_REALDATA names the folder of the public data")
    episodes = open_episodes(path)
    check_episodes(episodes)
    assert len(episodes) == 25
    assert sum(map(len, episodes)) == {"door": 6729, "pen_": 4975}[name[:4]]
    assert ("state" in episodes[0].final) == name.startswith("pen")
    assert ("init_qpos" in episodes[0].info) == name.startswith("door")
