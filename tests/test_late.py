"""Data damaged on purpose: which steps stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embodied.structs import Annotation, Episode, Spec
from embodied_datasets.late import Late


class Scenes:
    """Episodes of ten steps whose states count them: "push", "open", and both again as failures."""

    spec = Spec(1, 1, (-1.0,), (1.0,), 10.0)
    fingerprint = "scenes"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Episode:
        steps = np.arange(10, dtype=np.float32)[:, None]
        return Episode(
            steps,
            -steps,
            "go",
            reward=steps[:, 0],
            expert_action=2 * steps,
            extras={"force": steps},
            final={"state": np.full(1, 10.0)},
            annotations=(Annotation("motion", "move", 0),),
            success=index < 2,
            info={"task": ("push", "open")[index % 2]},
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(4))


def test_only_the_end_stays_of_the_named_task() -> None:
    push, opened, failed = late = Late(Scenes(), tasks=["push"], skip=0.45)
    assert push.expert_action is not None
    assert push.reward is not None
    assert push.state[:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert push.action[0] == -4
    assert push.expert_action[0] == 8
    assert push.reward[0] == push.extras["force"][0] == 4
    assert push.final["state"] == 10
    assert push.success
    assert not push.annotations
    assert len(opened) == 10
    assert opened.annotations
    assert len(late) == 3
    assert len(failed) == 10
    assert failed.info["task"] == "open"


def test_nothing_skipped_is_nothing_lost() -> None:
    assert len(Late(Scenes(), tasks=["push"], skip=0.0)[0].annotations) == 1


def test_the_fingerprint_tells_what_was_done() -> None:
    views = [Late(Scenes(), tasks=["push"], skip=skip) for skip in (0.5, 0.5, 0.0)]
    first, same, other = (each.fingerprint for each in views)
    assert first == same != other


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no episode is of the tasks \['fold'\]"):
        Late(Scenes(), tasks=["fold"], skip=0.5)
    with pytest.raises(ValueError, match=r"skip must lie in \[0, 1\), got 1"):
        Late(Scenes(), tasks=["push"], skip=1)
