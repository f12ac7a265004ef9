"""Acting: what chooses actions for the slots of a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embodied.conditions import Language, Row, stack
from embodied.noise import RowNoise
from embodied.policies.base import Policy
from embodied.structs import Observation
from embodied.suites import Assignment, Expert

Arrays = Mapping[str, NDArray[Any]]
Mask = NDArray[np.bool_]


class Actor(Protocol):
    """Chooses actions for N slots, each with an assignment of its own."""

    action_horizon: int

    def reset(self, slot: int, assignment: Assignment) -> None:
        """An episode begins in a slot."""

    def observe(self, observation: Arrays, slots: Mask) -> None:
        """Takes one observation for each of the slots; the first one after their reset."""

    def plan(self, slots: Mask) -> NDArray[np.float32]:
        """The next (N, action_horizon, A) actions; zeros where `slots` is False."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """An actor that measures the episodes it acts in."""

    def measure(self, slot: int) -> Mapping[str, float]:
        """Of the episode that ends in a slot."""
        ...


def tell(assignment: Assignment) -> Row:
    """The assignment's instruction."""
    return [Language(assignment.instruction)]


class Controller:
    """Runs a policy: observation history, chunks of actions, one generator for each episode.

    An episode's actions do not depend on its neighbours: the policy is always called with
    `inference_batch` rows (the last ones padded), because matrix kernels round differently at
    other sizes, and each row draws its noise from its episode's own generator.

    Args:
        action_horizon: how many actions of each chunk are executed before planning again.
        inference_batch: rows of each call of the policy.
        prompts: what the policy is told in an episode.
    """

    def __init__(
        self,
        policy: Policy,
        num_slots: int,
        *,
        action_horizon: int,
        inference_batch: int = 16,
        prompts: Callable[[Assignment], Row] = tell,
    ) -> None:
        if not 1 <= action_horizon <= policy.pred_horizon:
            raise ValueError(
                f"action_horizon must lie in [1, {policy.pred_horizon}] (the policy's "
                f"pred_horizon), got {action_horizon}"
            )
        self.policy = policy.eval()
        self.action_horizon = action_horizon
        self.inference_batch = inference_batch
        self.num_slots = num_slots
        self.device = next(policy.parameters()).device
        self._history: list[list[dict[str, NDArray[Any]]]] = [[] for _ in range(num_slots)]
        self.prompts = prompts
        self._told: list[Row] = [[] for _ in range(num_slots)]
        self._first: list[dict[str, NDArray[Any]]] = [{} for _ in range(num_slots)]
        self._generators = [torch.Generator() for _ in range(num_slots)]

    def reset(self, slot: int, assignment: Assignment) -> None:
        self._history[slot] = []
        self._told[slot] = self.prompts(assignment)
        self._generators[slot].manual_seed(assignment.seed)

    def observe(self, observation: Arrays, slots: Mask) -> None:
        for slot in np.flatnonzero(slots):
            row = {name: np.array(x[slot]) for name, x in observation.items()}
            history = self._history[slot]
            if not history:
                self._first[slot] = row
            history.extend([row] * (1 if history else self.policy.obs_horizon))
            del history[: -self.policy.obs_horizon]

    @torch.inference_mode()
    def plan(self, slots: Mask) -> NDArray[np.float32]:
        shape = (self.num_slots, self.action_horizon, self.policy.spec.action_dim)
        actions = np.zeros(shape, np.float32)
        chosen = np.flatnonzero(slots)
        for start in range(0, len(chosen), self.inference_batch):
            group = chosen[start : start + self.inference_batch]
            chunk = self._act(group.tolist())[: len(group), : self.action_horizon]
            actions[group] = chunk.cpu().numpy()
        return actions

    def _act(self, slots: list[int]) -> Tensor:
        padding = self.inference_batch - len(slots)
        rows = slots + slots[:1] * padding
        # A padding row must not advance the generator of the slot that it repeats.
        generators = [self._generators[s] for s in slots] + [torch.Generator()] * padding
        start = self._observation([[self._first[s]] for s in rows])
        condition = replace(stack([self._told[s] for s in rows]), start=start)
        return self.policy.act(
            self._observation([self._history[s] for s in rows]).to(self.device),
            condition.to(self.device),
            noise=RowNoise(generators),
        )

    def _observation(self, histories: list[list[dict[str, NDArray[Any]]]]) -> Observation:
        def column(name: str) -> Tensor:
            return torch.from_numpy(
                np.asarray([[step[name] for step in each] for each in histories])
            )

        return Observation(
            state=column("state").float(),
            images={name: column(name).movedim(-1, -3) for name in self.policy.spec.cameras},
        )


class ExpertActor:
    """Lets scripted experts act: in each slot the one that `choose` gives for its episode."""

    action_horizon = 1

    def __init__(
        self, choose: Callable[[Assignment], Expert], num_slots: int, *, action_dim: int
    ) -> None:
        self.choose = choose
        self._experts: dict[int, Expert] = {}
        self._actions = np.zeros((num_slots, 1, action_dim), np.float32)

    def reset(self, slot: int, assignment: Assignment) -> None:
        self._experts[slot] = self.choose(assignment)

    def observe(self, observation: Arrays, slots: Mask) -> None:
        for slot in np.flatnonzero(slots).tolist():
            self._actions[slot, 0] = self._experts[slot](observation["state"][slot])

    def plan(self, slots: Mask) -> NDArray[np.float32]:
        return self._actions * slots[:, None, None]
