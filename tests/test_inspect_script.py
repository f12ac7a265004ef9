"""`scripts/inspect.py` as a command: its name hides a module of the standard library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embodied import checkpoint
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Episode, Spec
from embodied_datasets.checking.commands import main
from embodied_datasets.checking.normalising import norm_report
from embodied_datasets.checking.run import inspect_path
from embodied_datasets.formats import find_sets, open_episodes
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.lerobot_writer import LeRobotWriter

ROOT = Path(__file__).parents[1]
DATA = "data/chunk-000/file-000.parquet"
INFO, STATS = "meta/info.json", "meta/stats.json"
SPEC = Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def make_episode(seed: int, length: int = 30) -> Episode:
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(size=(length, 10)), axis=0).astype(np.float32)
    action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    return Episode(state, action, f"go to {seed % 2}", success=True)


def write(root: Path, episodes: Sequence[Episode]) -> Path:
    with LeRobotWriter(root, spec=SPEC) as writer:
        for number, episode in enumerate(episodes):
            writer.add(f"{number}", episode)
        writer.finalize()
    return root


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write(tmp_path / "set", [make_episode(seed) for seed in range(4)])


# The command and its name


def test_the_command_runs_as_a_file(clean: Path, command: Run) -> None:
    done = command("scripts/inspect.py", "check", str(clean), cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 episodes, 120 steps, 0 errors, 0 warnings" in done.stdout


def test_the_command_runs_from_its_own_folder(clean: Path) -> None:
    done = subprocess.run(
        [sys.executable, "inspect.py", "check", str(clean)],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", [str(ROOT / "scripts"), ""])
def test_other_scripts_get_the_inspect_of_the_standard_library(folder: str) -> None:
    code = f"import sys; sys.path.insert(0, {folder!r}); import dataclasses, inspect, typing; "
    code += "print(inspect.__file__, inspect.signature(print) is not None, inspect.__spec__.name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path, *rest = done.stdout.split()
    assert Path(path).parent != ROOT / "scripts"
    assert rest == ["True", "inspect"]


def test_exit_codes_tell_clean_from_faulty_from_unreadable(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(clean)]) == 0
    info = json.loads((clean / INFO).read_text())
    (clean / INFO).write_text(json.dumps(info | {"total_frames": 1}))
    capsys.readouterr()
    assert main(["check", "--json", str(clean)]) == 1
    assert json.loads(capsys.readouterr().out)["codes"]["E_DATA_TOTALS"] == 1
    assert main(["check", str(clean.parent / "none")]) == 2


def test_a_set_is_compared_with_another(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(clean.parent / "val", [make_episode(9), make_episode(2)])
    assert main(["check", str(other), "--against", str(clean)]) == 1
    assert "E_DATA_LEAK: episode 1: is episode 2 of" in capsys.readouterr().out


# Folders of several sets, and options of readers


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two sets, one of them a folder deeper and faulty, beside something else."""
    write(tmp_path / "all" / "b", [make_episode(0), make_episode(1)])
    faulty = write(tmp_path / "all" / "a" / "deep", [make_episode(2), make_episode(3)])
    overwrite(faulty, "action", 5, [0.0, float("nan")])
    (tmp_path / "all" / "notes.txt").write_text("no data")
    return tmp_path / "all"


