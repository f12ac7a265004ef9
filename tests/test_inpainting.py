"""Completing chunks: the mask and the guidance by hand, Gaussian actions, and what is shown."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.deploy.brain import Brain
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.observation import StateEncoder
from embodied.execution import RealTime
from embodied.heads.base import Denoiser, DenoisingHead, ErrorHead
from embodied.heads.beso import BESOHead
from embodied.heads.ddpm import DDPMHead
from embodied.heads.edm import EDMHead
from embodied.heads.flow import FlowHead
from embodied.heads.inpainting import Settled, complete, pull, soft_mask, strength
from embodied.noise import BatchNoise, Noise, RowNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Condition, Observation, Spec

H, A = 6, 2
SIZES: dict[str, Any] = {"action_dim": A, "pred_horizon": H, "num_tokens": 2, "dim": 16}
TINY: dict[str, Any] = {**SIZES, "num_layers": 1, "num_heads": 2}
HEADS: dict[str, functools.partial[ErrorHead]] = {
    "edm": functools.partial(EDMHead, **TINY, num_steps=4),
    "flow": functools.partial(FlowHead, **TINY, num_steps=4),
    "midpoint": functools.partial(FlowHead, **TINY, num_steps=2, method="midpoint"),
    "ddpm": functools.partial(DDPMHead, **TINY, num_steps=4),
    "ddpm_sample": functools.partial(DDPMHead, **TINY, num_steps=4, prediction_type="sample"),
    "ddpm_v": functools.partial(DDPMHead, **TINY, num_steps=4, prediction_type="v_prediction"),
}
every_head = pytest.mark.parametrize("name", HEADS)


def noise(rows: int = 3) -> RowNoise:
    return RowNoise([torch.Generator().manual_seed(i) for i in range(rows)])


def build(name: str, **options: Any) -> ErrorHead:
    torch.manual_seed(0)
    return HEADS[name](**options).eval()


def settled(weight: np.ndarray[Any, Any], rows: int = 3) -> Settled:
    action = 0.5 * torch.randn(rows, H, A, generator=torch.Generator().manual_seed(7))
    return Settled(action, torch.from_numpy(weight).expand(rows, -1))


# The mask


def test_the_mask_by_hand() -> None:
    # d = 2, overlap = 5: c_i = (5 - i) / 4 for i = 2, 3, 4, and weights c (e^c - 1) / (e - 1).
    soft = [c * (math.exp(c) - 1) / (math.e - 1) for c in (0.75, 0.5, 0.25)]
    np.testing.assert_allclose(soft_mask(2, 5, 7), [1, 1, *soft, 0, 0], rtol=1e-6)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12))
def test_a_mask_falls_from_one_and_ends_with_the_overlap(d: int, overlap: int, h: int) -> None:
    weight = soft_mask(d, min(overlap, h), h)
    assert weight.shape == (h,)
    assert (weight[: min(d, overlap)] == 1).all()
    assert (weight[min(d, overlap) :] < 1).all()
    assert (np.diff(weight) <= 0).all()
    assert (weight[overlap:] == 0).all()


# The guidance


def test_the_pull_by_hand() -> None:
    # clean = x^2, so d clean / dx = 2 x: at x = 3, of weight 0.5 to 10, 0.5 (10 - 9) 6 = 3.
    x = torch.full((1, 1, 1), 3.0)
    known = Settled(torch.full((1, 1, 1), 10.0), torch.full((1, 1), 0.5))
    said, gradient = pull(lambda x: (x + 1, x**2), x, known)
    assert said.item() == 4
    assert gradient.item() == 3


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_strength_is_that_of_the_paper(t: float) -> None:
    r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)  # arXiv:2506.07339, Eq. 4
    found = strength(torch.tensor((1 - t) / t), clip=100.0)
    assert found.item() == pytest.approx((1 - t) / (t * r2), rel=1e-5)
    assert strength(torch.tensor((1 - t) / t), clip=1.5).item() == pytest.approx(1.5)


def test_where_actions_are_independent_the_guided_guess_is_the_settled_one() -> None:
    # a ~ N(0, 0.25): D = 0.25 / (0.25 + sigma^2) x, whose variance r^2 the strength assumes.
    head = EDMHead(**TINY, sigma_data=0.5)
    known = Settled(torch.full((1, H, A), 0.3), torch.ones(1, H))
    guided = head.pulled(lambda x, s: 0.25 / (0.25 + s**2) * x, known, clip=1e9)
    for sigma in (0.05, 0.5, 5.0):
        x = torch.randn(1, H, A, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(guided(x, torch.tensor(sigma)), known.action)


# Gaussian actions, of which the denoiser is known: one number a step, N(0, COV)

_STEPS = torch.arange(H, dtype=torch.float64)
SMOOTH = 0.25 * 0.8 ** (_STEPS[:, None] - _STEPS).abs()
EQUAL = 0.25 * torch.ones(H, H, dtype=torch.float64) + 1e-6 * torch.eye(H)
PREFIX = torch.tensor([0.5, 0.3], dtype=torch.float64)


class Silence:
    """Noise that is 0: under a Gaussian's denoiser all is linear, so that it gives the mean."""

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=device)

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        raise NotImplementedError


