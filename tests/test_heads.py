"""Every head of conf/head/: its contract, and what it makes of data with several right actions.

A new head's file is found by itself; its line in EXPECTED says what to expect of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from embodied.build import instantiate
from embodied.heads.base import ActionHead, DensityHead
from embodied.noise import BatchNoise, Noise
from embodied.targets import ConfigError
from embodied.testing import check_head

FILES = {path.stem: path for path in (Path(__file__).parents[1] / "conf/head").glob("*.yaml")}
NAMES = sorted(FILES)
SIZES = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 5, "dim": 16}
TINY = {"num_layers": 1, "num_heads": 2}


@dataclass(frozen=True)
class Expected:
    """What a head makes of data in which more than one action is right.

    Args:
        two_ways: of the actions +m and -m, each as likely, what it draws: what lies "between" them;
            one of them for each number on its own ("numbers"); or for whole "chunks".
        spread: whether it recovers the standard deviation of Gaussian data.
        near: least share of numbers that lie within 0.15 of +m or -m, unless "between".
        settings: with which it draws as it has learned to, where conf/ prefers another way to act.
        codes: of a `DensityHead` of codes, one action (1, 1) for each.
        steps, learning_rate: of the training that it needs.
        teacher: name of the head that it is distilled from.
    """

    two_ways: Literal["between", "numbers", "chunks"]
    spread: bool
    near: float = 0.7
    settings: Mapping[str, Any] = field(default_factory=dict)
    codes: Callable[[Any], Tensor] | None = None
    steps: int = 300
    learning_rate: float = 0.01
    teacher: str | None = None


def bin_centres(head: Any) -> Tensor:
    centres: Tensor = head.decode(torch.arange(head.num_bins))
    return centres[:, None, None]


AS_LEARNED = {"temperature": 1.0}
EXPECTED = {
    # With latents of little weight its chunks say nothing of noise; as configured, nothing of ways.
    "act": Expected("chunks", spread=False, settings={"sample_prior": True, "kl_weight": 0.02}),
    "beso": Expected("chunks", spread=True, settings={"num_steps": 20}),
    "bins": Expected("numbers", spread=True, settings=AS_LEARNED, codes=bin_centres),
    "ddpm": Expected("chunks", spread=True),
    "ddpm_unet": Expected("chunks", spread=True, near=0.5, settings={"network": {"widths": [2]}}),
    "deterministic": Expected("between", spread=False),
    "distilled": Expected(
        "chunks",
        spread=False,
        near=0.4,
        settings={"num_levels": 8},
        learning_rate=1e-3,
        teacher="edm",
    ),
    "edm": Expected("chunks", spread=True, settings={"num_steps": 20}),
    "fast": Expected("chunks", spread=True, settings={"vocab_size": 128}),
    "flow": Expected("chunks", spread=True, settings={"num_steps": 10}),
    "gaussian": Expected("between", spread=True, settings=AS_LEARNED),
    "mixture": Expected("chunks", spread=True, settings=AS_LEARNED),
    "shortcut": Expected("chunks", spread=True, near=0.5, settings={"num_steps": 4}, steps=600),
    # One code stands for many chunks, of which its offset is the median.
    "vqbet": Expected(
        "chunks",
        spread=False,
        settings={"tokenizer_steps": 300, "focal_gamma": 0.0, "offset_weight": 5.0},
    ),
}


def build(name: str, sizes: Mapping[str, int] = SIZES, **settings: Any) -> ActionHead:
    node = OmegaConf.merge(OmegaConf.load(FILES[name]), {**TINY, **settings})
    torch.manual_seed(0)
    head: ActionHead = instantiate(node)(**sizes)
    return head


def noise(seed: int) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


# The lesson: three kinds of contexts, each with a number o in [-1, 1] that changes it.
KINDS = torch.randn(3, 2, 5, 16, generator=torch.Generator().manual_seed(0))
ONE_WAY, GAUSSIAN, TWO_WAYS = range(3)
ANSWER = torch.tensor([[0.5, -0.5], [0.0, 0.9], [-0.9, 0.25], [0.25, 0.7]])
STD = 0.2


def contexts(kind: int, o: Tensor) -> Tensor:
    return KINDS[kind, 0] + o[:, None, None] * KINDS[kind, 1]


def actions(kind: int, o: Tensor, generator: torch.Generator) -> Tensor:
    n = torch.randn(len(o), 4, 2, generator=generator)
    if kind == ONE_WAY:
        return ANSWER.expand_as(n)
    if kind == GAUSSIAN:
        return 0.4 * o[:, None, None] + STD * n
    sign = torch.randint(2, (len(o),), generator=generator) * 2 - 1
    return (sign * way(o))[:, None, None] + 0.03 * n


def way(o: Tensor) -> Tensor:
    return 0.5 + 0.2 * o


def lesson(generator: torch.Generator, rows: int = 40) -> tuple[Tensor, Tensor]:
    """(3 * rows, ...) of contexts and actions, the same number of each kind."""
    pairs = []
    for kind in range(3):
        o = torch.rand(rows, generator=generator) * 2 - 1
        pairs.append((contexts(kind, o), actions(kind, o, generator)))
    context, action = zip(*pairs, strict=True)
    return torch.cat(context), torch.cat(action)


@functools.cache
def taught(name: str) -> ActionHead:
    """A head after its lesson, ready to draw as it has learned to."""
    expected, generator, draws = EXPECTED[name], torch.Generator().manual_seed(1), noise(2)
    head = build(name, **expected.settings)
    head.fit(lesson(generator, rows=500)[1])
    if expected.teacher is not None:
        head.load_state_dict(head.inherit(taught(expected.teacher).state_dict()))
    optimizer = torch.optim.Adam(head.parameters(), lr=expected.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, expected.steps)
    for _ in range(expected.steps):
        context, action = lesson(generator)
        optimizer.zero_grad()
        head.loss(context, action, noise=draws).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return head.requires_grad_(False).eval()


def drawn(name: str, kind: int, o: float, rows: int = 500) -> Tensor:
    """(rows, 4, 2) samples for one context."""
    return taught(name).sample(contexts(kind, torch.full((rows,), o)), noise=noise(3))


def densities() -> list[str]:
    return [name for name in NAMES if isinstance(build(name), DensityHead)]


def test_every_head_says_what_is_expected_of_it() -> None:
    missing = set(NAMES) - set(EXPECTED)
    assert not missing, "give new heads of conf/head/ their line in EXPECTED"


@pytest.mark.parametrize("name", NAMES)
def test_the_head_keeps_the_contract(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(5, 5, 16, generator=generator)
    action = torch.rand(5, 4, 2, generator=generator) * 2 - 1
    check_head(build(name), context, action)
    check_head(build(name, **EXPECTED[name].settings), context, action)


class Faulty(DensityHead):
    """A line through the context, with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.out = fault, torch.nn.Linear(16, 2)

    def log_prob(self, context: Tensor, action: Tensor) -> Tensor:
        error = (self.out(context[:, :1]) - action).square().sum(-1)
        if self.fault == "seer":
            error = error + action.sum((1, 2))[:, None]
        return -error.double() if self.fault == "double" else -error

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        return -self.log_prob(context, action).float()

    def sample(self, context: Tensor, *, noise: Noise) -> Tensor:
        action: Tensor = self.out(context[:, :1]).expand(-1, 4, -1)
        return action + 0 * torch.randn(1) if self.fault == "own noise" else action


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("seer", "log_prob of a step must not know later steps"),
        ("double", "log_prob must be float32"),
        ("own noise", "must be drawn from noise, not from torch's own generator"),
    ],
)
def test_a_faulty_head_is_named(fault: str, message: str) -> None:
    context, action = torch.randn(5, 5, 16), torch.rand(5, 4, 2)
    check_head(Faulty("none"), context, action)
    with pytest.raises(AssertionError, match=message):
        check_head(Faulty(fault), context, action)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_key_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"takes no 'num_layer'; did you mean 'num_layers'"):
        build(name, num_layer=2)


