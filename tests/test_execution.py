"""From chunks to executed actions: the ensemble by hand, warm starts, and whoever acts beside."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.conditions import Language
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.observation import StateEncoder
from embodied.execution import Receding, TemporalEnsemble, WarmStart, execution_of
from embodied.heads.base import Denoiser, DenoisingHead, WarmHead
from embodied.heads.edm import EDMHead
from embodied.noise import Noise, RowNoise
from embodied.past import Past
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.preflight import check_execution
from embodied.rollout import Controller
from embodied.structs import Condition, Observation, Spec
from embodied.suites import Assignment
from embodied.targets import ConfigError
from tests.acting import Acting

H = 4


class Counting(Acting):
    """The n-th chunk that it gives any row is 10 n + [0, 1, 2, 3], plus the row's state."""

    def __init__(self) -> None:
        super().__init__(Spec(1, 1, (-999.0,), (999.0,), 10.0), pred_horizon=H)
        self.calls = -1

    def act(self, observation: Observation, condition: Condition, *, noise: Noise) -> Tensor:
        self.calls += 1
        steps = torch.arange(float(H))[None, :, None]
        return 10.0 * self.calls + steps + observation.state[:, -1:]


class Guided(Counting):
    """Can begin from a chunk: adds 100 to it, and remembers what it was given."""

    noise_range = (0.01, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []
        self.steps: list[int] = []

    def as_warm(self) -> Any:
        return self

    def act_from(
        self,
        previous: Tensor,
        observation: Observation,
        condition: Condition,
        *,
        sigma: float,
        num_steps: int,
        noise: Noise,
    ) -> Tensor:
        self.given.append(previous)
        self.steps.append(num_steps)
        return previous + 100


def drive(controller: Controller, steps: int, *, state: float = 0.0) -> list[float]:
    """What one slot executes."""
    found: list[float] = []
    while len(found) < steps:
        plan = controller.plan(np.array([True]))
        for action in plan[0]:
            found.append(float(action[0]))
            show(controller, state)
    return found


def show(controller: Controller, *states: float) -> None:
    mask = np.ones(len(states), bool)
    controller.observe({"state": np.array(states, np.float32)[:, None]}, mask)


def begin(controller: Controller, slot: int = 0, seed: int = 0) -> None:
    controller.reset(slot, Assignment("task", 0, 0, seed, "go"))


def start(policy: Policy, execution: Receding, action_horizon: int = 1) -> Controller:
    controller = Controller(
        policy, 1, action_horizon=action_horizon, inference_batch=1, execution=execution
    )
    begin(controller)
    show(controller, 0.0)
    return controller


def test_the_ensemble_by_hand() -> None:
    # Chunk n planned at step n says 10 n + (t - n) for step t; only the last four speak of it.
    w = np.exp(-0.5 * np.arange(4))
    expected = [
        0,
        (1 * w[0] + 10 * w[1]) / w[:2].sum(),
        (2 * w[0] + 11 * w[1] + 20 * w[2]) / w[:3].sum(),
        (3 * w[0] + 12 * w[1] + 21 * w[2] + 30 * w[3]) / w.sum(),
        (13 * w[0] + 22 * w[1] + 31 * w[2] + 40 * w[3]) / w.sum(),
    ]
    found = drive(start(Counting(), TemporalEnsemble(decay=0.5)), 5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_endless_decay_executes_the_oldest_plan() -> None:
    found = drive(start(Counting(), TemporalEnsemble(decay=100.0)), 6)
    assert found == pytest.approx([0, 1, 2, 3, 13, 23])


def test_the_ensemble_forgets_with_the_episode_and_when_something_else_is_asked() -> None:
    controller = start(Counting(), TemporalEnsemble())
    drive(controller, 3)  # chunks 0, 1, 2
    controller.correct(0, [Language("stop")])
    assert drive(controller, 1) == [30]
    controller.release(0)
    assert drive(controller, 1) == [40]
    begin(controller)
    show(controller, 0.0)
    assert drive(controller, 1) == [50]


def test_a_neighbour_in_another_phase_changes_nothing() -> None:
    def run(beside: bool) -> list[float]:
        policy = Counting()
        options: dict[str, Any] = {"execution": TemporalEnsemble(decay=0.1), "inference_batch": 2}
        controller = Controller(policy, 2, action_horizon=1, **options)
        begin(controller, 0)
        show(controller, 0.0, 5.0)
        found = []
        for step in range(6):
            if beside and step in (2, 4):
                begin(controller, 1)
                show_only = np.array([False, True])
                controller.observe({"state": np.full((2, 1), 7.0, np.float32)}, show_only)
            active = np.array([True, beside and step >= 2])
            found.append(float(controller.plan(active)[0, 0, 0]))
            controller.observe({"state": np.full((2, 1), 0.0, np.float32)}, active)
        return found

    assert run(beside=True) == run(beside=False)


def test_a_warm_start_begins_from_what_is_left_of_the_last_chunk() -> None:
    policy = Guided()
    controller = start(policy, WarmStart(noise=0.5, num_steps=2), action_horizon=3)
    found = drive(controller, 6)
    assert found == [0, 1, 2, 103, 103, 103]  # 3 is left, and stands for the steps after it
    assert policy.given[0].flatten().tolist() == [3, 3, 3, 3]
    assert policy.steps == [2]
    assert policy.calls == 0  # only the first chunk was sampled from noise alone


def test_first_and_later_chunks_are_planned_in_calls_of_their_own() -> None:
    policy = Guided()
    options: dict[str, Any] = {"execution": WarmStart(), "inference_batch": 4}
    controller = Controller(policy, 2, action_horizon=1, **options)
    begin(controller, 0)
    controller.observe({"state": np.zeros((2, 1), np.float32)}, np.array([True, False]))
    controller.plan(np.array([True, False]))
    begin(controller, 1)
    show(controller, 0.0, 5.0)
    plan = controller.plan(np.array([True, True]))
    assert plan[:, 0, 0].tolist() == [101, 15]
    assert [len(each) for each in policy.given] == [4]  # padded like any other


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"execution": "random"}, "execution must be one of receding, ensemble, warm, realtime"),
        ({"execution": "ensemble", "ensemble_decay": -1.0}, "ensemble_decay must be 0 or more"),
        ({"execution": "warm", "warm_steps": 0}, "warm_steps must be a whole number >= 1"),
        ({"execution": "ensemble", "action_horizon": 2}, "ensemble .*action_horizon must be 1"),
        ({"execution": "warm", "action_horizon": 4}, r"warm needs action_horizon < 4"),
        ({"execution": "warm", "warm_noise": 2.0}, r"warm_noise must lie in \[0.01, 1\]"),
        ({"action_horizon": 5}, r"action_horizon must lie in \[1, 4\]"),
    ],
)
def test_what_cannot_be_executed_is_refused_before_training(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"E_CONFIG_VALUE: eval\..*{message}"):
        check_execution({"eval": {"action_horizon": 1, **settings}}, Guided())


