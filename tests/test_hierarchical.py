"""Two-level policies: what they choose, what they obey, what they learn and what stays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.algorithms.bc import BC
from embodied.distributed import World
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.heads.edm import EDMHead
from embodied.heads.phrases import PhraseHead
from embodied.networks.vocabulary import Vocabulary
from embodied.noise import BatchNoise
from embodied.policies.codes import Centres, ClusterCodes, OneHotCodes, TextCodes
from embodied.policies.hierarchical import HierarchicalPolicy
from embodied.policies.phrase_level import PhraseLevel
from embodied.policies.told import latest
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_algorithm, check_policy
from embodied.testing.facts import noise_of, take

PHRASES = ("move arm left", "move arm right", "move arm up", "close gripper")
TASKS = ("open the drawer", "push the puck", "reach")
CODES: dict[str, Any] = {
    "text": functools.partial(TextCodes, capacity=1024),
    "one-hot": functools.partial(OneHotCodes, size=8, capacity=1024),
    "cluster": functools.partial(ClusterCodes, size=4, ahead=1, capacity=1024),
}
CPU = torch.device("cpu")

MakeHierarchy = Callable[..., HierarchicalPolicy]


def encoder() -> Any:
    return functools.partial(TokenEncoder, {"language": LanguageEncoder, "state": StateEncoder})


@pytest.fixture
def make(fake_language: None) -> MakeHierarchy:
    """Small fitted two-level policies; equal weights for equal arguments."""

    def build(
        codes: str | None = "text",
        *,
        own_encoder: bool = False,
        phrase_obs: int = 1,
        seed: int = 0,
        phrases: Sequence[str] = PHRASES,
        **settings: Any,
    ) -> HierarchicalPolicy:
        torch.manual_seed(seed)
        level = codes and functools.partial(
            PhraseLevel,
            codes=CODES[codes],
            head=functools.partial(PhraseHead, num_layers=1, num_heads=2),
            encoder=encoder() if own_encoder else None,
            obs_horizon=phrase_obs,
            spacing=2,
        )
        policy = HierarchicalPolicy(
            spec=Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
            encoder=encoder(),
            head=functools.partial(EDMHead, num_layers=1, num_heads=2),
            phrase_level=level or None,
            pred_horizon=4,
            dim=16,
            **settings,
        )
        random = torch.Generator().manual_seed(1)
        policy.fit_normalizers(
            Observation(torch.rand(64, 1, 10, generator=random) * 2 - 1),
            Condition(language=TASKS, motion=tuple(phrases)),
            torch.rand(64, 2, generator=random) * 2 - 1,
        )
        return policy

    return build


def make_batch(
    rows: int = 6, *, obs_horizon: int = 1, motions: Sequence[str] = PHRASES, seed: int = 0
) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return Batch(
        observation=Observation(torch.rand(rows, obs_horizon, 10, generator=random)),
        condition=Condition(
            language=tuple(TASKS[i % 3] for i in range(rows)),
            motion=tuple(motions[i % len(motions)] for i in range(rows)),
        ),
        action=torch.rand(rows, 4, 2, generator=random) * 2 - 1,
        mask=torch.ones(rows, 4, dtype=torch.bool),
        phrase=tuple(motions[(i + 1) % len(motions)] for i in range(rows)),
    )


def noise() -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(0))


def act(policy: HierarchicalPolicy, batch: Batch, condition: Condition | None = None) -> Tensor:
    rows = range(len(batch.action))
    return policy.act(batch.observation, condition or batch.condition, noise=noise_of(rows))


def weights(policy: HierarchicalPolicy) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in policy.state_dict().items()}


# The contract


@pytest.mark.parametrize(
    ("codes", "own_encoder"),
    [("text", False), ("text", True), ("one-hot", False), ("cluster", True), (None, False)],
)
def test_every_variant_keeps_the_contract(
    make: MakeHierarchy, codes: str | None, own_encoder: bool
) -> None:
    clusters = [f"cluster {i}" for i in range(4)]
    motions = clusters if codes == "cluster" else PHRASES
    check_policy(make(codes, own_encoder=own_encoder), make_batch(motions=motions))


def test_the_phrase_level_may_look_further_back_than_the_action_level(make: MakeHierarchy) -> None:
    policy = make(own_encoder=True, phrase_obs=3)
    assert policy.obs_horizon == 5  # 3 observations, 2 steps apart
    batch = make_batch(obs_horizon=5)
    check_policy(policy, batch)
    state = batch.observation.state
    unseen, distant = state.clone(), state.clone()
    unseen[:, [1, 3]] += 1
    distant[:, 0] += 1

    def scores(x: Tensor) -> Tensor:
        return policy.phrase_log_probs(Observation(x), batch.condition)

    assert torch.equal(scores(state), scores(unseen))
    assert not torch.equal(scores(state), scores(distant))
    # The action level sees the present alone, and is told its phrase here.
    moved = replace(batch, observation=Observation(distant))
    assert torch.equal(act(policy, batch), act(policy, moved))


def test_it_acts_on_histories_as_rollouts_give_them(make: MakeHierarchy) -> None:
    policy = make(own_encoder=True, phrase_obs=3)
    batch = make_batch(obs_horizon=5)
    steps = torch.tensor([1, 2, 3, 4, 5, 5])
    seen = Observation(batch.observation.state, action=torch.rand(6, 4, 2), steps=steps)
    assert torch.equal(act(policy, batch), act(policy, replace(batch, observation=seen)))
    kept = latest(seen, 3, 2)
    assert kept.steps is not None
    assert kept.steps.tolist() == [1, 1, 2, 2, 3, 3]  # of the present, 2 and 4 steps before
    assert torch.equal(kept.state, seen.state[:, [0, 2, 4]])
    assert latest(seen, 1).action is None


def test_a_longer_look_back_needs_an_encoder_of_its_own(make: MakeHierarchy) -> None:
    with pytest.raises(ValueError, match=r"obs_horizon needs an encoder of its own"):
        make(phrase_obs=3)


# Choosing and obeying


def test_without_a_phrase_it_obeys_its_own(make: MakeHierarchy) -> None:
    policy, batch = make().eval(), make_batch()
    untold = replace(batch.condition, motion=None)
    own = policy.phrases(batch.observation, untold)
    said = replace(batch.condition, motion=own)
    assert torch.equal(act(policy, batch, untold), act(policy, batch, said))


def test_a_given_phrase_is_obeyed_and_does_not_sway_the_choice(make: MakeHierarchy) -> None:
    policy, batch = make().eval(), make_batch()
    own = policy.phrases(batch.observation, batch.condition)
    other = tuple(next(p for p in PHRASES if p != mine) for mine in own)
    said = replace(batch.condition, motion=other)
    untold = replace(batch.condition, motion=None)
    differs = (act(policy, batch, said) != act(policy, batch, untold)).flatten(1).any(1)
    assert differs.all()
    assert policy.phrases(batch.observation, said) == own


def test_a_row_of_a_mixed_batch_gives_what_it_gives_alone(make: MakeHierarchy) -> None:
    """Phrases given, marked absent, and empty, side by side and each among copies of itself."""
    policy, batch = make().eval(), make_batch()
    batch = replace(
        batch,
        condition=replace(
            batch.condition,
            motion=("move arm up", "", "move arm left", "close gripper", "", "move arm up"),
            present={"motion": torch.tensor([True, True, False, True, False, True])},
        ),
    )
    together = act(policy, batch)
    for row in range(6):
        copies = take(batch, [row] * 6)
        alone = policy.act(copies.observation, copies.condition, noise=noise_of([row] * 6))
        assert torch.equal(together[row], alone[0])


def test_any_words_can_be_said_where_phrases_are_text(make: MakeHierarchy) -> None:
    batch = make_batch()
    said = replace(batch.condition, motion=("do something entirely new",) * 6)
    act(make(), batch, said)
    with pytest.raises(ValueError, match=r"not among the 4 candidate phrases .*extend"):
        act(make("one-hot"), batch, said)


def test_a_flat_policy_takes_no_notice_of_phrases(make: MakeHierarchy) -> None:
    policy, batch = make(None).eval(), make_batch()
    untold = replace(batch.condition, motion=None)
    assert torch.equal(act(policy, batch), act(policy, batch, untold))
    policy.extend(["move arm down"])
    with pytest.raises(ValueError, match="a flat policy chooses no phrases"):
        policy.phrases(batch.observation, batch.condition)


# Planning from one chunk to the next


def test_a_plan_without_a_previous_phrase_is_what_act_does(make: MakeHierarchy) -> None:
    policy, batch = make().eval(), make_batch()
    assert policy.as_planner() is policy
    for condition in (batch.condition, replace(batch.condition, motion=None)):
        plan = policy.plan(batch.observation, condition, [None] * 6, noise=noise_of(range(6)))
        assert torch.equal(plan.action, act(policy, batch, condition))


def test_a_flat_policy_is_no_planner(make: MakeHierarchy) -> None:
    policy, batch = make(None).eval(), make_batch(rows=3)
    assert policy.as_planner() is None
    assert not policy.understands(PHRASES[0])
    with pytest.raises(ValueError, match="a flat policy chooses no phrases"):
        policy.plan(batch.observation, batch.condition, [None] * 3, noise=noise_of(range(3)))


@pytest.mark.parametrize(
    ("codes", "understood"),
    [
        ("text", ["move arm up", "move arm sideways", "cluster 0"]),
        ("one-hot", ["move arm up"]),
        ("cluster", ["cluster 0"]),
    ],
)
def test_it_says_what_it_can_be_told(
    make: MakeHierarchy, codes: str, understood: list[str]
) -> None:
    policy = make(codes)
    tried = ["", "move arm up", "move arm sideways", "cluster 0"]
    assert [each for each in tried if policy.understands(each)] == understood


def test_a_phrase_is_kept_until_somebody_speaks(make: MakeHierarchy) -> None:
    policy, batch = make(hold_steps=200).eval(), make_batch(rows=3)
    assert policy.hold_steps == 200
    own = policy.phrases(batch.observation, batch.condition)
    kept = next(p for p in PHRASES if p != own[0])
    condition = replace(
        batch.condition,
        motion=("", "", "move arm up"),
        present={"motion": torch.tensor([False, True, True])},
    )
    plan = policy.plan(batch.observation, condition, [kept, None, kept], noise=noise_of(range(3)))
    assert plan.phrases == (kept, own[1], "move arm up")
    assert plan.proposed == own
    assert plan.carried == (kept, own[1], None)  # after a person has spoken it is asked anew
    said = replace(batch.condition, motion=plan.phrases)
    assert torch.equal(plan.action, act(policy, batch, said))


def test_pipelined_it_obeys_the_phrase_of_the_planning_before(make: MakeHierarchy) -> None:
    policy = make(pipelined=True).eval()
    assert policy.hold_steps > 10**9  # the carried phrase is never dropped
    first, second = make_batch(rows=3), make_batch(rows=3, seed=9)
    untold = replace(first.condition, motion=None)
    plan = policy.plan(first.observation, untold, [None] * 3, noise=noise_of(range(3)))
    assert plan.phrases == plan.carried == plan.proposed
    other = tuple(next(p for p in PHRASES if p != mine) for mine in plan.carried)
    plan = policy.plan(second.observation, untold, other, noise=noise_of(range(3)))
    assert plan.phrases == other
    assert plan.carried == policy.phrases(second.observation, untold)


def test_pipelined_policies_hold_nothing(make: MakeHierarchy) -> None:
    with pytest.raises(ValueError, match=r"hold_steps must be .* 1 where pipelined, got 5"):
        make(pipelined=True, hold_steps=5)


# Learning


@pytest.mark.parametrize("codes", ["text", "one-hot"])
def test_it_learns_one_batch_by_heart(make: MakeHierarchy, codes: str) -> None:
    policy, batch = make(codes), make_batch(rows=8)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss, metrics = policy(batch, noise())
        loss.backward()
        optimizer.step()
    assert float(metrics["motion_accuracy"]) == 1.0
    assert float(metrics["phrase_loss"]) < 0.1
    assert policy.phrases(batch.observation, batch.condition) == batch.phrase


def test_the_loss_is_the_actions_plus_the_weighted_cross_entropy(make: MakeHierarchy) -> None:
    policy, batch = make(phrase_weight=0.5).eval(), make_batch(rows=4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    batch = replace(batch, mask=mask, phrase=("move arm up", "close gripper", "move arm up", ""))
    loss, metrics = policy.loss(batch, noise=noise())
    scores = policy.phrase_log_probs(batch.observation, batch.condition)
    # Rows 0 and 1 have 4 and 1 of the 7 valid steps; row 2 has none and row 3 no phrase.
    expected = -(4 * scores[0, 2] + 1 * scores[1, 3]) / 7
    torch.testing.assert_close(metrics["phrase_loss"], expected)
    torch.testing.assert_close(loss, metrics["action_loss"] + 0.5 * expected)
    own = policy.phrases(batch.observation, batch.condition)
    right = (own[0] == "move arm up") + (own[1] == "close gripper")
    assert float(metrics["motion_accuracy"]) == right / 2


def test_phrases_to_predict_leave_the_action_level_alone(make: MakeHierarchy) -> None:
    """Teacher forcing: the action level learns from the phrase at the frame, not the one ahead."""
    policy, batch = make().eval(), make_batch()
    other = replace(batch, phrase=("move arm up",) * 6)
    losses = [policy.loss(each, noise=noise())[1] for each in (batch, other)]
    assert losses[0]["action_loss"] == losses[1]["action_loss"]
    assert losses[0]["phrase_loss"] != losses[1]["phrase_loss"]
    told = replace(batch, condition=replace(batch.condition, motion=("move arm up",) * 6))
    changed = policy.loss(told, noise=noise())[1]
    assert losses[0]["action_loss"] != changed["action_loss"]
    assert losses[0]["phrase_loss"] == changed["phrase_loss"]


def test_every_parameter_takes_part_without_any_phrase(make: MakeHierarchy) -> None:
    policy, batch = make(), make_batch()
    bare = replace(batch, phrase=None, condition=replace(batch.condition, motion=None))
    policy(bare, noise())[0].backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


def test_a_phrase_that_is_no_candidate_is_refused_in_training(make: MakeHierarchy) -> None:
    batch = replace(make_batch(), phrase=("move arm down",) * 6)
    with pytest.raises(ValueError, match=r"'move arm down' is not among the 4 .*extend"):
        make().loss(batch, noise=noise())


# Candidates


def test_new_candidates_change_no_weight_and_no_old_score(make: MakeHierarchy) -> None:
    policy, batch = make().eval(), make_batch()
    before, scores = weights(policy), policy.phrase_log_probs(batch.observation, batch.condition)
    policy.extend(["move arm down", "move arm up"])
    assert policy.candidates == (*PHRASES, "move arm down")
    grown = policy.phrase_log_probs(batch.observation, batch.condition)
    torch.testing.assert_close(grown[:, :4].log_softmax(-1), scores)
    after = weights(policy)
    changed = [name for name, x in before.items() if not torch.equal(x, after[name])]
    assert changed == ["phrase_level.codes.vocabulary.text"]


def test_a_new_candidate_can_be_learned_and_then_chosen(make: MakeHierarchy) -> None:
    policy, batch = make(), replace(make_batch(), phrase=("move arm down",) * 6)
    policy.extend(["move arm down"])
    optimizer = torch.optim.Adam(policy.phrase_level.parameters(), lr=3e-3)  # type: ignore[union-attr]
    for _ in range(40):
        optimizer.zero_grad()
        policy(batch, noise())[0].backward()
        optimizer.step()
    assert set(policy.phrases(batch.observation, batch.condition)) == {"move arm down"}


def test_a_saved_policy_chooses_among_what_it_knew(make: MakeHierarchy) -> None:
    policy, batch = make().eval(), make_batch()
    policy.extend(["öffne die Schublade"])
    fresh = make(seed=1, phrases=("something", "else")).eval()
    fresh.load_state_dict(weights(policy))
    assert fresh.candidates == (*PHRASES, "öffne die Schublade")
    assert torch.equal(act(policy, batch), act(fresh, batch))
    untold = replace(batch.condition, motion=None)
    assert torch.equal(act(policy, batch, untold), act(fresh, batch, untold))


def test_a_vocabulary_that_is_full_says_so_and_stays_as_it_was() -> None:
    vocabulary = Vocabulary(capacity=24)
    vocabulary.extend(["left", "right", ""])
    with pytest.raises(ValueError, match=r"3 phrases take 35 bytes, .* capacity of 24"):
        vocabulary.extend(["forward and up"])
    assert vocabulary.phrases == ("left", "right")
    other = Vocabulary(capacity=24)
    other.load_state_dict(vocabulary.state_dict())
    assert (other.phrases, other.index(["right"])) == (("left", "right"), [1])


def test_a_damaged_vocabulary_is_refused() -> None:
    broken = {"text": torch.tensor(list(b'{"left": 1}     '), dtype=torch.uint8)}
    with pytest.raises(ValueError, match="JSON list of phrases"):
        Vocabulary(capacity=16).load_state_dict(broken)


def test_without_candidates_it_says_what_to_do(make: MakeHierarchy) -> None:
    policy = make("one-hot", phrases=())
    with pytest.raises(RuntimeError, match=r"no candidate phrases: call policy.fit_normalizers"):
        act(policy, make_batch())


def test_one_hot_codes_have_a_limit() -> None:
    codes = OneHotCodes(action_dim=2, size=3)
    codes.extend(PHRASES[:3])
    assert codes.vectors(PHRASES[1:3], CPU).tolist() == [[0, 1, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="4 phrases, but size is 3; raise size"):
        codes.extend(PHRASES)


# Clusters


def test_k_means_finds_separate_clouds() -> None:
    middle = torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])
    random = torch.Generator().manual_seed(0)
    x = middle.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=random)
    centres = Centres(3, 2)
    centres.fit(x)
    found = centres(x).view(50, 3)
    assert (found == found[:1]).all()
    assert sorted(found[0].tolist()) == [0, 1, 2]
    torch.testing.assert_close(centres.centres.view(3, 2)[found[0]], middle, atol=0.1, rtol=0)


def test_there_may_be_more_clusters_than_distinct_actions() -> None:
    centres = Centres(5, 1)
    centres.fit(torch.tensor([[1.0], [2.0]]))
    assert set(centres.centres.tolist()) == {1.0, 2.0}


def test_clusters_are_of_the_present_action_and_of_one_ahead() -> None:
    codes = ClusterCodes(action_dim=1, size=2, ahead=2)
    codes.fit((), torch.tensor([[-1.0], [1.0]]))
    low, high = codes._names(torch.tensor([[-0.9], [0.9]]))
    action = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0]])[..., None]
    batch = replace(make_batch(rows=2), mask=torch.tensor([[True] * 4, [True, True, False, False]]))
    found = codes.label(batch, action)
    assert found.condition.motion == (low, high)
    assert found.phrase == (high, low)  # the second row ends before


# Learning from corrections


def phrase_only(policy: HierarchicalPolicy, **settings: Any) -> BC:
    return BC(
        policy,
        world=World(0, 1, CPU),
        steps=20,
        warmup_steps=1,
        precision="fp32",
        train_only=["phrase_level.*"],
        **settings,
    )


@pytest.mark.parametrize("own_encoder", [False, True])
def test_corrections_change_the_phrase_level_alone_bit_for_bit(
    make: MakeHierarchy, own_encoder: bool
) -> None:
    policy = make(own_encoder=own_encoder)
    before, batch = weights(policy), make_batch()
    bc = phrase_only(policy)
    for step in range(3):
        bc.update(batch, step)
    for after in (weights(policy), bc.inference_state()):
        changed = {name for name, x in before.items() if not torch.equal(x, after[name])}
        assert "phrase_level.head.token" in changed
        assert all(name.startswith("phrase_level.") for name in changed)
    fresh = make(own_encoder=own_encoder)  # told its phrase, the policy acts as it did
    assert torch.equal(act(policy.eval(), batch), act(fresh.eval(), batch))


def test_a_partly_frozen_policy_resumes_exactly(make: MakeHierarchy) -> None:
    check_algorithm(lambda: phrase_only(make()), make_batch())


def test_a_pattern_that_matches_nothing_is_refused(make: MakeHierarchy) -> None:
    with pytest.raises(ValueError, match=r"'phrases\*', which no parameter .*encoder, head, phra"):
        BC(make(), world=World(0, 1, CPU), steps=1, train_only=["phrases*"])
