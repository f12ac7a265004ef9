"""A list of phrases that a module knows, kept in its state dict."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Vocabulary(nn.Module):
    """Distinct phrases in the order in which they were learned; it grows and never shrinks.

    They are JSON in a buffer of fixed size, since a checkpoint's tensors must have the shapes of
    the module that they are loaded into.

    Args:
        capacity: bytes of the buffer; 2500 phrases of 40 letters take 110 kB.
    """

    text: Tensor

    def __init__(self, capacity: int = 2**17) -> None:
        super().__init__()
        self.register_buffer("text", torch.zeros(capacity, dtype=torch.uint8))
        self.phrases: tuple[str, ...] = ()
        self._rank: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.phrases)

    def extend(self, phrases: Iterable[str]) -> None:
        """Adds those that are new, after the known ones. Raises ValueError when full."""
        together = tuple(dict.fromkeys((*self.phrases, *(each for each in phrases if each))))
        content = json.dumps(together, ensure_ascii=False).encode()
        if len(content) > len(self.text):
            raise ValueError(
                f"{len(together)} phrases take {len(content)} bytes, more than the vocabulary's "
                f"capacity of {len(self.text)}; raise capacity and train anew"
            )
        self._keep(together)
        self.text.zero_()
        self.text[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)

    def index(self, phrases: Sequence[str]) -> list[int]:
        """Where phrases stand in the list. Raises ValueError naming the nearest known one."""
        for each in phrases:
            if each not in self._rank:
                near = difflib.get_close_matches(each, self.phrases, 1, 0.0)
                raise ValueError(
                    f"{each!r} is not among the {len(self)} candidate phrases (the nearest: "
                    f"{near}); add it with extend([...])"
                )
        return [self._rank[each] for each in phrases]

    def _keep(self, phrases: Sequence[str]) -> None:
        self.phrases = tuple(phrases)
        self._rank = {each: i for i, each in enumerate(phrases)}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        content = self.text.cpu().numpy().tobytes().rstrip(b"\0")
        found = json.loads(content) if content else []
        if not isinstance(found, list) or not all(isinstance(x, str) and x for x in found):
            raise ValueError("a saved vocabulary must be a JSON list of phrases; it is damaged")
        self._keep(found)
