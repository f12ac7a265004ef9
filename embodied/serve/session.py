"""One client's episodes: what it asks, told to a mind of its own, and what that answers."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embodied.conditions import GoalImage, Language, LanguageMotion, Part, Row, Sketch
from embodied.data.sketches import draw
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
        self._mind, self._contract = make_mind(), contract
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
            parts.append(Sketch(self._drawn(request)))
        # What is told anew is forgotten what was planned for before, so only changes are told.
        if self._told is None or not _alike(parts, self._told):
            self._mind.tell(parts)
            self._told = parts

    def _drawn(self, request: Request) -> NDArray[np.uint8]:
        """(h, w, 3), as in training."""
        style, cameras = self._contract.sketch_style, self._contract.spec.cameras
        assert style is not None
        assert request.sketch is not None
        first = next(iter(cameras.values()), request.sketch.size)
        height, width = style.size or cameras.get(style.camera or "", first)
        trace = request.sketch.scaled((height, width))
        return draw(trace, with_height=style.with_height, width=style.width)

    def _forget_motion(self) -> None:
        self._asked_motion: str | None = None
        self._motion: str | None = None  # the same, if the policy knows it
        self._refused: str | None = None

    def _correct(self, motion: str | None) -> None:
        """What the mind cannot be told is left aside and said so: the robot goes on as before."""
        if motion == self._asked_motion:
            return
        self._asked_motion, self._motion, self._refused = motion, None, None
        if motion is None:
            self._mind.release()
            return
        try:
            self._mind.correct([LanguageMotion(motion)])
            self._motion = motion
        except ValueError:
            self._mind.release()
            self._refused = self._refusal(motion[:_SHOWN])

    def _refusal(self, motion: str) -> str:
        near = difflib.get_close_matches(motion, self._contract.phrases, 1, cutoff=0.0)
        hint = f"; the nearest that it knows is {near[0]!r}" if near else ""
        return f"E_SERVE_MOTION: the policy does not know {motion!r}{hint}"

    def _checked(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (self._contract.action_horizon, self._contract.spec.action_dim)
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
