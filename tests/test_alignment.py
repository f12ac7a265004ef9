"""Alignment: the loss and the metrics against cases that can be worked out, and GRIF's stages."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.algorithms.bc import BC
from embodied.distributed import World
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.goal import GoalStateEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.encoders.task import TaskEncoder
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise, seeded
from embodied.objectives.alignment import hits, multi_positive_info_nce
from embodied.policies.aligned import AlignedPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_policy

CPU = torch.device("cpu")
SPEC = Spec(3, 2, (-1.0, -1.0), (1.0, 1.0), 10.0)
TEXTS = ("push it left", "push it right", "lift it", "put it down")


def all_rows(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_equal_similarities_cost_the_logarithm_of_the_number_of_rows() -> None:
    loss = multi_positive_info_nce(torch.zeros(8, 8), torch.eye(8).bool(), all_rows(8))
    assert float(loss) == pytest.approx(math.log(8))


def test_a_perfect_alignment_costs_nothing_and_a_crossed_one_much() -> None:
    similarity = 100 * torch.eye(4)
    assert float(multi_positive_info_nce(similarity, torch.eye(4).bool(), all_rows(4))) < 1e-6
    crossed = similarity.roll(1, dims=1)
    loss = multi_positive_info_nce(crossed, torch.eye(4).bool(), all_rows(4))
    assert float(loss) == pytest.approx(100, rel=1e-3)


def test_rows_that_mean_the_same_are_not_pushed_apart() -> None:
    # Two meanings, two rows each; the similarity knows the meaning and not the row.
    meaning = torch.tensor([0, 0, 1, 1])
    same = meaning[:, None] == meaning[None, :]
    similarity = 50.0 * same
    assert float(multi_positive_info_nce(similarity, same, all_rows(4))) < 1e-6
    alone = multi_positive_info_nce(similarity, torch.eye(4).bool(), all_rows(4))
    assert float(alone) == pytest.approx(math.log(2), rel=1e-4)


def test_rows_without_both_modalities_take_no_part() -> None:
    torch.manual_seed(0)
    similarity = torch.randn(6, 6, requires_grad=True)
    valid = torch.tensor([True, True, False, True, False, True])
    loss = multi_positive_info_nce(similarity, torch.eye(6).bool(), valid)
    kept = similarity[valid][:, valid]
    expected = multi_positive_info_nce(kept, torch.eye(4).bool(), all_rows(4))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert not gradient[~valid].any()
    assert not gradient[:, ~valid].any()
    nobody = multi_positive_info_nce(similarity, torch.eye(6).bool(), ~all_rows(6))
    assert float(nobody.detach()) == 0.0


def test_a_hit_is_a_correct_candidate_among_the_best() -> None:
    similarity = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    correct = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).bool()
    assert hits(similarity, correct, 1).tolist() == [True, False, False]
    assert hits(similarity, correct, 2).tolist() == [True, True, False]
    assert hits(similarity, correct, 3).tolist() == [True, True, True]
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\]"):
        hits(similarity, correct, 4)


def policy(**options: Any) -> AlignedPolicy:
    torch.manual_seed(0)
    task = functools.partial(
        TaskEncoder,
        {
            "language": LanguageEncoder,
            "goal_state": functools.partial(GoalStateEncoder, start=True),
        },
        unit=True,
        hide=1.0,
    )
    settings = {"pairs": [["language", "goal_state"]], "align_steps": 10, **options}
    built = AlignedPolicy(
        spec=SPEC,
        encoder=functools.partial(TokenEncoder, {"task": task, "state": StateEncoder}),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        pred_horizon=2,
        dim=16,
        **settings,
    )
    states = torch.randn(50, 1, 3)
    built.fit_normalizers(Observation(states), Condition(language=TEXTS), torch.rand(50, 2))
    return built


def batch(rows: int = 8) -> Batch:
    """Row i is told text i % 4, and the state changes as that text says."""
    random = torch.Generator().manual_seed(1)
    start = torch.randn(rows, 1, 3, generator=random)
    meaning = torch.arange(rows) % 4
    change = torch.nn.functional.one_hot(meaning, 4)[:, None, :3].float() * 2
    return Batch(
        observation=Observation(torch.randn(rows, 1, 3, generator=random)),
        condition=Condition(
            language=tuple(TEXTS[i] for i in meaning.tolist()),
            goal=Observation(start + change),
            start=Observation(start),
        ),
        action=torch.rand(rows, 2, 2, generator=random),
        mask=torch.ones(rows, 2, dtype=torch.bool),
        meaning=meaning,
    )


def noise(step: int = 0) -> BatchNoise:
    return BatchNoise(seeded(0, step, CPU))


def test_it_keeps_the_contract_of_policies() -> None:
    check_policy(policy(then="joint"), batch())


def test_aligning_learns_which_words_mean_which_change() -> None:
    built = policy()
    built.begin_step(0)
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    for step in range(150):
        loss, metrics = built.loss(batch(32), noise=noise(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(metrics["retrieval/language-goal_state"]) == 1.0
    assert float(metrics["retrieval/goal_state-language"]) == 1.0
    fresh = batch(12)
    points = [built.points(m, fresh.observation, fresh.condition) for m in built.pairs[0]]
    assert fresh.meaning is not None
    correct = fresh.meaning[:, None] == fresh.meaning[None, :]
    assert hits(built.similarity(*points), correct, 1).float().mean() > 0.9


def test_a_fixed_temperature_is_kept_but_not_learned() -> None:
    built = policy(learn_temperature=False, temperature=0.5, then="joint")
    check_policy(built, batch())
    assert "log_temperature" in built.state_dict()
    assert "log_temperature" not in dict(built.named_parameters())
    points = torch.eye(2)
    assert torch.allclose(built.similarity(points, points), 2 * points)


@pytest.mark.parametrize("then", ["frozen", "joint", "free"])
def test_stages_follow_from_the_step_and_freeze_what_they_should(then: str) -> None:
    built = policy(then=then)

    def reached(step: int) -> tuple[bool, bool]:
        """Whether gradients reach the task space, and whether they reach the head."""
        built.zero_grad(set_to_none=True)
        built.begin_step(step)
        loss, _ = built.loss(batch(), noise=noise())
        loss.backward()
        return tuple(
            any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
            for part in (built.task_encoder.parts, built.head)
        )  # type: ignore[return-value]

    assert reached(0) == (True, False)
    assert reached(9) == (True, False)
    assert reached(10) == ((then != "frozen"), True)
    assert (built.log_temperature.grad is not None) == (then == "joint")
    assert reached(0) == (True, False)  # whatever came before


def test_unlabelled_rows_do_not_change_the_alignment() -> None:
    built = policy()
    full = batch()
    some = all_rows(8)
    some[4:] = False
    condition = Condition(full.condition.language, full.condition.goal, start=full.condition.start)
    marked = Batch(
        full.observation,
        Condition(
            condition.language, condition.goal, start=condition.start, present={"language": some}
        ),
        full.action,
        full.mask,
        meaning=full.meaning,
    )
    loss, _ = built.alignment(marked, noise=noise())
    alone, _ = built.alignment(full.rows(0, 4), noise=noise())
    assert float(loss.detach()) == pytest.approx(float(alone.detach()), rel=1e-4)


@pytest.mark.parametrize("saved_at", [2, 6])
def test_a_run_goes_on_bit_by_bit_in_either_stage(saved_at: int) -> None:
    """Before the actions' turn their parameters have no moments yet; after it the others rest."""

    def algorithm() -> BC:
        built = policy(align_steps=4)
        return BC(built, world=World(0, 1, CPU), steps=8, warmup_steps=1, precision="fp32")

    first, second = algorithm(), algorithm()
    for step in range(saved_at):
        first.update(batch(), step)
    groups, document = first.state_dict()
    state = {
        name: {key: x.clone() for key, x in group.items()}
        for name, group in {**groups, "policy": first.inference_state()}.items()
    }
    second.load_state_dict(state, document)
    for step in range(saved_at, 8):
        losses = [each.update(batch(), step)["loss"] for each in (first, second)]
        assert float(losses[0]) == float(losses[1])
    ours, theirs = first.policy.state_dict(), second.policy.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"pairs name \['sketch'\]"):
        policy(pairs=[["language", "sketch"]])
    with pytest.raises(ValueError, match="then must be one of"):
        policy(then="later")
    with pytest.raises(ValueError, match="temperature"):
        policy(temperature=0.0)
