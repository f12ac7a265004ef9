"""Labels in hindsight: they come back, can be undone, and stick to their episodes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embodied.data.sketches import Trace
from embodied.people.narration import Early
from embodied.structs import Annotation, Episode, Spec
from embodied_datasets import labellers
from embodied_datasets.faults import DataError
from embodied_datasets.formats import open_episodes
from embodied_datasets.labels import Labelled, Labels, add_layer, layers, remove_layer
from embodied_datasets.lerobot_writer import LeRobotWriter
from embodied_datasets.relabelled import Relabelled

SPEC = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)


class Memory:
    """Episodes that were not read from anywhere."""

    spec = SPEC
    fingerprint = "memory"

    def __init__(self, *episodes: Episode) -> None:
        self._episodes = episodes

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        return self._episodes[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._episodes)


def episode(seed: int = 0, length: int = 5, **fields: Any) -> Episode:
    random = np.random.default_rng(seed)
    state = random.random((length, 4), np.float32)
    action = random.random((length, 2), np.float32)
    return Episode(state, action, **{"instruction": f"do {seed}"} | fields)


def label(labeller: Any, **fields: Any) -> Labels:
    found: Labels = labeller(episode(**fields), SPEC)
    return found


# Labellers


def test_motions_are_noted_where_they_change() -> None:
    state = np.zeros((6, 4), np.float32)
    state[:, 0] = [0, 0.1, 0.2, 0.2, 0.2, 0.1]
    axes = [{"positive": "right", "negative": "left", "threshold": 0.05}]
    labeller = labellers.Motions(axes, columns=[0], horizon=1)
    found = labeller(dataclasses.replace(episode(length=6), state=state), SPEC).annotations
    said = [(each.step, each.content) for each in found]
    assert said == [(0, "right"), (2, "hold still"), (4, "left"), (5, "hold still")]
    assert {each.style for each in found} == {"motion"}


def test_a_sketch_is_the_path_through_the_recorded_camera() -> None:
    state = np.zeros((3, 4), np.float32)
    state[:, :3] = [[2, 0, 0], [2, 0.2, 0], [2, 0.2, 0.2]]
    state[:, 3] = [1.0, 0.5, 0.5]  # the gripper closes half way and is blocked
    camera = {
        "intrinsics": [[100, 0, 32], [0, 100, 24], [0, 0, 1]],
        "extrinsics": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]],
        "size": [48, 64],
    }
    one = dataclasses.replace(
        episode(length=3, info={"cameras": {"front": camera}}),
        state=state,
        action=np.array([[0, -1], [0, 1], [0, 1]], np.float32),
    )
    (found,) = labellers.Sketches("front")(one, SPEC).annotations
    assert (found.style, found.camera, found.step) == ("trace", "front", 0)
    trace = Trace.from_json(found.content)
    np.testing.assert_allclose(trace.points, [[32, 24], [22, 24], [22, 14]], atol=0.01)
    assert (trace.size, trace.closes) == ((48, 64), None)
    with pytest.raises(ValueError, match="nobody recorded the matrices of camera 'top'"):
        labellers.Sketches("top")(one, SPEC)


def test_a_sketch_marks_where_the_gripper_holds_something() -> None:
    state = np.zeros((4, 4), np.float32)
    state[:, 0], state[:, 3] = 1.0, [1.0, 0.5, 0.5, 0.0]
    action = np.array([[0, -1], [0, 1], [0, 1], [0, -1]], np.float32)
    matrices = {
        "intrinsics": np.eye(3).tolist(),
        "extrinsics": [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]],
        "size": [4, 4],
    }
    one = dataclasses.replace(episode(length=4), state=state, action=action)
    labeller = labellers.Sketches("c", gripper=3, command=1, matrices=matrices)
    trace = Trace.from_json(labeller(one, SPEC).annotations[0].content)
    assert (trace.closes, trace.opens) == (1, 3)


def test_a_hand_behind_the_camera_is_refused() -> None:
    matrices = {
        "intrinsics": np.eye(3).tolist(),
        "extrinsics": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -9]],
        "size": [4, 4],
    }
    with pytest.raises(ValueError, match="behind the camera"):
        label(labellers.Sketches("c", matrices=matrices))


def corrected(*marks: tuple[int, str, str]) -> Episode:
    return episode(
        length=8,
        annotations=tuple(Annotation("motion", text, t, role=who) for t, text, who in marks),
    )


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0, ["", "", "", "up", "up", "", "down", "down"]),
        (1, ["", "", "up", "up", "up", "down", "down", "down"]),
        (9, ["up", "up", "up", "up", "up", "down", "down", "down"]),
    ],
)
def test_of_corrected_episodes_only_what_people_said_is_learned(
    margin: int, expected: list[str]
) -> None:
    """As YAY's post-training reads them, with a margin in steps."""
    marks = [(0, "left", "assistant"), (3, "up", "user"), (5, "left", "assistant")]
    episodes = Memory(corrected(*marks, (6, "down", "user")))
    early = Early(episodes, margin_s=margin / SPEC.rate_hz, style="motion")
    said = Relabelled(early, [labellers.Spoken("motion")])[0]
    words = [""] * 8
    for each in said.annotations:
        words[each.step :] = [each.content] * (8 - each.step)
    assert words == expected


