"""The cache of decoded columns: as in memory, filled once, whole or absent, episode by episode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.data.cache import Recording, cache_folder, record
from embodied.data.windows import Windows
from embodied.structs import Annotation, Episode
from tests.conftest import ROOT
from tests.test_windows import Recorded


def columns_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def load(episodes: Recorded, cache: Path | None) -> Recording:
    return record(episodes, label="expert_action", cache=cache)


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


class Counted(Recorded):
    """Counts how often the episodes are gone through."""

    reads = 0

    def __iter__(self) -> Iterator[Episode]:
        self.reads += 1
        return super().__iter__()


def test_columns_on_disk_equal_those_in_memory_and_are_read_once(tmp_path: Path) -> None:
    episodes = Counted([3, 0, 2], images=True)
    memory = load(episodes, None)
    for _ in range(2):  # written, then found
        mapped = load(episodes, tmp_path)
        assert columns_equal(mapped.columns, memory.columns)
        assert replace(mapped, columns={}) == replace(memory, columns={})
    assert episodes.reads == 2
    assert memory.numbers == (0, 2)
    assert len(folders(tmp_path)) == 1


def test_other_wordings_of_an_episode_are_kept(tmp_path: Path) -> None:
    episodes = Recorded([2])
    words = (Annotation("task_aug", "move"), Annotation("motion", "arm left"))
    episodes.episodes = [replace(episodes[0], annotations=words)]
    for cache in (None, tmp_path, tmp_path):
        assert load(episodes, cache).wordings == (("text 0", "move"),)


def test_what_is_done_to_mapped_columns_does_not_reach_the_disk(tmp_path: Path) -> None:
    load(Recorded([3]), tmp_path).columns["state"].zero_()
    assert load(Recorded([3]), tmp_path).columns["state"][:, 1].tolist() == [0.0, 1.0, 2.0]


def test_other_data_and_other_labels_get_other_caches(tmp_path: Path) -> None:
    episodes, changed = Recorded([2, 2]), Recorded([2, 2], fingerprint="b")
    changed.episodes = [replace(e, state=e.state + 1) for e in changed.episodes]
    for each, label in ((episodes, "action"), (episodes, "expert_action"), (changed, "action")):
        found = record(each, label=label, cache=tmp_path)
        assert columns_equal(found.columns, record(each, label=label).columns)
    assert len(folders(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["short", "no index", "half an index", "gone"])
def test_a_damaged_cache_is_filled_again(tmp_path: Path, damage: str) -> None:
    episodes = Recorded([3, 2])
    load(episodes, tmp_path)
    (folder,) = folders(tmp_path)
    if damage == "short":
        (folder / "00.bin").write_bytes(b"half")
    elif damage == "no index":
        (folder / "index.json").unlink()
    elif damage == "gone":
        (folder / "01.bin").unlink()
    else:
        (folder / "index.json").write_text((folder / "index.json").read_text()[:40])
    assert columns_equal(load(episodes, tmp_path).columns, load(episodes, None).columns)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    episodes = Recorded([3, 2])
    episodes.episodes[1] = replace(episodes[1], expert_action=None)
    with pytest.raises(ValueError, match="not recorded in these episodes"):
        load(episodes, tmp_path)
    assert folders(tmp_path) == []


def test_episodes_with_other_columns_are_named() -> None:
    episodes = Recorded([3, 2], images=True)
    episodes.episodes[1] = replace(episodes[1], images={})
    with pytest.raises(ValueError, match="episode 1 has the columns"):
        load(episodes, None)


_SLOW = """
import sys, time
from pathlib import Path
from embodied.data.cache import record
from tests.test_windows import Recorded

class Slow(Recorded):
    def __iter__(self):
        for episode in self.episodes:
            print("episode", flush=True)
            time.sleep(float(sys.argv[2]))
            yield episode

found = record(Slow([3, 2, 4], images=True), label="expert_action", cache=Path(sys.argv[1]))
print(int(found.columns["images.top"].sum()), flush=True)
"""


def start(cache: Path, delay: float) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("", "envs", "datasets"))
    return subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(cache), str(delay)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.slow  # whole processes
def test_a_process_killed_in_the_middle_leaves_nothing_that_is_taken_for_data(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, 60.0)
    assert process.stdout is not None
    process.stdout.readline()  # it is at the first episode
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in folders(tmp_path)] == [".partial"]
    episodes = Recorded([3, 2, 4], images=True)
    assert columns_equal(load(episodes, tmp_path).columns, load(episodes, None).columns)
    assert [path.suffix for path in folders(tmp_path)] == [""]


@pytest.mark.slow  # whole processes
def test_of_two_processes_one_fills_the_cache_and_the_other_waits(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0.3) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    expected = int(load(Recorded([3, 2, 4], images=True), None).columns["images.top"].sum())
    assert [int(output[-1]) for output in outputs] == [expected, expected]
    assert sum(output.count("episode") for output in outputs) == 3  # by one of them


class Heavy(Recorded):
    """Episodes of 3 MB each, made when they are looked at."""

    def __init__(self, count: int) -> None:
        super().__init__([1] * count)

    def __iter__(self) -> Iterator[Episode]:
        for number, episode in enumerate(self.episodes):
            images = np.full((1, 1000, 1000, 3), number, np.uint8)
            yield replace(episode, images={"top": images})


def test_filling_the_cache_holds_one_episode_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    found = load(Heavy(20), tmp_path)  # 60 MB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15e6
    assert found.columns["images.top"][:, 0, 0, 0].tolist() == list(range(20))


def test_threads_share_one_cache(tmp_path: Path) -> None:
    found: list[Recording] = []
    threads = [
        threading.Thread(target=lambda: found.append(load(Recorded([3, 2]), tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(columns_equal(each.columns, found[0].columns) for each in found)
    assert len(found) == 4


def test_the_environment_names_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBODIED_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "windows"
    monkeypatch.setenv("EMBODIED_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("EMBODIED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "embodied" / "windows"


def test_windows_come_from_the_cache(tmp_path: Path) -> None:
    episodes = Recorded([3, 2], images=True)
    horizons = {"obs_horizon": 2, "pred_horizon": 2}
    ours, theirs = (
        Windows.load(episodes, cache=cache).gather(torch.arange(5), **horizons)
        for cache in (tmp_path, None)
    )
    assert torch.equal(ours.observation.images["top"], theirs.observation.images["top"])
