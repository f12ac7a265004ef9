"""The wordings of the 50 tasks: enough of them, all distinct, and none that could mean another."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from embodied_envs.metaworld import MetaWorld
from embodied_envs.metaworld_goals import ALL_TASKS
from embodied_envs.metaworld_text import TEXTS


def sentences(task: str) -> tuple[str, ...]:
    texts = TEXTS[task]
    return (*texts.trained, *texts.held_out)


def plain(task: str) -> tuple[str, ...]:
    """The sentences but for the freer paraphrases, which come last: those may name the opposite
    ("the window is open, shut it") or leave the object to be guessed."""
    texts = TEXTS[task]
    return (texts.canonical, *texts.paraphrases[:8], *texts.held_out)


def test_every_task_has_its_texts_in_the_librarys_order() -> None:
    assert tuple(TEXTS) == ALL_TASKS
    assert MetaWorld("MT10").texts("push-v3") is TEXTS["push-v3"]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_task_has_many_paraphrases_and_three_held_out(task: str) -> None:
    assert len(TEXTS[task].paraphrases) >= 20
    assert len(TEXTS[task].held_out) >= 3


def test_no_sentence_stands_twice_in_the_file() -> None:
    counts = Counter(re.sub(r"\W+", " ", s.lower()) for task in TEXTS for s in sentences(task))
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_the_fifty_canonical_instructions_are_distinct() -> None:
    assert len({texts.canonical for texts in TEXTS.values()}) == 50


def test_sentences_are_lower_case_without_a_full_stop() -> None:
    for task in TEXTS:
        for sentence in sentences(task):
            assert re.fullmatch(r"[a-z][a-z ,:'-]+[a-z]", sentence), sentence


def test_the_wall_stands_in_every_sentence_of_its_tasks_and_in_no_other() -> None:
    for task in TEXTS:
        for sentence in plain(task):
            assert ("wall" in sentence) == ("wall" in task), sentence


# every sentence of the task has a word of the first list and none of the second
DISTINCTIONS = {
    "button-press-topdown-v3": ("above top", "front forward forwards"),
    "button-press-topdown-wall-v3": ("above top", "front forward forwards"),
    "button-press-v3": ("front forward forwards", "above top coffee"),
    "button-press-wall-v3": ("front forward forwards", "above top coffee"),
    "coffee-button-v3": ("coffee maker brew", "mug cup"),
    "coffee-pull-v3": ("pull out drag remove draw bring away from retrieve", "push into"),
    "coffee-push-v3": ("push put slide move bring place shove set deliver", "pull from out"),
    "door-close-v3": ("close closed closes shut frame", "open lock unlock"),
    "door-open-v3": ("open opens pull", "close shut closed lock unlock"),
    "door-lock-v3": ("lock locks locked locking bolt", "unlock unlocked"),
    "door-unlock-v3": ("unlock unlocked unlocks unbolt disengage undo release", "bolt locked"),
    "drawer-close-v3": ("close closed shut in into", "open out pull"),
    "drawer-open-v3": ("open out pull", "close closed shut push"),
    "faucet-open-v3": ("open opening on run flow", "close closed shut off stop"),
    "faucet-close-v3": ("close closed closing shut off stop", "open opening run flow"),
    "handle-press-side-v3": ("side sideways", "up upwards raise lift pull"),
    "handle-press-v3": ("down downwards depress lower", "side sideways up upwards pull"),
    "handle-pull-side-v3": ("side sideways", "down downwards press push"),
    "handle-pull-v3": ("up upwards raise", "side sideways down downwards press push"),
    "assembly-v3": ("onto over on attach", "off remove"),
    "disassemble-v3": ("off from away apart", "onto over"),
    "peg-insert-side-v3": ("side sideways", "out unplug remove"),
    "peg-unplug-side-v3": ("side sideways", "insert into"),
    "pick-place-v3": ("pick lift grasp grab raise take hoist seize", "push slide back hole shelf"),
    "plate-slide-v3": ("forward forwards straight ahead away", "side sideways back backwards out"),
    "plate-slide-side-v3": ("side sideways", "back backwards out"),
    "plate-slide-back-v3": ("back backwards backward", "side sideways into forward"),
    "plate-slide-back-side-v3": ("side sideways", "into forward"),
    "push-v3": ("push pushing slide shove nudge guide propel", "back backwards pick lift"),
    "push-back-v3": ("back backwards backward", "forward pick lift"),
    "stick-push-v3": ("push pushing shove poke prod", "pull pulling drag hook tow"),
    "stick-pull-v3": ("pull pulling drag tow draw", "push shove poke prod"),
    "sweep-v3": ("off edge", "hole into"),
    "sweep-into-v3": ("hole into", "off edge"),
    "pick-out-of-hole-v3": ("hole", "sweep brush"),
    "window-open-v3": ("open opening", "close closed shut"),
    "window-close-v3": ("close closed closing shut", "open opening"),
}


@pytest.mark.parametrize("task", DISTINCTIONS)
def test_sentences_keep_the_words_that_tell_similar_tasks_apart(task: str) -> None:
    present, absent = (set(words.split()) for words in DISTINCTIONS[task])
    for sentence in plain(task):
        words = set(re.findall(r"[a-z]+", sentence))
        assert words & present, sentence
        assert not words & absent, sentence


def test_a_step_back_and_a_side_are_told_in_all_sentences_of_the_plate() -> None:
    for sentence in plain("plate-slide-back-side-v3"):
        assert "back" in sentence
        assert "side" in sentence
