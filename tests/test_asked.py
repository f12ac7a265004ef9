"""What windows are asked besides their words: labels, start, phrases, sketches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.data.asked import SketchStyle, Told, _choose, told_by
from embodied.data.blocks import Blocks
from embodied.data.goals import Goals
from embodied.data.mixture import mix
from embodied.data.sketches import Trace, draw
from embodied.data.windows import Windows
from embodied.sources import Offline
from embodied.structs import Annotation, Batch
from tests.test_windows import Recorded

LENGTHS = [4, 3, 5]
HORIZONS = {"obs_horizon": 1, "pred_horizon": 2}


def trace(number: int) -> Trace:
    points = np.array([[2.0, 2.0], [2.0 + number, 12.0]])
    return Trace(points, np.array([0.0, 0.1 * number]), (16, 20))


def recorded() -> Recorded:
    """Episode i says "i.a", from step 2 on "i.b", and all but the last have a sketch."""
    found = Recorded(LENGTHS, images=True)
    for i, episode in enumerate(found.episodes):
        notes = [Annotation("motion", f"{i}.a", 0), Annotation("motion", f"{i}.b", 2)]
        if i < 2:
            notes.append(Annotation("trace", trace(i + 1).to_json(), 0, "top"))
        found.episodes[i] = replace(episode, annotations=tuple(notes))
    return found


def asked(told: Told, cache: Path | None = None) -> Windows:
    return Windows.load(recorded(), label="action", cache=cache).asking(told)


def gather(windows: Windows, frames: list[int]) -> Batch:
    return windows.gather(torch.tensor(frames), **HORIZONS)


@pytest.mark.parametrize("on_disk", [False, True])
def test_phrases_hold_until_the_next_and_the_one_ahead_stops_at_the_episodes_end(
    on_disk: bool, tmp_path: Path
) -> None:
    windows = asked(Told(phrases="motion", ahead=2), tmp_path if on_disk else None)
    batch = gather(windows, [0, 1, 3, 4, 6, 11])
    assert batch.condition.motion == ("0.a", "0.a", "0.b", "1.a", "1.b", "2.b")
    assert batch.phrase == ("0.b", "0.b", "0.b", "1.b", "1.b", "2.b")
    assert windows.phrases == ("0.a", "0.b", "1.a", "1.b", "2.a", "2.b")


def test_episodes_without_phrases_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"told.phrases='subtask'.*relabel"):
        asked(Told(phrases="subtask"))


def test_sketches_are_drawn_once_for_each_episode_and_marked_where_there_is_none() -> None:
    batch = gather(asked(Told(sketches=SketchStyle(with_height=False))), [1, 5, 11])
    assert batch.condition.sketch is not None
    assert batch.condition.present["sketch"].tolist() == [True, True, False]
    for row, number in enumerate((1, 2)):
        expected = torch.from_numpy(draw(trace(number), with_height=False).copy()).movedim(-1, 0)
        assert torch.equal(batch.condition.sketch[row], expected)
    assert not batch.condition.sketch[2].any()


def test_sketches_can_have_another_size() -> None:
    told = told_by({"sketches": {"size": [8, 10]}}, seed=0)
    assert told is not None
    batch = gather(asked(told), [0])
    assert batch.condition.sketch is not None
    assert batch.condition.sketch.shape == (1, 3, 8, 10)


def test_no_sketch_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no episode has one"):
        Windows.load(Recorded(LENGTHS), label="action").asking(Told(sketches=SketchStyle()))


def test_the_start_is_the_episodes_first_frame() -> None:
    batch = gather(asked(Told(start=True)), [2, 6, 8])
    assert batch.condition.start is not None
    assert batch.condition.start.state[:, 0, 1].tolist() == [0.0, 0.0, 0.0]
    assert batch.condition.start.state[:, 0, 0].tolist() == [0.0, 1.0, 2.0]
    first = gather(asked(Told()), [0, 4, 7])
    assert torch.equal(batch.condition.start.images["top"], first.observation.images["top"])


def test_unlabelled_episodes_lose_their_words_and_not_only_the_mark() -> None:
    windows = asked(Told(labels=1, never=("text 0",)))
    batch = gather(windows, [0, 4, 7])
    assert batch.condition.present["language"].tolist() == [False, True, False]
    assert batch.condition.language == ("", "text 1", "")
    assert windows.told == ("text 1",)
    assert windows.labelled(torch.tensor([0, 4, 7])).tolist() == [False, True, False]


def test_labels_are_drawn_by_the_seed_and_too_many_are_refused() -> None:
    chosen = {
        tuple(asked(Told(labels=1, seed=seed)).labelled(torch.tensor([0, 4, 7])).tolist())
        for seed in range(20)
    }
    assert len(chosen) == 3
    with pytest.raises(ValueError, match=r"told.labels=2 .* 1 episodes"):
        asked(Told(labels=2, never=("text 0",)))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 9), st.data())
def test_labels_can_be_shared_out_evenly(sizes: list[int], seed: int, data: st.DataObject) -> None:
    instructions = [f"text {i}" for i, size in enumerate(sizes) for _ in range(size)]
    labels = data.draw(st.integers(0, len(instructions)))
    drawn = _choose(Told(labels=labels, evenly=True, seed=seed), instructions)
    counts = Counter(text for text, kept in zip(instructions, drawn, strict=True) if kept)
    assert sum(counts.values()) == labels
    most = max(counts.values(), default=0)
    for i, size in enumerate(sizes):  # nobody has two fewer, unless there are no more
        assert counts[f"text {i}"] >= min(size, most - 1)


def test_labelled_episodes_have_their_share_of_each_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    for share, expected in ((0.8, 0.8), (1.0, 1.0), (None, 1 / 3)):
        windows = asked(Told(never=("text 0",), labelled_share=share))
        drawn = windows.labelled(windows.draw(4000, generator)).double().mean()
        assert abs(float(drawn) - expected) < 0.04
    with pytest.raises(ValueError, match=r"labelled_share=0\.5 needs episodes of both kinds"):
        asked(Told(labelled_share=0.5))
    with pytest.raises(ValueError, match=r"told\.labelled_share must lie in"):
        Told(labelled_share=0.0)


def test_pairs_of_one_scene_differ_in_what_was_asked_and_not_in_being_told() -> None:
    episodes = Recorded([3] * 8)
    for i, episode in enumerate(episodes.episodes):
        facts = {"suite": "s", "benchmark_seed": 0, "goal": i // 4}
        episodes.episodes[i] = replace(episode, info=facts)
    told = Told(never=("text 0",), same_scene=0.5)
    windows = Windows.load(episodes, label="action").asking(told)
    frames = windows.draw(400, torch.Generator().manual_seed(0))
    drawn = (frames // 3).reshape(-1, 2)
    scenes, parities = drawn // 4, drawn % 2  # of even ones the words are kept back
    paired = slice(0, 100)
    assert torch.equal(scenes[paired, 0], scenes[paired, 1])
    assert torch.equal(parities[paired, 0], parities[paired, 1])
    assert not torch.equal(scenes[100:, 0], scenes[100:, 1])
    others = (drawn[paired, 0] != drawn[paired, 1]).double().mean()
    assert abs(float(others) - 0.5) < 0.15  # each has one other episode like it
    with pytest.raises(ValueError, match=r"told\.same_scene"):
        Told(same_scene=2.0)


def test_labelled_frames_aim_at_the_end_of_their_episode() -> None:
    windows = asked(Told(labels=1, never=("text 0",)))
    goals = Goals(p_curgoal=1, p_trajgoal=0, labelled_final=True)
    index = torch.tensor([1, 5, 8])
    assert goals.draw(windows, index, torch.Generator()).tolist() == [1, 6, 8]


def test_goals_and_all_else_that_is_asked_come_together() -> None:
    told = Told(phrases="motion", sketches=SketchStyle(), start=True)
    source = Offline(asked(told), batch_size=8, goals=Goals(), **HORIZONS)
    condition = next(source).condition
    assert condition.present.keys() == {"language", "goal_state", "goal_image", "sketch"}
    for part in (condition.goal, condition.start, condition.motion, condition.sketch):
        assert part is not None


def test_what_is_asked_follows_the_episodes_into_selections_mixtures_and_pools() -> None:
    told = Told(labels=1, never=("text 0",), phrases="motion", sketches=SketchStyle())
    chosen = asked(told).select([1, 2])
    assert gather(chosen, [7]).condition.motion == ("2.a",)
    assert chosen.told == ("text 1",)
    plain = Windows.load(recorded(), label="action")
    mixed = mix({"a": (plain, 1.0), "b": (plain, 1.0)}).asking(Told(phrases="motion"))
    assert gather(mixed, [0, 12, 23]).condition.motion == ("0.a", "0.a", "2.b")
    pool = chosen.read(torch.tensor([1, 0]), torch.ones(2))  # episodes 2 and then 1
    batch = gather(pool, [0, 4, 5, 7])
    assert batch.condition.motion == ("2.a", "2.b", "1.a", "1.b")
    assert batch.condition.present["language"].tolist() == [False, False, True, True]
    assert batch.condition.present["sketch"].tolist() == [False, False, True, True]
    blocks = Blocks(asked(told), batch_size=2, seed=0, block_bytes=1, pool_blocks=2)
    assert gather(blocks.at(0), [0]).phrase is not None
    blocks.close()


def test_rewordings_share_their_meaning() -> None:
    rewordings = {f"text {i}": (f"text {i}", f"words {i}") for i in range(2)}
    windows = Windows.load(recorded(), label="action", rewordings=rewordings).asking(Told())
    batch = windows.gather(torch.tensor([0, 4, 7]), wording=torch.full((3,), 0.9), **HORIZONS)
    assert batch.condition.language == ("words 0", "words 1", "words 0")
    assert batch.meaning is not None
    assert batch.meaning[0] == batch.meaning[2] != batch.meaning[1]


def test_wrong_settings_name_the_field() -> None:
    for settings, field in (({"labels": -1}, "labels"), ({"ahead": -1}, "ahead")):
        with pytest.raises(ValueError, match=f"told.{field}"):
            told_by(settings, seed=0)
    with pytest.raises(ValueError, match=r"told\.phrases"):
        told_by({"phrases": "words"}, seed=0)
    assert told_by(None, seed=0) is None
