"""Preference losses: values worked out here, gradients, and what they do with what is missing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from embodied.build import instantiate
from embodied.objectives import listwise, pairs_guided, pairs_rewarded, pairwise, segments
from embodied.objectives.answers import Answers, labelled, limited, per_step
from embodied.objectives.diffusion import answers_of_errors, step_aware
from embodied.objectives.evidence import error_log_ratio

FOLDER = Path(__file__).parents[1] / "conf" / "preference"
LISTWISE = {"lipo", "pro", "brain"}
PAIRWISE = sorted({path.stem for path in FOLDER.glob("*.yaml")} - LISTWISE)


def answers(total: float, reference: float = 0.0, **fields: Any) -> Answers:
    """One answer of two steps whose log-probabilities sum to `total`; double, with a gradient."""
    steps = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    log_prob = (steps * total).requires_grad_()
    fields = {key: torch.tensor([x], dtype=torch.float64) for key, x in fields.items()}
    return Answers(log_prob, reference=steps * reference, **fields)


def everything(seed: int, scale: float = 1.0, num: int = 6, length: int = 4) -> Answers:
    """Answers with every field that a loss may ask for."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=draw, dtype=torch.float64)

    return Answers(
        log_prob=normal(num, length).requires_grad_(),
        reference=normal(num, length),
        mask=torch.arange(length) < torch.randint(1, length + 1, (num, 1), generator=draw),
        reward=torch.rand(num, generator=draw, dtype=torch.float64),
        win_rate=torch.rand(num, generator=draw, dtype=torch.float64),
        old=normal(num, length),
        history=normal(num, 2, length),
        guide=normal(num, length),
        gold=normal(num),
        from_reference=torch.rand(num, generator=draw) < 0.5,
    )


def pair_for(name: str, **options: Any) -> list[Answers]:
    """Two answers with everything that this loss asks for."""
    both = [everything(seed, **options) for seed in (0, 1)]
    if name == "accelerated":  # of one round
        return [dataclasses.replace(x, history=x.history[:, :1]) for x in both]  # type: ignore[index]
    return both


def load(name: str) -> Callable[..., Tensor]:
    loss: Callable[..., Tensor] = instantiate(OmegaConf.load(FOLDER / f"{name}.yaml"))
    return loss


def value(loss: Tensor) -> float:
    (found,) = loss.tolist()
    return float(found)


# Delta_w = 1 - 0.4 = 0.6, Delta_l = -0.5 - 0.3 = -0.8, margin 1.4; log pi_w = 1, log pi_l = -0.5.
CHOSEN, REJECTED = (1.0, 0.4), (-0.5, 0.3)
SIGMOID = {x: 1 / (1 + math.exp(-x)) for x in (0.7, 0.75, 0.14, 0.6, -0.8, 0.04)}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda won, lost: pairwise.dpo(won, lost, beta=0.5), -math.log(SIGMOID[0.7])),
        (lambda won, lost: pairwise.ipo(won, lost, beta=0.5), (1.4 - 1.0) ** 2),
        (
            lambda won, lost: pairwise.f_dpo(won, lost, beta=1.0, divergence="forward_kl"),
            math.log1p(math.exp(math.exp(-0.6) - math.exp(0.8))),
        ),
        (
            lambda won, lost: pairwise.f_dpo(won, lost, beta=1.0, divergence="js"),
            math.log1p(math.exp(math.log(SIGMOID[-0.8]) - math.log(SIGMOID[0.6]))),
        ),
        (
            lambda won, lost: pairwise.f_dpo(won, lost, beta=1.0, divergence=0.5),
            # f' = -2 e^(-d / 2)
            math.log1p(math.exp(2 * math.exp(-0.3) - 2 * math.exp(0.4))),
        ),
        (
            lambda won, lost: pairwise.sppo_hard(won, lost, beta=0.5),
            (0.6 - 1) ** 2 + (-0.8 + 1) ** 2,
        ),
        (lambda won, lost: pairwise.hinge(won, lost, beta=0.5), 1 - 0.7),
        (lambda won, lost: pairwise.hinge(won, lost, beta=1.0), 0.0),
        (lambda won, lost: pairwise.slic(won, lost, beta=0.5, nll_weight=2.0), 1 - 0.75 - 2.0),
        (
            lambda won, lost: pairwise.rpo(won, lost, beta=0.5, eta=0.1),
            -math.log(SIGMOID[0.7]) - 0.1,
        ),
        (lambda won, lost: segments.cpl(won, lost, alpha=0.6, bias=0.5), -math.log(SIGMOID[0.75])),
        (
            lambda won, lost: segments.cpl_kl(won, lost, alpha=0.5, bias=1.0),
            -math.log(SIGMOID[0.7]),
        ),
    ],
)
def test_losses_have_the_values_of_their_formulas(
    loss: Callable[[Answers, Answers], Tensor], expected: float
) -> None:
    found = loss(answers(*CHOSEN), answers(*REJECTED))
    assert value(found) == pytest.approx(expected, abs=1e-12)


