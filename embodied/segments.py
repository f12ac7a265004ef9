"""Batches of what the policy has just done: segments of equal length from every environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.interaction import Interaction
from embodied.sources import Source
from embodied.structs import Batch, Condition, Metrics, Observation
from embodied.under_way import Step

Watch = Callable[[Step], None]


class Segments(Source):
    """Each batch is made when it is asked for, by the policy as it is then, and given once.

    Rows are single steps, (num_envs * num_steps) of them unless a simulator failed: the steps of
    the first environment in order, then those of the next. Episodes go on from one batch to the
    next. An episode that was cut off by its limit of steps has a next observation to bootstrap
    from, and so has a segment that ends within an episode.

    Args:
        num_steps: T, of each environment for each batch.
        discount: of one step, in [0, 1].
        interact: what makes steps, given who is to be told of them; opens simulators when called.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        num_steps: int,
        discount: float,
        device: torch.device,
        interact: Callable[[Watch], Interaction],
    ) -> None:
        if num_steps < 1 or not 0 <= discount <= 1:
            raise ValueError(
                "source.num_steps must be at least 1 and source.discount lie in [0, 1], got "
                f"{num_steps} and {discount}"
            )
        self.batch_size, self.num_steps = num_envs * num_steps, num_steps
        self.discount, self.device = discount, device
        self.interact = interact
        self.interaction: Interaction | None = None
        self._taken: list[list[Step]] = [[] for _ in range(num_envs)]

    def __next__(self) -> Batch:
        interaction = self._opened()
        for taken in self._taken:
            taken.clear()
        for _ in range(self.num_steps):
            interaction.advance()
        steps = [step for taken in self._taken for step in taken]
        if not steps:
            raise RuntimeError(
                "no environment has completed a single step of a segment: its simulator failed "
                "every time; run scripts/evaluate.py on the task to see why"
            )
        return self._batch(steps)

    def _opened(self) -> Interaction:
        if self.interaction is None:
            self.interaction = self.interact(lambda step: self._taken[step.slot].append(step))
        return self.interaction

    def _batch(self, steps: Sequence[Step]) -> Batch:
        def column(values: list[Any]) -> Tensor:
            return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

        terminated = column([step.terminated for step in steps])
        objectives = column([step.objectives for step in steps])
        return Batch(
            observation=Observation(state=column([step.state for step in steps])[:, None]),
            condition=Condition(),
            action=column([step.action for step in steps])[:, None],
            mask=torch.ones(len(steps), 1, dtype=torch.bool, device=self.device),
            reward=column([step.reward for step in steps]),
            discount=self.discount * (1 - terminated),
            next_observation=Observation(
                state=column([step.next_state for step in steps])[:, None]
            ),
            continues=column(_continues(steps)).bool(),
            objectives=objectives if objectives.shape[1] else None,
        )

    def take_metrics(self) -> Metrics:
        if self.interaction is None:
            return {}
        return {**self.interaction.take_metrics(), "online/steps": float(self.interaction.steps)}

    def state_dict(self) -> dict[str, Any]:
        """Where the episodes under way are; a batch is never half made between two of them."""
        return {"interaction": None if self.interaction is None else self.interaction.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["interaction"] is not None:
            self._opened().load_state_dict(state["interaction"])

    def close(self) -> None:
        if self.interaction is not None:
            self.interaction.envs.close()


def _continues(steps: Sequence[Step]) -> list[bool]:
    """Whether each step is followed by the next one: in the same slot, and in one episode."""
    places = [(step.slot, step.episode) for step in steps]
    return [a == b for a, b in zip(places, places[1:], strict=False)] + [False]
