"""The report is one file that shows everything, loads nothing and runs nothing."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from embodied.plots import draw_curves
from embodied.report import Video, write_report
from embodied.results import Evaluation, Outcome
from embodied.suites import Assignment

ATTACK = "<script>alert(1)</script>\"'><img src=http://evil.example/x>"


class Page(HTMLParser):
    """All tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluation(text: str = "push the block", **changes: Any) -> Evaluation:
    outcomes = [
        Outcome(Assignment("push", goal, 0, goal, text), goal < 6, steps=90, reward=1.0)
        for goal in range(8)
    ]
    outcomes[7] = replace(outcomes[7], valid=False, reason=f"unstable at 1.2 s {text}")
    base = Evaluation("toy-v1", "runs/a", tuple(outcomes), wall_s=75.0, seed=3)
    return replace(base, **changes)


def report(tmp_path: Path, **changes: Any) -> Page:
    arguments: dict[str, Any] = {"title": "A run", "evaluation": evaluation(), **changes}
    write_report(tmp_path / "report.html", **arguments)
    return Page(tmp_path / "report.html")


def test_figures_stand_in_the_text(tmp_path: Path):
    page = report(
        tmp_path,
        evaluation=evaluation(
            versions={"numpy": "9.8.7"}, fingerprint="sha256:77", config={"k": 5}
        ),
        wall_clock={"train": 3725.0, "evaluate": 75.0},
        notes=["Rendered on the CPU."],
    )
    figures = ("toy-v1", "runs/a", "85.7 %", "48.7 to 97.4", "7 valid episodes", "(1 invalid)")
    origins = ("9.8.7", "sha256:77", "k: 5", "1 h 2 min", "1 min 15 s", "Rendered on the CPU.")
    for text in (*figures, "unstable at 1.2 s", *origins):
        assert text in page.text


def test_further_measures_have_a_table_of_their_own(tmp_path: Path):
    assert "Further measures" not in report(tmp_path).text
    outcomes = tuple(replace(x, metrics={"result": 3.25}) for x in evaluation().outcomes)
    page = report(tmp_path, evaluation=evaluation(outcomes=outcomes))
    assert "Further measures" in page.text
    assert "toy-v1result3.2503.250 to 3.2507" in page.text


def test_probes_stand_beside_the_evaluation_and_chance(tmp_path: Path):
    probes = {"held_out_paraphrases": evaluation(), "other_instruction": evaluation()}
    page = report(tmp_path, evaluation=evaluation(probes=probes), chance=0.1)
    for text in ("as evaluated", "held out paraphrases", "other instruction", "chance, 10.0 %"):
        assert text in page.text
    marks = [i for i in page.named("i") if i["class"] == "reference"]
    assert {mark["style"] for mark in marks} == {"left:10.00%"}
    assert len(marks) == 1 + 1 + 3  # headline, one task, three ways of asking


def test_without_probes_there_is_no_such_section(tmp_path: Path):
    assert "Does it listen?" not in report(tmp_path).text


def test_nothing_that_comes_from_data_can_become_markup(tmp_path: Path):
    hostile = evaluation(
        ATTACK, versions={ATTACK: ATTACK}, fingerprint=ATTACK, checkpoint=ATTACK, protocol=ATTACK
    )
    task = replace(hostile.outcomes[0], assignment=Assignment(ATTACK, 0, 0, 0, ATTACK))
    page = report(
        tmp_path,
        title=ATTACK,
        evaluation=replace(
            hostile,
            outcomes=(task, *hostile.outcomes),
            probes={ATTACK: hostile},
            config={"a": ATTACK},
        ),
        curves=[{"step": step, ATTACK: 1.0 * step} for step in range(3)],
        videos=[Video(ATTACK, ATTACK, True, b"mp4")],
        wall_clock={ATTACK: 1.0},
        notes=[ATTACK],
    )
    assert page.named("script") == page.named("img") == []
    assert page.text.count("<script>alert(1)</script>") >= 10  # shown as what it is


def test_the_file_needs_no_other(tmp_path: Path):
    page = report(
        tmp_path,
        curves=[{"step": step, "loss": 1.0 / (1 + step)} for step in range(30)],
        videos=[Video("push", "push", True, b"mp4")],
    )
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "poster", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"@import|url\(\s*['\"]?http", html)
    policy = next(meta for meta in page.named("meta") if "http-equiv" in meta)
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_videos_are_in_the_file_with_how_they_ended(tmp_path: Path):
    file = tmp_path / "failure.mp4"
    file.write_bytes(b"second")
    films = [Video("try 1", "push", True, b"first"), Video("try 2", "push", False, file)]
    page = report(tmp_path, videos=films)
    sources = [video["src"] or "" for video in page.named("video")]
    assert [base64.b64decode(source.split(",")[1]) for source in sources] == [b"first", b"second"]
    assert all({"controls", "muted", "loop"} <= video.keys() for video in page.named("video"))
    assert "try 1✓ success" in page.text.replace(" ✓", "✓")
    assert "try 2✗ failure" in page.text.replace(" ✗", "✗")


def test_without_videos_the_reason_is_given(tmp_path: Path):
    page = report(tmp_path, no_videos="rendering failed: no EGL device")
    assert page.named("video") == []
    assert "No videos: rendering failed: no EGL device." in page.text


def test_a_task_without_valid_episodes_is_pointed_out(tmp_path: Path):
    dead = replace(evaluation().outcomes[0], valid=False, reason="worker died")
    page = report(tmp_path, evaluation=evaluation(outcomes=(dead,)))
    assert "push has no valid episode and is missing from the mean" in page.text
    assert "not measured" in page.text


def test_curves_come_success_first_and_count_what_is_missing():
    rows: list[dict[str, float]] = [{"step": step, "lr": 0.1, "loss": 1.0} for step in range(4)]
    rows[1]["loss"] = math.nan
    rows[2] |= {"eval/success": 0.2, "once": 1.0}
    rows[3] |= {"eval/success": 0.6}
    curves = draw_curves(rows)
    assert [(c.name, c.last, c.missing) for c in curves] == [
        ("eval/success", 0.6, 0),
        ("loss", 1.0, 1),
        ("lr", 0.1, 0),
    ]


def test_a_curve_takes_the_colours_of_the_page_and_repeats_itself():
    rows = [{"step": float(step), "loss": math.sin(step)} for step in range(2000)]
    (curve,) = draw_curves(rows)
    assert curve.svg == draw_curves(rows)[0].svg
    assert curve.svg.startswith("<svg ")
    assert not re.search(r"#0[0-9a-f]{5}|<style|<!DOCTYPE", curve.svg)
    assert "var(--accent)" in curve.svg
    assert len(curve.svg) < 40_000  # 2000 points are drawn as 250


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path):
    report(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


def test_a_missing_video_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        report(tmp_path, videos=[Video("x", "push", True, tmp_path / "gone.mp4")])
    assert not (tmp_path / "report.html").exists()