def test_losses_with_more_than_log_ratios_have_the_values_of_their_formulas() -> None:
    better, worse = answers(*CHOSEN, win_rate=0.9), answers(*REJECTED, win_rate=0.4)
    assert value(pairwise.sppo(better, worse, beta=0.5)) == pytest.approx(
        (0.6 - 0.4 / 0.5) ** 2 + (-0.8 + 0.1 / 0.5) ** 2
    )
    better = answers(*CHOSEN, gold=-3.0)
    assert value(pairwise.tpo(better, answers(*REJECTED), beta=0.5, alpha=0.1)) == pytest.approx(
        -math.log(SIGMOID[0.75]) + 0.3
    )
    better, worse = answers(*CHOSEN, from_reference=0.0), answers(*REJECTED, from_reference=1.0)
    assert value(pairwise.xpo(better, worse, beta=0.5, alpha=0.1)) == pytest.approx(
        -math.log(SIGMOID[0.7]) - 0.05
    )
    better, worse = answers(*CHOSEN, reward=2.0), answers(*REJECTED, reward=1.5)
    assert value(pairs_rewarded.copg(better, worse, beta=0.5)) == pytest.approx(0.02)  # .2^2 / 2
    better = answers(*CHOSEN, other_rewards=[0.2, 1.0])
    worse = answers(*REJECTED, other_rewards=[0.0, 0.5])
    # (0.5 * 1.4 - (0.2 * 0.2 + 0.3 * 0.5)) / 0.5 = 1.02
    loss = pairs_rewarded.modpo(better, worse, beta=0.5, weight=0.5, other_weights=(0.2, 0.3))
    assert value(loss) == pytest.approx(math.log1p(math.exp(-1.02)))


def test_tgdpo_weighs_the_steps_by_its_guide() -> None:
    better = dataclasses.replace(answers(*CHOSEN), guide=torch.tensor([[1.0, -2.0]]))
    worse = dataclasses.replace(answers(*REJECTED), guide=torch.tensor([[1.0, -2.0]]))
    # Steps carry 1/4 and 3/4 of 0.6 and -0.8; alpha beta = 0.1, so that weights are 1 +- 0.1 g.
    margin = 0.6 * (0.25 * 1.1 + 0.75 * 0.8) + 0.8 * (0.25 * 0.9 + 0.75 * 1.2)
    found = value(pairs_guided.tgdpo(better, worse, beta=0.5, alpha=0.2))
    assert found == pytest.approx(math.log1p(math.exp(-0.5 * margin)))
    plain = value(pairs_guided.tgdpo(better, worse, beta=0.5, alpha=0.0))
    assert plain == pytest.approx(value(pairwise.dpo(better, worse, beta=0.5)))


def test_mnpo_compares_with_a_mixture_of_opponents() -> None:
    history = torch.tensor([[[0.1, 0.1], [0.5, 0.5]]], dtype=torch.float64)
    better = dataclasses.replace(answers(*CHOSEN), history=history)
    worse = dataclasses.replace(answers(*REJECTED), history=0 * history)
    # 1.5 - c (0.4 - 0.3) - (1 - c) (0.75 * 0.2 + 0.25 * 1.0) - 1 / (2 eta)
    expected = (1.5 - 0.25 * 0.1 - 0.75 * 0.4 - 1.0) ** 2
    found = pairs_guided.mnpo(
        better, worse, eta=0.5, reference_share=0.25, history_weights=(0.75, 0.25)
    )
    assert value(found) == pytest.approx(expected)
    with pytest.raises(ValueError, match="3 entries, history 2 policies"):
        pairs_guided.mnpo(better, worse, history_weights=(1 / 3, 1 / 3, 1 / 3))


def test_an_accelerated_loss_looks_ahead_of_the_last_round() -> None:
    before = torch.tensor([[[0.0, 0.0]]], dtype=torch.float64)
    better, worse = (dataclasses.replace(answers(*x), history=before) for x in (CHOSEN, REJECTED))
    found = pairs_guided.accelerated(better, worse, loss=pairwise.ipo, momentum=0.5)
    # References 0.4 and 0.3 move on to 0.6 and 0.45: the margin is 0.4 + 0.95.
    assert value(found) == pytest.approx((1.35 - 5.0) ** 2)
    with pytest.raises(ValueError, match="history of 1 policy, got 2"):
        load("accelerated")(everything(0), everything(1))


