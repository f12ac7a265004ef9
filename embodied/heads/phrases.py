"""Chooses a phrase among candidates that may grow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.networks.transformer import Transformer

_MIN_TEMPERATURE = 0.01


class PhraseHead(nn.Module):
    """Logits by the cosine of a query to each candidate, over a learned temperature.

    YAY Robot (Shi et al. 2024, arXiv:2403.12910, Sec. IV): no weight belongs to a candidate, so
    that new ones can be added after training. Departing from it, a learned token reads the context
    (there: the last frame's), and candidates are projected, since embeddings of short phrases of
    one grammar lie close together.

    Args:
        dim: width D of the context.
        vector_dim: width E of the candidates' vectors.
        temperature: at the start; kept above 0.01.
    """

    def __init__(
        self,
        *,
        dim: int,
        vector_dim: int,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if temperature < _MIN_TEMPERATURE:
            raise ValueError(f"temperature must be {_MIN_TEMPERATURE} or more, got {temperature}")
        self.token = nn.Parameter(0.02 * torch.randn(1, dim))
        self.trunk = Transformer(dim, num_layers=num_layers, num_heads=num_heads, dropout=dropout)
        self.query = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.project = nn.Linear(vector_dim, dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, context: Tensor, candidates: Tensor) -> Tensor:
        """Context (B, L, D) and the vectors of K candidates (K, E) -> logits (B, K), float32."""
        tokens = self.token.expand(len(context), 1, -1)
        found = self.query(self.trunk(tokens, self.trunk.remember(context))[:, 0])
        query = F.normalize(found.float(), dim=-1)
        keys = F.normalize(self.project(candidates).float(), dim=-1)
        temperature = self.log_temperature.exp().clamp(min=_MIN_TEMPERATURE)
        return query @ keys.T / temperature
