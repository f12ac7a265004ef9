"""From a composed configuration to a trained, evaluated, filmed and reported policy."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from embodied import checkpoint
from embodied.build import instantiate, read_stored, resolve
from embodied.dataset_task import DatasetTask
from embodied.devices import set_threads
from embodied.distributed import World, join
from embodied.early_stop import EarlyStop
from embodied.group_task import GroupTask
from embodied.hindsight_task import HindsightTask
from embodied.loading import build_policy, start_from
from embodied.locks import RunLock
from embodied.loggers import JsonlLogger, Loggers
from embodied.on_policy_task import OnPolicyTask
from embodied.policies.base import Policy
from embodied.preference_task import ComparedTask, PreferenceTask
from embodied.queried_task import QueriedTask
from embodied.resume import check_resumable
from embodied.rewarded_task import RewardedTask
from embodied.seeds import train_seeds
from embodied.stopwatch import Stopwatch
from embodied.suite_task import SuiteTask
from embodied.targets import ConfigError, check
from embodied.tasks import Task, TrainingData
from embodied.trainer import Trainer

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]

HARMLESS = (
    "run_dir",
    "num_seeds",
    "device",
    "threads",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "algorithm.strategy",
    "source.placement",
    "source.*_bytes",
    "logger*",
    "env*",
    "eval.*",
    "shards",
    "launcher*",
    "video.*",
    "protocol.*",
    "probes*",
    "retrieval*",
    "robustness*",
)
"""Config keys that may change between the start of a run and its resumption."""

KINDS: Mapping[str, tuple[Callable[[Config], Task], Callable[[Config], Task] | None]] = {
    "episodes": (SuiteTask, DatasetTask),
    "rewards": (RewardedTask, None),
    "hindsight": (HindsightTask, None),
    "on_policy": (OnPolicyTask, None),
    "groups": (GroupTask, None),
    "comparisons": (PreferenceTask, ComparedTask),
    "queries": (QueriedTask, None),
}
"""What a source's data are -> the task with a suite to act in, and that of recorded data alone."""