def test_a_policy_that_cannot_begin_from_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="a policy whose head denoises actions, such as head=edm"):
        Controller(Counting(), 1, action_horizon=1, execution=WarmStart())


def test_settings_of_older_runs_mean_receding_horizons() -> None:
    for settings in ({}, {"execution": None, "warm_steps": None}):
        assert type(execution_of(settings)) is Receding
    warm = execution_of({"execution": "warm", "warm_noise": 0.2, "warm_steps": None})
    assert isinstance(warm, WarmStart)
    assert (warm.noise, warm.num_steps) == (0.2, 1)


def test_a_past_without_chunks_has_nothing_to_begin_from() -> None:
    past = Past()
    assert not WarmStart().looks_back(past)
    past.add(np.zeros((2, 1), np.float32))
    past.step()
    assert WarmStart().looks_back(past)
    past.step()
    assert past.newest is None


class TwoModes(EDMHead):
    """The exact denoiser of actions that are all +0.5 or all -0.5."""

    def denoise(self, x: Tensor, sigma: Tensor, memories: object) -> Tensor:
        evidence = (x * 0.5 / sigma[:, None, None] ** 2).sum((1, 2), keepdim=True)
        return 0.5 * torch.tanh(evidence).expand_as(x)


def test_one_warm_step_of_an_exact_denoiser_beats_one_cold_step() -> None:
    torch.manual_seed(0)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 2, "dim": 16, "num_layers": 1}
    head = TwoModes(**sizes, sigma_max=5.0, num_steps=1)
    assert isinstance(head, WarmHead)
    context = torch.zeros(64, 2, 16)
    mode = torch.where(torch.arange(64) % 2 == 0, 0.5, -0.5)[:, None, None].expand(64, 4, 2)
    previous = mode + 0.1 * torch.randn(64, 4, 2)
    noise = RowNoise([torch.Generator().manual_seed(i) for i in range(64)])
    cold = head.sample(context, noise=noise)
    warm = head.resample(head.denoiser(context), previous, sigma=0.3, num_steps=1, noise=noise)
    assert float((cold.abs() - 0.5).abs().mean()) > 0.2  # between the modes
    assert float((warm - mode).abs().mean()) < 0.02  # and at the very one of the last plan