def test_an_episode_that_nobody_corrected_teaches_no_phrase() -> None:
    said = labellers.Spoken("motion")(corrected((0, "left", "assistant")), SPEC).annotations
    assert [(each.content, each.step) for each in said] == [("", 0)]


def test_paraphrases_are_other_wordings_of_the_instruction_alone() -> None:
    labeller = labellers.Paraphrases({"do 0": ["act", "go"], "do 1": ["stop"]})
    assert [(x.style, x.content) for x in label(labeller).annotations] == [
        ("task_aug", "act"),
        ("task_aug", "go"),
    ]
    assert label(labeller, seed=2) == Labels()


def test_subtasks_hold_from_where_they_were_begun() -> None:
    info = {"subtasks": [[1, "open the drawer"], [3, "close it"], [5, "past the end"]]}
    said = label(labellers.Subtasks(), info=info).annotations
    assert [(x.style, x.content, x.step) for x in said] == [
        ("subtask", "open the drawer", 0),
        ("subtask", "close it", 3),
    ]
    with pytest.raises(ValueError, match=r"do not say what was pursued .*experts that are players"):
        label(labellers.Subtasks())


@pytest.mark.parametrize(
    ("when", "at_least", "solved"),
    [("any", 2.0, True), ("any", 2.5, False), ("final", 1.0, False), ("sum", 3.0, True)],
)
def test_success_follows_from_rewards(when: str, at_least: float, solved: bool) -> None:
    reward = np.array([1, 2, 0], np.float32)
    assert label(labellers.Success(at_least, when), length=3, reward=reward).success is solved


@pytest.mark.parametrize(
    ("kind", "success", "wanted"),
    [
        ("sparse", True, [0, 0, 1]),
        ("sparse", False, [0, 0, 0]),
        ("steps", True, [-1, -1, 0]),
        ("steps", False, [-1, -1, -1]),
    ],
)
def test_rewards_follow_from_success(kind: str, success: bool, wanted: list[float]) -> None:
    found = label(labellers.Rewards(kind), length=3, success=success).reward
    assert found is not None
    assert found.tolist() == wanted


def test_returns_are_discounted_sums_of_what_is_to_come() -> None:
    reward = np.array([1, 0, 4], np.float32)
    found = label(labellers.ReturnsToGo(0.5), length=3, reward=reward).extras["return_to_go"]
    assert found.tolist() == [2.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="have no reward; label rewards first"):
        label(labellers.ReturnsToGo())


@pytest.mark.parametrize("law", ["final", "uniform", "geometric"])
def test_goals_lie_ahead_in_the_same_episode_and_do_not_change(law: str) -> None:
    labeller = labellers.HindsightGoals(law, discount=0.5, seed=3)
    goals = label(labeller, length=50).extras["goal_step"]
    assert goals[-1] == 49
    assert (goals[:-1] > np.arange(49)).all()
    assert (goals <= 49).all()
    np.testing.assert_array_equal(goals, label(labeller, length=50).extras["goal_step"])
    assert (goals == 49).all() == (law == "final")


