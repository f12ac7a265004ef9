"""Training and acting of the shipped policy against the settings that other frameworks ship.

    python -m scripts.bench.reference [--rounds 5] [--seconds 10]

Their settings are `REFERENCES`: form and size of the network, batch size, steps of sampling, steps
executed. The networks are built here, of the same form and nearly the same size, so that what is
compared is what a user gets who keeps the defaults. For each, "their loop" trains as they do: a
map-style data set through `DataLoader`, AdamW in its default form, diffusers' schedule and averaged
weights, the loss read at every step; "our loop" trains the same network with the same batches, and
tells what of the difference is not the network's. Data are white noise in Meta-World's sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from embodied.data.windows import Windows
from embodied.noise import BatchNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.sources import Offline
from embodied.structs import Batch
from scripts.bench._common import Case, Report, arguments, measure, rate_rows
from scripts.bench._setup import Items, RandomEpisodes, fitted_policy, item_batches, shipped_config
from scripts.bench._ways import eager
from scripts.bench.train import trained

LIMIT = (
    "the matrix products: a setting costs about what its network, times its batch or its steps of "
    "sampling, costs, and the loop around it decides only where the network is small."
)


@dataclass(frozen=True)
class Setting:
    """What a framework ships for low-dimensional states.

    Args:
        overrides: of the default configuration, which give the network.
        batch_size: windows of a training step.
        executed: actions of a chunk that are executed before the next one is asked for.
    """

    name: str
    overrides: tuple[str, ...]
    batch_size: int
    executed: int


_UNET = (
    "head=ddpm_unet",
    "policy.head.network.widths=[1,2,4]",
    "policy.head.num_steps=100",
    "policy.head.eta=1",
    "policy.obs_horizon=2",
)
REFERENCES = (
    # github.com/real-stanford/diffusion_policy, train_diffusion_unet_lowdim_workspace.yaml
    Setting("Diffusion Policy", (*_UNET, "policy.dim=256", "policy.pred_horizon=16"), 256, 8),
    # github.com/huggingface/lerobot, 0.6.1: DiffusionConfig and ACTConfig, and its batch size
    Setting("LeRobot diffusion", (*_UNET, "policy.dim=512", "policy.pred_horizon=64"), 8, 32),
    Setting(
        "LeRobot ACT",
        (
            "head=act",
            "policy.dim=512",
            "policy.pred_horizon=100",
            "policy.head.num_layers=4",
            "policy.head.num_heads=8",
            "policy.head.dropout=0.1",
            "policy.head.patch=1",
        ),
        8,
        100,
    ),
)


def their_loop(name: str, policy: ChunkPolicy, batches: Iterator[Batch], size: int) -> Case:
    """A training loop as such frameworks have it."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, weight_decay=1e-6)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10**6)
    average = EMAModel(policy.parameters(), power=0.75)
    noise = BatchNoise(torch.Generator().manual_seed(0))

    def run() -> float:
        loss, _ = policy.loss(next(batches), noise=noise)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        average.step(policy.parameters())
        loss.item()  # a metric of every step
        return float(size)

    return Case(name, run)


def acting(name: str, policy: ChunkPolicy, executed: int) -> Case:
    """Chunks at batch 1, in actions that are executed."""
    act = eager(policy.eval())

    def run() -> float:
        act()
        return float(executed)

    return Case(name, run)


def settings(extra: Sequence[str]) -> Iterator[tuple[Setting, dict[str, Any]]]:
    """Each with its configuration; the shipped one last."""
    for each in REFERENCES:
        yield each, shipped_config([*each.overrides, *extra])
    shipped = shipped_config(extra)
    size, executed = shipped["train"]["batch_size"], shipped["eval"]["action_horizon"]
    yield Setting("shipped", (), size, executed), shipped


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("reference", __doc__ or "")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each visit")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--set", nargs="*", default=[], help="overrides of all settings")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("reference", options)
    episodes = RandomEpisodes(options.frames)
    windows = Windows.load(episodes, label="action")
    training, policies = [], []
    for setting, config in settings(options.set):
        policy = fitted_policy(config, windows, episodes.spec)
        count = sum(p.numel() for p in policy.parameters()) / 1e6
        horizons = {"obs_horizon": policy.obs_horizon, "pred_horizon": policy.pred_horizon}
        if setting.overrides:
            items = item_batches(Items(windows, **horizons), setting.batch_size)
            name = f"{setting.name}, their loop"
            training.append(their_loop(name, policy, items, setting.batch_size))
        source = Offline(windows, batch_size=setting.batch_size, **horizons)
        ours = trained(f"{setting.name}, our loop", policy, config["algorithm"], source)
        training.append(_in_samples(ours, setting.batch_size))
        policies.append((f"{setting.name}, {count:.1f} M", policy, setting.executed))
    rates = measure(training, rounds=options.rounds, seconds=options.seconds)
    report.add("Training", rate_rows(rates, "samples"), rates)
    playing = [acting(*each) for each in policies]
    rates = measure(playing, rounds=options.rounds, seconds=options.seconds)
    report.add("Acting for one robot, in executed actions", rate_rows(rates, "actions"), rates)
    report.close(LIMIT)


def _in_samples(case: Case, size: int) -> Case:
    return Case(case.name, lambda: case.run() * size)


if __name__ == "__main__":
    main()
