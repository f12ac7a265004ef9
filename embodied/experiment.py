"""From a composed configuration to a trained, evaluated, filmed and reported policy."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from embodied import checkpoint
from embodied.assessment import assess
from embodied.build import instantiate, read_stored, resolve
from embodied.data.windows import Windows
from embodied.devices import set_threads
from embodied.distributed import World, join
from embodied.loading import build_policy
from embodied.locks import RunLock
from embodied.loggers import JsonlLogger, Loggers
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.resume import check_resumable
from embodied.simulators import choose_backend
from embodied.sources import Offline
from embodied.stopwatch import Stopwatch
from embodied.structs import Condition, Episodes, Observation
from embodied.suites import NoExpertError, Suite, check_experts, rewordings
from embodied.trainer import Trainer

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]

HARMLESS = (
    "run_dir",
    "device",
    "threads",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "algorithm.strategy",
    "logger*",
    "env*",
    "eval.*",
    "shards",
    "launcher*",
    "video.*",
    "protocol.*",
    "probes*",
    "robustness*",
)
"""Config keys that may change between the start of a run and its resumption."""

_WAIT_S = 5.0


def main(config: Any) -> float | None:
    """What `python train.py` does after composing its configuration."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    result = train(config)
    if result is not None:
        print(f"results: {result}")
        success: float = json.loads(result.read_text())["success"]["mean"]
        return success
    return None


def train(config: Any) -> Path | None:
    """Collects data where they are missing, trains, evaluates, films and reports.

    Args:
        config: what `conf/config.yaml` composes to, as a mapping or a DictConfig.

    Returns:
        The path of `results.json`; None in processes other than the first.
    """
    plain = resolve(config)
    world = join(plain["device"])
    set_threads(plain["threads"])
    try:
        if not world.is_main:
            return _train(plain, world)
        with RunLock(Path(plain["run_dir"])):
            return _train(plain, world)
    finally:
        world.close()


def _train(config: Config, world: World) -> Path | None:
    run = Path(config["run_dir"])
    clock = Stopwatch(run / "wall_clock.json")
    extra = config.get("allow_targets", ())
    suite: Suite = instantiate(config["task"]["suite"], extra_targets=extra)
    check_config(config, suite)
    choose_backend(config, suite)
    with clock.phase("data", world):
        episodes = prepare_data(config, suite, world, extra)
        windows = Windows.load(
            episodes,
            label=config["task"]["label"],
            rewordings=rewordings(suite) if config["train"]["reword"] else None,
        )
    policy = build_policy(config, episodes.spec, extra).to(world.device)
    check_policy(config, policy, suite)
    trainer = make_trainer(config, policy, windows, world, episodes)
    trainer.resume()
    _describe(config, policy, windows, world)
    with clock.phase("train", world):
        trainer.run()
    trainer.logger.close()
    state = trainer.algorithm.inference_state()  # on all ranks, since each may hold a shard
    if not world.is_main:
        return None
    if world.size > 1:
        policy = build_policy(config, episodes.spec, extra).to(world.device)
    policy.load_state_dict(state)
    return assess(config, policy, suite, clock, fingerprint=episodes.fingerprint, run=run)


def prepare_data(
    config: Config, suite: Suite, world: World, extra_targets: Sequence[str] = ()
) -> Episodes:
    """The task's episodes; collects them first where they are missing or incomplete."""
    task = config["task"]
    if world.is_main and task.get("collect"):
        _collect(instantiate(task["collect"], extra_targets=extra_targets), suite)
    world.barrier()
    try:
        episodes: Episodes = instantiate(task["episodes"], extra_targets=extra_targets)
    except ValueError as error:
        raise ValueError(f"{error}{_why_not_collected(suite)}") from error
    return episodes


def _why_not_collected(suite: Suite) -> str:
    try:
        check_experts(suite)
    except NoExpertError as error:
        return f". {error}"
    return ""


def _collect(collect: Callable[[Suite], object], suite: Suite) -> None:
    while True:
        try:
            collect(suite)
            return
        except BlockingIOError as error:  # another job of a sweep records the same data
            logger.info("waiting: %s", error)
            time.sleep(_WAIT_S)


def make_trainer(
    config: Config, policy: Policy, windows: Windows, world: World, episodes: Episodes
) -> Trainer:
    """Fits the normalisers and wires policy, algorithm, source and loggers."""
    state, action = windows.columns["state"], windows.columns["action"]
    policy.fit_normalizers(
        Observation(state=state[:, None].to(world.device)),
        Condition(language=windows.texts),
        action.to(world.device),
    )
    run, settings = Path(config["run_dir"]), config["train"]
    documents = {
        "config": config,
        "spec": asdict(episodes.spec),
        "data": {"fingerprint": episodes.fingerprint},
    }
    check_same_run(run / "checkpoints", documents)
    algorithm = instantiate(config["algorithm"])(
        policy, world=world, steps=settings["steps"], seed=config["seed"]
    )
    source = Offline(
        windows.to(world.device),
        batch_size=settings["batch_size"],
        obs_horizon=policy.obs_horizon,
        pred_horizon=policy.pred_horizon,
        seed=config["seed"],
    ).split(world.rank, world.size)
    others = [instantiate(config["logger"])(dir=run)] if config["logger"] and world.is_main else []
    jsonl = JsonlLogger(run / "metrics.jsonl" if world.is_main else Path(os.devnull))
    return Trainer(
        algorithm=algorithm,
        source=source,
        world=world,
        logger=Loggers(jsonl, *others),
        directory=run / "checkpoints",
        documents=documents,
        steps=settings["steps"],
        save_every=settings["save_every"],
        log_every=settings["log_every"],
        keep=settings["keep"],
    )


def check_same_run(directory: Path, documents: Config) -> None:
    """Refuses to resume with other data or another config; shows harmless differences."""
    found = checkpoint.latest(directory)
    if found is None:
        return
    saved = read_stored(found.documents["config"])
    for line in check_resumable(saved, documents["config"], harmless=HARMLESS):
        logger.info("changed since the run began: %s", line)
    if found.documents["data"] != documents["data"]:
        raise checkpoint.ConfigMismatch(
            f"E_DATA_CHANGED: this run was trained on data {found.documents['data']}, now "
            f"{documents['data']}; restore the data, or choose another run_dir"
        )


def _describe(config: Config, policy: Policy, windows: Windows, world: World) -> None:
    if not world.is_main:
        return
    count = sum(p.numel() for p in policy.parameters())
    logger.info(
        "torch %s on %s x %d, %d threads | %s parameters | %s frames, %d instructions",
        torch.__version__,
        world.device,
        world.size,
        torch.get_num_threads(),
        f"{count:,}",
        f"{len(windows):,}",
        len(windows.texts),
    )
    shapes = {name: tuple(x.shape[1:]) for name, x in windows.columns.items()}
    logger.info("a frame: %s | run: %s", shapes, config["run_dir"])