def test_geometric_goals_have_the_laws_mean() -> None:
    labeller = labellers.HindsightGoals("geometric", discount=0.9)
    goals = label(labeller, length=20_000).extras["goal_step"]
    ahead = goals[:-500] - np.arange(len(goals) - 500)
    assert ahead.mean() == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("labeller", "words"),
    [
        (labellers.Success(1.0, "never"), "when must be one of"),
        (labellers.Rewards("dense"), "kind must be"),
        (labellers.ReturnsToGo(2.0), "discount must lie"),
        (labellers.HindsightGoals("past"), "law must be one of"),
        (labellers.Motions([], [9]), "needs|columns|words"),
    ],
)
def test_wrong_settings_are_named(labeller: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        label(labeller, reward=np.zeros(5, np.float32))


# Layers


def test_labels_come_back_as_they_were_made(tmp_path: Path) -> None:
    data = Memory(episode(0), episode(1, 3, success=True))
    add_layer(tmp_path, "rewards", labellers.Rewards(), data, progress=False)
    labelled = Labelled(tmp_path, data, ["rewards"])
    add_layer(tmp_path, "returns", labellers.ReturnsToGo(0.5), labelled, progress=False)
    add_layer(tmp_path, "words", labellers.Paraphrases({"do 1": ["act"]}), labelled, progress=False)
    assert layers(tmp_path) == ["rewards", "returns", "words"]
    first, second = Labelled(tmp_path, data, layers(tmp_path))
    assert second.reward is not None
    assert second.reward.tolist() == [0, 0, 1]
    assert second.extras["return_to_go"].tolist() == [0.25, 0.5, 1.0]
    assert second.annotations == (Annotation("task_aug", "act"),)
    assert first.annotations == ()
    assert data[1].reward is None  # what was recorded is untouched


def test_a_layer_can_be_undone_and_made_anew(tmp_path: Path) -> None:
    data = Memory(episode(0))
    add_layer(tmp_path, "goals", labellers.HindsightGoals(), data, progress=False)
    before = Labelled(tmp_path, data, ["goals"]).fingerprint
    add_layer(tmp_path, "goals", labellers.HindsightGoals("uniform"), data, progress=False)
    assert Labelled(tmp_path, data, ["goals"]).fingerprint != before
    remove_layer(tmp_path, "goals")
    assert layers(tmp_path) == []
    assert list((tmp_path / "labels").iterdir()) == []
    with pytest.raises(ValueError, match="has no labels 'goals'"):
        remove_layer(tmp_path, "goals")


def test_labels_stick_to_episodes_in_any_order(tmp_path: Path) -> None:
    data = Memory(episode(0, success=True), episode(1), episode(2, success=True))
    add_layer(tmp_path, "rewards", labellers.Rewards(), data, progress=False)
    some = Labelled(tmp_path, Memory(data[2], data[1]), ["rewards"])
    assert [float(each.reward.sum()) for each in some if each.reward is not None] == [1.0, 0.0]


def test_labels_of_changed_data_are_refused(tmp_path: Path) -> None:
    add_layer(tmp_path, "rewards", labellers.Rewards(), Memory(episode(0)), progress=False)
    with pytest.raises(DataError, match=r"E_DATA_LABELS_STALE.*episode 1.*make them anew"):
        list(Labelled(tmp_path, Memory(episode(0), episode(1)), ["rewards"]))


def test_annotations_take_the_place_of_their_style_only() -> None:
    said = (Annotation("subtask", "reach", 0), Annotation("motion", "up", 2))
    one = episode(annotations=said)
    found = Labels(annotations=(Annotation("motion", "down", 1),)).put_on(one).annotations
    assert found == (Annotation("subtask", "reach", 0), Annotation("motion", "down", 1))


def test_a_crash_while_labelling_leaves_the_last_good_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Memory(episode(0))
    add_layer(tmp_path, "goals", labellers.HindsightGoals(), data, progress=False)

    def crash(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("embodied_datasets.labels.write_json", crash)
    with pytest.raises(OSError, match="disk full"):
        add_layer(tmp_path, "goals", labellers.HindsightGoals("uniform"), data, progress=False)
    assert (Labelled(tmp_path, data, ["goals"])[0].extras["goal_step"] == 4).all()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Labels(reward=np.zeros(4, np.float32)), "must be 5 finite values"),
        (Labels(extras={"x": np.full(5, np.nan)}), "must be 5 finite values"),
        (Labels(annotations=(Annotation("motion", "up", 5),)), "is not on a step of 5"),
    ],
)
def test_labels_that_do_not_fit_their_episode_are_refused(
    tmp_path: Path, said: Labels, words: str
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        def __call__(self, episode: Episode, spec: Spec) -> Labels:
            return said

    with pytest.raises(ValueError, match=words):
        add_layer(tmp_path, "wrong", Wrong(), Memory(episode(0)), progress=False)


def test_opening_a_data_set_puts_its_labels_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with LeRobotWriter(root, spec=SPEC) as writer:
        writer.add("a", episode(0, success=True))
        writer.finalize()
    recorded = open_episodes(root)
    add_layer(root, "rewards", labellers.Rewards("steps"), recorded, progress=False)
    reward = open_episodes(root)[0].reward
    assert reward is not None
    assert reward.tolist() == [-1, -1, -1, -1, 0]
    assert open_episodes(root, labels=[])[0].reward is None
    with pytest.raises(ValueError, match="has no labels"):
        open_episodes(root, labels=["nobody"])


def test_a_layer_tells_who_made_it(tmp_path: Path) -> None:
    add_layer(
        tmp_path, "goals", labellers.HindsightGoals(seed=7), Memory(episode(0)), progress=False
    )
    facts = json.loads((tmp_path / "labels" / "goals" / "labels.json").read_text())
    assert facts["labeller"]["class"] == "embodied_datasets.labellers.HindsightGoals"
    assert facts["labeller"]["seed"] == 7


# The command


def relabel(*overrides: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "scripts" / "relabel.py"
    command = [sys.executable, str(script), *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_labels_lists_and_undoes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with LeRobotWriter(root, spec=SPEC) as writer:
        writer.add("a", episode(0, success=True))
        writer.finalize()
    assert relabel(f"path={root}", "label=rewards").stdout == f"labels of {root}: rewards\n"
    made = relabel(f"path={root}", "label=returns", "label.discount=0.5", "name=half")
    assert made.stdout == f"labels of {root}: rewards, half\n"
    assert open_episodes(root)[0].extras["return_to_go"].tolist() == [
        1 / 16,
        1 / 8,
        1 / 4,
        1 / 2,
        1,
    ]
    assert relabel(f"path={root}", "undo=half").stdout == f"labels of {root}: rewards\n"
    for wrong, words in (
        (["undo=half"], "has no labels 'half'; it has ['rewards']"),
        (["label=sketches"], "E_CONFIG_MISSING: label.camera must be given"),
    ):
        refused = relabel(f"path={root}", *wrong)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: ")
        assert words in refused.stderr
    assert layers(root) == ["rewards"]


# Labels made at each reading


REPHRASE = labellers.Paraphrases({"do 0": ("be done with 0",)})


def test_episodes_are_labelled_as_they_are_read_and_stay_as_they_were() -> None:
    plain = Memory(episode(0), episode(1))
    found = Relabelled(plain, [REPHRASE])
    assert [each.annotations for each in found] == [
        (Annotation("task_aug", "be done with 0"),),
        (),
    ]
    assert len(found) == 2
    assert found.spec == SPEC
    assert not any(each.annotations for each in plain)
    np.testing.assert_array_equal(found[1].state, plain[1].state)


def test_a_later_labeller_sees_what_an_earlier_one_said() -> None:
    solved = episode(0, success=True)
    chain = [labellers.Rewards("sparse"), labellers.ReturnsToGo()]
    (found,) = Relabelled(Memory(solved), chain)
    np.testing.assert_array_equal(found.extras["return_to_go"], np.ones(5, np.float32))


def test_the_labellers_settings_are_part_of_what_a_run_was_trained_on() -> None:
    kinds = [[], [labellers.Rewards("sparse")], [labellers.Rewards("steps")], [REPHRASE]]
    prints = [Relabelled(Memory(), each).fingerprint for each in kinds]
    assert len(set(prints)) == 4
    assert prints[3] == Relabelled(Memory(), [REPHRASE]).fingerprint


def test_labels_that_do_not_fit_are_refused_at_the_reading() -> None:
    def wrong(one: Episode, spec: Spec) -> Labels:
        return Labels(annotations=(Annotation("motion", "left", 99),))

    with pytest.raises(ValueError, match="is not on a step of 5"):
        _ = Relabelled(Memory(episode()), [wrong])[0]
