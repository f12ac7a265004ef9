"""Every format that can be written, alone and in chains, and conversions that are interrupted."""

import dataclasses
import multiprocessing
import random
import re
import runpy
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embodied.structs import Episode, Spec
from embodied.testing import check_episodes
from embodied_datasets.convert import Conversion, convert, parse_numbers
from embodied_datasets.faults import DataError
from embodied_datasets.formats import all_formats, find_format, open_episodes
from tests.roundtrip import (
    OPTIONAL,
    assert_same,
    assert_same_set,
    data_sets,
    rich_episode,
    write,
)

SPEC = Spec(
    3,
    2,
    (-1.0, -2.0),
    (1.0, 2.0),
    12.5,
    cameras={"front": (16, 18)},
    state_parts={"arm": 2, "hand": 1},
)
SUFFIX = {"npz": ".npz", "ogbench": ".npz", "zarr": ".zarr.zip"} | dict.fromkeys(
    ("robomimic", "d4rl"), ".hdf5"
)
SCRIPT = Path(__file__).parents[1] / "scripts" / "convert.py"
FLAT = ("npz", "ogbench", "zarr")


def _episode(seed: int, length: int, full: bool, spec: Spec = SPEC) -> Episode:
    """Anything that an episode can hold, or the least that it must."""
    return rich_episode(seed, length, spec, OPTIONAL if full else ())


def _writable(tmp_path: Path) -> list[str]:
    names = []
    for name, form in all_formats().items():
        try:
            with form.create(tmp_path / f"try-{name}", SPEC):
                names.append(name)
        except (NotImplementedError, ImportError):  # only read, or its library is absent
            continue
    return names


def _write(path: Path, name: str, episodes: Iterable[Episode], spec: Spec = SPEC) -> Path:
    keyed = {f"{number:06d}": episode for number, episode in enumerate(episodes)}
    return write(all_formats()[name], path, spec, keyed)


def _lost(losses: Iterable[str]) -> set[str]:
    """Fields that a format says it cannot hold; what only others do not see is not lost to us."""
    return {loss.partition(":")[0] for loss in losses if ": others" not in loss}


def _names() -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return _writable(Path(folder))


WRITABLE = _names()
quick = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", [*WRITABLE, "minari-arrow"])
@quick
@given(data=st.data())
def test_what_is_written_is_read_but_for_documented_losses(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # LeRobot's tables have the same columns throughout.
    spec, episodes = data.draw(data_sets(mixed=name != "lerobot"))
    name, _, storage = name.partition("-")
    form, options = all_formats()[name], {"data_format": storage} if storage else {}
    path = tmp_path_factory.mktemp("set") / f"a{SUFFIX.get(name, '')}"
    write(form, path, spec, episodes, **options)
    assert find_format(path).name == name
    found = open_episodes(path)
    check_episodes(found)
    lost = {name for each in episodes.values() for name in _lost(form.losses(spec, each))}
    assert_same_set(found, spec, list(episodes.values()), lost)


@pytest.mark.parametrize("full", [True, False], ids=["everything", "little"])
def test_a_chain_of_conversions_loses_what_its_links_say(full: bool, tmp_path: Path) -> None:
    episodes = [_episode(seed, 3 + seed, full) for seed in range(3)]
    path = _write(tmp_path / "start.npz", "npz", episodes)
    chain = [*WRITABLE, *reversed(WRITABLE)]
    lost: set[str] = set()
    for place, name in enumerate(chain):
        target = tmp_path / f"{place}{SUFFIX.get(name, '')}"
        done = convert(path, target, to=name)
        assert (done.num_episodes, done.num_steps, done.num_kept) == (3, 12, 0)
        lost |= _lost(done.losses)
        path = target
    for got, want in zip(open_episodes(path), episodes, strict=True):
        assert_same(got, want, lost)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [_episode(seed, 5, seed % 2 == 0) for seed in range(40)]
    return _write(tmp_path_factory.mktemp("source") / "set.npz", "npz", episodes)


def _tree(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(x for x in path.rglob("*") if x.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "name", ["npz", *(pytest.param(x, marks=pytest.mark.slow) for x in ("zarr", "robomimic"))]
)
def test_a_conversion_that_is_killed_goes_on_to_the_same_bytes(
    name: str, source: Path, tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["embodied_datasets.convert"])
    target, undisturbed = (tmp_path / f"{each}{SUFFIX[name]}" for each in ("killed", "whole"))
    convert(source, undisturbed, to=name)
    rng = random.Random(0)
    for num_episodes in [*sorted(rng.sample(range(1, 40), 4)), 40, 40]:
        child = processes.Process(target=convert, args=(source, target), kwargs={"to": name})
        child.start()
        while child.is_alive() and _num_waiting(tmp_path) < num_episodes:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02 if num_episodes < 40 else 0.2))
        child.kill()
        child.join()
        if target.exists():
            break
        written = list(tmp_path.glob(f".converting-*/{target.name}"))
        assert written or _num_waiting(tmp_path) >= num_episodes
        assert list(tmp_path.glob("[!.]*")) == [undisturbed]
    else:
        assert convert(source, target, to=name).num_kept == 40
    assert _tree(target) == _tree(undisturbed)


