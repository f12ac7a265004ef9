"""What can be wrong with recorded data, said in one form by readers and by checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """Something wrong at one place of a data set.

    Attributes:
        code: its class, `E_DATA_` and what it is.
        message: what was found and what was expected.
        remedy: what to do about it.
        severity: "error" where a policy would learn something wrong or reading fails, "warning"
            where data are only doubtful.
        file: relative to the data set, where one file is to blame.
        episode, frame: from 0; the first frame where several are concerned.
        field: feature, column or key.
        count: number of frames, or of other items, that are concerned.
    """

    code: str
    message: str
    remedy: str
    severity: Severity = "error"
    file: Path | None = None
    episode: int | None = None
    frame: int | None = None
    field: str | None = None
    count: int = 1

    def __str__(self) -> str:
        named = {name: getattr(self, name) for name in ("episode", "frame", "field")}
        places = [f"{name} {value}" for name, value in named.items() if value is not None]
        where = ", ".join([str(self.file)] * (self.file is not None) + places)
        return f"{self.code}: {where}{': ' if where else ''}{self.message}; {self.remedy}"


class DataError(ValueError):
    """Data that cannot be read as they are; holds the `fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


Report = Callable[[Fault], None]
"""What is done with a fault: `refuse` raises, a check collects and lets the reader go on."""


def refuse(fault: Fault) -> NoReturn:
    """Raises the fault as a DataError."""
    raise DataError(fault)
