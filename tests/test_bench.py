"""Each benchmark runs in the smallest size, prints its tables and writes its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embodied import experiment
from embodied.data.windows import Windows
from embodied_datasets.lerobot import LeRobotDataset
from scripts.bench import evaluation, latency, loader, metaworld, reference, render, rl, train
from scripts.bench._common import Case, Rates, figure, measure, rate_rows, ratios, spread
from scripts.bench._plain_rl import PlainIQL, PlainSAC
from scripts.bench._setup import (
    CONF,
    Items,
    RandomEpisodes,
    collated,
    fitted_policy,
    item_batches,
    shipped_config,
)

Main = Callable[[list[str]], None]


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(main: Main, path: Path, *arguments: str) -> dict[str, Any]:
    main(["--rounds", "2", "--json", str(path), *arguments])
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def check_tables(content: dict[str, Any], printed: str, *cases: str) -> None:
    rows = [row for table in content["tables"].values() for row in table]
    names = " | ".join(row["case"] for row in rows)
    assert all(case in names for case in cases)
    assert all(row["case"] in printed for row in rows)
    assert content["hardware"]["cores"] >= 1
    rounds = [case for table in content["rounds"].values() for case in table.values()]
    assert rounds
    assert all(len(case["wall"]) == 2 and min(case["wall"]) > 0 for case in rounds)
    assert f"Limit: {content['limit']}" in printed


def test_a_visit_counts_units_per_second() -> None:
    calls: list[int] = []

    def count() -> float:
        calls.append(1)
        return 1.0

    cases = [Case("one", count), Case("two", lambda: 2)]
    one, two = measure(cases, rounds=3, seconds=0.0)
    assert (one.name, len(one.wall), len(two.cpu)) == ("one", 3, 3)
    assert len(calls) == 4  # once to warm up
    assert min(*one.wall, *two.wall) > 0


def test_ratios_are_taken_within_each_round() -> None:
    # The machine became twice as slow in the second round; the ratio does not notice.
    base, other = Rates("a", (4.0, 2.0), (1.0, 1.0)), Rates("b", (8.0, 4.0), (3.0, 1.0))
    assert ratios(other.wall, base.wall) == [2.0, 2.0]
    row = rate_rows([base, other], "steps", {"samples/s": 100.0})[1]
    assert row["ratio"] == "2.00x [2.00, 2.00]"
    assert row["CPU ratio"] == "2.00x [1.00, 3.00]"
    assert (row["steps/s"], row["samples/s"], row["spread"]) == ("6", "600", "33%")
    assert spread((2.0, 4.0, 3.0)) == pytest.approx(1 / 3)
    assert [figure(x) for x in (0.12345, 12.345, 12345.6)] == ["0.123", "12.3", "12,346"]


def test_both_loaders_give_the_same_windows() -> None:
    episodes = RandomEpisodes(300, {"front": (4, 6)})
    windows = Windows.load(episodes, label="action")
    index = torch.tensor([0, 1, 99, 100, 198, 299])
    ours = windows.gather(index, obs_horizon=2, pred_horizon=3)
    items = Items(windows, obs_horizon=2, pred_horizon=3)
    theirs = collated(torch.utils.data.default_collate([items[i] for i in index.tolist()]))
    for mine, other in (
        (ours.observation.state, theirs.observation.state),
        (ours.observation.images["front"], theirs.observation.images["front"]),
        (ours.action, theirs.action),
        (ours.mask, theirs.mask),
    ):
        np.testing.assert_array_equal(mine, other)
    assert ours.condition.language == theirs.condition.language


def test_frames_decoded_one_by_one_are_those_of_the_cache(tmp_path: Path) -> None:
    episodes = loader.Filmed(200, loader.CAMERAS)
    videos = loader.record(tmp_path, episodes)
    windows = Windows.load(LeRobotDataset(tmp_path), label="action")
    items = loader.VideoItems(windows, videos, episodes.spec.rate_hz)
    for index in (0, 1, 99, 100, 173):
        found = items[index]["images.wrist"] * 255
        assert torch.equal(found.round().byte(), windows.columns["images.wrist"][index])


def test_the_loader_benchmark_compares_ways_and_tells_how_long_training_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--seconds", "0", "--frames", "300", "--image-frames", "100", "--batch-size", "4")
    content = run(loader.main, tmp_path / "loader.json", *sizes, "--peer-batch-size", "2")
    names = ("default_collate", "in memory", "decoded once", "from video", "made ahead")
    check_tables(content, capsys.readouterr().out, *names)
    assert len(content["tables"]) == 3


def test_the_training_benchmark_relates_steps_to_the_peak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--seconds", "0", "--frames", "300", "--gemm-size", "64")
    content = run(train.main, tmp_path / "train.json", *sizes)
    names = ("plain loop", "ours, fp32", "ours, bf16", "default_collate", "matrix product")
    check_tables(content, capsys.readouterr().out, *names)
    # 4 to 6 operations, forward and backward, for each row, parameter and token it works on.
    flop_per_token = content["parameters"] * 256
    assert 4 * flop_per_token < content["gflop"] * 1e9 < 6 * flop_per_token * 16
    assert len(content["tables"]["Fraction of the peak"]) == 4


def test_the_reference_benchmark_trains_each_setting_in_both_loops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--set", "policy.dim=32", "policy.head.num_layers=1", "train.batch_size=8")
    content = run(reference.main, tmp_path / "x.json", "--seconds", "0", "--frames", "300", *small)
    names = ("shipped, our loop", "LeRobot ACT, their loop", "LeRobot diffusion, our loop")
    check_tables(content, capsys.readouterr().out, *names)
    trained, acted = content["tables"].values()
    assert (len(trained), len(acted)) == (7, 4)


def test_the_loop_of_other_frameworks_moves_the_weights() -> None:
    windows = Windows.load(RandomEpisodes(300), label="action")
    config = shipped_config(["policy.dim=32", "policy.head.num_layers=1"])
    policy = fitted_policy(config, windows, RandomEpisodes(300).spec)
    before = {name: x.detach().clone() for name, x in policy.named_parameters()}
    items = Items(windows, obs_horizon=1, pred_horizon=policy.pred_horizon)
    case = reference.their_loop("theirs", policy, item_batches(items, 4), 4)
    assert [case.run(), case.run()] == [4.0, 4.0]
    assert any(not torch.equal(x, before[name]) for name, x in policy.named_parameters())


def test_the_latency_benchmark_counts_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--calls", "3", "--threads", "1", "--steps", "1", "2")
    content = run(latency.main, tmp_path / "latency.json", *sizes)
    check_tables(content, capsys.readouterr().out, "euler, 1 step", "heun, 2 steps")
    (rows,) = content["tables"].values()
    assert {row["case"]: row["evaluations"] for row in rows} == {
        "euler, 1 step": "1",
        "euler, 2 steps": "2",
        "heun, 2 steps": "3",
    }


@pytest.mark.slow
def test_the_latency_benchmark_compares_heads_and_ways_and_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--calls", "3", "--threads", "1", "--steps", "1", "--samplers", "ddim")
    ways = ("--heads", "all", "--ways", "eager", "exported", "graph")
    content = run(latency.main, tmp_path / "latency.json", *sizes, *ways)
    printed = capsys.readouterr().out
    check_tables(content, printed, "edm, ddim, 1 step", "edm, ddim, 1 step, exported")
    assert "left out: graph: CUDA graphs need --device cuda" in printed
    (rows,) = content["tables"].values()
    named = {row["case"].split(",")[0] for row in rows}
    left = {
        line.split(": ")[1].split(",")[0] for line in printed.splitlines() if "left out" in line
    }
    assert {path.stem for path in (CONF / "head").glob("*.yaml")} <= named | left
    ratio = {row["case"]: row["of eager"] for row in rows}
    assert ratio["edm, ddim, 1 step"] == "1.00x [1.00, 1.00]"
    assert ratio["edm, ddim, 1 step, exported"] != "1.00x [1.00, 1.00]"


def test_the_latency_benchmark_draws_success_against_time(
    compose: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, png = tmp_path / "trained", tmp_path / "picture.png"
    experiment.train(compose(trained, "eval.sampling={num_steps: 5}"))
    options = ("--calls", "3", "--threads", "1", "--png", str(png), "--runs", str(trained))
    content = run(latency.main, tmp_path / "latency.json", *options)
    check_tables(content, capsys.readouterr().out, "trained")
    (rows,) = content["tables"].values()
    assert (rows[0]["head"], rows[0]["evaluations"]) == ("EDMHead, ddim, 5", "5")
    assert float(rows[0]["p50 ms"]) > 0
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_evaluation_benchmark_times_three_things(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--seconds", "0", "--constructions", "2", "--episode-steps", "4")
    content = run(evaluation.main, tmp_path / "evaluation.json", *sizes)
    check_tables(content, capsys.readouterr().out, "AsyncVectorEnv", "ours, 20 slots", "mj_step")
    assert len(content["tables"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_metaworld_benchmark_tells_first_visits_from_later_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--seconds", "0", "--reset-seconds", "0", "--seeds", "1", "--constructions", "2")
    content = run(metaworld.main, tmp_path / "metaworld.json", *sizes)
    names = ("SyncVectorEnv", "0 workers", "never visited", "nothing on disk", "mj_step")
    check_tables(content, capsys.readouterr().out, *names)
    assert len(content["tables"]) == 4


def test_pictures_are_compared_by_noise_and_by_what_is_visible() -> None:
    wanted = np.zeros((2, 2, 3), np.uint8)
    image = wanted.copy()
    image[0, 0, 1] = 255
    image[1, 1] = 16  # just not visible
    psnr, off = render.distance(image, wanted)
    assert psnr == pytest.approx(10 * np.log10(255**2 * 12 / (255**2 + 3 * 16**2)))
    assert off == 0.25
    assert render.distance(wanted, wanted) == (np.inf, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_render_benchmark_compares_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--seconds", "0", "--tasks", "1", "--sizes", "128")
    content = run(render.main, tmp_path / "render.json", *sizes)
    check_tables(content, capsys.readouterr().out, "mujoco.Renderer", "fast", "faithful", "native")
    rows = {row["case"]: row for row in content["tables"]["128 x 128 pixels (worst task)"]}
    assert rows["native"]["PSNR dB"] == "inf (inf)"
    assert float(rows["faithful"]["PSNR dB"].split()[0]) >= 34


def test_the_benchmark_of_learners_compares_them_with_plain_ones_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = run(rl.main, tmp_path / "rl.json", "--seconds", "0", "--rows", "1000")
    printed = capsys.readouterr().out
    check_tables(content, printed, "plain IQL", "ours, IQL", "loop over critics", "ten critics")
    assert list(content["tables"]) == ["IQL", "SAC", "SAC, ten critics"]
    for library, rows in (("stable_baselines3", "Stable-Baselines3 SAC"), ("d3rlpy", "d3rlpy IQL")):
        assert (f"{library} is left out" in printed) != (rows in printed)


def test_the_plain_learners_learn_what_ours_do() -> None:
    """A bandit: the reward is -(a - 0.5)^2, so values and actions are known."""
    torch.manual_seed(0)
    s, a = torch.zeros(512, 1), torch.rand(512, 1) * 2 - 1
    columns = (s, a, -((a - 0.5) ** 2), s, torch.ones(512, 1))
    for learner in (PlainIQL(columns), PlainSAC(columns, 3)):
        for _ in range(150):
            found = learner.update()
        assert found["critic"] < 0.05
        asked = torch.tensor([[0.5], [-1.0]])
        q = learner.critics.least(torch.zeros(2, 1), asked)[:, 0]
        assert q.tolist() == pytest.approx([0.0, -2.25], abs=0.3)