def _num_waiting(folder: Path) -> int:
    return len(list(folder.glob(".converting-*/.*.incoming/[!.]*.npz")))


def test_a_conversion_that_failed_goes_on_with_what_it_had(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embodied_datasets.staged_writer import StagedWriter

    add = StagedWriter.add

    def fail(self: StagedWriter, key: str, episode: Episode) -> None:
        if key == "000007":
            raise OSError(28, "No space left on device")
        add(self, key, episode)

    target = tmp_path / "set.npz"
    with monkeypatch.context() as patched:
        patched.setattr(StagedWriter, "add", fail)
        with pytest.raises(OSError, match="No space"):
            convert(source, target, to="npz")
    assert not target.exists()
    with pytest.raises(ValueError, match="left by another conversion"):
        convert(source, target, to="ogbench")
    done = convert(source, target, to="npz")
    assert (done.num_episodes, done.num_kept) == (40, 7)
    # What the seven were losing is told, though they were not looked at again.
    assert "expert_action: others do not see it" in done.losses


@pytest.mark.parametrize("name", FLAT)
def test_flipped_bytes_are_read_or_refused_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{SUFFIX[name]}"
    _write(path, name, [_episode(seed, 3, True) for seed in range(2)])
    whole, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        zone = rng.choice([len(data), 400, 3000])  # all, or names and directories at its end
        data[-rng.randrange(1, zone)] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(data)
        try:
            for episode in open_episodes(path, format=name, max_bytes=2**26):
                assert episode.images["front"].shape == (3, 16, 18, 3)
        except DataError:
            refused += 1
    assert refused


@pytest.mark.parametrize("name", WRITABLE)
def test_a_conversion_that_is_interrupted_at_its_last_step_completes(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / f"set{SUFFIX.get(name, '')}"
    options: dict[str, Any] = {"to": name, "episodes": "0,2,4,6", "cameras": []}

    def fail(*paths: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("embodied_datasets.convert._put_in_place", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(source, target, **options)
    assert not target.exists()
    done = convert(source, target, **options)
    assert (done.num_episodes, done.num_kept) == (4, 4)
    assert [len(each) for each in open_episodes(target)] == [5] * 4
    assert not list(tmp_path.glob(".*"))


def test_episodes_and_cameras_can_be_chosen(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, cameras={"front": (8, 8), "wrist": (4, 6)})
    episodes = [_episode(seed, 4, True, spec) for seed in range(5)]
    path = _write(tmp_path / "a.npz", "npz", episodes, spec)
    convert(path, tmp_path / "b", to="zarr", episodes="3:,0", cameras=["wrist"])
    found = open_episodes(tmp_path / "b")
    assert found.spec.cameras == {"wrist": (4, 6)}
    assert [x.info["seed"] for x in found] == [0, 3, 4]
    assert "images.front" not in found[0].final
    np.testing.assert_array_equal(found[1].images["wrist"], episodes[3].images["wrist"])


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("2:4,0", [0, 2, 3]), (":", list(range(6))), ("4:,4", [4, 5])]
)
def test_numbers_are_read_like_slices(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text, 6) == numbers


@pytest.mark.parametrize("text", ["6", "-1", "3:3", "a", "", "0:9", "1:2:3"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="episodes"):
        parse_numbers(text, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tar"}, "must be one of"),
        ({"to": "rlds"}, "only read"),
        ({"to": "npz", "from_": "tar"}, "must be one of"),
        ({"to": "npz", "cameras": ["rear"]}, "not recorded"),
        ({"to": "npz", "read": {"rate": 3}}, "unexpected keyword argument 'rate'"),
        ({"to": "npz", "write": {"rate": 3}}, "unexpected keyword argument 'rate'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    options: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=re.escape(message)):
        convert(source, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_target_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="exists already"):
        convert(source, tmp_path / "mine", to="npz")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_target_that_reads_otherwise_than_it_should_is_not_put_in_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = all_formats()["npz"]
    short = _write(tmp_path / "short.npz", "npz", [_episode(0, 2, True)])
    opened = type(form).open
    monkeypatch.setattr(
        type(form),
        "open",
        lambda self, path, **options: opened(self, short if path.name == "b.npz" else path),
    )
    with pytest.raises(RuntimeError, match="has 1 episodes with 2 steps"):
        convert(source, tmp_path / "b.npz", to="npz")
    assert not (tmp_path / "b.npz").exists()


def test_the_command_says_what_it_did_and_what_is_lost(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(source), str(tmp_path / "b.zarr"), "--to", "zarr", "--episodes", "0:3"]
    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr()
    assert "3 episodes, 15 steps in" in said.out
    assert "lost: instruction: others do not see it" in said.out
    assert "3/3" in said.err  # the progress bar
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_a_conversion_reports_itself(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "b.npz", to="npz", write={"compressed": True})
    assert isinstance(done, Conversion)
    assert done.target == tmp_path / "b.npz"
    assert done.num_steps == 200
