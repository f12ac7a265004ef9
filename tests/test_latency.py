"""Sampling that fits a budget: what is tried, in which order, and what is said if nothing fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from embodied import latency
from embodied.assessment import evaluate
from embodied.checkpoint_files import CheckpointError
from embodied.experiment import train
from embodied.latency import made_up, samplings, with_sampling, within
from embodied.noise import RowNoise
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.targets import ConfigError
from tests.conftest import Compose, compose_config

HEAD = {
    "_target_": "embodied.heads.edm.EDMHead",
    "_partial_": True,
    "num_layers": 1,
    "num_heads": 2,
    "sampler": "ddim",
    "num_steps": 3,
}
CONFIG: dict[str, Any] = {"policy": {"head": HEAD}, "seed": 0, "threads": 1}
Make = Callable[..., ChunkPolicy]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "STEPS", (16, 8, 4, 2, 1))
    monkeypatch.setattr(latency, "_CALLS", 20)


def act(policy: Policy, rows: int = 3) -> Tensor:
    noise = RowNoise([torch.Generator().manual_seed(i) for i in range(rows)])
    with torch.no_grad():
        return policy.act(*made_up(policy, rows), noise=noise)


def test_another_sampling_has_the_same_weights_and_leaves_the_policy_alone(
    make_policy: Make,
) -> None:
    policy = make_policy().eval()
    before = act(policy)
    config, other = with_sampling(CONFIG, policy, {"num_steps": 7})
    assert config["policy"]["head"] == {**HEAD, "num_steps": 7}
    assert HEAD["num_steps"] == 3
    assert torch.equal(act(policy), before)
    assert not torch.equal(act(other), before)
    _, back = with_sampling(config, other, {"num_steps": 3})
    assert torch.equal(act(back), before)


def test_guidance_is_a_setting_of_sampling_too(make_policy: Make) -> None:
    config, other = with_sampling(CONFIG, make_policy(), {"guidance": 2.0, "num_steps": 7})
    assert isinstance(other, ChunkPolicy)
    assert other.guidance == config["policy"]["guidance"] == 2.0
    assert config["policy"]["head"] == {**HEAD, "num_steps": 7}


def test_settings_that_a_head_does_not_take_are_refused(make_policy: Make) -> None:
    with pytest.raises(ConfigError, match="did you mean 'num_steps'"):
        with_sampling(CONFIG, make_policy(), {"num_step": 7})
    with pytest.raises(ValueError, match="sampler must be one of"):
        with_sampling(CONFIG, make_policy(), {"sampler": "best"})
    with pytest.raises(CheckpointError, match="12 missing: trunk"):
        with_sampling(CONFIG, make_policy(), {"num_layers": 2})


def test_samplings_go_from_the_most_accurate_to_the_fastest(make_policy: Make) -> None:
    found = samplings(CONFIG, make_policy().eval())
    errors = [each.error for each in found]
    counts = [each.evaluations for each in found]
    assert errors == sorted(errors)
    assert counts == sorted(set(counts), reverse=True)
    assert found[0].options == {"sampler": "ddim", "num_steps": max(latency.STEPS)}
    assert (errors[0], counts[0], counts[-1]) == (0.0, max(latency.STEPS), 1)
    # Its noise on the way makes any two samples differ, so that it has no place in this order.
    assert "euler_ancestral" not in {each.options["sampler"] for each in found}


def test_heun_is_counted_by_its_evaluations(make_policy: Make) -> None:
    config = {**CONFIG, "policy": {"head": {**HEAD, "sampler": "heun"}}}
    first = samplings(config, make_policy().eval())[0]
    assert first.options == {"sampler": "heun", "num_steps": 16}
    assert first.evaluations == 2 * 16 - 1


@pytest.mark.slow
def test_the_most_accurate_that_fits_is_taken(
    make_policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(policy: Any, budget_ms: float) -> float:
        return float(len(policy.head.sigmas) - 1)  # 1 ms for each step

    monkeypatch.setattr(latency, "p99_ms", cost)
    policy = make_policy().eval()
    for budget, steps in ((100.0, 16), (8.5, 8), (8.0, 4), (1.5, 1)):
        config, chosen = within(CONFIG, policy, budget)
        assert config["policy"]["head"]["num_steps"] == steps
        assert len(chosen.head.sigmas) == steps + 1  # type: ignore[arg-type, union-attr]
    with pytest.raises(ValueError, match=r"latency_ms=0.5 here: the fastest, ddim 1 step, .* 1.00"):
        within(CONFIG, policy, 0.5)


def test_time_is_really_measured(make_policy: Make) -> None:
    policy = make_policy().eval()
    _, slow = with_sampling(CONFIG, policy, {"num_steps": 16})
    _, fast = with_sampling(CONFIG, policy, {"num_steps": 1})
    assert 0 < min(latency.p99_ms(fast) for _ in range(3)) < latency.p99_ms(slow)


def test_a_head_without_steps_has_nothing_to_choose(make_policy: Make) -> None:
    node = {name: value for name, value in HEAD.items() if name not in ("sampler", "num_steps")}
    with pytest.raises(ValueError, match="EDMHead has none"):
        within({**CONFIG, "policy": {"head": node}}, make_policy(), 10.0)


@pytest.mark.parametrize("budget", [0, -1.0, "fast"])
def test_budgets_are_positive_numbers(make_policy: Make, budget: Any) -> None:
    with pytest.raises(ValueError, match="latency_ms must be a number of ms > 0"):
        within(CONFIG, make_policy(), budget)


def judged(run: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The results of an evaluation of a run."""
    common = ("device=cpu", "protocol.goals_per_task=1", "protocol.max_steps=10")
    sizes = ("env.num_envs=4", "env.workers=0", "eval.inference_batch=4")
    output = run / name
    paths = (f"checkpoint={run}", f"output={output}")
    evaluate(compose_config(*paths, *common, *sizes, *overrides, name="evaluate"))
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def rewards(found: dict[str, Any]) -> list[float]:
    return [each["reward"] for each in found["episodes"]]


@pytest.fixture(scope="module")
def run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(compose(path, "eval.sampling={num_steps: 2}"))
    return path


def test_a_run_is_evaluated_with_other_sampling_execution_and_budget(run: Path) -> None:
    trained = json.loads((run / "results.json").read_text())
    assert trained["config"]["policy"]["head"]["num_steps"] == 2
    plain = judged(run, "plain", "eval.sampling={}")
    assert plain["config"]["policy"]["head"]["num_steps"] == 3
    timed = judged(run, "timed", "eval.latency_ms=10000")
    assert timed["config"]["policy"]["head"]["num_steps"] == 16
    step = "eval.action_horizon=1"
    warm = judged(run, "warm", "eval.sampling={}", "eval.execution=warm", step)
    averaged = judged(run, "averaged", "eval.sampling={}", "eval.execution=ensemble", step)
    assert averaged["config"]["eval"]["execution"] == "ensemble"
    assert len({tuple(rewards(found)) for found in (plain, warm, averaged)}) == 3


@pytest.mark.slow  # processes that import torch
@pytest.mark.parametrize("execution", ["ensemble", "warm"])
def test_shards_execute_alike(run: Path, execution: str) -> None:
    asked = (f"eval.execution={execution}", "eval.action_horizon=1")
    one, two = (judged(run, f"{execution}{n}", *asked, f"shards={n}") for n in (1, 2))
    assert rewards(one) == rewards(two)