def test_dpo_pulls_as_hard_as_it_is_wrong() -> None:
    better, worse = answers(*CHOSEN), answers(*REJECTED)
    pairwise.dpo(better, worse, beta=0.5).sum().backward()
    pull = 0.5 / (1 + math.exp(0.7))  # beta sigmoid(-beta m)
    assert better.log_prob.grad is not None
    assert worse.log_prob.grad is not None
    assert better.log_prob.grad.tolist() == [pytest.approx([-pull, -pull])]
    assert worse.log_prob.grad.tolist() == [pytest.approx([pull, pull])]


@pytest.mark.parametrize("joint", [True, False])
def test_p3o_begins_with_the_gradient_of_its_unclipped_form_and_then_clips(joint: bool) -> None:
    better, worse = everything(0), everything(1)
    better, worse = (dataclasses.replace(x, old=x.log_prob.detach()) for x in (better, worse))
    half = 0.5 * (better.reward - worse.reward)  # type: ignore[operator]
    plain = -half * (better.log_likelihood() - worse.log_likelihood())
    for x in (better, worse):
        ours = torch.autograd.grad(
            pairs_rewarded.p3o(better, worse, joint=joint).sum(), x.log_prob, retain_graph=True
        )
        theirs = torch.autograd.grad(plain.sum(), x.log_prob, retain_graph=True)
        assert torch.allclose(ours[0], theirs[0])
    gone = dataclasses.replace(better, old=better.log_prob.detach() - 0.5, reward=worse.reward + 1)  # type: ignore[operator]
    (grad,) = torch.autograd.grad(pairs_rewarded.p3o(gone, worse, joint=joint).sum(), gone.log_prob)
    assert not grad.any()  # the better answer is already more than 1.2 times as likely


def test_soft_labels_weigh_both_ways_and_a_tie_asks_for_nothing() -> None:
    first, second = everything(0), everything(1)
    half = torch.full((6,), 0.5)
    ways = [pairwise.dpo(first, second), pairwise.dpo(second, first)]
    assert torch.allclose(labelled(pairwise.dpo, first, second, 0 * half), ways[0])
    assert torch.allclose(
        labelled(pairwise.dpo, first, second, half / 2), 0.75 * ways[0] + 0.25 * ways[1]
    )
    same = dataclasses.replace(first, reference=first.log_prob.detach())
    other = dataclasses.replace(second, reference=second.log_prob.detach())
    (grad,) = torch.autograd.grad(labelled(pairwise.dpo, same, other, half).sum(), first.log_prob)
    assert not grad.any()


def test_means_over_steps_take_length_out_of_a_loss() -> None:
    short = Answers(torch.full((1, 2), 0.3), reference=torch.zeros(1, 2))
    long = Answers(torch.full((1, 8), 0.3), reference=torch.zeros(1, 8))
    assert value(pairwise.ipo(long, short)) != pytest.approx(value(pairwise.ipo(short, short)))
    loss = per_step(long, short, loss=pairwise.ipo)
    assert value(loss) == pytest.approx(value(pairwise.ipo(short, short)))


@pytest.mark.parametrize("name", PAIRWISE)
def test_steps_that_do_not_count_are_without_effect(name: str) -> None:
    found = []
    for junk in (0.0, 5.0):
        loss, pair = load(name), []
        for seed in (0, 1):
            x = pair_for(name)[seed]
            assert x.mask is not None
            hidden = ~x.mask
            changes = {
                "log_prob": x.log_prob + junk * hidden,
                "reference": x.reference - junk * hidden,
                "old": x.old - 2 * junk * hidden,
                "guide": x.guide + junk * hidden,
                "history": x.history + junk * hidden[:, None],
            }  # type: ignore[operator]
            pair.append(dataclasses.replace(x, **changes))
        found.append(loss(*pair))
    assert found[0].shape == (6,)
    assert torch.allclose(found[0], found[1])


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_small_step_along_the_gradient_prefers_the_chosen_answer(name: str) -> None:
    chosen, rejected = pair_for(name)
    if name in ("copg", "p3o"):  # whose order is that of the rewards
        chosen = dataclasses.replace(chosen, reward=rejected.reward + 1)  # type: ignore[operator]
    if name == "sppo":
        chosen = dataclasses.replace(chosen, win_rate=torch.ones(6))
        rejected = dataclasses.replace(rejected, win_rate=torch.zeros(6))
    if name in ("p3o", "step_aware"):  # clipped, so from where nothing has moved
        chosen, rejected = (
            dataclasses.replace(x, old=x.log_prob.detach(), reference=x.log_prob.detach())
            for x in (chosen, rejected)
        )
    loss = load(name)(chosen, rejected).sum()
    answers = (chosen.log_prob, rejected.log_prob)
    up, down = (float(x.sum()) for x in torch.autograd.grad(loss, answers, materialize_grads=True))
    assert up < 0
    assert down == 0 if name == "preferred" else down > 0  # it imitates alone