SLOW = {"ddpm_unet", "distilled", "fast", "shortcut", "vqbet"}  # to train


# One test for each head, so that no two processes train it.
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in NAMES]
)
def test_a_head_makes_of_its_lesson_what_is_expected(name: str) -> None:
    one_action_is_learned(name)
    samples_lie_where_actions_do(name)
    a_gaussian_is_recovered(name)
    for o in (-0.5, 0.5):
        of_two_ways_it_draws_what_is_expected(name, o)


def one_action_is_learned(name: str) -> None:
    error = (drawn(name, ONE_WAY, 0.3) - ANSWER).abs().mean()
    assert float(error) < 0.1  # untrained: about 0.5


def samples_lie_where_actions_do(name: str) -> None:
    found = torch.cat([drawn(name, kind, o) for kind in range(3) for o in (-1.0, 1.0)])
    assert float(found.abs().quantile(0.99)) < 1.5
    assert float(found.abs().max()) < 4


def a_gaussian_is_recovered(name: str) -> None:
    for o in (-0.5, 0.5):
        found = drawn(name, GAUSSIAN, o)
        assert found.mean().item() == pytest.approx(0.4 * o, abs=0.05)
        if EXPECTED[name].spread:
            assert found.std(0).mean().item() == pytest.approx(STD, abs=0.07)


