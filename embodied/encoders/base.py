"""What an encoder is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from embodied.noise import Noise
from embodied.structs import Condition, Observation


class Encoder(nn.Module, ABC):
    """Turns observation and condition into context tokens (B, num_tokens, dim)."""

    num_tokens: int

    @abstractmethod
    def forward(
        self, observation: Observation, condition: Condition, *, noise: Noise | None = None
    ) -> Tensor:
        """Context tokens; `noise` is what training augments its inputs with, None means not at
        all."""

    def fit_normalizers(self, observation: Observation, condition: Condition) -> None:
        """Takes input statistics: N observations with T = 1, and the distinct conditions."""


def blank_absent(tokens: Tensor, absent: Tensor, present: Tensor | None) -> Tensor:
    """Puts the learned token `absent` (D,) where a row's modality is not present.

    Args:
        tokens: (B, L, D).
        present: (B,) bool; None means present in every row.
    """
    if present is None:  # `absent` takes part all the same: DDP and the optimiser wait for it
        present = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    return torch.where(present[:, None, None], tokens, absent.to(tokens.dtype))
