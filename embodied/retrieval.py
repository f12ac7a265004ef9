"""Whether a policy's task space knows which words belong to which change.

Each episode of a protocol is demonstrated; what was shown of it should lie nearest to its own words
among those of all tasks (GRIF, Myers et al. 2023, arXiv:2307.00117, Sec. 5.4), and its words
nearest to a demonstration of its task. Figures are evaluations like any other, whose successes are
hits, so that their intervals and paired comparisons are too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.build import instantiate
from embodied.conditions import Language, Row, stack
from embodied.objectives.alignment import hits
from embodied.policies.aligned import AlignedPolicy
from embodied.policies.base import Policy
from embodied.prompting import Demonstration, Prompter, demonstrating
from embodied.protocols import Protocol
from embodied.results import Evaluation, Outcome
from embodied.structs import Condition, Observation
from embodied.suites import Assignment, Suite

Config = Mapping[str, Any]
_BEST = 5
_BATCH = 64


def retrieve(config: Config, policy: Policy, suite: Suite) -> dict[str, Evaluation]:
    """For each modality that is aligned with language: "retrieval_<modality>_seen", and
    "..._unseen" where `source.told.never` kept instructions from the policy.

    Raises ValueError where the policy aligns nothing with language.
    """
    if not isinstance(policy, AlignedPolicy):
        raise ValueError(
            f"retrieval needs an AlignedPolicy, got {type(policy).__name__}; set retrieval=null"
        )
    shown = [a if b == "language" else b for a, b in policy.pairs if "language" in (a, b)]
    if not shown:
        raise ValueError(f"none of the pairs {policy.pairs} has language; set retrieval=null")
    settings = config["retrieval"]
    protocol = instantiate(
        {"_target_": "embodied.protocols.Protocol", "name": f"{suite.name}-retrieval", **settings}
    )
    never = set(((config.get("source") or {}).get("told") or {}).get("never") or ())
    found: dict[str, Evaluation] = {}
    with demonstrating(suite) as demonstrate:
        for modality in shown:
            evaluation = _measure(policy, suite, protocol, Prompter(demonstrate, (modality,)))
            found |= _by_news(f"retrieval_{modality}", evaluation, suite, never)
    return found


def _measure(
    policy: AlignedPolicy, suite: Suite, protocol: Protocol, prompter: Prompter
) -> Evaluation:
    begun = time.monotonic()
    (modality,) = prompter.modalities
    assignments = protocol.assignments(suite)
    shown = _points(policy, modality, assignments, prompter)  # (N, Z)
    texts = [[Language(suite.texts(task).canonical)] for task in suite.tasks]
    words = _embed(policy, "language", texts, None)  # (M, Z)
    task = torch.tensor([suite.tasks.index(each.task) for each in assignments])
    similarity = policy.similarity(shown, words).cpu()
    correct = task[:, None] == torch.arange(len(suite.tasks))
    ranks = {k: hits(similarity, correct, min(k, len(words))) for k in (1, _BEST)}
    back = {k: hits(similarity.T, correct.T, min(k, len(shown)))[task] for k in (1, _BEST)}
    outcomes = [
        Outcome(
            each,
            success=bool(ranks[1][i]),
            steps=0,
            reward=0.0,
            metrics={
                f"top{_BEST}": float(ranks[_BEST][i]),
                "top1_of_words": float(back[1][i]),
                f"top{_BEST}_of_words": float(back[_BEST][i]),
            },
        )
        for i, each in enumerate(assignments)
    ]
    return Evaluation(
        protocol=f"{protocol.name}@{modality}",
        checkpoint=None,
        outcomes=tuple(outcomes),
        wall_s=time.monotonic() - begun,
        seed=protocol.benchmark_seed,
    )


def _by_news(
    name: str, evaluation: Evaluation, suite: Suite, never: set[str]
) -> dict[str, Evaluation]:
    """The evaluation of tasks whose words were trained on, and of the others."""
    unseen = {task for task in suite.tasks if never & set(suite.texts(task).trained)}
    parts = {"seen": set(suite.tasks) - unseen, "unseen": unseen}
    return {
        f"{name}_{part}": replace(
            evaluation,
            outcomes=tuple(each for each in evaluation.outcomes if each.assignment.task in tasks),
        )
        for part, tasks in parts.items()
        if tasks
    }


def _points(
    policy: AlignedPolicy, modality: str, assignments: Sequence[Assignment], prompter: Prompter
) -> Tensor:
    found = []
    for begin in range(0, len(assignments), _BATCH):
        batch = assignments[begin : begin + _BATCH]
        starts = [prompter.demonstration(each) for each in batch]
        rows = [prompter(each) for each in batch]
        found.append(_embed(policy, modality, rows, _start(policy, starts)))
    return torch.cat(found)


def _start(policy: AlignedPolicy, shown: Sequence[Demonstration]) -> Observation:
    """What was seen at first, with T = 1."""
    cameras = policy.spec.cameras
    images = {
        name: torch.from_numpy(np.stack([each.first[name] for each in shown])) for name in cameras
    }
    return Observation(
        state=torch.from_numpy(np.stack([each.first["state"] for each in shown]))[:, None].float(),
        images={name: x.movedim(-1, -3)[:, None] for name, x in images.items()},
    )


def _embed(
    policy: AlignedPolicy, modality: str, rows: Sequence[Row], start: Observation | None
) -> Tensor:
    device = policy.log_temperature.device
    condition: Condition = replace(stack(rows), start=start).to(device)
    # The task space does not look at the present; it only has to know how many rows there are.
    blank = Observation(torch.zeros(len(rows), 1, policy.spec.state_dim, device=device))
    return policy.points(modality, blank, condition)
