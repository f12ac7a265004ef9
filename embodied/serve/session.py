"""One client's episodes: what it asks, told to a mind of its own, and what that answers."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import GoalImage, Language, LanguageMotion, Part, Row, Sketch
from embodied.data.sketches import Trace, draw
from embodied.serve.contract import Contract
from embodied.serve.fields import Request

_SHOWN = 80  # characters of a stranger's text, in a message


class Mind(Protocol):
    """What thinks for one robot; `embodied.deploy.brain.Brain` is one."""

    @property
    def said(self) -> str: ...
    def reset(self, seed: int) -> None: ...
    def tell(self, parts: Row) -> None: ...
    def correct(self, parts: Row) -> None: ...
    def release(self) -> None: ...
    def infer(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]: ...


class PolicyFailed(RuntimeError):
    """A policy gave no actions that could be executed."""


class Session:
    """Answers the requests of one connection, which shares nothing with any other.

    A request says all that is asked: what it leaves out is not asked, except for the instruction,
    which is then the server's. So nothing that was said is lost when a connection is.

    Args:
        make_mind: a new mind, that has seen nothing.
        instruction: for requests without a prompt; empty for nothing.
        seed: of episodes that name none.
    """

    def __init__(
        self,
        make_mind: Callable[[], Mind],
        contract: Contract,
        *,
        instruction: str = "",
        seed: int = 0,
    ) -> None:
        self._mind, self.contract = make_mind(), contract
        self._instruction, self._seed = instruction, seed
        self._mind.reset(seed)
        self._told: Row | None = None
        self._forget_motion()

    def answer(self, request: Request) -> dict[str, Any]:
        """`actions` (H, A) float32 in environment units, what they obey, and what comes back.

        Raises PolicyFailed, and whatever the policy raises.
        """
        begun = time.perf_counter()
        if request.reset is not None:
            self._mind.reset(self._seed if request.reset is True else request.reset)
            self._forget_motion()  # an episode begins without corrections
        prompt = self._instruction if request.prompt is None else request.prompt
        self._tell(request, prompt)
        self._correct(request.motion or None)
        actions = self._checked(self._mind.infer(request.observation))
        answer = {
            "actions": actions,
            "server_timing": {"infer_ms": (time.perf_counter() - begun) * 1e3},
            "instruction": prompt,
            "motion": self._motion or self._mind.said,
            "request_id": request.request_id,
            "obs_time": request.obs_time,
        }
        return answer if self._refused is None else {**answer, "refused": self._refused}

    def _tell(self, request: Request, prompt: str) -> None:
        parts: list[Part] = [Language(prompt)] if prompt else []
        if request.goal:
            parts.append(GoalImage(request.goal))
        if request.sketch is not None:
            parts.append(Sketch(self._drawn(request.sketch)))
        # A mind that is told something forgets what it planned, so only changes are told.
        if self._told is None or not _alike(parts, self._told):
            self._mind.tell(parts)
            self._told = parts

    def _drawn(self, sketch: Trace | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3), as in training."""
        style, size = self.contract.sketch_style, self.contract.sketch_size
        if not isinstance(sketch, Trace):
            return sketch
        assert style is not None
        assert size is not None
        return draw(sketch.scaled(size), with_height=style.with_height, width=style.width)

    def _forget_motion(self) -> None:
        self._asked_motion: str | None = None
        self._motion: str | None = None  # the same, if the policy knows it
        self._refused: str | None = None

    def _correct(self, motion: str | None) -> None:
        """What the mind cannot be told is left aside and said so: the robot goes on as before."""
        if motion == self._asked_motion:
            return
        known, refused = motion, None
        try:
            if motion is not None:
                self._mind.correct([LanguageMotion(motion)])
        except ValueError:
            known, refused = None, self._refusal((motion or "")[:_SHOWN])
        if known is None:
            self._mind.release()
        self._asked_motion, self._motion, self._refused = motion, known, refused

    def _refusal(self, motion: str) -> str:
        near = difflib.get_close_matches(motion, self.contract.phrases, 1, cutoff=0.0)
        hint = f"; the nearest that it knows is {near[0]!r}" if near else ""
        return f"E_SERVE_MOTION: the policy does not know {motion!r}{hint}"

    def _checked(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (self.contract.action_horizon, self.contract.spec.action_dim)
        if actions.shape != shape or not np.isfinite(actions).all():
            raise PolicyFailed(f"actions must be finite and {shape}, got {actions.shape}")
        return actions.astype(np.float32, copy=False)


def _alike(parts: Row, others: Row) -> bool:
    return len(parts) == len(others) and all(map(_equal, parts, others))


def _equal(part: Part, other: Part) -> bool:
    match part, other:
        case Language(), Language():
            return part == other
        case GoalImage(), GoalImage():
            return part.images.keys() == other.images.keys() and all(
                np.array_equal(image, other.images[name]) for name, image in part.images.items()
            )
        case Sketch(), Sketch():
            return np.array_equal(part.image, other.image)
    return False