@pytest.mark.parametrize("name", PAIRWISE)
def test_log_ratios_of_long_segments_do_not_overflow(name: str) -> None:
    for signs in ((1, -1), (-1, 1), (1, 1)):
        pair = []
        for seed, sign in enumerate(signs):
            x = pair_for(name, length=64)[seed]
            log_prob = (x.log_prob.detach() + sign * 20.0).float().requires_grad_()
            pair.append(dataclasses.replace(x, log_prob=log_prob))
        loss = load(name)(*pair)
        answers = [x.log_prob for x in pair]
        grads = torch.autograd.grad(loss.sum(), answers, materialize_grads=True)
        assert bool(loss.isfinite().all())
        assert all(bool(grad.isfinite().all()) for grad in grads)


@given(st.floats(-1e4, 1e4))
def test_a_limited_log_ratio_is_bounded_and_lets_the_gradient_pass(x: float) -> None:
    leaf = torch.tensor(x, requires_grad=True)
    found = limited(leaf)
    found.backward()
    assert abs(float(found.detach())) <= 10.01
    assert leaf.grad == 1
    if abs(x) <= 10:
        assert float(found.detach()) == pytest.approx(x, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("dpo", "reference"),
        ("sppo", "win_rate"),
        ("tpo", "gold"),
        ("xpo", "from_reference"),
        ("copg", "reward"),
        ("p3o", "old"),
        ("tgdpo", "guide"),
        ("mnpo", "history"),
    ],
)
def test_what_is_missing_is_named(name: str, field: str) -> None:
    lacking = dataclasses.replace(everything(0), **{field: None})
    with pytest.raises(ValueError, match=f"'{field}'"):
        load(name)(lacking, everything(1))


def test_losses_without_a_reference_need_none() -> None:
    bare = [dataclasses.replace(everything(seed), reference=None) for seed in (0, 1)]
    for name in ("slic", "tpo", "cpl", "p3o"):
        assert bool(load(name)(*bare).isfinite().all())


def test_wrong_settings_are_named() -> None:
    pair = everything(0), everything(1)
    with pytest.raises(ValueError, match="got 'kl'"):
        pairwise.f_dpo(*pair, divergence="kl")
    with pytest.raises(ValueError, match="weight must lie in"):
        pairs_rewarded.modpo(*pair, weight=0.0)
    with pytest.raises(ValueError, match="flip_rate"):
        pairs_guided.LCPO(pairwise.dpo, flip_rate=0.6)
    with pytest.raises(ValueError, match="reference_share"):
        pairs_guided.mnpo(*pair, reference_share=1.5)


def test_lcpo_finds_how_many_labels_are_wrong() -> None:
    """Of a calibrated model: people choose by sigmoid(3), and 20 % of labels are exchanged."""
    draw = torch.Generator().manual_seed(0)
    n = 40_000
    wrong = torch.rand(n, generator=draw) > 1 / (1 + math.exp(-3))
    exchanged = torch.rand(n, generator=draw) < 0.2
    margin = torch.where(wrong ^ exchanged, -3.0, 3.0)
    chosen = Answers(margin[:, None], reference=torch.zeros(n, 1))
    rejected = Answers(torch.zeros(n, 1), reference=torch.zeros(n, 1))
    loss = pairs_guided.LCPO(lambda won, lost: pairwise.dpo(won, lost, beta=1.0), momentum=0.0)
    for _ in range(50):
        loss(chosen, rejected)
    assert float(loss.flip_rate) == pytest.approx(0.2, abs=0.01)
    loss.eval()
    before = float(loss.flip_rate)
    loss(rejected, chosen)
    assert float(loss.flip_rate) == before


def test_rejection_sampling_keeps_answers_as_often_as_the_optimal_policy_gives_them() -> None:
    reward = torch.tensor([0.0, 0.5, 1.0]).expand(50_000, 3)
    u = torch.rand(50_000, 3, generator=torch.Generator().manual_seed(0))
    rate = pairs_rewarded.rso_accepts(reward, u, beta=0.5).float().mean(0)
    assert rate.tolist() == pytest.approx([math.exp(-2), math.exp(-1), 1.0], abs=0.01)


