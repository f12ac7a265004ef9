"""From a config, or a checkpoint that holds one, to a policy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from embodied import checkpoint
from embodied.build import instantiate, read_stored
from embodied.checkpoint_files import Checkpoint, CheckpointError, load
from embodied.devices import choose_device
from embodied.heads.base import StudentHead
from embodied.policies.base import Policy
from embodied.resume import check_tensors
from embodied.structs import Spec

Config = Mapping[str, Any]

POLICY_PARTS = tuple(f"embodied.{part}.*" for part in ("policies", "encoders", "heads", "networks"))
"""What the config in a checkpoint may build: nothing that writes files or opens a simulator."""


def build_policy(config: Config, spec: Spec, extra_targets: Sequence[str] = ()) -> Policy:
    """An untrained policy, its weights drawn with the config's seed.

    Args:
        extra_targets: what the config may build besides `POLICY_PARTS`.
    """
    random.seed(config["seed"])
    torch.manual_seed(config["seed"])
    np.random.seed(config["seed"])
    policy: Policy = instantiate(
        config["policy"], spec=spec, allowed=POLICY_PARTS, extra_targets=extra_targets
    )
    return policy


def load_policy(
    path: Path, device: str = "auto", extra_targets: Sequence[str] = ()
) -> tuple[Policy, Checkpoint]:
    """The policy of a checkpoint, rebuilt from its own config, statistics and weights.

    Args:
        path: a run directory (its newest good checkpoint is taken) or one checkpoint.
    """
    found = _read(path)
    config, spec = read_stored(found.documents["config"]), Spec(**found.documents["spec"])
    policy = _rebuild(config, spec, found.tensors["policy"], extra_targets)
    return policy.to(choose_device(device)).eval(), found


def start_from(policy: Policy, path: Path) -> None:
    """Takes weights and statistics from a checkpoint of a policy that was built alike.

    A policy with a `StudentHead` may start from one whose head can be its teacher; all but that
    head is then frozen, since the teacher knows only what the rest told it.

    Args:
        path: as of `load_policy`.

    Raises CheckpointError with all the differences in names and shapes.
    """
    tensors = dict(_read(path).tensors["policy"])
    for name, part in policy.named_modules():
        if isinstance(part, StudentHead):
            tensors = _inherit(part, f"{name}.", tensors)
            _freeze_all_but(policy, f"{name}.")
    check_tensors(policy.state_dict(), tensors)
    policy.load_state_dict(tensors)


def _inherit(head: StudentHead, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A policy's tensors, with those of its head at `prefix` turned into this head's."""
    its = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
    others = {key: x for key, x in tensors.items() if not key.startswith(prefix)}
    return {**others, **{f"{prefix}{key}": x for key, x in head.inherit(its).items()}}


def _freeze_all_but(policy: Policy, prefix: str) -> None:
    for name, parameter in policy.named_parameters():
        if not name.startswith(prefix):
            parameter.requires_grad_(False)


def _read(path: Path) -> Checkpoint:
    run = path / "checkpoints"
    found = checkpoint.latest(run) if run.is_dir() else load(path)
    if found is None:
        raise CheckpointError(f"E_CKPT_MISSING: no checkpoint in {run}; train first")
    return found


def _rebuild(
    config: Config, spec: Spec, tensors: Mapping[str, Tensor], extra_targets: Sequence[str]
) -> Policy:
    policy = build_policy(config, spec, extra_targets)
    check_tensors(policy.state_dict(), tensors)
    policy.load_state_dict(dict(tensors))
    return policy


@dataclass(frozen=True)
class PackedPolicy:
    """A policy on its way to another process, which may run on another machine.

    It travels as a config and safetensors, like a checkpoint, so that building it runs no code of
    the sender's. Bytes and not a path: the other machine may not see the disk, and all processes
    get the very weights that the sender verified, whatever happens to its files meanwhile.
    """

    config: Config
    spec: Spec
    weights: bytes
    extra_targets: tuple[str, ...] = ()

    @classmethod
    def pack(
        cls, policy: Policy, config: Config, extra_targets: Sequence[str] = ()
    ) -> PackedPolicy:
        """The policy, given the config that it was built from."""
        plain = {name: config[name] for name in ("policy", "seed")}
        tensors = {name: x.detach().cpu().clone() for name, x in policy.state_dict().items()}
        weights = safetensors.torch.save(tensors)
        return cls(plain, policy.spec, weights, tuple(extra_targets))

    def unpack(self, device: str) -> Policy:
        """An equal policy on a device."""
        tensors = safetensors.torch.load(self.weights)
        policy = _rebuild(self.config, self.spec, tensors, self.extra_targets)
        return policy.to(choose_device(device)).eval()
