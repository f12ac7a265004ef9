"""How likely segments are under a policy, for the losses of `embodied.objectives`.

A segment of L steps is cut into the chunks that the policy would predict, of one action or more;
each is told what was sensed up to its first step within the segment.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from embodied.feedback import Pairs, SegmentBatch
from embodied.heads.base import DensityHead, ErrorHead
from embodied.networks.gaussians import normal_kl
from embodied.noise import Noise
from embodied.objectives.answers import Answers
from embodied.objectives.evidence import error_log_ratio
from embodied.policies.actor import ActorPolicy
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Metrics, Observation

_FIXED_LOG_STD = -0.5 * math.log(2)
"""Of a deterministic policy, seen as a Gaussian: then log pi = -||a - mu(s)||^2 and a constant."""


def chunks(segments: SegmentBatch, policy: Policy) -> Batch:
    """Segments (B, L, ...) as rows of a policy's own batch, (B K, ...), K chunks after another."""
    length, horizon = segments.action.shape[1], policy.pred_horizon
    start = torch.arange(0, length, horizon, device=segments.action.device)
    seen = (start[:, None] + torch.arange(1 - policy.obs_horizon, 1, device=start.device)).clamp(0)
    done = start[:, None] + torch.arange(horizon, device=start.device)
    inside = done.clamp(max=length - 1)
    return Batch(
        observation=Observation(state=segments.state[:, seen].flatten(0, 1)),
        condition=Condition(
            language=tuple(text for text in segments.told for _ in range(len(start)))
        ),
        action=segments.action[:, inside].flatten(0, 1),
        mask=(segments.mask[:, inside] & (done < length)).flatten(0, 1),
    )


def log_prob(policy: Policy, batch: Batch) -> Tensor:
    """log pi of each step of chunks, (B, H); of a deterministic policy -||a - mu(s)||^2.

    Raises TypeError for a policy that has neither.
    """
    if isinstance(policy, ActorPolicy):
        features = policy.features(batch.observation, batch.condition)
        action = policy.decision(batch.action)
        if policy.kind == "deterministic":
            mean, _ = policy.choose(features, noise=None)
            return -(action - mean).square().sum(-1, keepdim=True)
        return policy.log_prob(features, action)[:, None]
    if isinstance(policy, ChunkPolicy) and isinstance(policy.head, DensityHead):
        return policy.head.log_prob(*policy.encoded(batch))
    raise TypeError(_UNKNOWN.format(named(policy)))


_UNKNOWN = (
    "comparisons need a policy that knows how likely actions are (policy=actor, or policy=chunk "
    "with a density such as head=gaussian, mixture or bins) or one that denoises (head=edm, beso, "
    "ddpm or flow), got {}"
)


def named(policy: Policy) -> str:
    """A policy and its head, for those who are told that it will not do."""
    head = getattr(policy, "head", None)
    return type(policy).__name__ + (f" with {type(head).__name__}" if head is not None else "")


def denoises(policy: Policy) -> bool:
    """Whether a policy has errors for likelihoods; raises TypeError where it has neither."""
    if isinstance(policy, ChunkPolicy) and isinstance(policy.head, ErrorHead):
        return not isinstance(policy.head, DensityHead)
    if isinstance(policy, ActorPolicy) or (
        isinstance(policy, ChunkPolicy) and isinstance(policy.head, DensityHead)
    ):
        return False
    raise TypeError(_UNKNOWN.format(named(policy)))


def answer(
    policy: Policy, reference: Policy, segments: SegmentBatch, noise: Callable[[], Noise]
) -> Answers:
    """What losses of pairs know of segments; `log_prob` alone has gradients.

    Args:
        noise: gives the same draws whenever it is called, so that both segments of a pair, the
            policy and its reference are denoised alike.
    """
    batch, rows = chunks(segments, policy), len(segments.action)
    if not denoises(policy):
        own = log_prob(policy, batch)
        with torch.no_grad():
            others = log_prob(reference, batch)
        whole = (rows, -1)
        return Answers(own.reshape(whole), others.reshape(whole), batch.mask.reshape(whole))
    ratio = error_ratio(policy, reference, batch, noise()).reshape(rows, -1)
    return Answers(ratio, torch.zeros_like(ratio))


def error_ratio(policy: Policy, reference: Policy, batch: Batch, noise: Noise) -> Tensor:
    """(B,) how much better a policy denoises chunks than its reference, at one draw of noise."""
    rows, device = len(batch.action), batch.action.device
    u, drawn = (
        noise.uniform(rows, device=device),
        noise.normal(*batch.action.shape, device=device),
    )
    own = _errors(policy, batch, u, drawn)
    with torch.no_grad():
        others = _errors(reference, batch, u, drawn)
    return error_log_ratio(own, others, weight=batch.action.shape[-1] / 2, mask=batch.mask)


def _errors(policy: Policy, batch: Batch, u: Tensor, drawn: Tensor) -> Tensor:
    assert isinstance(policy, ChunkPolicy)
    assert isinstance(policy.head, ErrorHead)
    context, action = policy.encoded(batch)
    return policy.head.errors(context, action, levels=policy.head.levels(u), noise=drawn)


@torch.no_grad()
def divergence(policy: Policy, reference: Policy, batch: Batch, noise: Noise) -> Tensor:
    """KL(policy || reference) of a decision in the batch's states, 0-d, nats.

    Exact for `ActorPolicy` (a deterministic one is seen as a Gaussian of variance 1/2); else
    estimated at the policy's own draws, for denoisers by the errors.
    """
    if isinstance(policy, ActorPolicy):
        assert isinstance(reference, ActorPolicy)
        return _gaussian_kl(policy, reference, batch).mean()
    drawn = policy.act(batch.observation, batch.condition, noise=noise)
    mine = Batch(batch.observation, batch.condition, drawn, torch.ones_like(batch.mask))
    if denoises(policy):
        return error_ratio(policy, reference, mine, noise).mean()
    return (log_prob(policy, mine) - log_prob(reference, mine)).sum(-1).mean()


def _gaussian_kl(policy: ActorPolicy, reference: ActorPolicy, batch: Batch) -> Tensor:
    """(B,); tanh, which squashes both alike, does not change it."""
    features = policy.features(batch.observation, batch.condition)
    found = []
    for each in (policy, reference):
        mean, log_std = each.gaussian(features)
        fixed = each.kind == "deterministic"
        found += [mean, torch.full_like(mean, _FIXED_LOG_STD) if fixed else log_std]
    return normal_kl(*found).sum(-1)


def agreement(score: Callable[[SegmentBatch], Tensor], pairs: Pairs) -> Metrics:
    """How often what people preferred has the higher score, ties aside, and over how many pairs.

    Args:
        score: segments -> (B,).
    """
    with torch.no_grad():
        gap = score(pairs.second) - score(pairs.first)
    label = pairs.second_better - 0.5
    decided = label != 0
    return {
        "held_out/agreement": ((gap * label) > 0)[decided].float().mean(),
        "held_out/pairs": decided.float().sum(),
    }
