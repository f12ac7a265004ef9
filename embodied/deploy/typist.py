"""A simulated person at the keyboard of a running robot: types what somebody there would say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import Language, LanguageMotion
from embodied.people.corrections import Correction, Person, View


class Typist:
    """Turns what a simulated person asks for into lines of text; a `Watch`.

    A step, to the person, is an inference of the policy, since between two of them nothing that is
    said has an effect.

    Args:
        told: the instruction.
        rate_hz: what the steps of a correction are counted in.
    """

    def __init__(self, person: Person, told: str, rate_hz: float) -> None:
        self._person, self._told, self._rate_hz = person, told, rate_hz
        self._step = 0
        self._executed: NDArray[Any] | None = None

    def __call__(
        self, observation: Mapping[str, Any], plan: NDArray[Any], said: str, held: bool
    ) -> str | None:
        planned = np.asarray(plan[0], np.float32)
        view = View(
            step=self._step,
            observation=observation,
            said=said,
            told=self._told,
            planned=planned,
            executed=self._executed,
            corrected=held,
            held=held,
        )
        self._step, self._executed = self._step + 1, planned
        answer = self._person(view)
        return self._line(answer) if isinstance(answer, Correction) else None

    def _line(self, correction: Correction) -> str:
        texts = [x.text for x in correction.parts if isinstance(x, Language | LanguageMotion)]
        if not texts:
            raise ValueError(
                f"E_ROBOT_CONFIG: a person who types corrects in words, and this one gives "
                f"{correction.level}; use person=motions, subtasks, or others with words"
            )
        hold = "" if correction.steps is None else f" for {correction.steps / self._rate_hz:g} s"
        return f"{texts[0]}{hold}"