def of_two_ways_it_draws_what_is_expected(name: str, o: float) -> None:
    found, right = drawn(name, TWO_WAYS, o), float(way(torch.tensor(o)))
    near = float(((found.abs() - right).abs() < 0.15).float().mean())
    agreeing = (found > 0).flatten(1).float().mean(1)
    whole = float(((agreeing == 0) | (agreeing == 1)).float().mean())
    if EXPECTED[name].two_ways == "between":
        assert abs(float(found.mean())) < 0.15
        assert near < 0.5  # a Gaussian as wide as the data: 0.24 to 0.37
    else:
        shares = (found > 0).float().mean(0)
        assert float(shares.min()) > 0.3
        assert float(shares.max()) < 0.7
        assert near > EXPECTED[name].near  # a Gaussian as wide as the data: 0.24 to 0.37
        # By chance all 8 numbers have one sign in 1 of 128 draws.
        assert whole > 0.5 if EXPECTED[name].two_ways == "chunks" else whole < 0.1


ONE_NUMBER = {**SIZES, "action_dim": 1, "pred_horizon": 1}


def one_number(name: str) -> DensityHead:
    """A head of one number, whose weights are far from where training starts."""
    head = build(name, ONE_NUMBER, patch=1, **EXPECTED[name].settings)
    assert isinstance(head, DensityHead)
    generator = torch.Generator().manual_seed(7)
    for parameter in head.requires_grad_(False).parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return head.eval()


def masses(name: str, head: DensityHead, context: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers on a fine grid, or one for each code, and the probability of each."""
    codes = EXPECTED[name].codes
    grid = torch.linspace(-10, 10, 40_001)[:, None, None] if codes is None else codes(head)
    log_prob = head.log_prob(context.expand(len(grid), -1, -1), grid).double()
    return grid[:, 0, 0], log_prob[:, 0].exp() * (5e-4 if codes is None else 1)


@pytest.mark.parametrize("name", densities())
def test_probabilities_add_up_to_one(name: str) -> None:
    head = one_number(name)
    for context in torch.randn(3, 1, 5, 16, generator=torch.Generator().manual_seed(0)):
        assert masses(name, head, context)[1].sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", densities())
def test_samples_are_as_frequent_as_they_are_likely(name: str) -> None:
    head, context = one_number(name), torch.randn(1, 5, 16, generator=torch.Generator())
    number, mass = masses(name, head, context)
    found = head.sample(context.expand(20_000, -1, -1), noise=noise(4)).flatten()
    # Twenty cells of equal probability, but for codes, which cannot be split.
    edges = number[torch.searchsorted(mass.cumsum(0), torch.linspace(0.05, 0.95, 19).double())]
    edges = edges.unique() + 1e-4
    expected = torch.zeros(len(edges) + 1).double()
    expected.index_add_(0, torch.bucketize(number, edges), mass)
    frequency = torch.bincount(torch.bucketize(found, edges), minlength=len(edges) + 1) / 20_000
    # Half the sum of the differences; by chance about 0.012 for 20 cells and 20,000 draws.
    assert (frequency - expected).abs().sum() / 2 < 0.025


@pytest.mark.parametrize("name", densities())
def test_what_was_learned_is_likelier_than_what_lies_further_away(name: str) -> None:
    head, context = taught(name), contexts(ONE_WAY, torch.tensor([0.3]))
    assert isinstance(head, DensityHead)
    right, *others = [float(head.log_prob(context, ANSWER[None] + d).sum()) for d in (0, 0.3, -0.6)]
    assert right > max(others) + 1
