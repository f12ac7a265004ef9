"""Rewards from comparisons of what a policy does: novelty, relabelling, sessions, pseudo-labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.algorithms.iql import IQL
from embodied.algorithms.pebble import PEBBLE
from embodied.algorithms.pseudo_labels import PseudoLabels
from embodied.algorithms.reward_fit import Compared, Crop, Seen, fit
from embodied.algorithms.sac import SAC
from embodied.distributed import World
from embodied.feedback import Pairs, SegmentBatch
from embodied.networks.rewards import RewardEnsemble
from embodied.objectives.state_entropy import neighbour_distance
from embodied.policies.actor import ActorPolicy
from embodied.structs import Batch, Condition, Observation, Spec

S, A, T = 2, 1, 4
WORLD = World(0, 1, torch.device("cpu"))


def make_policy(kind: str = "squashed") -> ActorPolicy:
    torch.manual_seed(0)
    spec = Spec(S, A, (-1.0,) * A, (1.0,) * A, rate_hz=10.0)
    policy = ActorPolicy(spec=spec, kind=kind, hidden=(8,), normalize=False)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, S)), Condition(), torch.zeros(0, A))
    return policy


def make_pebble(learner: Any = None, **options: Any) -> PEBBLE:
    learner = learner or SAC(make_policy(), world=WORLD, steps=100, critic_hidden=(8,))
    return PEBBLE(learner, **{"hidden": (8,), "epochs": 2, **options})


def make_batch(rows: int = 6, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        observation=Observation(torch.randn(rows, 1, S, generator=draw)),
        condition=Condition(),
        action=torch.rand(rows, 1, A, generator=draw) * 2 - 1,
        mask=torch.ones(rows, 1, dtype=torch.bool),
        discount=torch.full((rows,), 0.9),
        next_observation=Observation(torch.randn(rows, 1, S, generator=draw)),
        return_to_go=torch.full((rows,), -torch.inf),
    )


def make_pairs(count: int, seed: int = 0, label: Tensor | None = None) -> Pairs:
    """The second is better where its first state component is higher on average."""
    draw = torch.Generator().manual_seed(seed)
    state = torch.randn(count, 2, T, S, generator=draw)
    action = torch.rand(count, 2, T, A, generator=draw) * 2 - 1
    gap = state[:, 1, :, 0].sum(1) - state[:, 0, :, 0].sum(1)
    mask = torch.ones(count, T, dtype=torch.bool)
    sides = [SegmentBatch(state[:, i], action[:, i], mask) for i in (0, 1)]
    return Pairs(sides[0], sides[1], (gap > 0).float() if label is None else label)


@dataclass
class Fixed:
    """A session whose answers are known beforehand."""

    answers: Pairs | None = field(default_factory=lambda: make_pairs(5))
    candidates: Pairs = field(default_factory=lambda: make_pairs(20, seed=1))
    held_out: Pairs = field(default_factory=lambda: make_pairs(8, seed=2))
    unlabelled: Pairs | None = None

    def ask(self, probability: Tensor) -> Pairs | None:
        assert probability.shape == (3, 20)
        return self.answers


def learned_from(pebble: PEBBLE) -> list[Tensor]:
    """The rewards that the learner will be given, as it is given them."""
    seen: list[Tensor] = []
    update = pebble.learner.update

    def watched(batch: Batch, step: int) -> Any:
        assert batch.reward is not None
        seen.append(batch.reward)
        return update(batch, step)

    pebble.learner.update = watched  # type: ignore[method-assign]
    return seen


# Novelty


def test_novelty_is_the_distance_to_the_kth_neighbour() -> None:
    visited = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 7.0]])
    states = visited[[0, 2]]
    assert neighbour_distance(states, visited, neighbours=1).tolist() == pytest.approx([1, 2])
    assert neighbour_distance(states, visited, neighbours=2).tolist() == pytest.approx([3, 3])
    far = [7, 58**0.5]
    assert neighbour_distance(states, visited, neighbours=3).tolist() == pytest.approx(far)
    assert neighbour_distance(states, visited, neighbours=9).tolist() == pytest.approx(far)
    with pytest.raises(ValueError, match=r"neighbours.*0"):
        neighbour_distance(states, visited, neighbours=0)


def test_before_the_first_session_novelty_is_learned_from_in_units_of_its_deviation() -> None:
    pebble, batch = make_pebble(neighbours=1), make_batch()
    visited = torch.cat([batch.observation.state[:, 0], torch.randn(9, S)])
    seen = learned_from(pebble)
    pebble.update(replace(batch, visited=visited), 0)
    distance = neighbour_distance(batch.observation.state[:, 0], visited, neighbours=1)
    assert torch.allclose(seen[0], distance / distance.std(correction=0))


# Relabelling


def test_every_reward_is_the_newest_models_and_the_true_one_is_not_looked_at() -> None:
    pebble = make_pebble()
    seen = learned_from(pebble)
    sessions = {2: Fixed(), 4: Fixed()}
    pairs = None
    for step in range(6):
        batch = make_batch(seed=step)
        blind = torch.full((len(batch.action),), torch.nan)
        pebble.update(replace(batch, reward=blind, session=sessions.get(step), pairs=pairs), step)
        pairs = make_pairs(5) if step >= 2 else None
        now = pebble.rewards(batch.observation.state[:, 0], batch.action[:, 0]).mean(0)
        assert torch.equal(seen[step], now)
    old = make_batch(seed=1)
    again = pebble.rewards(old.observation.state[:, 0], old.action[:, 0]).mean(0)
    assert not torch.allclose(seen[1], again)  # the same steps are worth something else now


def test_critics_begin_anew_with_the_first_answers_and_at_no_other_time() -> None:
    pebble = make_pebble()
    resets: list[int] = []
    pebble.learner.reset_critics = resets.append  # type: ignore[assignment]
    pebble.update(replace(make_batch(), session=Fixed(answers=None)), 0)
    assert resets == []
    pebble.update(replace(make_batch(), session=Fixed()), 1)
    pebble.update(replace(make_batch(), session=Fixed(), pairs=make_pairs(5)), 2)
    assert len(resets) == 1


@pytest.mark.parametrize("kind", ["sac", "iql"])
def test_values_that_begin_anew_have_new_weights_targets_and_moments(kind: str) -> None:
    learner: Any
    if kind == "sac":
        learner = SAC(make_policy(), world=WORLD, steps=9, critic_hidden=(8,))
    else:
        learner = IQL(make_policy("gaussian"), world=WORLD, steps=9, critic_hidden=(8,))
    for step in range(3):
        learner.update(replace(make_batch(), reward=torch.ones(6)), step)
    values = ["critic"] if kind == "sac" else ["critic", "value"]
    before = {name: x.clone() for name, x in learner.parts.state_dict().items()}
    policy = {name: x.clone() for name, x in learner.policy.state_dict().items()}
    learner.reset_critics(7)
    for name, x in learner.parts.state_dict().items():
        assert torch.equal(x, before[name]) == (name.split(".")[0] not in (*values, "target"))
    for name, x in learner.target.state_dict().items():
        assert torch.equal(x, learner.critic.state_dict()[name])
    assert all(torch.equal(x, policy[name]) for name, x in learner.policy.state_dict().items())
    kept = learner.optimizer.state
    assert not any(p in kept for name in values for p in learner.parts[name].parameters())
    assert all(p in kept for p in learner.policy.actor.parameters())


# Sessions


def test_questions_that_are_all_skipped_teach_nothing_and_stop_nothing() -> None:
    pebble = make_pebble()
    before = [p.clone() for p in pebble.rewards.parameters()]
    metrics = pebble.update(replace(make_batch(), session=Fixed(answers=None)), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, pebble.rewards.parameters(), strict=True))
    assert torch.isfinite(torch.as_tensor(metrics["reward/mean"]))
    assert pebble.take_metrics() == {}


def test_a_session_is_judged_by_pairs_that_it_did_not_see() -> None:
    pebble = make_pebble(epochs=60, hidden=(32,), learning_rate=1e-2, target_accuracy=2.0)
    session = Fixed(answers=make_pairs(100), held_out=make_pairs(40, seed=2))
    pebble.update(replace(make_batch(), session=session), 0)
    facts = pebble.take_metrics()
    assert facts["reward/accuracy"] > 0.9
    assert facts["held_out/pairs"] == 40
    assert facts["held_out/agreement"] > 0.8
    ties = make_pairs(4, label=torch.full((4,), 0.5))
    pebble.update(replace(make_batch(), session=Fixed(held_out=ties), pairs=ties), 1)
    assert pebble.take_metrics()["held_out/pairs"] == 0  # and no NaN in what is logged
    assert pebble.take_metrics()["held_out/agreement"] == facts["held_out/agreement"]


# Crops and pseudo-labels


def test_both_sides_of_a_pair_keep_equally_many_steps_in_a_row() -> None:
    mask = Crop(3, 6).mask((50, 4), 8, torch.Generator().manual_seed(0))
    kept = mask.sum(-1)
    assert mask.shape == (50, 4, 2, 8)
    assert torch.equal(kept[..., 0], kept[..., 1])
    assert set(kept.flatten().tolist()) == {3, 4, 5, 6}
    jumps = (mask[..., 1:] != mask[..., :-1]).sum(-1) + mask[..., 0] + mask[..., -1].int()
    assert set(jumps.flatten().tolist()) == {2}  # one beginning and one end
    starts = mask.int().argmax(-1)
    assert (starts[..., 0] != starts[..., 1]).any()  # each side where it likes
    assert bool(Crop(8, 8).mask((2,), 8, torch.Generator()).all())
    with pytest.raises(ValueError, match=r"source\.segment_length"):
        Crop(3, 9).mask((1,), 8, torch.Generator())


def seen_of(members: int, rows: int) -> Seen:
    shape = (members, rows, 2, T)
    state, label = torch.zeros(*shape, S), torch.zeros(members, rows)
    return Seen(state, label, torch.ones(shape).bool(), torch.zeros(shape))


def test_pseudo_labels_count_only_where_a_member_is_sure() -> None:
    torch.manual_seed(0)
    model = RewardEnsemble(S, A, num_members=2, hidden=(8,))
    pairs = Compared.of(make_pairs(6))
    rewards = model(pairs.state, pairs.action).sum(-1)
    logits = (rewards[..., 1] - rewards[..., 0]).detach()
    likely = torch.sigmoid(logits.abs())
    for threshold in (0.5, float(likely.median()), float(likely.max())):
        term = PseudoLabels(threshold=threshold, ratio=50).term(pairs, None)
        draw = torch.Generator().manual_seed(1)
        loss, metrics = term(model, seen_of(2, 2), draw)
        rows = torch.randint(6, (2, 100), generator=torch.Generator().manual_seed(1))
        drawn = logits.gather(1, rows)
        sure = torch.sigmoid(drawn.abs()) > threshold
        expected = torch.log1p(torch.exp(-drawn.abs())) * sure  # the likelier answer's loss
        assert float(loss.detach()) == pytest.approx(float(expected.mean(1).sum()), abs=1e-5)
        assert metrics["pseudo/share"] == pytest.approx(float(sure.float().mean()))
        if threshold == float(likely.max()):
            assert not any(g.any() for g in torch.autograd.grad(loss, list(model.parameters())))


def test_crops_of_whole_segments_change_nothing() -> None:
    found = []
    for crop in (None, Crop(T, T)):
        torch.manual_seed(0)
        model = RewardEnsemble(S, A, num_members=2, hidden=(8,))
        optimizer = torch.optim.Adam(model.parameters())
        pairs = Compared.of(make_pairs(5))
        fit(
            model,
            pairs,
            optimizer=optimizer,
            epochs=1,
            batch_size=8,
            target_accuracy=2,
            generator=torch.Generator().manual_seed(0),
            crop=crop,
        )
        found.append(model(pairs.state, pairs.action))
    assert torch.equal(*found)


def test_surf_learns_from_few_labels_and_many_pairs() -> None:
    pebble = make_pebble(crop=(3, 4), pseudo_labels={"threshold": 0.8}, epochs=20)
    pebble.update(replace(make_batch(), session=Fixed(unlabelled=make_pairs(30, seed=3))), 0)
    facts = pebble.take_metrics()
    assert 0 <= facts["pseudo/share"] <= 1
    assert -1 <= facts["pseudo/cosine"] <= 1
    with pytest.raises(ValueError, match=r"source\.unlabelled"):
        pebble.update(replace(make_batch(), session=Fixed()), 1)


def test_what_was_learned_is_saved_and_taken_up_again() -> None:
    first, second = make_pebble(), make_pebble(seed=5)
    first.update(replace(make_batch(), session=Fixed()), 0)
    tensors, document = copy.deepcopy(first.state_dict())
    second.load_state_dict({**tensors, "policy": first.inference_state()}, document)
    for pebble in (first, second):
        pebble.seed = 0
        pebble.update(replace(make_batch(), session=Fixed(), pairs=make_pairs(5)), 1)
    (a, x), (b, y) = first.state_dict(), second.state_dict()
    assert x == y
    for group in a:
        assert all(torch.equal(a[group][name], b[group][name]) for name in a[group])
