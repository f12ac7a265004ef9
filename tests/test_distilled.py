"""Distillation: the student's boundary, the teacher's step, and one step like the teacher's ten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import embodied
from embodied import checkpoint
from embodied.checkpoint_files import CheckpointError
from embodied.heads.distilled import DistilledHead
from embodied.heads.edm import EDMHead
from embodied.noise import BatchNoise
from embodied.testing import check_head
from tests.lessons import teach_two

SIZES: dict[str, Any] = {
    "action_dim": 1,
    "pred_horizon": 2,
    "num_tokens": 2,
    "dim": 16,
    "num_layers": 1,
    "sigma_max": 5.0,
}


def make_head(seed: int = 0, **kwargs: Any) -> DistilledHead:
    torch.manual_seed(seed)
    return DistilledHead(**{**SIZES, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def test_at_the_least_noise_the_student_returns_its_input() -> None:
    head, x = make_head().requires_grad_(False), torch.randn(4, 2, 1)
    memories = head.student.trunk.remember(torch.randn(4, 2, 16))
    found = head.consistent(x, torch.full((4,), head.student.sigma_min), memories)
    torch.testing.assert_close(found, x)


def test_before_it_learns_the_student_is_nearly_the_teachers_denoiser() -> None:
    head, x = make_head().requires_grad_(False), torch.randn(4, 2, 1)
    context, sigma = torch.randn(4, 2, 16), torch.full((4,), 3.0)
    found = head.consistent(x, sigma, head.student.trunk.remember(context))
    expected = head.teacher.denoise(x, sigma, head.teacher.trunk.remember(context))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_the_teacher_steps_as_heuns_method_does(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head()
    monkeypatch.setattr(head.teacher, "denoise", lambda x, sigma, memories: 0.5 * x + sigma[0])
    # From x = 4 at sigma = 2: D = 4, so the slope is 0 and Euler ends at 4 at sigma = 1, where
    # D = 3 and the slope 1. The mean slope is 1/2, over a step of -1.
    x, sigma = torch.full((3, 2, 1), 4.0), torch.full((3,), 2.0)
    found = head.teach(x, sigma, sigma / 2, torch.zeros(3, 2, 16))
    torch.testing.assert_close(found, torch.full((3, 2, 1), 3.5))


def test_only_the_student_learns() -> None:
    head = make_head()
    loss = head.loss(torch.randn(8, 2, 16), torch.rand(8, 2, 1), noise=noise())
    loss.mean().backward()  # type: ignore[no-untyped-call]
    assert {n.split(".")[0] for n, p in head.named_parameters() if p.grad is not None} == {
        "student"
    }


def test_a_head_of_the_same_kind_is_inherited_as_it_is() -> None:
    first, second = make_head(0), make_head(1)
    second.load_state_dict(second.inherit(first.state_dict()))
    assert all(x.equal(second.state_dict()[name]) for name, x in first.state_dict().items())


def test_one_step_of_the_student_is_more_like_ten_of_the_teacher_than_its_own_one() -> None:
    torch.manual_seed(0)
    teacher = EDMHead(**SIZES, num_steps=10)
    teach_two(teacher, 2, steps=150, rows=32)
    head = make_head(num_levels=10)
    head.load_state_dict(head.inherit(teacher.state_dict()))
    teach_two(head, 2, steps=80, learning_rate=2e-3, rows=32)
    once = EDMHead(**SIZES, num_steps=1)
    once.load_state_dict(teacher.state_dict())
    context = torch.zeros(400, 2, 16)
    with torch.no_grad():
        ten, one, student = (h.sample(context, noise=noise(9)) for h in (teacher, once, head))
    assert (student - ten).abs().mean() < 0.6 * (one - ten).abs().mean()
    assert 0.3 < float((student[:, 0] > 0).float().mean()) < 0.7
    assert one.abs().mean() < 0.3 < student.abs().mean()  # the mean of the modes, and modes


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_head_keeps_the_contract(num_steps: int) -> None:
    head = make_head(num_steps=num_steps, num_levels=5, action_dim=2)
    check_head(head, torch.randn(5, 2, 16), torch.rand(5, 2, 2) * 2 - 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ({"num_steps": 0}, r"num_steps must lie in \[1, 17\], got 0"),
        ({"num_steps": 18}, r"num_steps must lie in \[1, 17\], got 18"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)


# Whole runs

Compose = Callable[..., dict[str, Any]]


def saved(run: Path) -> dict[str, Tensor]:
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    return dict(found.tensors["policy"])


@pytest.fixture(scope="module")
def teacher_run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    embodied.train(compose(run, "seed=3"))
    return run


def test_one_command_distils_a_run(teacher_run: Path, compose: Compose, tmp_path: Path) -> None:
    """The student starts from the teacher and alone changes."""
    embodied.train(compose(tmp_path, "head=distilled", f"init_from={teacher_run}"))
    before, after = saved(teacher_run), saved(tmp_path)
    rest = {name: x for name, x in before.items() if not name.startswith("head.")}
    assert all(torch.equal(x, after[name]) for name, x in rest.items())
    for name in before.keys() - rest.keys():
        own = name.removeprefix("head.")
        assert torch.equal(before[name], after[f"head.teacher.{own}"])
        assert not torch.equal(before[name], after[f"head.student.{own}"])


def test_a_teacher_of_another_size_is_refused(
    teacher_run: Path, compose: Compose, tmp_path: Path
) -> None:
    config = compose(
        tmp_path, "head=distilled", "policy.head.num_layers=2", f"init_from={teacher_run}"
    )
    with pytest.raises(CheckpointError, match=r"saved tensors do not fit(.|\n)*missing"):
        embodied.train(config)
