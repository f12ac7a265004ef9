"""Behaviour cloning: the schedule, micro-batches, precision, and going on from a saved state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied.algorithms.bc import BC, choose_precision, warmup_cosine
from embodied.distributed import World
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation
from embodied.testing import check_algorithm

MakePolicy = Callable[..., ChunkPolicy]
CPU = torch.device("cpu")


def make_bc(policy: ChunkPolicy, **kwargs: Any) -> BC:
    settings = {"steps": 100, "warmup_steps": 1, "precision": "fp32", **kwargs}
    return BC(policy, world=World(0, 1, CPU), **settings)


def make_batch(rows: int = 8, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    length = torch.randint(1, 5, (rows, 1), generator=random)
    return Batch(
        observation=Observation(torch.rand(rows, 1, 10, generator=random)),
        condition=Condition(language=tuple(f"text {i % 3}" for i in range(rows))),
        action=torch.rand(rows, 4, 2, generator=random) * 2 - 1,
        mask=torch.arange(4) < length,
    )


def weights(bc: BC) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in bc.policy.named_parameters()}


def test_the_learning_rate_by_hand() -> None:
    def factor(step: int) -> float:
        return warmup_cosine(step, warmup=4, total=12, floor=0.2)

    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    # Then half a cosine over 8 steps from 1 to 0.2: the middle is 0.6, a quarter is
    # 0.2 + 0.8 (1 + cos 45 deg) / 2 = 0.88284.
    assert factor(4) == 1.0
    assert factor(6) == pytest.approx(0.88284, abs=1e-5)
    assert factor(8) == pytest.approx(0.6)
    assert factor(12) == pytest.approx(0.2)
    assert factor(99) == pytest.approx(0.2)


def test_the_schedule_survives_odd_lengths() -> None:
    assert warmup_cosine(0, warmup=0, total=10) == 1.0
    assert warmup_cosine(5, warmup=5, total=5) == 1.0


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_have_the_gradient_of_the_whole(
    make_policy: MakePolicy, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows differ in their number of valid steps, so a mean of means would be another loss."""

    def gradients(bc: BC) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep() -> None:
            for name, p in bc.policy.named_parameters():
                assert p.grad is not None
                found[name] = p.grad.clone()

        monkeypatch.setattr(bc.optimizer, "step", keep)
        bc.update(make_batch(), 0)
        return found

    expected = gradients(make_bc(make_policy()))
    found = gradients(make_bc(make_policy(), accumulate=accumulate))
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=0, msg=name)


def test_rows_that_cannot_be_cut_evenly_are_refused(make_policy: MakePolicy) -> None:
    with pytest.raises(ValueError, match=r"accumulate must divide the 8 rows .*, got 3"):
        make_bc(make_policy(), accumulate=3).update(make_batch(), 0)


def test_the_algorithm_keeps_the_contract(make_policy: MakePolicy) -> None:
    check_algorithm(lambda: make_bc(make_policy(), accumulate=2), make_batch())


def test_a_loaded_algorithm_goes_on_bit_by_bit(make_policy: MakePolicy) -> None:
    first = make_bc(make_policy())
    for step in range(3):
        first.update(make_batch(seed=step), step)
    groups, document = first.state_dict()
    state = {
        name: {key: x.clone() for key, x in group.items()}  # the state is not a copy by itself
        for name, group in {**groups, "policy": first.inference_state()}.items()
    }
    second = make_bc(make_policy(seed=1))  # other weights, so that loading is not a formality
    second.load_state_dict(state, document)
    for step in range(3, 6):
        expected = first.update(make_batch(seed=step), step)
        found = second.update(make_batch(seed=step), step)
        assert float(expected["loss"]) == float(found["loss"])
    ours, theirs = weights(first), weights(second)
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_inference_uses_averaged_weights_and_leaves_the_trained_ones(
    make_policy: MakePolicy,
) -> None:
    bc = make_bc(make_policy(), ema_decay=0.9)
    start = weights(bc)
    bc.update(make_batch(), 0)
    trained, averaged = weights(bc), bc.inference_state()
    for name, x in trained.items():  # the first update of the average has decay 1 / 10
        expected = 0.1 * start[name] + 0.9 * x
        torch.testing.assert_close(averaged[name], expected, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(p, trained[name]) for name, p in bc.policy.named_parameters())


def test_inference_state_carries_the_statistics(make_policy: MakePolicy) -> None:
    state = make_bc(make_policy()).inference_state()
    assert state["action_normalizer.low"].tolist() == [-1.0, -1.0]


def test_training_lowers_the_loss(make_policy: MakePolicy) -> None:
    bc = make_bc(make_policy(), learning_rate=5e-3)
    batch = make_batch(rows=32)
    batch = replace(batch, action=batch.action[:1].expand(32, 4, 2))
    losses = [float(bc.update(batch, step)["loss"]) for step in range(80)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_gradients_are_clipped(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    bc = make_bc(make_policy(), max_grad_norm=0.01)
    norms: list[Tensor] = []

    def look() -> None:
        given = [p.grad.norm() for p in bc.policy.parameters() if p.grad is not None]
        norms.append(torch.stack(given).norm())

    monkeypatch.setattr(bc.optimizer, "step", look)
    reported = bc.update(make_batch(), 0)["grad_norm"]
    assert norms[0].item() == pytest.approx(0.01, rel=1e-3)
    assert float(reported) > 0.01


def test_precision_is_what_was_asked_for() -> None:
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(ValueError, match="must be 'auto', 'fp32' or 'bf16', got 'fp16'"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_precision_follows_the_hardware(
    fast: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_half_precision_trains_with_full_precision_parameters(make_policy: MakePolicy) -> None:
    full, half = make_bc(make_policy()), make_bc(make_policy(), precision="bf16")
    losses = [float(bc.update(make_batch(), 0)["loss"]) for bc in (full, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {p.dtype for p in half.policy.parameters()} == {torch.float32}
