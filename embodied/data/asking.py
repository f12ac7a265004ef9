"""Asking a scripted teacher about recorded episodes whose true rewards are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embodied.data.preferences import Preferences, draw_segments, join
from embodied.data.teachers import Teacher, usual_return
from embodied.structs import Episode, Episodes

Values = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""States (N, S), environment units -> values (N,), in the rewards' units."""


def ask(
    episodes: Episodes,
    *,
    teacher: Teacher,
    num_pairs: int,
    length: int,
    of: str = "regret",
    values: Values | None = None,
    discount: float = 0.99,
    held_out: float = 0.2,
    seed: int = 0,
) -> Preferences:
    """What a teacher says of segments drawn at random; skipped questions are left out.

    Pairs to be judged by (`data.held_out`) are drawn from episodes of their own.

    Args:
        num_pairs: asked, those skipped included.
        of: "return" compares sums of rewards; "regret" sums of advantages r + discount V(s') -
            V(s), as contrastive preference learning assumes people do (Hejna et al. 2023,
            arXiv:2310.13639, Section 2), by the values of an oracle.
        values: of the oracle.
        held_out: share of episodes, and of pairs, that only these pairs are of.

    Raises ValueError where the oracle is missing, or episodes have no rewards.
    """
    if of not in ("return", "regret"):
        raise ValueError(f"comparisons.of must be 'return' or 'regret', got {of!r}")
    if (values is None) == (of == "regret"):
        raise ValueError(
            "comparisons.of=regret goes by the values of an oracle: set source.critic to a run of "
            "algorithm=iql on the true reward; comparisons.of=return needs none: leave it null"
        )
    each = list(episodes)
    scores = [_scores(episode, values, discount) for episode in each]
    rng = np.random.default_rng(seed)
    apart = rng.permutation(len(each)) < max(2, round(held_out * len(each)))
    parts = []
    for mine, share in ((~apart, 1 - held_out), (apart, held_out)):
        lengths = np.where(mine, [len(x) for x in scores], 0).tolist()
        parts.append(_asked(lengths, length, round(share * num_pairs), scores, teacher, rng))
    return join(parts)


def _scores(episode: Episode, values: Values | None, discount: float) -> NDArray[np.float64]:
    """(L,) what the teacher sums; one less where the last state was not recorded."""
    if episode.reward is None:
        raise ValueError(
            "E_DATA_REWARD: a scripted teacher goes by true rewards, and the episodes have none; "
            "let a person label them: python scripts/label.py"
        )
    reward = episode.reward.astype(np.float64)
    if values is None:
        return reward
    last = episode.final.get("state")
    states = episode.state if last is None else np.concatenate([episode.state, last[None]])
    v = np.asarray(values(states), np.float64)
    if episode.terminated and last is not None:
        v[-1] = 0
    steps = len(states) - 1
    return reward[:steps] + discount * v[1:] - v[:-1]


def _asked(
    lengths: Sequence[int],
    length: int,
    count: int,
    scores: Sequence[NDArray[np.float64]],
    teacher: Teacher,
    rng: np.random.Generator,
) -> Preferences:
    first, second = (draw_segments(lengths, length, count, rng) for _ in range(2))
    pairs = np.stack([side.take(scores) for side in (first, second)], 1)
    seen = [scores[i] for i, n in enumerate(lengths) if n]
    usual = usual_return(
        [float(np.abs(x).sum()) for x in seen],
        segment_length=length,
        episode_length=max(1, round(float(np.mean([len(x) for x in seen])))),
    )
    answers = teacher.label(pairs, usual_return=usual, rng=rng)
    found = Preferences(first, second, answers.second_better, ("teacher",) * count)
    return found[answers.answered]