def test_a_warm_start_from_all_the_noise_is_a_cold_one() -> None:
    torch.manual_seed(0)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 2, "dim": 16, "num_layers": 1}
    head = EDMHead(**sizes, sigma_max=5.0, num_steps=3)
    context = torch.randn(3, 2, 16)

    def noise() -> RowNoise:
        return RowNoise([torch.Generator().manual_seed(i) for i in range(3)])

    cold = head.sample(context, noise=noise())
    zero = torch.zeros(3, 4, 2)
    warm = head.resample(head.denoiser(context), zero, sigma=5.0, num_steps=3, noise=noise())
    assert torch.equal(cold, warm)


class Halved(DenoisingHead):
    """Half of what it begins from."""

    noise_range = (0.1, 1.0)

    def __init__(self, **sizes: int) -> None:
        super().__init__()

    def loss(self, context: Tensor, action: Tensor, *, noise: Noise) -> Tensor:
        raise NotImplementedError

    def denoiser(self, context: Tensor) -> Denoiser:
        return lambda x, level: x

    def integrate(self, denoise: Denoiser, x: Tensor, *, noise: Noise) -> Tensor:
        raise NotImplementedError

    def resample(self, denoise: Denoiser, previous: Tensor, **options: Any) -> Tensor:
        return previous / 2


@pytest.mark.parametrize("relative", [False, True])
def test_chunks_are_normalised_on_their_way_to_the_head_and_back(relative: bool) -> None:
    policy = ChunkPolicy(
        spec=Spec(3, 2, (-9.0, -9.0), (9.0, 9.0), 10.0),
        encoder=functools.partial(TokenEncoder, {"state": StateEncoder}),
        head=Halved,
        dim=8,
        relative_to=[2, 0] if relative else None,
    )
    policy.encoder.fit_normalizers(Observation(torch.randn(9, 1, 3)), Condition())
    count = policy.action_normalizer.dim
    policy.action_normalizer.fit(
        torch.stack([torch.full((count,), -1.0), torch.full((count,), 3.0)])
    )
    state = torch.tensor([1.0, 0.0, 2.0]).expand(2, 1, 3)
    previous = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    found = policy.act_from(
        previous, Observation(state), Condition(), sigma=0.3, num_steps=1, noise=RowNoise([])
    )
    # Halved towards the middle of the range, which is 1, as seen from the state's parts (2, 1).
    middle = 1 + torch.tensor([2.0, 1.0]) * relative
    torch.testing.assert_close(found, (previous + middle) / 2)
