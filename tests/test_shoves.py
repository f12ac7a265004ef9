"""Shoves: what is asked is a change, who can do it, and what counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embodied.testing import check_env
from embodied_envs.shoves import AMOUNTS, BLOCKS, DIRECTIONS, SHOVES, Shove, Shoves, shove_texts


def run(suite: Shoves, asked: str, done: str, goal: int) -> dict[str, Any]:
    """The last info of an episode in which the expert of `done` acts and `asked` is judged."""
    env = suite.make_env()
    env.reset(options={"task": asked, "goal": goal, "benchmark_seed": 9})
    expert = suite.expert(done)
    while True:
        _, _, terminated, truncated, info = env.step(expert(env.full_observation))
        if terminated or truncated:
            env.close()
            return info


def test_it_keeps_the_contract_of_worlds() -> None:
    check_env(Shoves(tasks=("shove-red-left-far", "shove-blue-forward-right-little")))


def test_experts_do_what_is_asked() -> None:
    suite = Shoves()
    tasks = list(SHOVES)[::3]
    solved = [run(suite, task, task, goal)["success"] for goal, task in enumerate(tasks)]
    assert np.mean(solved) >= 0.9


@pytest.mark.parametrize("shared", [True, False])
def test_arrangements_are_those_of_the_goal_or_of_goal_and_task(shared: bool) -> None:
    env = Shoves(shared=shared).make_env()
    options = [{"task": task, "goal": goal} for task in list(SHOVES)[:3] for goal in range(2)]
    states = np.stack([env.reset(options=each)[0]["state"] for each in options])
    again = np.stack([env.reset(options=each)[0]["state"] for each in options])
    env.close()
    np.testing.assert_array_equal(states, again)
    assert len(np.unique(states, axis=0)) == (2 if shared else 6)


@pytest.mark.parametrize(
    "done",
    [
        "shove-red-left-little",
        "shove-red-right-far",
        "shove-red-forward-left-far",
        "shove-blue-left-far",
    ],
)
def test_another_amount_direction_or_block_is_not_what_was_asked(done: str) -> None:
    assert not run(Shoves(), "shove-red-left-far", done, goal=0)["success"]


def test_a_change_is_what_one_shove_asks_and_no_other() -> None:
    for name, shove in SHOVES.items():
        if shove.block == BLOCKS[0]:
            fits = [n for n, x in SHOVES.items() if x.is_done(shove.change) and x.block == "red"]
            assert fits == [name]
    left = Shove("red", "left", "far")
    assert left.change == pytest.approx([-AMOUNTS["far"][1], 0], abs=1e-9)
    assert not left.is_done(np.zeros(2))


def test_a_goal_alone_does_not_tell_the_change() -> None:
    """Where blocks start varies by more than the longest shove, along both axes."""
    suite = Shoves()
    env = suite.make_env()
    starts = [env.reset(options={"goal": g})[0]["state"][6:8] for g in range(40)]
    env.close()
    assert (np.ptp(starts, axis=0) > 1.5 * AMOUNTS["far"][1]).all()


def test_words_name_block_direction_and_amount_and_differ_between_shoves() -> None:
    texts = {name: shove_texts(shove) for name, shove in SHOVES.items()}
    everything = [text for each in texts.values() for text in (*each.trained, *each.held_out)]
    assert len(everything) == len(set(everything))
    assert "far to the left" in texts["shove-red-left-far"].canonical
    assert "forward and to the right" in texts["shove-blue-forward-right-little"].canonical
    assert len(SHOVES) == 2 * len(DIRECTIONS) * len(AMOUNTS)
