"""Actions as text: a discrete cosine transform, byte pairs, and one token after the other.

Pertsch et al. 2025, "FAST: Efficient Action Tokenization for Vision-Language-Action Models",
arXiv:2501.09747, Sec. V and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.heads.base import ActionHead
from embodied.heads.codes import check_temperature, draw
from embodied.networks.byte_pairs import BytePairs
from embodied.networks.transformer import Memory, Transformer
from embodied.noise import Noise


class FASTHead(ActionHead):
    """Predicts the tokens of a chunk, each after those before it, with the context as prefix.

    Until `fit` each quantised coefficient is a token of its own, which works, with longer
    sequences. Departures: a sequence ends when its tokens stand for H A coefficients, so that it
    needs no end token, and tokens that stand for more than are missing are ruled out in training
    and sampling; so every sequence that can be drawn is a chunk. Actions are normalised by their
    range, not by quantiles. It is no `DensityHead`, for no token belongs to a step.

    Args:
        scale: quantisation levels for each unit of a coefficient.
        vocab_size: tokens, of which the levels are the first.
        temperature: of sampling; 0 takes the likeliest token each time.
        num_layers, num_heads, dropout: of the transformer.
        patch: without effect; the byte pairs decide what is one token.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        scale: float = 10.0,
        vocab_size: int = 1024,
        temperature: float = 1.0,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.cosines = QuantizedCosines(pred_horizon, action_dim, scale=scale)
        length = pred_horizon * action_dim
        self.pairs = BytePairs(
            alphabet=self.cosines.num_levels, vocabulary=vocab_size, length=length
        )
        self.embed = nn.Embedding(vocab_size, dim)
        self.start = nn.Parameter(0.02 * torch.randn(dim))
        self.position = nn.Parameter(0.02 * torch.randn(length, dim))
        self.transformer = Transformer(
            dim, num_layers=num_layers, num_heads=num_heads, dropout=dropout
        )
        self.out = nn.Linear(dim, vocab_size)

    def fit(self, action: Tensor) -> None:
        """Learns the byte pairs of chunks."""
        self.pairs.fit(self.cosines.quantize(action))

    def tokenize(self, action: Tensor) -> Tensor:
        """Action (B, H, A) -> tokens (B, H * A), padded with -1 at the end."""
        return self.pairs.encode(self.cosines.quantize(action))

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T), padded with -1 -> action (B, H, A).

        A sequence that ends early lacks its highest frequencies, which count as 0; what is too
        much is cut off.
        """
        return self.cosines.restore(self.pairs.decode(tokens))

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """-log p(tokens | context) / (H A), in nats, the same at each step of a row."""
        tokens = self.tokenize(action)
        logits = self._logits(context, tokens)
        nats = F.cross_entropy(logits.mT, tokens, ignore_index=-1, reduction="none").sum(1)
        return (nats / self.pairs.length)[:, None].expand(-1, action.shape[1])

    def _logits(self, context: Tensor, tokens: Tensor) -> Tensor:
        """(B, T, V), of each of the tokens (B, T), given those before it."""
        known = tokens.clamp(min=0)
        before = self.embed(known[:, :-1])
        x = torch.cat([self.start.expand(len(tokens), 1, -1), before], dim=1)
        out = self.transformer(x + self.position, self.transformer.remember(context), causal=True)
        told = self.pairs.num_symbols[known].masked_fill(tokens < 0, 0).cumsum(1)
        missing = self.pairs.length - F.pad(told[:, :-1], (1, 0))
        return self._fitting(self.out(out), missing)

    def _fitting(self, logits: Tensor, missing: Tensor) -> Tensor:
        """Rules out what stands for more symbols than are missing; where none is, nothing."""
        too_long = (self.pairs.num_symbols > missing[..., None]) & (missing[..., None] > 0)
        return logits.float().masked_fill(too_long, -torch.inf)

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        rows, length = len(context), self.pairs.length
        # All at once, so that what a row draws later does not depend on how long others are.
        u = noise.uniform(rows, length, device=context.device)
        memories: Sequence[Memory] = self.transformer.remember(context)
        missing = torch.full((rows,), length, device=context.device)
        tokens: list[Tensor] = []
        x = self.start.expand(rows, -1)
        for i in range(length):
            out, memories = self.transformer.extend((x + self.position[i])[:, None], memories)
            logits = self._fitting(self.out(out[:, 0]), missing)
            token = draw(logits, u[:, i], temperature=self.temperature)
            tokens.append(torch.where(missing > 0, token, -1))
            missing = missing - self.pairs.num_symbols[token] * (missing > 0)
            if not bool(missing.any()):
                break
            x = self.embed(token)
        return self.detokenize(torch.stack(tokens, dim=1))


class QuantizedCosines(nn.Module):
    """Actions <-> whole numbers, low frequencies first and those of all dimensions together.

    Each dimension of a chunk goes through the orthonormal discrete cosine transform (type II), and
    its coefficients are multiplied by `scale` and rounded. Since the transform keeps lengths, an
    action comes back to within sqrt(H) / (2 scale). Coefficients that no chunk within [-1, 1] has
    are cut.

    Attributes:
        num_levels: the numbers are 0 to `num_levels` - 1.
    """

    basis: Tensor

    def __init__(self, pred_horizon: int, action_dim: int, *, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be more than 0, got {scale}")
        self.shape, self.scale = (pred_horizon, action_dim), scale
        # No chunk within [-1, 1] is longer than sqrt(H) in any dimension.
        self.bound = round(scale * math.sqrt(pred_horizon))
        self.num_levels = 2 * self.bound + 1
        self.register_buffer("basis", cosines(pred_horizon), persistent=False)

    def quantize(self, action: Tensor) -> Tensor:
        """Action (B, H, A) -> numbers (B, H * A), the lowest frequency of all dimensions first."""
        with torch.autocast(action.device.type, enabled=False):
            levels = (self.scale * (self.basis @ action.float())).round()
        return (levels.clamp(-self.bound, self.bound).long() + self.bound).flatten(1)

    def restore(self, numbers: Tensor) -> Tensor:
        """Numbers (B, H * A) -> action (B, H, A); -1 stands for a coefficient of 0."""
        levels = torch.where(numbers < 0, 0, numbers - self.bound).view(-1, *self.shape)
        with torch.autocast(numbers.device.type, enabled=False):
            action: Tensor = self.basis.T @ (levels / self.scale)
        return action


def cosines(length: int) -> Tensor:
    """(K, N) matrix of the orthonormal discrete cosine transform, type II, K = N = length."""
    n = torch.arange(length, dtype=torch.float64)
    matrix = math.sqrt(2 / length) * torch.cos(math.pi / length * n[:, None] * (n + 0.5))
    matrix[0] = math.sqrt(1 / length)
    return matrix.float()
