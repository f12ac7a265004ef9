"""Which delay to set for what was measured, by hand, and that what is measured is a whole chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embodied import response
from embodied.response import Response, example, of_policy, of_server, request_for, timed
from tests.conftest import compose_config
from tests.serving import HORIZON, SPEC, running
from tests.test_delayed import H, Telling


def measured(*times_ms: float, rate_hz: float = 100.0, pred_horizon: int = 10) -> Response:
    return Response("here", np.array(times_ms), rate_hz, pred_horizon)


def test_the_delay_is_that_of_ninety_nine_chunks_in_a_hundred_rounded_up() -> None:
    # 99 % of 0 .. 100 ms are within 99 ms, which is 9.9 steps of 10 ms.
    found = measured(*range(101), pred_horizon=32)
    assert found.delay_steps == 10
    assert found.action_horizons == (10, 22)  # 22 + 10 = 32
    assert found.expiry_s(10) == pytest.approx(0.21)


def test_a_policy_within_one_step_may_plan_at_every_step() -> None:
    found = measured(2.0, 3.0, pred_horizon=4)
    assert found.delay_steps == 1
    assert found.action_horizons == (1, 3)
    assert "action_horizon in [1, 3], with expiry_s above 0.03 s to 0.05 s" in str(found)


def test_chunks_that_end_before_the_next_one_are_said_to_be_too_short() -> None:
    found = measured(52.0)
    assert found.delay_steps == 6
    assert found.action_horizons is None
    assert "train with policy.pred_horizon=12 or more" in str(found)


def test_percentiles_are_told() -> None:
    text = str(measured(*range(101)))
    assert text.startswith(
        "here: p50 50.00 ms, p95 95.00 ms, p99 99.00 ms, largest 100.00 ms of 101"
    )


def test_the_first_calls_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    calls = 0

    def infer() -> None:
        nonlocal calls
        calls += 1

    monkeypatch.setattr(response.time, "perf_counter", lambda: float(next(clock)))
    found = timed(infer, 3)
    assert found.tolist() == [1000.0] * 3
    assert calls == 13


def test_a_policy_is_measured_from_the_observation_to_the_whole_chunk() -> None:
    policy = Telling()
    assert example(policy)["state"].shape == (1,)
    found = of_policy(policy, {"execution": "realtime", "delay_steps": 2}, 5, "cpu")
    assert (found.place, found.rate_hz, found.pred_horizon) == ("cpu", 10.0, H)
    assert len(found.times_ms) == 5
    assert len(policy.settled) == 14  # all but the first chunk of an episode go on from one


def test_a_server_is_asked_for_what_it_says_that_it_needs() -> None:
    metadata: dict[str, Any] = {
        "features": {
            "observation/state": {"feature": "state", "shape": [3], "dtype": "float32"},
            "observation/image": {"feature": "front", "shape": [4, 5, 3], "dtype": "uint8"},
        },
        "action_horizon": 8,
        "rate_hz": 50.0,
    }
    request = request_for(metadata, "ws://here")
    assert request["observation/state"].dtype == np.float32
    assert request["observation/image"].shape == (4, 5, 3)
    del metadata["features"]
    with pytest.raises(ValueError, match=r"url=ws://here: the server does not say its features"):
        request_for(metadata, "ws://here")


def test_a_server_is_measured_with_all_that_lies_between() -> None:
    with running() as server:
        found = of_server(server.url, None, 5, 10.0)
    assert (found.place, found.rate_hz, found.pred_horizon) == (server.url, SPEC.rate_hz, HORIZON)
    assert len(found.times_ms) == 5
    (mind,) = server.minds
    assert len(mind.seen) == 15  # the warm-up is answered, too, and an empty request is not


def test_an_untrained_policy_is_measured_as_its_config_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = ["policy.dim=16", "policy.pred_horizon=8", "policy.head.num_layers=1"]
    words = "~policy.encoder.parts.language"
    config = compose_config("calls=3", words, *sizes, name="measure_latency")
    assert response.measure(config) in (0, 1)  # however slow this machine is
    assert "cpu: p50" in capsys.readouterr().out
