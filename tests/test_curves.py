"""Learning curves over seeds, what tables say of them, and the coefficients of a family."""

import json

import numpy as np
import pytest
from PIL import Image

from embodied.curves import Arm, read_arm
from embodied.experiment import train
from embodied.learning_curve import RETURN, SUCCESS, summaries, summarise
from scripts import coefficients, curves


def rows(*values, name=SUCCESS):
    return [{"step": 10 * i, name: value} for i, value in enumerate(values)]


def test_a_curve_is_read_around_the_switch():
    found = summarise(rows(0.1, 0.6, 0.2, 0.5, 0.9), SUCCESS, 10)
    assert found == pytest.approx(
        {"last": 0.9, "best": 0.9, "offline": 0.6, "dip": 0.4, "regret": (0.8 + 0.5 + 0.1) / 3}
    )
    assert summarise(rows(0.1, 0.6), SUCCESS, None) == {"last": 0.6, "best": 0.6}
    assert summarise(rows(0.1), RETURN, None) == {}


def test_a_policy_that_acts_from_the_first_step_has_no_offline_end():
    assert summarise(rows(5, 7, name=RETURN), RETURN, 0) == {"last": 7, "best": 7}
    assert summarise(rows(0, 1), SUCCESS, 0) == {"last": 1, "best": 1, "regret": 0}


def test_tables_name_last_and_best_as_such():
    found = summaries(rows(0.5, 1.0, 0.5), None)
    assert found == {SUCCESS: {"last": 0.5, "best": 1.0}}


def test_returns_of_tasks_that_d4rl_has_are_normalised():
    summaries = ({"last": 3234.3, "best": 3234.3}, {"last": -20.272305, "best": 3234.3})
    arm = Arm("a", (0,), ((0.0,), (0.0,)), summaries, (-20.272305, 3234.3))
    found = arm.normalised()
    assert found["D4RL score, last"].mean == pytest.approx(50)
    assert found["D4RL score, best"].mean == pytest.approx(100)
    assert Arm("a", (0,), ((0.0,),), summaries[:1]).normalised() == {}


def arm_of(name, seeds, *values):
    return Arm(name, (0, 10, 30), values, ({},) * len(values), seeds=seeds)


def test_the_area_is_the_mean_height_of_a_curve():
    # Trapezia: (0 + 1) / 2 over 10 steps and (1 + 3) / 2 over 20.
    assert arm_of("a", (0,), (0.0, 1.0, 3.0)).areas() == pytest.approx([45 / 30])
    assert Arm("a", (5,), ((2.0,),), ({},)).areas() == [2.0]


def test_areas_are_compared_seed_by_seed():
    mine = arm_of("mine", (0, 1, 2), (1, 1, 1), (2, 2, 2), (9, 9, 9))
    its = arm_of("its", (1, 0, 7), (0, 0, 0), (3, 3, 3), (8, 8, 8))
    found = mine.less(its)
    assert (found.mean, found.episodes) == (0.0, 2)  # 1 - 3 and 2 - 0
    with pytest.raises(ValueError, match="no seed in common"):
        mine.less(arm_of("other", (5,), (0, 0, 0)))
    with pytest.raises(ValueError, match="different steps"):
        mine.less(Arm("other", (0, 10), ((0, 0),), ({},), seeds=(0,)))


def test_seeds_that_never_come_so_high_are_left_out_of_the_steps_and_counted():
    arm = arm_of("a", (0, 1), (0.0, 0.5, 0.2), (0.1, 0.4, 0.4))
    assert arm.steps_to(0.5) == [10]
    assert "by 1 of 2" in curves.as_text(arm, level=0.5)
    assert "by 0 of 2" in curves.as_text(arm, level=0.9)


@pytest.fixture(scope="module")
def family_runs(compose_rewarded, tmp_path_factory):
    """Two seeds of a tiny run from recorded to new."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        overrides = (
            "algorithm=famo2o_iql",
            "source=offline_to_online",
            "source.offline_steps=3",
            "source.warmup_steps=4",
            "eval.every=3",
            "eval.episodes=2",
            "eval.action_horizon=1",
            f"seed={seed}",
        )
        train(compose_rewarded(root / str(seed), *overrides))
    return root


def test_runs_of_an_arm_are_drawn_and_tabled(family_runs, tmp_path, capsys):
    seeds = [str(family_runs / name) for name in "01"]
    files = ["--png", str(tmp_path / "a.png"), "--json", str(tmp_path / "a.json")]
    arms = ["--arm", "both", *seeds, "--arm", "one", seeds[0], "--against", "one"]
    assert curves.main([*arms, *files]) == 0
    printed = capsys.readouterr().out
    for name in (
        "both, 2 seeds",
        "area less one's",
        "one, 1 seeds",
        "offline end",
        "dip at",
        "last",
        "best",
    ):
        assert name in printed
    arms = json.loads((tmp_path / "a.json").read_text())
    assert arms[0]["steps"] == [0, 3, 6]
    arm = read_arm("both", [family_runs / name for name in "01"], RETURN)
    assert arm.table()["last"].mean == pytest.approx(np.mean([v[-1] for v in arm.values]))
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 0


def test_a_measure_that_was_not_taken_is_named(family_runs, capsys):
    arguments = ["--arm", "a", str(family_runs / "0"), "--measure", "eval/joy"]
    assert curves.main(arguments) == 2
    assert "has no curve of eval/joy: train with eval.every" in capsys.readouterr().err


def test_the_report_shows_what_the_curve_says(family_runs):
    page = (family_runs / "0/report.html").read_text()
    for words in ("While it learned", "offline end", "dip at the switch", "best"):
        assert words in page


def test_coefficients_are_shown_along_an_episode_and_over_a_set(
    family_runs, small, tmp_path, capsys
):
    data = next(each for each in small if each.startswith("data_dir=")).partition("=")[2] + "/point"
    files = ["--png", str(tmp_path / "a.png"), "--json", str(tmp_path / "a.json")]
    run = str(family_runs / "0")
    assert coefficients.main([run, data, "--episode", "1", *files]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    chosen = np.concatenate(found["episodes"])
    assert chosen.min() >= 1
    assert chosen.max() <= 5
    assert found["mean"] == pytest.approx(chosen.mean(), rel=1e-5)
    assert f"mean {found['mean']:.4g}" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 0
    assert coefficients.main([run, data, "--episode", "99"]) == 2
    assert "--episode must lie in [0, " in capsys.readouterr().err
    assert coefficients.main([run, data, "--axes", "0", "77"]) == 2
    assert "--axes must lie in [0, 10)" in capsys.readouterr().err
