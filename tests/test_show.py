"""The page about a data set shows everything, loads nothing and runs nothing."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.checking import run, svg
from embodied_datasets.checking.commands import main
from embodied_datasets.checking.film import data_uri
from embodied_datasets.checking.page import write_page

ATTACK = "<script>alert(1)</script>\"'><img src=http://evil.example/x>"
SPEC = Spec(3, 2, (-1.0,) * 2, (1.0,) * 2, 10.0, cameras={"front": (20, 30)})


class Page(HTMLParser):
    """All tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Listed(list[Episode]):
    def __init__(self, episodes: list[Episode], spec: Spec) -> None:
        super().__init__(episodes)
        self.spec = spec
        self.fingerprint = "listed"


def make_episode(seed: int, length: int = 31, **fields: Any) -> Episode:
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(size=(length, 3)), axis=0).astype(np.float32)
    action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    pixels = rng.integers(0, 255, (length, 20, 30, 3), dtype=np.uint8)
    defaults: dict[str, Any] = {"instruction": f"go to {seed % 2}", "images": {"front": pixels}}
    return Episode(state, action, **(defaults | fields))


def show(
    episodes: list[Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shown: int = 6,
    spec: Spec = SPEC,
) -> Page:
    """The page about episodes in memory, through the way that files take."""
    format = SimpleNamespace(name="memory", open=lambda path, report: Listed(episodes, spec))
    monkeypatch.setattr(run, "find_format", lambda path, name: format)
    output = tmp_path / "page.html"
    size = write_page(tmp_path / "set", output, shown=shown)
    assert size == output.stat().st_size
    return Page(output.read_text(encoding="utf-8"))


def test_the_page_holds_films_plots_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [make_episode(seed) for seed in range(8)]
    page = show([*episodes, episodes[3]], tmp_path, monkeypatch, shown=4)
    assert len(page.named("video")) == 4
    assert len(page.named("polyline")) == 4 * (3 + 2)  # a line for each dimension
    assert "Episodes 9" in page.text
    assert "go to 1 5 31 0 %" in page.text  # the table of instructions
    assert "8 3 exactly" in page.text  # the duplicates
    assert "duplicate 1 episode 8" in page.text  # the faults
    assert len(page.named("circle")) > 100  # coverage


def test_the_page_runs_no_script_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Annotation("motion", ATTACK, step=3)
    episode = make_episode(0, instruction=ATTACK, annotations=(note,))
    page = show([episode, make_episode(1)], tmp_path, monkeypatch)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img", "iframe", "link", "object", "form"}
    sources = [
        v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href")
    ]
    assert sources
    assert all(str(source).startswith("data:video/mp4;base64,") for source in sources)
    assert not [k for _, attributes in page.tags for k in attributes if k.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 3  # as text, wherever it is shown
    policy = page.named("meta")[-1]["content"] or ""
    assert "default-src 'none'" in policy


def test_notes_are_marked_where_they_belong_on_the_axis_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = (Annotation("motion", "move arm up"), Annotation("subtask", "grasp", step=15))
    page = show([make_episode(0, annotations=notes)], tmp_path, monkeypatch)
    marks = [a["d"] for a in page.named("path") if a.get("class") == "mark"]
    assert len(marks) == 2 * 2  # above the states and above the actions
    left, middle = (float(str(mark)[1:].split()[0]) for mark in marks[:2])
    right = svg.WIDTH - 6
    assert middle == pytest.approx((left + right) / 2, abs=0.2)
    assert "1.50 s, subtask: grasp" in page.text


def test_the_page_stays_small_however_large_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [make_episode(i, 12, instruction=f"number {i}", images={}) for i in range(400)]
    page = show(texts, tmp_path, monkeypatch, spec=replace(SPEC, cameras={}))
    assert "and 360 more" in page.text
    assert (tmp_path / "page.html").stat().st_size < 400_000


def test_faulty_episodes_are_shown_as_far_as_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = make_episode(0)
    broken.state[4, 1] = np.nan
    odd = replace(make_episode(1), action=np.zeros((31, 5), np.float32))
    single = make_episode(2, 1)
    page = show([broken, odd, single], tmp_path, monkeypatch)
    assert len(page.named("video")) == 3
    assert "nonfinite 1 episode 0 frame 4 state" in page.text


def test_nothing_to_show_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "none"), "-o", str(tmp_path / "x.html")]) == 2
    assert "no episode that can be shown" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("length", "sides", "stride", "block"),
    [(20, (16, 24), 1, 1), (400, (11, 17), 3, 1), (20, (400, 300), 1, 3)],
)
def test_films_are_thinned_and_shrunk_and_last_as_long_as_the_episode(
    tmp_path: Path, length: int, sides: tuple[int, int], stride: int, block: int
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (length, *sides, 3), dtype=np.uint8)
    kind, _, content = data_uri(frames, 10.0).partition(",")
    assert kind == "data:video/mp4;base64"
    (tmp_path / "film.mp4").write_bytes(base64.b64decode(content))
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == math.ceil(length / stride)
        assert float(stream.average_rate or 0) == pytest.approx(10 / stride, rel=1e-3)
        height, width = stream.codec_context.height, stream.codec_context.width
    for side, found in zip(sides, (height, width), strict=True):
        assert found % 2 == 0
        assert 0 <= found - side / block < 2


def test_lines_span_the_drawing_and_the_range_of_the_values() -> None:
    drawn = Page(svg.lines(np.array([[0.0], [1.0], [0.5]]), 2.0))
    (line,) = drawn.named("polyline")
    points = [tuple(map(float, p.split(","))) for p in str(line["points"]).split()]
    assert [x for x, _ in points] == pytest.approx([44, 299, 554])
    low, high, middle = (y for _, y in points)
    assert low > middle > high  # upwards is less in SVG
    assert middle == pytest.approx((low + high) / 2, abs=0.1)
    assert "2 s" in drawn.text


def test_a_bar_is_as_high_as_its_count() -> None:
    heights = [float(str(r["height"])) for r in Page(svg.bars([1, 2, 4], 0, 1)).named("rect")]
    assert heights == pytest.approx([10.5, 21, 42])
