"""Doubles, instructions and outcomes, compared over the episodes of a set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from embodied.structs import Spec
from embodied_datasets.checking.common import Faults, listed
from embodied_datasets.checking.summary import Summary, near_pairs
from embodied_datasets.faults import Fault


def duplicates(summaries: Sequence[Summary], spec: Spec) -> Faults:
    first: dict[str, int] = {}
    for summary in summaries:
        if summary.length and first.setdefault(summary.digest, summary.index) != summary.index:
            yield Fault(
                "E_DATA_DUPLICATE",
                f"is the same as episode {first[summary.digest]}",
                "drop it (--fix does); never split such a set at random",
                episode=summary.index,
                count=summary.length,
            )


def near_duplicates(summaries: Sequence[Summary], spec: Spec) -> Faults:
    for a, b in near_pairs(summaries):
        if a.digest != b.digest and a.instruction == b.instruction:
            yield Fault(
                "E_DATA_NEAR_DUPLICATE",
                f"nearly repeats episode {a.index}",
                "keep one, or keep both on the same side of every split",
                severity="warning",
                episode=b.index,
                count=b.length,
            )


def missing_instructions(summaries: Sequence[Summary], spec: Spec) -> Faults:
    empty = [s for s in summaries if not s.instruction.strip()]
    if empty and len(empty) == len(summaries):
        yield Fault(
            "E_DATA_INSTRUCTION",
            "no episode says what was asked",
            "add instructions if a policy is to follow them",
            severity="warning",
            field="instruction",
            count=len(empty),
        )
        return
    for summary in empty:
        yield Fault(
            "E_DATA_INSTRUCTION",
            "is empty, though other episodes have one",
            "write what was asked, or drop the episode",
            episode=summary.index,
            field="instruction",
        )


def shared_instructions(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """One wording for several tasks, so that language cannot tell them apart."""
    tasks: dict[str, set[str]] = defaultdict(set)
    for summary in summaries:
        if summary.task is not None and summary.instruction.strip():
            tasks[summary.instruction].add(summary.task)
    for instruction, names in tasks.items():
        if len(names) > 1:
            yield Fault(
                "E_DATA_INSTRUCTION_SHARED",
                f"{instruction!r} is asked for {len(names)} tasks: {listed(sorted(names))}",
                "word the tasks differently, or language cannot choose between them",
                severity="warning",
                field="instruction",
                count=len(names),
            )


def unrewarded_success(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """Where rewards take two values at most, a success that never has the higher."""
    values = {value for s in summaries for value in s.rewards}
    if len(values) != 2:
        return
    for summary in summaries:
        reached = max(values) in summary.rewards
        if summary.rewards and summary.success != reached and any(s.success for s in summaries):
            yield Fault(
                "E_DATA_SUCCESS_REWARD",
                f"success is {summary.success}, but the reward {max(values):g} is "
                + ("reached" if reached else "never reached"),
                "judge the episode again",
                severity="warning",
                episode=summary.index,
                field="success",
            )


def uneven_columns(summaries: Sequence[Summary], spec: Spec) -> Faults:
    """Columns that only some episodes have."""
    everything = frozenset().union(*(s.names for s in summaries))
    for name in sorted(everything):
        lacking = [s.index for s in summaries if name not in s.names]
        if lacking and not name.startswith("images."):
            yield Fault(
                "E_DATA_COLUMNS",
                f"is recorded in {len(summaries) - len(lacking)} of {len(summaries)} episodes",
                "record it in all episodes, or leave it out",
                severity="warning",
                episode=lacking[0],
                field=name,
                count=len(lacking),
            )
