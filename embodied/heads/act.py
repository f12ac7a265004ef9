"""Action chunking with a conditional variational autoencoder, as in ACT.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware",
arXiv:2304.13705, Sec. IV-C and Algorithms 1 and 2.
"""

from __future__ import annotations

from typing import Unpack

import torch
from einops import rearrange
from torch import Tensor, nn

from embodied.heads.base import ActionHead
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.networks.transformer import Transformer
from embodied.noise import Noise


class ACTHead(ActionHead):
    """Predicts a chunk from the context and a latent z, which in training has seen the chunk.

    Departures: the style encoder reads the mean of the context in place of joint positions; it has
    as many layers as the decoder; a padded chunk's repeated actions are not hidden from it.

    Args:
        latent_dim: numbers in z.
        kl_weight: of the divergence, summed over z, beside the absolute error, averaged over the
            chunk; see `loss`.
        sample_prior: whether `sample` draws z from the prior; else z is its mean, 0, as in the
            paper, and the head answers a context with one chunk.
        trunk: num_layers, num_heads, dropout and patch of decoder and style encoder.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        latent_dim: int = 32,
        kl_weight: float = 10.0,
        sample_prior: bool = False,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        if latent_dim < 1 or kl_weight < 0:
            raise ValueError(
                f"need latent_dim >= 1 and kl_weight >= 0, got {latent_dim} and {kl_weight}"
            )
        self.latent_dim, self.kl_weight, self.sample_prior = latent_dim, kl_weight, sample_prior
        self.decoder = ActionTransformer(
            in_dim=0, out_dim=action_dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )
        self.embed_latent = nn.Linear(latent_dim, dim)
        self.style = StyleEncoder(
            action_dim=action_dim,
            pred_horizon=pred_horizon,
            dim=dim,
            latent_dim=latent_dim,
            **trunk,
        )

    def decode(self, context: Tensor, z: Tensor) -> Tensor:
        """Context (B, L, D) and z (B, Z) -> action (B, H, A)."""
        tokens = torch.cat([context, self.embed_latent(z)[:, None].to(context.dtype)], dim=1)
        action: Tensor = self.decoder(self.decoder.remember(tokens))
        return action.float()

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """|a_h - a'_h| + kl_weight KL(q(z | a, context) || N(0, I)) at each step h (Algorithm 1).

        The divergence is a row's, and stands at each of its steps in full, so that the mean over
        rows and steps is the paper's loss: an error averaged over H and A, a divergence summed over
        z. In a likelihood the error would be summed, too: kl_weight 10 is H A times 10 there, and
        with small errors z may carry nothing. Lower it for a z that tells modes apart.
        """
        mean, log_var = self.style(context, action)
        z = mean + (log_var / 2).exp() * noise.normal(*mean.shape, device=mean.device)
        error = (self.decode(context, z) - action).abs().mean(-1)
        return error + self.kl_weight * divergence(mean, log_var)[:, None]

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        shape = len(context), self.latent_dim
        if self.sample_prior:
            z = noise.normal(*shape, device=context.device)
        else:
            z = torch.zeros(shape, device=context.device)
        return self.decode(context, z)


class StyleEncoder(nn.Module):
    """q(z | action, context): a transformer over [CLS, context, action chunk], read at CLS."""

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        dim: int,
        latent_dim: int,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed_action = nn.Linear(patch * action_dim, dim)
        self.embed_context = nn.Linear(dim, dim)
        self.position = nn.Parameter(0.02 * torch.randn(2 + pred_horizon // patch, dim))
        self.transformer = Transformer(
            dim, num_layers=num_layers, num_heads=num_heads, dropout=dropout
        )
        self.out = nn.Linear(dim, 2 * latent_dim)

    def forward(self, context: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, L, D) and action (B, H, A) -> mean and logarithm of the variance (B, Z)."""
        patches = rearrange(action, "b (l p) a -> b l (p a)", p=self.patch)
        summary = self.embed_context(context.mean(1, keepdim=True))
        parts = [torch.zeros_like(summary), summary, self.embed_action(patches)]  # CLS is a place
        tokens = torch.cat(parts, dim=1) + self.position
        mean, log_var = self.out(self.transformer(tokens)[:, 0]).float().chunk(2, dim=-1)
        return mean, log_var


def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)) of (B, Z), summed over z, (B,).

    Kingma and Welling 2013, Appendix B; arXiv:1312.6114.
    """
    return (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
