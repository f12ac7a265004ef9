"""From a config, or a checkpoint that holds one, to a policy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied import checkpoint
from embodied.build import instantiate, read_stored
from embodied.distributed import choose_device
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
) -> tuple[Policy, checkpoint.Checkpoint]:
    """The policy of a checkpoint, rebuilt from its own config, statistics and weights.

    Args:
        path: a run directory (its newest good checkpoint is taken) or one checkpoint.
    """
    run = path / "checkpoints"
    found = checkpoint.latest(run) if run.is_dir() else checkpoint.load(path)
    if found is None:
        raise checkpoint.CheckpointError(f"E_CKPT_MISSING: no checkpoint in {run}; train first")
    config = read_stored(found.documents["config"])
    policy = build_policy(config, Spec(**found.documents["spec"]), extra_targets)
    check_tensors(policy.state_dict(), found.tensors["policy"])
    policy.load_state_dict(dict(found.tensors["policy"]))
    return policy.to(choose_device(device)).eval(), found
