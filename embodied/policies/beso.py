"""BESO: a window of states and actions, of which the last action is executed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from embodied.encoders.base import Encoder
from embodied.encoders.window import first_steps
from embodied.heads.base import Denoiser, guided
from embodied.heads.edm import EDMHead
from embodied.noise import Noise
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Metrics, Observation, Spec


class BESOPolicy(ChunkPolicy):
    """Denoises the actions of the last T steps, and executes the newest (Reuss et al. 2023,
    arXiv:2304.02532, Alg. 1 and 2).

    As in the authors' code, earlier actions enter the sampler without noise, at a noise level that
    says otherwise, and it changes them like the newest: training never showed it such windows.

    Args:
        encoder: such as `encoders.window.WindowEncoder`, whose last T tokens are the states.
        head: such as `heads.beso.BESOHead`, for T actions.
        obs_horizon: T.
        hold_previous: whether earlier actions stay as they were executed throughout, instead.
        goal_dropout, element_dropout, guidance, dim: as of `ChunkPolicy`.
    """

    head: EDMHead
    sees_past_actions = True

    def __init__(
        self,
        *,
        spec: Spec,
        encoder: Callable[..., Encoder],
        head: Callable[..., EDMHead],
        obs_horizon: int = 4,
        dim: int = 128,
        hold_previous: bool = False,
        goal_dropout: float = 0.0,
        element_dropout: float = 0.0,
        guidance: float = 1.0,
    ) -> None:
        if obs_horizon < 2:
            raise ValueError(f"obs_horizon must be 2 steps or more, got {obs_horizon}")
        super().__init__(
            spec=spec,
            encoder=encoder,
            head=head,
            obs_horizon=obs_horizon,
            pred_horizon=obs_horizon,
            dim=dim,
            goal_dropout=goal_dropout,
            element_dropout=element_dropout,
            guidance=guidance,
        )
        self.pred_horizon = 1  # of what is asked of it: the head's is the window's
        self.hold_previous = hold_previous

    def loss(self, batch: Batch, *, noise: Noise) -> tuple[Tensor, Metrics]:
        previous, steps = self._previous(batch.observation)
        window = torch.cat([previous, batch.action[:, :1]], dim=1)
        valid = torch.arange(self.obs_horizon, device=steps.device) < steps[:, None]
        mask = valid & batch.mask[:, :1]
        whole = replace(batch, action=first_steps(window, steps), mask=mask)
        return super().loss(whole, noise=noise)

    def _sample(self, observation: Observation, condition: Condition, noise: Noise) -> Tensor:
        """(B, 1, A), normalised."""
        previous, steps = self._previous(observation)
        newest = steps - 1
        rows = torch.arange(len(steps), device=steps.device)
        past = (torch.arange(self.obs_horizon, device=steps.device) < newest[:, None])[..., None]
        done = first_steps(torch.cat([previous, previous[:, -1:]], dim=1), steps)
        done = self.action_normalizer(done)
        denoise = self.head.denoiser(self.encoder(observation, condition))
        if self.guidance != 1:
            untold = self.head.denoiser(self.encoder(observation, Condition()))
            denoise = guided(denoise, untold, self.guidance)
        if self.hold_previous:
            denoise = _held(denoise, done, past)
        x = noise.normal(len(steps), *self.head.shape, device=steps.device)
        x = torch.where(past, done / self.head.sigmas[0], x)
        found = self.head.integrate(denoise, x, noise=noise)
        return found[rows, newest][:, None]

    def as_warm(self) -> None:
        """None: no chunk is left to begin from, where one action is all that is predicted."""

    def as_completing(self) -> None:
        """None, for the same reason."""

    def _previous(self, observation: Observation) -> tuple[Tensor, Tensor]:
        if observation.action is None or observation.steps is None:
            raise ValueError(
                "BESO looks at earlier actions: the observation needs action (B, T - 1, A) and "
                "steps (B,), as windows of data and an evaluation's controller give them"
            )
        return observation.action, observation.steps


def _held(denoise: Denoiser, done: Tensor, past: Tensor) -> Denoiser:
    """A denoiser that is shown, and keeps to, what was done in the past."""

    def hold(x: Tensor, sigma: Tensor) -> Tensor:
        found = denoise(torch.where(past, done, x), sigma)
        return torch.where(past, x, found)  # no slope: x stays as it is

    return hold
