"""What a drill found, as a card to print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embodied.deploy.drill.tap import Maker

Drill = Callable[[Maker, int], list[str]]
"""(what makes the robot, number of trials) -> what went wrong."""


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        name: such as "R1".
        title: the fault, and what must happen.
        drill: brings it about.
        stands_in: what a simulation in one process stands in for; empty where it is the real thing.
    """

    name: str
    title: str
    drill: Drill
    stands_in: str = ""


class NotApplicable(Exception):
    """The robot has nothing that the fault could befall; the message says what."""


@dataclass(frozen=True)
class Result:
    """What a row found; no problems where the robot survived.

    Attributes:
        idle: why the fault cannot befall this robot; empty where it can.
    """

    row: Row
    problems: Sequence[str]
    idle: str = ""

    @property
    def verdict(self) -> str:
        if self.idle:
            return "n/a "
        return "FAIL" if self.problems else "pass"


def run_row(row: Row, make: Maker, trials: int) -> Result:
    """Runs one row. An exception that comes out of it is a problem as well."""
    try:
        return Result(row, row.drill(make, trials))
    except NotApplicable as error:
        return Result(row, [], str(error))
    except Exception as error:
        return Result(row, [f"{type(error).__name__}: {error}"])


def card(results: Sequence[Result]) -> str:
    """A line for each fault, and what went wrong below it."""
    lines = []
    for result in results:
        row = result.row
        lines.append(f"{row.name:4} {result.verdict}  {row.title}")
        lines += [f"           {problem}" for problem in result.problems[:5]]
        if result.idle:
            lines.append(f"           ({result.idle})")
        elif row.stands_in:
            lines.append(f"           (simulated: {row.stands_in})")
    befell = [result for result in results if not result.idle]
    failed = sum(bool(result.problems) for result in befell)
    lines.append(f"{len(befell) - failed} of {len(befell)} passed")
    return "\n".join(lines)
