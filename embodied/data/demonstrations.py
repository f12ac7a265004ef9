"""Whole recorded episodes, cut into the decisions that a policy would make of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from embodied.conditions import Language, stack
from embodied.data.windows import Windows
from embodied.feedback import Attempts
from embodied.structs import Batch, Condition


def demonstrations(
    windows: Windows,
    told: Sequence[str],
    *,
    wordings: Mapping[str, Collection[str]],
    obs_horizon: int,
    pred_horizon: int,
    action_horizon: int,
    generator: torch.Generator,
) -> Batch:
    """One recorded episode for each of the instructions, drawn among those that were told as much.

    Their rows are the chunks at every `action_horizon`-th step; instruction i is group i.

    Args:
        wordings: instruction -> the texts that mean the same; those that are missing mean
            themselves alone.

    Raises ValueError for an instruction that no episode was told.
    """
    chosen = torch.tensor([_draw(windows, wordings.get(x, (x,)), generator) for x in told])
    starts, lengths = windows.starts[chosen], windows.lengths[chosen]
    count = (lengths + action_horizon - 1) // action_horizon
    episode = torch.arange(len(chosen)).repeat_interleave(count)
    position = torch.arange(len(episode)) - (count.cumsum(0) - count)[episode]
    index = starts[episode] + position * action_horizon
    batch = windows.gather(index, obs_horizon=obs_horizon, pred_horizon=pred_horizon)
    executed = torch.arange(pred_horizon) < action_horizon
    return Batch(
        observation=batch.observation,
        condition=_asked(windows, [told[i] for i in episode.tolist()], starts[episode]),
        action=batch.action,
        mask=batch.mask & executed.to(batch.mask.device),
        attempts=Attempts(
            episode=episode,
            position=position,
            log_prob=torch.zeros(len(episode)),
            group=torch.arange(len(chosen)),
            reward=torch.ones(len(chosen)),
            demonstrated=torch.ones(len(chosen), dtype=torch.bool),
        ),
    )


def _draw(windows: Windows, wording: Collection[str], generator: torch.Generator) -> int:
    """The number of an episode that was told one of the texts."""
    texts = [windows.texts[i] for i in windows.episode_text.tolist()]
    found = [number for number, text in enumerate(texts) if text in wording]
    if not found:
        raise ValueError(
            f"no demonstration was told {next(iter(wording))!r}; the data have "
            f"{sorted(set(texts))}: collect some, or set source.demonstrations=false"
        )
    return found[int(torch.randint(len(found), (), generator=generator))]


def _asked(windows: Windows, told: Sequence[str], first: Tensor) -> Condition:
    """As a policy is told them that acts from these frames."""
    condition = stack([[Language(text)] for text in told])
    start = windows.gather(first, obs_horizon=1, pred_horizon=1).observation
    return Condition(language=condition.language, start=start, present=condition.present)
