"""Runs the parts of an evaluation together and tells each part's figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from embodied.build import instantiate
from embodied.evaluation import Outcomes, Trial
from embodied.gathering import gather
from embodied.launchers import Launcher, Processes
from embodied.loading import PackedPolicy
from embodied.parts import Part
from embodied.people.simulated import Simulated
from embodied.policies.base import Policy
from embodied.progress import Progress
from embodied.results import Evaluation
from embodied.shards import Queue, Shard, play_queues, split
from embodied.simulators import place
from embodied.suites import Suite

Config = Mapping[str, Any]

_ROUNDS = 4
"""Episodes for each slot below which another shard is not worth its start and its idle end."""

_CORES = 2
"""What one shard can use: its policy waits for its simulators, and they for it, in equal parts."""


def judge(config: Config, policy: Policy, parts: Sequence[Part]) -> dict[str, Evaluation]:
    """Each part's evaluation, by its name.

    Parts of one suite, actor and way of telling wait in one queue, so that slots idle only at the
    end of all of them. Neither that nor the number of shards changes an outcome.
    """
    trials = [(part, trial) for part in parts for trial in part.trials()]
    found: dict[str, Outcomes] = {part.name: {} for part in parts}
    start = time.monotonic()
    with Progress(Counter(part.name for part, _ in trials)) as progress:
        for ended in _outcomes(config, policy, _queues(trials)):
            for number, outcome in ended.items():
                name = trials[number][0].name
                found[name][number] = outcome
                progress.add(name, [outcome])
    return told(config, parts, found, time.monotonic() - start)


def _queues(trials: Sequence[tuple[Part, Trial]]) -> list[Queue]:
    """One queue for each suite, actor and way of telling; those of one suite beside one another."""
    suites: list[Suite] = []
    waiting: dict[tuple[int, bool, bool, tuple[str, ...]], dict[int, Trial]] = {}
    people: dict[tuple[int, bool, bool, tuple[str, ...]], Simulated | None] = {}
    for number, (part, trial) in enumerate(trials):
        if part.suite not in suites:  # suites need not be hashable
            suites.append(part.suite)
        who = part.people is not None, part.obeys
        key = (suites.index(part.suite), *who, part.protocol.modalities)
        people[key] = part.people
        waiting.setdefault(key, {})[number] = trial
    return [
        Queue(suites[suite], obeys, waiting[key], told, people[key])
        for key in sorted(waiting)
        for suite, _, obeys, told in [key]
    ]


def _outcomes(config: Config, policy: Policy, queues: Sequence[Queue]) -> Iterator[Outcomes]:
    launcher: Launcher = instantiate(config["launcher"])
    capacity, is_here = launcher.open(), isinstance(launcher, Processes)
    try:
        num_trials = sum(len(queue.trials) for queue in queues)
        shards, workers = crew(config, policy, num_trials, capacity, is_here=is_here)
        # The same number of threads in any number of shards: it can change the last bits.
        own = {"workers": workers, "threads": config["threads"] or 1}
        settings = {**config["env"], **config["eval"], **own}
        if shards == 1 and is_here:
            torch.set_num_threads(settings["threads"])
            yield from play_queues(policy, queues, settings)
            return
        packed = PackedPolicy.pack(policy, config, config.get("allow_targets", ()))
        shares = split(queues, shards)
        yield from gather([Shard(packed, s, settings, config["device"]) for s in shares], launcher)
    finally:
        launcher.close()


def crew(
    config: Config, policy: Policy, num_trials: int, cores: int, *, is_here: bool
) -> tuple[int, int]:
    """How many shards, and how many simulator processes each of them has.

    Where the config leaves it open: shards until they use all cores, while each has enough to do;
    a GPU is not divided unasked. On this machine the cores of a shard step its simulators, in
    processes of their own even on one core, so that it outlives them; elsewhere it has one core.
    """
    settings, shards = config["env"], config["shards"]
    if shards is None:
        useful = num_trials // (_ROUNDS * settings["num_envs"])
        most = 1 if next(policy.parameters()).is_cuda else cores // (_CORES if is_here else 1)
        shards = max(1, min(most, useful))
    if settings["workers"] is not None:
        return shards, settings["workers"]
    spare = cores // shards if is_here else 0
    if is_here and (spare > 1 or shards == 1):
        return shards, min(max(spare, 1), settings["num_envs"])
    return shards, 0


def told(
    config: Config, parts: Sequence[Part], found: Mapping[str, Outcomes], wall_s: float
) -> dict[str, Evaluation]:
    """Parts that ran together share the time by their steps."""
    steps = {name: sum(each.steps for each in ended.values()) for name, ended in found.items()}
    total = max(1, sum(steps.values()))
    return {
        part.name: Evaluation(
            protocol=part.protocol.name_on(part.suite) + place(config["env"]["backend"]),
            checkpoint=None,
            outcomes=tuple(found[part.name][i] for i in sorted(found[part.name])),
            wall_s=wall_s * steps[part.name] / total,
            seed=part.protocol.benchmark_seed,
            perturbation=part.perturbation,
        )
        for part in parts
    }