def gaussian(cov: Tensor, head: DenoisingHead) -> Denoiser:
    """E[a | a + sigma n = x] for the sigma form; E[a - n | t a + (1 - t) n = x] for flows."""
    eye = torch.eye(H, dtype=torch.float64)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return cov @ torch.linalg.inv(cov + float(sigma) ** 2 * eye) @ x

    def flow(x: Tensor, t: Tensor) -> Tensor:
        s = float(t)
        inverse = torch.linalg.inv(s**2 * cov + (1 - s) ** 2 * eye)
        return (s * cov - (1 - s) * eye) @ inverse @ x

    return flow if isinstance(head, FlowHead) else score


def guided_mean(head: ErrorHead, cov: Tensor, prefix: Tensor, clip: float) -> Tensor:
    """(H,) the mean of guided samples, before the frozen steps are put back."""
    d = len(prefix)
    action = torch.zeros(1, H, 1, dtype=torch.float64)
    action[0, :d, 0] = prefix
    weight = torch.zeros(1, H, dtype=torch.float64)
    weight[0, :d] = 1
    guided = head.pulled(gaussian(cov, head), Settled(action, weight), clip=clip)  # type: ignore[operator]
    start = torch.zeros(1, H, 1, dtype=torch.float64)
    return head.integrate(guided, start, noise=Silence())[0, :, 0]


def exact_head(kind: str, num_steps: int = 50) -> ErrorHead:
    sizes = {**TINY, "action_dim": 1, "num_steps": num_steps}
    return FlowHead(**sizes) if kind == "flow" else EDMHead(**sizes, sigma_max=20.0)


@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_without_a_clip_the_guidance_reaches_what_is_frozen(kind: str) -> None:
    found = guided_mean(exact_head(kind), SMOOTH, PREFIX, clip=1e9)
    torch.testing.assert_close(found[:2], PREFIX, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_the_free_part_of_equal_actions_is_the_frozen_one(kind: str) -> None:
    found = guided_mean(exact_head(kind), EQUAL, torch.tensor([0.4, 0.4]), clip=1e9)
    torch.testing.assert_close(found, torch.full_like(found, 0.4), atol=0.06, rtol=0)


@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_the_free_part_comes_near_the_conditional_mean(kind: str) -> None:
    """Near, since the guidance takes what is left unknown of a step to be independent of the
    others. Sampling that knows nothing of the prefix has a mean of 0."""
    wanted = SMOOTH[2:, :2] @ torch.linalg.inv(SMOOTH[:2, :2]) @ PREFIX
    found = guided_mean(exact_head(kind), SMOOTH, PREFIX, clip=5.0)[2:]
    assert float((found - wanted).norm() / wanted.norm()) < 0.25
    unguided = guided_mean(exact_head(kind), SMOOTH, PREFIX, clip=0.0)
    assert float(unguided.abs().max()) == 0


# Any head


@every_head
def test_a_mask_of_nothing_is_plain_sampling(name: str) -> None:
    head, context = build(name), torch.randn(3, 2, 16)
    for known, clip in (
        (settled(np.zeros(H, np.float32)), 5.0),
        (settled(soft_mask(0, 4, H)), 0.0),
    ):
        found = complete(head, head.denoiser(context), known, clip=clip, noise=noise())
        plain = head.sample(context, noise=noise())
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)


