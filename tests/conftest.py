"""What many tests share: a whole run in a second or two, and a tiny policy without one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from embodied.build import instantiate, resolve
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.language import LanguageEncoder, SentenceEncoder
from embodied.encoders.observation import StateEncoder
from embodied.heads.edm import EDMHead
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Condition, Observation, Spec

torch.set_num_threads(1)
_cache = tempfile.TemporaryDirectory(prefix="embodied-")
os.environ.setdefault("EMBODIED_CACHE", _cache.name)  # the user's own stays as it is
settings.register_profile("patient", deadline=None)  # the first example pays for lazy imports
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
SERIAL = (
    "device=cpu",
    "threads=1",
    "+task.collect.workers=1",
    "+task.collect.progress=false",
    "protocol.goals_per_task=1",
    "env.num_envs=4",
    "env.workers=0",
    "eval.inference_batch=4",
    "video.per_task=0",
)
NARROW = ("policy.dim=16", "policy.head.num_layers=1", "policy.head.num_heads=2")
SMALL = (*SERIAL, *NARROW)
"""What makes a recipe of any task small, and keeps it in one process."""

POINT = (
    "task=point",
    *SERIAL,
    "task.collect.episodes_per_task=3",
    "train.steps=6",
    "train.batch_size=16",
    "train.save_every=2",
    "train.log_every=1",
    "protocol.max_steps=10",
    "~probes",
)
IMITATING = (
    *NARROW,
    "~policy.encoder.parts.language",  # the sentence encoder takes seconds to import
    "algorithm.precision=fp32",
    "algorithm.warmup_steps=2",
)
TINY = (*POINT, *IMITATING)
REWARDED = (
    "~policy.dim",
    "~policy.encoder",
    "~policy.head",
    "policy.hidden=[8]",
    "algorithm.critic_hidden=[8]",
)

MOTIONS = (
    *SMALL,
    "shards=1",
    "task.collect.episodes_per_task=1",
    "train.steps=2",
    "train.batch_size=4",
    "protocol.max_steps=4",
    "probes.held_out.goals_per_task=1",
    "probes.held_out.max_steps=4",
)
"""A recipe of the world of motions, run through."""

Compose = Callable[..., dict[str, Any]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def compose_config(*overrides: str, name: str = "config") -> dict[str, Any]:
    """What the command line composes to, resolved."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return resolve(hydra.compose(name, list(overrides)))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of a run on demonstrations that are recorded once for the whole session."""
    overrides = (*POINT, f"data_dir={tmp_path_factory.mktemp('data')}")
    task = compose_config(*overrides, "run_dir=unused")["task"]
    instantiate(task["collect"])(instantiate(task["suite"]))
    return overrides


@pytest.fixture(scope="session")
def tiny(small: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of a tiny run that imitates."""
    return (*IMITATING, *small)


@pytest.fixture(scope="session")
def compose(tiny: tuple[str, ...]) -> Compose:
    """compose(run_dir, *overrides): the resolved config of a tiny run."""

    def composed(run_dir: Path, *overrides: str) -> dict[str, Any]:
        return compose_config(*tiny, f"run_dir={run_dir}", *overrides)

    return composed


@pytest.fixture(scope="session")
def compose_rewarded(small: tuple[str, ...]) -> Compose:
    """compose_rewarded(run_dir, "algorithm=...", *overrides): of one that learns from rewards."""

    def composed(run_dir: Path, *overrides: str) -> dict[str, Any]:
        return compose_config(*small, f"run_dir={run_dir}", *overrides, *REWARDED)

    return composed


@pytest.fixture(scope="session")
def command() -> Run:
    """command("train.py", *arguments): the finished process, its output as text."""

    def run(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            **options,
        )

    return run


def encode_by_string(self: SentenceEncoder, texts: Sequence[str]) -> Tensor:
    """Embeddings (8,) that depend on the string alone, without loading a language model."""
    seeds = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
    return torch.stack([torch.randn(8, generator=seed) for seed in seeds])


@pytest.fixture
def fake_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences are encoded by `encode_by_string`."""
    monkeypatch.setattr(SentenceEncoder, "_encode", encode_by_string)


@pytest.fixture
def make_policy(fake_language: None) -> Callable[..., ChunkPolicy]:
    """Builds small fitted policies for the point world; equal weights for equal arguments."""

    def make(
        *, obs_horizon: int = 1, pred_horizon: int = 4, dim: int = 16, seed: int = 0
    ) -> ChunkPolicy:
        torch.manual_seed(seed)
        policy = ChunkPolicy(
            spec=Spec(10, 2, (-1.0, -1.0), (1.0, 1.0), 10.0),
            encoder=functools.partial(
                TokenEncoder, {"language": LanguageEncoder, "state": StateEncoder}
            ),
            head=functools.partial(EDMHead, num_layers=1, num_heads=2),
            obs_horizon=obs_horizon,
            pred_horizon=pred_horizon,
            dim=dim,
        )
        policy.fit_normalizers(
            Observation(state=torch.rand(64, 1, 10) * 2 - 1),
            Condition(language=("go to the red pad", "go to the blue pad", "stop")),
            torch.tensor([[-1.0, -1.0], [1.0, 1.0]]),
        )
        return policy

    return make