def test_all_sets_of_a_folder_are_checked(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_sets(several) == [several / "a" / "deep", several / "b"]
    assert main(["check", str(several)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("error: E_DATA_NONFINITE")
    assert [line for line in said if "episodes," in line] == [
        f"{several / 'a' / 'deep'} (lerobot): 2 episodes, 60 steps, 1 errors, 0 warnings",
        f"{several / 'b'} (lerobot): 2 episodes, 60 steps, 0 errors, 0 warnings",
    ]
    main(["check", "--json", str(several)])
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 1
    assert [each["exit_code"] for each in printed["sets"]] == [1, 0]


@pytest.mark.parametrize("command", [["show"], ["norm-report"], ["check", "--fix"]])
def test_what_works_on_one_set_asks_which(
    command: list[str], several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(several)]) == 2
    said = capsys.readouterr().err
    assert "holds 2 data sets" in said
    assert "name one" in said


def test_a_folder_of_sets_is_not_opened_but_named(several: Path) -> None:
    with pytest.raises(ValueError, match="holds 2 data sets: a/deep, b; name one"):
        open_episodes(several)


def test_a_folder_without_sets_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no data")
    assert main(["check", str(tmp_path)]) == 2
    assert "nor does anything in it" in capsys.readouterr().out


def test_sets_are_not_looked_for_in_hidden_or_deep_folders(clean: Path, tmp_path: Path) -> None:
    clean.rename(tmp_path / ".hidden")
    write(tmp_path / "one" / "two" / "three", [make_episode(0)])
    assert find_sets(tmp_path) == []


def test_options_reach_the_reader(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(clean), "--read", 'tasks=["go to 1"]']) == 0
    assert "2 episodes" in capsys.readouterr().out
    assert main(["norm-report", str(clean), "--read", 'tasks=["go to 1"]']) == 0
    page = clean.parent / "page.html"
    assert main(["show", "-o", str(page), str(clean), "--read", 'tasks=["go to 1"]']) == 0
    assert "go to 0" not in page.read_text()


@pytest.mark.parametrize("command", ["check", "show", "norm-report"])
def test_an_option_that_the_reader_does_not_take_is_no_fault_of_the_data(
    command: str, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(clean), "--read", "nonsense=1"]) == 2
    assert "format lerobot" in (said := capsys.readouterr().err)
    assert "'nonsense'" in said
    assert main(["check", str(clean), "--read", "nonsense"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


# Repairs


def overwrite(root: Path, column: str, row: int, value: object) -> None:
    table = pq.read_table(root / DATA)
    columns = table.to_pydict()
    columns[column][row] = value
    arrays = [pa.array(columns[n], table.schema.field(n).type) for n in table.schema.names]
    pq.write_table(pa.table(arrays, schema=table.schema), root / DATA)


def test_a_repair_drops_what_cannot_be_learned_from_and_numbers_the_rest(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clean.parent / "bad"
    write(root, [make_episode(0), make_episode(1), make_episode(1), make_episode(3)])
    overwrite(root, "action", 5, [0.0, float("nan")])
    overwrite(root, "timestamp", 100, 1e6)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    assert main(["check", "--fix", "--json", str(root)]) == 1
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert changes[:2] == [
        "episode 0: dropped (E_DATA_NONFINITE)",
        "episode 2: dropped (E_DATA_DUPLICATE)",
    ]
    assert changes[-1].endswith("faults that remain: none")
    fixed = LeRobotDataset(clean.parent / "bad-fixed")
    np.testing.assert_array_equal(fixed[0].action, make_episode(1).action)
    np.testing.assert_array_equal(fixed[1].state, make_episode(3).state)
    assert len(fixed) == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_repair_of_counts_and_statistics_copies_everything_else(clean: Path) -> None:
    info, stats = (json.loads((clean / name).read_text()) for name in (INFO, STATS))
    broken = info | {"total_episodes": 9, "splits": {"train": "0:9"}}
    (clean / INFO).write_text(json.dumps(broken))
    (clean / STATS).write_text(json.dumps({"action": {"mean": [0.0]}}))
    assert main(["check", "--fix", "--to", str(clean.parent / "copy"), str(clean)]) == 1
    copy = clean.parent / "copy"
    assert json.loads((copy / INFO).read_text()) == info
    found = json.loads((copy / STATS).read_text())
    np.testing.assert_allclose(found["action"]["std"], stats["action"]["std"])
    assert (copy / DATA).read_bytes() == (clean / DATA).read_bytes()
    assert inspect_path(copy).exit_code(strict=True) == 0


def test_only_in_place_touches_the_set_and_keeps_the_old_one(clean: Path) -> None:
    info = json.loads((clean / INFO).read_text())
    (clean / INFO).write_text(json.dumps(info | {"total_tasks": 9}))
    main(["check", "--fix", "--in-place", str(clean)])
    assert json.loads((clean / INFO).read_text()) == info
    old = clean.with_name("set.before-fix")
    assert json.loads((old / INFO).read_text())["total_tasks"] == 9
    assert {path.name for path in clean.parent.iterdir()} == {"set", "set.before-fix"}


def test_a_repair_overwrites_nothing(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((clean / INFO).read_text())
    (clean / INFO).write_text(json.dumps(info | {"total_tasks": 9}))
    (clean.parent / "set-fixed").mkdir()
    assert main(["check", "--fix", str(clean)]) == 2
    assert "exists; move it away" in capsys.readouterr().err


def test_a_clean_set_needs_no_repair(clean: Path) -> None:
    assert main(["check", "--fix", str(clean)]) == 0
    assert {path.name for path in clean.parent.iterdir()} == {"set"}


# Normalisation


def test_a_set_is_normalised_by_its_own_statistics(clean: Path) -> None:
    report = norm_report(clean)
    assert report.faults == ()
    state, action = report.rows
    assert (state.kind, action.kind) == ("zscore", "minmax")
    assert action.low == pytest.approx(-1)
    assert action.high == pytest.approx(1)
    assert action.clipped == 0


def test_a_format_without_statistics_is_normalised_by_those_of_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state, action = rng.normal(3, 2, (50, 4)), rng.uniform(-5, 5, (50, 2))
    np.savez(tmp_path / "set.npz", observations=state, actions=action, episode_ends=[20, 50])
    report = norm_report(
        tmp_path / "set.npz",
        format="npz",
    )
    assert report.faults == ()
    assert [row.kind for row in report.rows] == ["zscore", "minmax"]
    assert (report.rows[1].low, report.rows[1].high) == pytest.approx((-1, 1))
    assert "computed from the data" in report.as_text()


def test_clipped_constant_and_badly_scaled_numbers_are_counted(tmp_path: Path) -> None:
    episode = make_episode(0, 100)
    state, action = episode.state.copy(), np.zeros((100, 2), np.float32)
    state[:, 3] = 2
    action[:30, 0] = 1  # 30 of 200 numbers beyond [-0.5, 0.5]
    root = write(tmp_path / "set", [replace(episode, state=state, action=action)])
    tensors = {
        "encoder.parts.state.normalizer.mean": np.zeros(10),
        "encoder.parts.state.normalizer.std": np.where(np.arange(10) == 1, 1e4, 1.0),
        "action_normalizer.low": np.full(2, -0.5),
        "action_normalizer.high": np.full(2, 0.5),
        "encoder.parts.language.normalizer.mean": np.zeros(384),
        "encoder.parts.language.normalizer.std": np.ones(384),
    }
    report = norm_report(root, tensors=tensors)
    rows = {row.field: row for row in report.rows}
    assert rows["action"].clipped == pytest.approx(0.15)
    assert rows["action"].constant == (1,)
    assert rows["state"].constant == (3,)
    assert rows["state"].off == (1,)
    assert {(f.code, f.field) for f in report.faults} == {
        ("E_DATA_NORM_FIT", "action"),
        ("E_DATA_NORM_FIT", "state"),
    }


def test_statistics_that_are_missing_or_of_another_robot_are_named(clean: Path) -> None:
    size = {"n.mean": np.zeros(7), "n.std": np.ones(7)}
    codes = [(f.code, f.field) for f in norm_report(clean, tensors=size).faults]
    assert codes == [("E_DATA_NORM_SIZE", "state"), ("E_DATA_NORM_MISSING", "action")]
    unfitted = {"n.mean": np.full(10, np.nan), "n.std": np.ones(10)}
    codes = [(f.code, f.field) for f in norm_report(clean, tensors=unfitted).faults]
    assert codes[0] == ("E_DATA_NORM_MISSING", "state")
    (clean / STATS).unlink()
    assert {f.code for f in norm_report(clean).faults} == {"E_DATA_NORM_MISSING"}


@pytest.mark.slow  # a whole process
def test_a_run_is_judged_by_the_statistics_in_its_checkpoint(
    clean: Path, make_policy: Callable[..., ChunkPolicy], command: Run
) -> None:
    policy = make_policy()  # fitted to states in [-1, 1] and actions in [-1, 1]
    checkpoint.save(
        clean.parent / "run" / "checkpoints",
        3,
        tensors={"policy": policy.state_dict()},
        documents={},
    )
    run = str(clean.parent / "run")
    done = command("scripts/inspect.py", "norm-report", str(clean), "--checkpoint", run, "--json")
    assert done.returncode == 1, done.stderr
    printed = json.loads(done.stdout)
    assert [row["kind"] for row in printed["rows"]] == ["zscore", "minmax"]
    assert any("E_DATA_NORM_FIT" in fault and "state" in fault for fault in printed["faults"])
