"""Codes of a quantised autoencoder, and an offset: VQ-BeT.

Lee et al. 2024, "Behavior Generation with Latent Actions", arXiv:2403.03181, Sec. 3.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.heads.base import ActionHead
from embodied.heads.codes import check_temperature, draw
from embodied.heads.trunk import ActionTransformer, TrunkOptions
from embodied.networks.residual_vq import ResidualVQ
from embodied.noise import Noise


class VQBeTHead(ActionHead):
    """Predicts the codes of a chunk, coarse to fine, and what the decoded codes leave.

    The autoencoder is trained in `fit`, before the first step, which is the paper's first phase; in
    the second it stays as it is. A head that is not fitted has random codes, and offsets that make
    up for them.

    Departures: each code is drawn given the coarser ones (the authors' code can do so, too, and by
    default draws them independently, which may pair the coarse code of one mode with the fine code
    of another); the offset is trained for the chunk's own codes, as in BeT (arXiv:2206.11251,
    Eq. 3), where the authors' code takes those that it has drawn. It is no `DensityHead`, for a
    code belongs to no step.

    Args:
        num_codebooks, num_codes: layers of the residual quantiser, and codes in each.
        latent_dim, hidden_dim: of the autoencoder.
        tokenizer_steps: training steps of the autoencoder.
        focal_gamma: of the focal loss; 0 is the cross-entropy. Higher leaves predicted
            probabilities closer to even than the data's.
        primary_weight, secondary_weight: of the losses of the coarsest code and of the others.
        offset_weight: of the absolute error of the action.
        temperature: of sampling; 0 takes the likeliest code.
        trunk: num_layers, num_heads, dropout and patch of the `ActionTransformer`.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        pred_horizon: int,
        num_tokens: int,
        dim: int,
        num_codebooks: int = 2,
        num_codes: int = 16,
        latent_dim: int = 32,
        hidden_dim: int = 128,
        tokenizer_steps: int = 1000,
        focal_gamma: float = 2.0,
        primary_weight: float = 5.0,
        secondary_weight: float = 0.5,
        offset_weight: float = 100.0,
        temperature: float = 1.0,
        **trunk: Unpack[TrunkOptions],
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if num_codebooks < 1 or num_codes < 2:
            raise ValueError(
                f"need num_codebooks >= 1 and num_codes >= 2, got {num_codebooks} and {num_codes}"
            )
        self.temperature, self.focal_gamma = temperature, focal_gamma
        self.tokenizer_steps, self.offset_weight = tokenizer_steps, offset_weight
        self.code_weights = [primary_weight] + [secondary_weight] * (num_codebooks - 1)
        self.vq = ResidualVQ(
            pred_horizon=pred_horizon,
            action_dim=action_dim,
            num_layers=num_codebooks,
            num_codes=num_codes,
            latent_dim=latent_dim,
            hidden_dim=hidden_dim,
        )
        self.trunk = ActionTransformer(
            in_dim=0, out_dim=dim, pred_horizon=pred_horizon, dim=dim, **trunk
        )
        self.code = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, num_codes))
            for _ in range(num_codebooks)
        )
        self.coarser = nn.ModuleList(nn.Embedding(num_codes, dim) for _ in range(num_codebooks - 1))
        self.offset = nn.Linear(dim, num_codebooks * num_codes * action_dim)

    def fit(self, action: Tensor) -> None:
        """Trains the autoencoder on chunks."""
        self.vq.fit(action, steps=self.tokenizer_steps)

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        """offset_weight |a_h - a'_h| + the weighted focal losses of the codes, at each step h.

        The codes' losses are a row's, and stand at each of its steps in full.
        """
        codes = self.vq.encode(action)
        features = self._features(context)
        error = (self._action(features, codes) - action).abs().mean(-1)
        log_p = self._log_prob(features, codes)  # (B, G)
        focal = focal_loss(log_p, self.focal_gamma) * log_p.new_tensor(self.code_weights)
        return self.offset_weight * error + focal.sum(1, keepdim=True)

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        u = noise.uniform(len(context), len(self.code), device=context.device)
        features = self._features(context)
        summary, codes = features.mean(1), []
        for layer in range(len(self.code)):
            logits = self.code[layer](summary).float()
            codes.append(draw(logits, u[:, layer], temperature=self.temperature))
            if layer < len(self.coarser):
                summary = summary + self.coarser[layer](codes[-1])
        return self._action(features, torch.stack(codes, dim=1))

    def _features(self, context: Tensor) -> Tensor:
        """(B, H, D)."""
        features: Tensor = self.trunk(self.trunk.remember(context))
        return features

    def _log_prob(self, features: Tensor, codes: Tensor) -> Tensor:
        """(B, G), of each of the codes (B, G), given the coarser ones."""
        summary, found = features.mean(1), []
        for layer, code in enumerate(codes.T):
            logits = self.code[layer](summary).float()
            found.append(-F.cross_entropy(logits, code, reduction="none"))
            if layer < len(self.coarser):
                summary = summary + self.coarser[layer](code)
        return torch.stack(found, dim=1)

    def _action(self, features: Tensor, codes: Tensor) -> Tensor:
        """The decoded codes (B, G), and the sum of the offsets of each -> (B, H, A)."""
        decoded = self.vq.decode(codes)
        rows, steps, action_dim = decoded.shape
        offset = self.offset(features).float().view(rows, steps, codes.shape[1], -1, action_dim)
        index = codes[:, None, :, None, None].expand(-1, steps, -1, 1, action_dim)
        action: Tensor = decoded + offset.gather(3, index).sum((2, 3))
        return action


def focal_loss(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p (Lin et al. 2017, Eq. 4; arXiv:1708.02002)."""
    return -((1 - log_p.exp()).clamp(min=0) ** gamma) * log_p