@every_head
def test_frozen_steps_come_back_and_the_others_go_towards_the_last_chunk(name: str) -> None:
    head, context = build(name), torch.randn(3, 2, 16)
    known = settled(soft_mask(2, H, H))
    found = complete(head, head.denoiser(context), known, clip=5.0, noise=noise())
    plain = head.sample(context, noise=noise()).detach()
    assert torch.equal(found[:, :2], known.action[:, :2])
    next_step = slice(2, 3)
    error, before = (x[:, next_step] - known.action[:, next_step] for x in (found, plain))
    assert float(error.abs().mean()) < float(before.abs().mean())
    assert not found.requires_grad


@every_head
def test_rows_are_guided_each_by_itself(name: str) -> None:
    head, context = build(name), torch.randn(3, 2, 16)
    known = settled(soft_mask(2, 4, H))
    other = Settled(known.action.clone(), known.weight.clone())
    other.action[1:] += 1.0
    other.weight[1:] = 0.3
    found, changed = (
        complete(head, head.denoiser(context), each, clip=5.0, noise=noise())
        for each in (known, other)
    )
    assert torch.equal(found[0], changed[0])
    assert not torch.equal(found[1], changed[1])


# What was trained


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_a_head_that_was_trained_so_is_shown_the_frozen_steps_without_noise(name: str) -> None:
    head = build(name, simulated_delay=3)
    seen: list[tuple[Tensor, Tensor]] = []
    denoise = head.denoiser(torch.randn(3, 2, 16))

    def spy(x: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return denoise(x, level)

    known = settled(soft_mask(2, 5, H))
    found = complete(head, spy, known, clip=None, noise=noise())
    assert len(seen) == 4
    for x, level in seen:
        assert torch.equal(x[:, :2], known.action[:, :2])
        assert (level[:, :2] == head.clean_level).all()
        assert (level[:, 2:] != head.clean_level).any() or x is seen[-1][0]
    assert torch.equal(found[:, :2], known.action[:, :2])


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_training_shows_a_beginning_and_learns_the_rest(name: str) -> None:
    head = build(name, simulated_delay=2)
    asked: dict[str, Tensor] = {}

    def errors(context: Tensor, action: Tensor, *, levels: Tensor, noise: Tensor) -> Tensor:
        asked.update(levels=levels, noise=noise)
        return torch.ones(action.shape[:2])

    head.errors = errors  # type: ignore[method-assign]
    rows = 300
    found = head.loss(torch.zeros(rows, 2, 16), torch.zeros(rows, H, A), noise=noise(rows))
    given = found == 0
    counts = given.sum(1)
    assert torch.equal(given, torch.arange(H) < counts[:, None])  # beginnings
    shares = [float((counts == n).float().mean()) for n in range(4)]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.1)
    assert (asked["levels"][given] == head.clean_level).all()
    assert (asked["noise"][given] == 0).all()
    free = asked["noise"][~given]
    assert float(free.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_the_rest_is_learned_from_the_beginning_that_is_shown(name: str) -> None:
    """Chunks are all +0.5 or all -0.5, and only what is shown of one tells which."""
    torch.manual_seed(0)
    head = HEADS[name](simulated_delay=2)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    context = torch.zeros(128, 2, 16)
    for _ in range(250):
        mode = torch.randint(2, (128, 1, 1), generator=generator) - 0.5
        loss = head.loss(context, mode.expand(-1, H, A), noise=BatchNoise(generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mode = torch.where(torch.arange(64) % 2 == 0, 0.5, -0.5)[:, None, None].expand(64, H, A)
    known = Settled(mode, torch.from_numpy(soft_mask(2, 2, H)).expand(64, H))
    with torch.no_grad():
        denoise = head.eval().denoiser(context[:64])
        shown = complete(head, denoise, known, clip=None, noise=noise(64))
        unshown = head.sample(context[:64], noise=noise(64))
    assert float((shown[:, 2:] * mode[:, 2:] > 0).float().mean()) > 0.95
    assert 0.3 < float((unshown[:, 2:] * mode[:, 2:] > 0).float().mean()) < 0.7


@pytest.mark.parametrize("name", ["edm", "flow"])
def test_a_level_for_each_step_means_what_one_for_the_row_does(name: str) -> None:
    head = HEADS[name](patch=2)
    context, x = torch.randn(3, 2, 16), torch.randn(3, H, A)
    denoise = head.denoiser(context)
    whole = denoise(x, torch.tensor(0.4))
    torch.testing.assert_close(denoise(x, torch.full((3, H), 0.4)), whole, atol=1e-5, rtol=1e-4)
    mixed = torch.full((3, H), 0.4)
    mixed[:, :1] = head.clean_level  # half a token
    assert not torch.allclose(denoise(x, mixed), whole, atol=1e-4)


@pytest.mark.parametrize("delay", [-1, H, 1.5])
@pytest.mark.parametrize("name", ["edm", "flow"])
def test_more_than_a_chunk_cannot_be_shown(name: str, delay: Any) -> None:
    with pytest.raises(ValueError, match=rf"simulated_delay must lie in \[0, {H}\)"):
        HEADS[name](simulated_delay=delay)


def test_besos_decoder_is_told_one_level() -> None:
    with pytest.raises(ValueError, match="simulated_delay must be 0 for BESO's head"):
        BESOHead(**{**TINY, "num_tokens": H + 1}, simulated_delay=1)


# The policy


class Spy(EDMHead):
    """Remembers what it was to go towards."""

    known: Settled

    def pulled(self, denoise: Denoiser, settled: Settled, *, clip: float) -> Denoiser:
        self.known = settled
        return super().pulled(denoise, settled, clip=clip)


def policy(relative: bool = False, **options: Any) -> ChunkPolicy:
    torch.manual_seed(0)
    made = ChunkPolicy(
        spec=Spec(3, A, (-9.0, -9.0), (9.0, 9.0), 10.0),
        encoder=functools.partial(TokenEncoder, {"state": StateEncoder}),
        head=functools.partial(Spy, num_layers=1, num_heads=2),
        pred_horizon=H,
        dim=16,
        relative_to=[2, 0] if relative else None,
        **options,
    )
    made.encoder.fit_normalizers(Observation(torch.randn(9, 1, 3)), Condition())
    count = made.action_normalizer.dim
    ends = torch.stack([torch.full((count,), -1.0), torch.full((count,), 3.0)])
    made.action_normalizer.fit(ends)
    return made.eval()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_policy_goes_on_in_environment_units(relative: bool, guidance: float) -> None:
    made = policy(relative, guidance=guidance)
    assert made.as_completing() is made
    known = settled(soft_mask(2, H, H))
    state = torch.tensor([1.0, 0.0, 2.0]).expand(3, 1, 3)
    with torch.inference_mode():  # as a controller calls it
        found = made.act_on(known, Observation(state), Condition(), clip=5.0, noise=noise())
    assert torch.equal(found[:, :2], known.action[:, :2])
    # The range is [-1, 3] around what actions are relative to: (2, 1) of the state.
    middle = 1 + torch.tensor([2.0, 1.0]) * relative
    head = made.head
    assert isinstance(head, Spy)
    torch.testing.assert_close(head.known.action, (known.action - middle) / 2)


class Counted:
    """Counts draws."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.draws = noise, 0

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        self.draws += 1
        return self.noise.normal(*shape, device=device)

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        raise AssertionError("nothing uniform is drawn")


def test_all_that_is_random_is_drawn_from_the_noise() -> None:
    made, known = policy(), settled(soft_mask(1, 4, H))
    observation, counted = Observation(torch.zeros(3, 1, 3)), Counted(noise())
    torch.manual_seed(1)
    first = made.act_on(known, observation, Condition(), clip=5.0, noise=counted)
    torch.manual_seed(2)
    second = made.act_on(known, observation, Condition(), clip=5.0, noise=noise())
    assert torch.equal(first, second)
    assert counted.draws == 1


def test_a_robots_plan_goes_on_from_what_is_due_however_long_nobody_asked() -> None:
    brain = Brain(policy(), execution=RealTime(delay=2))
    first = brain.infer({"state": np.zeros(3)})
    brain.elapse(2)
    second = brain.infer({"state": np.ones(3)})  # the third step since
    np.testing.assert_array_equal(second[:2], first[3:5])
    assert not np.allclose(second[2], first[5], atol=1e-6)
