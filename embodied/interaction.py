"""A policy at work in environments, step by step, while it learns from what it does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.data.transitions import Layout, Reward, Rows, Trajectory
from embodied.rollout import PREVIOUS_ACTION, Mask, Measuring, ResumableActor
from embodied.structs import Metrics
from embodied.suites import Assignment, SlotError

Record = Callable[[Rows], None]


@dataclass(frozen=True)
class Step:
    """One environment step, as it is taken.

    Attributes:
        slot, episode: where it was taken, and in which of the run's episodes.
        state, next_state: (S,).
        action: (A,) as the policy chose it, before it was clipped to the bounds.
        reward: what is learned from.
        objectives: (K,) what the step earned in each of the interaction's objectives.
        terminated: whether it ended the episode for good.
    """

    slot: int
    episode: int
    state: Rows
    action: Rows
    reward: float
    next_state: Rows
    objectives: Rows
    terminated: bool


@dataclass
class _Episode:
    """The one under way in a slot.

    Attributes:
        number: which of the run's episodes.
        totals: (K,) of each objective so far, after each step.
        packed: how many of its decisions have been recorded.
    """

    number: int
    assignment: Assignment
    states: list[Rows] = field(default_factory=list)
    actions: list[Rows] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    totals: list[Rows] = field(default_factory=list)
    earned: float = 0.0
    success: bool = False
    packed: int = 0

    def trajectory(self, told: int, *, start: int = 0, terminated: bool = False) -> Trajectory:
        """Its steps from `start` on."""
        return Trajectory(
            np.asarray(self.states[start:], np.float32),
            np.asarray(self.actions[start:], np.float32),
            np.asarray(self.rewards[start:], np.float32),
            terminated,
            told,
        )

    def last_step(self, slot: int, *, terminated: bool) -> Step:
        """What happened last."""
        before = self.totals[-2] if len(self.totals) > 1 else np.zeros_like(self.totals[-1])
        return Step(
            slot,
            self.number,
            self.states[-2],
            self.actions[-1],
            self.rewards[-1],
            self.states[-1],
            self.totals[-1] - before,
            terminated,
        )


class Interaction:
    """Episodes in N slots, one after another; every decision is recorded once it is known.

    Each episode follows from its number alone: assignment, the policy's noise, random actions. So a
    resumed run does again, with the recorded actions, what the episodes under way had done, and is
    then where it was, to the last bit and whatever the simulator.

    Args:
        assign: an episode's number -> its assignment.
        record: takes rows (n, width) of `layout` as they are made; None makes none.
        watch: is told of each step that is taken.
        objectives: names of measures that the environment's `metrics` hold, each a sum over the
            episode so far; steps say what each earned in them.
        told: the instructions by number.
        max_steps: of an episode; it is then cut off, and not terminated.
        ends_at_success: whether a success terminates an episode.
        threshold: return of the environment's rewards below which an episode is a violation; None
            counts none.
        random_steps: of the first environment steps, those whose actions are uniform in the bounds.
        seed: of the random actions.
    """

    def __init__(
        self,
        actor: ResumableActor,
        envs: Any,
        *,
        assign: Callable[[int], Assignment],
        layout: Layout,
        reward: Reward,
        record: Record | None,
        told: Sequence[str],
        max_steps: int,
        watch: Callable[[Step], None] | None = None,
        objectives: Sequence[str] = (),
        threshold: float | None = None,
        ends_at_success: bool = False,
        random_steps: int = 0,
        seed: int = 0,
    ) -> None:
        self.actor, self.envs, self.assign = actor, envs, assign
        self.layout, self.reward, self.record = layout, reward, record
        self.watch, self.objectives = watch, tuple(objectives)
        self.threshold = threshold
        self.told = {text: number for number, text in enumerate(told)}
        self.max_steps, self.ends_at_success = max_steps, ends_at_success
        self.random_steps, self.seed = random_steps, seed
        self.steps = 0
        self.begun = 0
        self.episodes: list[_Episode | None] = [None] * envs.num_envs
        self._ended: list[dict[str, float]] = []

    def advance(self) -> None:
        """One decision in every slot, of `layout.action_horizon` environment steps."""
        self.actor.policy.eval()
        self._begin()
        active = self._active
        plan = self.actor.plan(active) if self.steps >= self.random_steps else self._random()
        for j in range(plan.shape[1]):
            if (active := self._active).any():
                self._step(plan[:, j], active)

    @property
    def _active(self) -> Mask:
        return np.array([episode is not None for episode in self.episodes])

    def _begin(self) -> None:
        chosen: list[_Episode | None] = [None] * len(self.episodes)
        for slot, episode in enumerate(self.episodes):
            if episode is None:
                chosen[slot] = self._number(self.begun)
                self.begun += 1
        self._reset(chosen)

    def _number(self, number: int) -> _Episode:
        return _Episode(number, self.assign(number))

    def _reset(self, chosen: Sequence[_Episode | None]) -> None:
        """Starts the chosen episodes, each in its slot."""
        mask = np.array([episode is not None for episode in chosen])
        if not mask.any():
            return
        assignments = [None if each is None else each.assignment for each in chosen]
        for slot, each in enumerate(chosen):
            if each is not None:
                self.episodes[slot] = each
                self.actor.reset(slot, each.assignment)
        options = {"reset_mask": mask, "assignments": assignments}
        observation, _ = self.envs.reset(options=options)
        for slot in np.flatnonzero(mask).tolist():
            self._running(slot).states.append(np.array(observation["state"][slot], np.float32))
        self.actor.observe(observation, mask)

    def _running(self, slot: int) -> _Episode:
        episode = self.episodes[slot]
        assert episode is not None
        return episode

    def _random(self) -> NDArray[np.float32]:
        """Uniform actions for each slot, (N, action_horizon, A)."""
        space = self.envs.single_action_space
        drawn = [self._draw(slot, space.shape[0]) for slot in range(len(self.episodes))]
        actions = space.low + (space.high - space.low) * np.stack(drawn)
        return np.asarray(actions, np.float32)

    def _draw(self, slot: int, action_dim: int) -> NDArray[np.float64]:
        episode = self._running(slot)
        generator = np.random.default_rng([self.seed, episode.number, len(episode.actions)])
        return generator.random((self.layout.action_horizon, action_dim))

    def _step(self, action: NDArray[np.float32], active: Mask) -> None:
        """One environment step in the active slots; ends what ends in it."""
        observation, over = self._play(action, active)
        self.steps += int(active.sum())
        for slot in np.flatnonzero(active).tolist():
            episode = self.episodes[slot]
            if self.watch is not None and episode is not None:
                self.watch(episode.last_step(slot, terminated=over.get(slot, False)))
            if slot in over:
                self._finish(slot, terminated=over[slot])
            else:
                self._pack(slot)
        going = self._active
        self.envs.halt(active & ~going)
        if going.any():
            self.actor.observe({**observation, PREVIOUS_ACTION: action}, going)

    def _play(self, action: NDArray[np.float32], active: Mask) -> tuple[Any, dict[int, bool]]:
        """Steps and notes what came of it; the slots whose episodes end, and whether for good.

        An episode whose simulator failed is given up: what was recorded of it stays.
        """
        failed: tuple[int, ...] = ()
        space = self.envs.single_action_space
        try:
            result = self.envs.step(np.clip(action, space.low, space.high))
        except SlotError as error:
            result, failed = error.result, error.slots
        observation, reward, terminated, truncated, info = result
        over: dict[int, bool] = {}
        for slot in np.flatnonzero(active).tolist():
            if slot in failed or info["unstable"][slot]:
                self.episodes[slot] = None
                continue
            episode, success = self._running(slot), bool(info["success"][slot])
            earned = self.reward(np.array([reward[slot]], np.float32), np.array([success]))
            episode.states.append(np.array(observation["state"][slot], np.float32))
            episode.actions.append(np.array(action[slot], np.float32))
            episode.rewards.append(float(earned[0]))
            episode.totals.append(self._totals(info, slot))
            episode.earned += float(reward[slot])
            episode.success |= success
            for_good = bool(terminated[slot]) or (success and self.ends_at_success)
            if for_good or truncated[slot] or len(episode.actions) >= self.max_steps:
                over[slot] = for_good
        return observation, over

    def _totals(self, info: Mapping[str, Any], slot: int) -> Rows:
        """What the episode in a slot has earned in each objective."""
        if not self.objectives:
            return np.zeros(0, np.float32)
        found = info["metrics"][slot] if "metrics" in info else {}
        if missing := sorted(set(self.objectives) - found.keys()):
            raise KeyError(
                f"the environment measures {sorted(found)} and not {missing}; choose "
                "source.objectives among them"
            )
        return np.array([found[name] for name in self.objectives], np.float32)

    def _pack(self, slot: int) -> None:
        """Records the decision that the last step completed, if any."""
        if self.record is None:
            return
        episode, layout = self.episodes[slot], self.layout
        newest = -1 if episode is None else len(episode.actions) - layout.pred_horizon
        if episode is None or newest < episode.packed:
            return
        start = max(0, newest - layout.obs_horizon + 1)  # what the decision saw, and no more
        recent = episode.trajectory(self._told(episode), start=start)
        self.record(layout.pack(recent, newest - start, newest - start + 1))
        episode.packed = newest + 1

    def _finish(self, slot: int, *, terminated: bool) -> None:
        """Records an ended episode's last decisions and frees its slot."""
        episode = self._running(slot)
        length = len(episode.actions)
        if self.record is not None and episode.packed < length:
            whole = episode.trajectory(self._told(episode), terminated=terminated)
            self.record(self.layout.pack(whole, episode.packed, length))
        self._ended.append(
            {
                "online/return": episode.earned,
                "online/success": float(episode.success),
                "online/length": float(length),
                **self._measured(slot, episode.earned),
            }
        )
        self.episodes[slot] = None

    def _measured(self, slot: int, earned: float) -> dict[str, float]:
        """What the actor and the threshold say of the episode that ends in a slot."""
        found: dict[str, float] = {}
        if isinstance(self.actor, Measuring):
            found |= {f"online/{name}": x for name, x in self.actor.measure(slot).items()}
        if self.threshold is not None:
            found["online/violation"] = float(earned < self.threshold)
        return found

    def _told(self, episode: _Episode) -> int:
        return self.told[episode.assignment.instruction]

    def take_metrics(self) -> Metrics:
        """Means over the episodes that have ended since the last call; none if none has."""
        ended, self._ended = self._ended, []
        return {name: float(np.mean([each[name] for each in ended])) for name in (ended or [{}])[0]}

    # An exact resume

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; of an interaction between two decisions."""
        return {
            "steps": self.steps,
            "begun": self.begun,
            "ended": self._ended,
            "slots": [
                None
                if episode is None
                else {
                    "number": episode.number,
                    "actions": _encode(np.asarray(episode.actions, np.float32)),
                    "generator": _encode(self.actor.generator_state(slot)),
                }
                for slot, episode in enumerate(self.episodes)
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plays the episodes under way again, up to where they were; all come to it together."""
        self.steps, self.begun, self._ended = state["steps"], state["begun"], state["ended"]
        action_dim = self.envs.single_action_space.shape[0]
        past = {
            slot: _decode(saved["actions"], np.float32).reshape(-1, action_dim)
            for slot, saved in enumerate(state["slots"])
            if saved is not None
        }
        for left in range(max(map(len, past.values()), default=0), -1, -1):
            self._reset(
                [
                    self._number(state["slots"][slot]["number"])
                    if slot in past and len(past[slot]) == left
                    else None
                    for slot in range(len(self.episodes))
                ]
            )
            if left:
                self._repeat({slot: a[-left] for slot, a in past.items() if len(a) >= left})
        for slot, actions in past.items():
            episode = self._running(slot)
            episode.packed = max(0, len(actions) - self.layout.pred_horizon + 1)
            saved = state["slots"][slot]["generator"]
            self.actor.restore_generator(slot, _decode(saved, np.uint8))

    def _repeat(self, actions: dict[int, NDArray[np.float32]]) -> None:
        plan = np.zeros((len(self.episodes), *self.envs.single_action_space.shape), np.float32)
        for slot, action in actions.items():
            plan[slot] = action
        observation, over = self._play(plan, self._active)
        if over or not all(self.episodes[slot] is not None for slot in actions):
            raise RuntimeError(
                "E_REPLAY_DIVERGED: an episode that was under way ended earlier when it was played "
                "again: this simulator does not repeat itself, so the run cannot be resumed exactly"
            )
        self.actor.observe({**observation, PREVIOUS_ACTION: plan}, self._active)


def _encode(x: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()


def _decode(text: str, dtype: type[Any]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype).copy()
