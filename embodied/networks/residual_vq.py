"""A residual vector-quantised autoencoder of action chunks, all of it in buffers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_DECAY = 0.9
_DEAD = 0.01
"""Codes that fewer rows of a batch than this share of their fair part choose are moved."""


class ResidualVQ(nn.Module):
    """Chunks (N, H, A) <-> `num_layers` codes each, of which one tells what those before it left.

    van den Oord et al. 2017, arXiv:1711.00937, with codebooks that follow averages (Appendix A.1),
    and codes that nobody chooses moved to where data is (Dhariwal et al. 2020, arXiv:2005.00341,
    Sec. 3.1); residual layers as in Zeghidour et al. 2021, arXiv:2107.03312, Algorithm 1.

    `fit` trains it with an optimiser of its own, and draws by a seed of its own; for everybody else
    it has no parameters. Until then, weights are random and codes lie where they take the codes of
    uniformly distributed actions.

    Attributes:
        codebooks: (num_layers, num_codes, latent_dim).
    """

    codebooks: Tensor

    def __init__(
        self,
        *,
        pred_horizon: int,
        action_dim: int,
        num_layers: int,
        num_codes: int,
        latent_dim: int,
        hidden_dim: int,
    ) -> None:
        super().__init__()
        self.shape = (pred_horizon, action_dim)
        size = pred_horizon * action_dim
        self.encoder = _mlp(size, hidden_dim, latent_dim)
        self.decoder = _mlp(latent_dim, hidden_dim, size)
        self.register_buffer("codebooks", torch.zeros(num_layers, num_codes, latent_dim))
        _freeze(self)
        self._place(torch.rand(8 * num_codes, size) * 2 - 1)

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tensor:
        """(N, H, A) -> codes (N, num_layers)."""
        with torch.autocast(chunk.device.type, enabled=False):
            return self._quantize(self.encoder(chunk.float().flatten(1)))[1]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, num_layers) -> (N, H, A)."""
        with torch.autocast(codes.device.type, enabled=False):
            latent = sum(book[code] for book, code in zip(self.codebooks, codes.T, strict=True))
            chunk: Tensor = self.decoder(latent).view(-1, *self.shape)
        return chunk

    def _quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Z) -> its quantised form, and codes (N, num_layers)."""
        residual, codes = latent, []
        for book in self.codebooks:
            codes.append(nearest(residual, book))
            residual = residual - book[codes[-1]]
        return latent - residual, torch.stack(codes, dim=1)

    @torch.no_grad()
    def _place(self, chunk: Tensor) -> None:
        """Puts the codes on evenly spread rows of chunks (N, H * A), layer by layer."""
        residual = self.encoder(chunk)
        for book in self.codebooks:
            book.copy_(residual[torch.linspace(0, len(residual) - 1, len(book)).long()])
            residual = residual - book[nearest(residual, book)]

    def fit(
        self,
        chunk: Tensor,
        *,
        steps: int,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        commitment: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Trains on chunks (N, H, A), on the CPU: so all processes of a run come to the same.

        The loss is the absolute error of the decoded chunk, passed straight through the quantiser,
        and the weighted distance of latents from their codes (Lee et al. 2024, Eqs. 1 and 2).
        """
        data = chunk.detach().float().cpu().flatten(1)
        random = torch.Generator().manual_seed(seed)
        student = _unfrozen(self)
        student._place(data[torch.randperm(len(data), generator=random)])
        usage = _Usage(student.codebooks)
        optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate, fused=True)
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            for _ in range(steps):
                x = data[torch.randint(len(data), (batch_size,), generator=random)]
                latent = student.encoder(x)
                with torch.no_grad():
                    quantised, codes = student._quantize(latent)
                decoded = student.decoder(latent + (quantised - latent).detach())
                loss = F.l1_loss(decoded, x) + commitment * F.mse_loss(latent, quantised)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                usage.follow(latent.detach(), codes, random)
        self.load_state_dict(student.state_dict())


class _Usage:
    """Moves codebooks to the averages of the residuals that choose them."""

    def __init__(self, codebooks: Tensor) -> None:
        self.codebooks = codebooks
        self.counts = torch.ones(codebooks.shape[:2])
        self.sums = codebooks.clone()

    def follow(self, latent: Tensor, codes: Tensor, random: torch.Generator) -> None:
        """Takes one batch: latents (N, Z), and codes (N, num_layers)."""
        residual = latent
        for book, count, total, code in zip(
            self.codebooks, self.counts, self.sums, codes.T, strict=True
        ):
            chosen = F.one_hot(code, len(book)).to(residual.dtype)
            count.lerp_(chosen.sum(0), 1 - _DECAY)
            total.lerp_(chosen.T @ residual, 1 - _DECAY)
            left = residual - book[code]
            dead = count < _DEAD * len(latent) / len(book)
            there = residual[torch.randint(len(residual), (len(book),), generator=random)]
            count[dead] = 1.0
            total[dead] = there[dead]
            book.copy_(total / count[:, None])
            residual = left


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """Index (N,) of the row of `book` (C, Z) that is nearest to each row of x (N, Z)."""
    # Differences and not cdist, whose products round differently for other neighbours.
    return (x[:, None] - book).square().sum(-1).argmin(1)


def _mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.GELU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.GELU(),
        nn.Linear(hidden_dim, out_dim),
    )


def _freeze(module: nn.Module) -> None:
    """Makes all parameters buffers, which optimisers and averages of weights do not see."""
    for part in module.modules():
        for name, x in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, x.detach())


def _unfrozen(vq: ResidualVQ) -> ResidualVQ:
    """A copy on the CPU whose encoder and decoder have parameters."""
    student = copy.deepcopy(vq).cpu()
    for half in (student.encoder, student.decoder):
        for part in half.modules():
            for name, x in list(part.named_buffers(recurse=False)):
                delattr(part, name)
                part.register_parameter(name, nn.Parameter(x.clone()))
    return student