def main(config: Any) -> float | None:
    """What `python train.py` does after composing its configuration.

    Returns:
        What a sweep optimises: the success rate, or the open-loop error of a task of recorded data.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    result = train(config)
    if result is not None:
        print(f"results: {result}")
        found = json.loads(result.read_text())
        figure: float = found["success" if "success" in found else "error"]["mean"]
        return figure
    return None


def train(config: Any) -> Path | None:
    """Gets the task's data, trains, and judges and reports as the task does.

    Args:
        config: what `conf/config.yaml` composes to, as a mapping or a DictConfig.

    Returns:
        The path of `results.json`, with `num_seeds` the first seed's; None in processes other than
        the first.
    """
    plain = resolve(config)
    world = join(plain["device"])
    set_threads(plain["threads"])
    configs = seeds_of(plain) if plain.get("num_seeds", 1) > 1 else [plain]
    try:
        with contextlib.ExitStack() as locks:
            for each in configs if world.is_main else ():
                locks.enter_context(RunLock(Path(each["run_dir"])))
            return _train(configs, world)
    finally:
        world.close()


def seeds_of(config: Config) -> list[Config]:
    """The ordinary runs that a config with `num_seeds` stands for."""
    seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    run = Path(config["run_dir"])
    return [
        {**config, "num_seeds": 1, "seed": seed, "run_dir": str(run / f"seed-{seed}")}
        for seed in seeds
    ]


@dataclass
class _Run:
    """A run that is ready to be trained."""

    config: Config
    task: Task
    data: TrainingData
    policy: Policy
    trainer: Trainer
    clock: Stopwatch

    @classmethod
    def ready(cls, config: Config, world: World) -> _Run:
        """Checks, loads and builds everything, and takes up the newest checkpoint."""
        clock = Stopwatch(Path(config["run_dir"]) / "wall_clock.json")
        task = make_task(config)
        task.check()
        check(config, extra_targets=config.get("allow_targets", ()))  # before data are recorded
        with clock.phase("data", world):
            data = task.load(world)
        policy = build_policy(config, data.spec, config.get("allow_targets", ())).to(world.device)
        task.check_policy(policy)
        trainer = make_trainer(config, policy, data, world)
        trainer.resume()
        _describe(config, policy, data, world)
        return cls(config, task, data, policy, trainer, clock)

    def judge(self, world: World) -> Path | None:
        """The path of the results; None in processes other than the first."""
        self.trainer.logger.close()
        state = self.trainer.chosen_state()  # on all ranks, since each may hold a shard
        if not world.is_main:
            return None
        policy = self.policy
        if world.size > 1:
            extra = self.config.get("allow_targets", ())
            policy = build_policy(self.config, self.data.spec, extra).to(world.device)
        policy.load_state_dict(state)
        return self.task.assess(policy, self.data.fingerprint, self.clock)


def _train(configs: Sequence[Config], world: World) -> Path | None:
    """Trains one run, or several seeds of one together, and judges each."""
    runs = [_Run.ready(each, world) for each in configs]
    first = runs[0]
    with first.clock.phase("train", world), contextlib.ExitStack() as stack:
        for each in runs:
            stack.enter_context(contextlib.closing(each.trainer.source))
        if world.is_main and first.config["eval"]["every"]:
            exam = stack.enter_context(contextlib.closing(first.task.curve()))
            for each in runs:
                each.trainer.exam = exam
        if len(runs) == 1:
            first.trainer.run()
        else:
            train_seeds([each.trainer for each in runs])
    results = [each.judge(world) for each in runs]
    return results[0]


def make_task(config: Config) -> Task:
    """What `source.kind` makes of a task with a suite to act in, or of recorded data alone."""
    kind = config["source"]["kind"]
    if kind not in KINDS:
        raise ConfigError(f"E_CONFIG_VALUE: source.kind must be one of {list(KINDS)}, got {kind!r}")
    acting, recorded = KINDS[kind]
    if "suite" in config["task"]:
        return acting(config)
    if recorded is None:
        raise ConfigError(
            f"E_CONFIG_VALUE: a source of {kind} acts in a simulator, which this task has not: "
            "choose another task, or source=offline"
        )
    return recorded(config)


def make_trainer(config: Config, policy: Policy, data: TrainingData, world: World) -> Trainer:
    """Fits the normalisers and wires policy, algorithm, source and loggers."""
    if config["init_from"]:
        base = policy.base()
        if base is not policy:  # only a part of it has been trained
            data.fit(policy, world)
        start_from(base, Path(config["init_from"]))
        data.extend(policy)
    else:
        data.fit(policy, world)
    run, settings = Path(config["run_dir"]), config["train"]
    documents = {
        "config": config,
        "spec": asdict(data.spec),
        "data": {"fingerprint": data.fingerprint},
    }
    check_same_run(run / "checkpoints", documents)
    algorithm = instantiate(config["algorithm"])(
        policy, world=world, steps=settings["steps"], seed=config["seed"]
    )
    if config.get("reward_learning"):
        algorithm = instantiate(config["reward_learning"])(algorithm, seed=config["seed"])
    others = [instantiate(config["logger"])(dir=run)] if config["logger"] and world.is_main else []
    source = data.source(policy, world)
    source.meet(algorithm)
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
        exam_every=config["eval"]["every"],
        early_stop=_early_stop(config, world),
    )


def _early_stop(config: Config, world: World) -> EarlyStop | None:
    node = config["train"].get("early_stop")
    if node is None:
        return None
    if not config["eval"]["every"] or world.size > 1:
        raise ConfigError(
            "E_CONFIG_VALUE: train.early_stop goes by short evaluations in one process: set "
            "eval.every, and start it without torchrun"
        )
    return EarlyStop(**{name: x for name, x in node.items() if name != "benchmark_seed"})


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


def _describe(config: Config, policy: Policy, data: TrainingData, world: World) -> None:
    if not world.is_main:
        return
    count = sum(p.numel() for p in policy.parameters())
    logger.info(
        "torch %s on %s x %d, %d threads | %s parameters | %s | run: %s",
        torch.__version__,
        world.device,
        world.size,
        torch.get_num_threads(),
        f"{count:,}",
        data.describe(),
        config["run_dir"],
    )