# Lists of answers


def ranked(scores: list[float], rewards: list[float], **fields: Any) -> Answers:
    steps = torch.tensor([scores], dtype=torch.float64)[..., None].requires_grad_()
    fields = {key: torch.tensor([x], dtype=torch.float64)[..., None] for key, x in fields.items()}
    fields.setdefault("reference", torch.zeros_like(steps))
    return Answers(steps, reward=torch.tensor([rewards], dtype=torch.float64), **fields)


def test_lipo_of_two_answers_is_worked_out() -> None:
    # Scores put the worse first (ranks 2 and 1): |2^1 - 2^0| |1/lg 3 - 1/lg 2| log(1 + e^(.6 - .2))
    found = listwise.lipo(ranked([0.2, 0.6], [1.0, 0.0]), beta=1.0)
    expected = abs(1 / math.log2(3) - 1) * math.log1p(math.exp(0.4))
    assert value(found) == pytest.approx(expected)
    assert value(listwise.lipo(ranked([0.2, 0.6], [0.5, 0.5]))) == 0.0


def test_pro_of_two_answers_is_worked_out_in_any_order() -> None:
    # 1 / T = the gap of 2 in rewards for both; p are means over the steps.
    expected = math.log1p(math.exp(2 * (-0.6 + 0.2))) - 0.5 * -0.2
    for order in (slice(None), slice(None, None, -1)):
        found = listwise.pro(ranked([-0.2, -0.6][order], [3.0, 1.0][order]), nll_weight=0.5)
        assert value(found) == pytest.approx(expected)


def test_equals_do_not_compete_in_pro() -> None:
    found = listwise.pro(ranked([-0.2, -0.6], [1.0, 1.0]), nll_weight=0.0)
    assert value(found) == pytest.approx(0.0)


def test_brain_pulls_by_the_posterior_less_what_the_policy_gives() -> None:
    x = ranked([-1.0, -2.0, -0.5], [0.1, 0.9, 0.4], old=[-1.5, -1.0, -0.7], reference=[-1, -1, -2])
    listwise.brain(x, beta=0.5).sum().backward()
    log_prob, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.7])
    wanted = (torch.tensor([-1.0, -1, -2]) + torch.tensor([0.1, 0.9, 0.4]) / 0.5 - old).softmax(0)
    given = (log_prob - old).softmax(0)
    assert x.log_prob.grad is not None
    assert x.log_prob.grad.flatten().tolist() == pytest.approx((given - wanted).tolist(), abs=1e-6)


@pytest.mark.parametrize("name", sorted(LISTWISE))
def test_the_order_of_a_list_does_not_matter(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    draw = torch.Generator().manual_seed(0)
    x = Answers(
        torch.randn(5, 4, 3, generator=draw),
        reference=torch.randn(5, 4, 3, generator=draw),
        reward=torch.rand(5, 4, generator=draw),
        old=torch.randn(5, 4, 3, generator=draw),
    )
    turned = x.map(lambda tensor: tensor[:, order])
    loss = load(name)
    assert loss(x).shape == (5,)
    assert torch.allclose(loss(x), loss(turned), atol=1e-5)


# Heads that denoise


def test_diffusion_dpo_is_dpo_of_errors() -> None:
    draw = torch.Generator().manual_seed(0)
    won, lost, ref_w, ref_l = (torch.rand(4, 3, generator=draw) for _ in range(4))
    found = load("diffusion_dpo")(answers_of_errors(won, ref_w), answers_of_errors(lost, ref_l))
    inside = -0.5 * 0.3 * ((won - lost).sum(1) - (ref_w - ref_l).sum(1))
    assert torch.allclose(found, -torch.nn.functional.logsigmoid(inside))


def test_answers_of_errors_have_the_log_ratio_of_the_adapter() -> None:
    errors, reference = torch.rand(4, 3), torch.rand(4, 3)
    mask = torch.arange(3) < torch.tensor([[1], [2], [3], [3]])
    made = answers_of_errors(errors, reference, weight=1.5, mask=mask)
    expected = error_log_ratio(errors, reference, weight=1.5, mask=mask)
    assert torch.allclose(made.delta(), expected)


def test_a_step_that_has_gone_past_the_clip_learns_no_more() -> None:
    inside, outside = answers(0.05), answers(0.5)
    loss = step_aware(inside, outside, beta=10.0, clip=0.1)
    assert value(loss) == pytest.approx(math.log1p(math.exp(-10 * (0.05 - math.log(1.1)))))
    grads = torch.autograd.grad(loss.sum(), (inside.log_prob, outside.log_prob))
    assert grads[0].all()
    assert not grads[1].any()
