"""From a composed configuration to a trained, evaluated, filmed and reported policy."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodied import checkpoint, films, robustness
from embodied.build import instantiate, read_stored, resolve
from embodied.data.windows import Windows
from embodied.distributed import World, choose_device, join
from embodied.evaluation import evaluate as run_episodes
from embodied.locks import RunLock
from embodied.loggers import JsonlLogger, Loggers, read_jsonl
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.protocols import Protocol, other_task
from embodied.report import Video, write_report
from embodied.results import RESULTS_FILE, Evaluation, versions, write_atomically, write_results
from embodied.resume import check_resumable, check_tensors
from embodied.rollout import Actor, Controller, ExpertActor
from embodied.sources import Offline
from embodied.structs import Condition, Episodes, Observation, Spec
from embodied.suites import Assignment, Suite, has_experts, rewordings
from embodied.trainer import Trainer

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]

POLICY_PARTS = tuple(f"embodied.{part}.*" for part in ("policies", "encoders", "heads", "networks"))
"""What the config in a checkpoint may build: nothing that writes files or opens a simulator."""

HARMLESS = (
    "run_dir",
    "device",
    "threads",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "algorithm.strategy",
    "logger*",
    "eval.*",
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
    set_threads(plain["threads"], world)
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
    episodes: Episodes = instantiate(task["episodes"], extra_targets=extra_targets)
    return episodes


def _collect(collect: Callable[[Suite], object], suite: Suite) -> None:
    while True:
        try:
            collect(suite)
            return
        except BlockingIOError as error:  # another job of a sweep records the same data
            logger.info("waiting: %s", error)
            time.sleep(_WAIT_S)


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


def assess(
    config: Config,
    policy: Policy,
    suite: Suite,
    clock: Stopwatch,
    *,
    run: Path,
    fingerprint: str | None = None,
    source: str | None = None,
) -> Path:
    """Evaluates by the protocol and its probes, films, and writes results and report to `run`."""
    settings = config["eval"]
    protocol: Protocol = instantiate(config["protocol"])

    def make_actor(envs: Any) -> Actor:
        return Controller(
            policy,
            envs.num_envs,
            action_horizon=settings["action_horizon"],
            inference_batch=settings["inference_batch"],
        )

    with open_envs(suite, settings) as envs, clock.phase("evaluate"):
        main_evaluation = judge(make_actor, envs, suite, protocol, "evaluate")
        probes = {
            name: judge(make_actor, envs, suite, instantiate(node), name)
            for name, node in config.get("probes", {}).items()
        }
        probes |= obeying_experts(envs, suite, config, probes)
    if config.get("robustness"):
        with clock.phase("robustness"):
            probes |= perturbed(config, make_actor, suite, protocol)
    evaluation = replace(
        main_evaluation,
        checkpoint=source or str(run / "checkpoints"),
        probes=probes,
        versions=versions(),
        fingerprint=fingerprint,
        config=dict(config),
        seed=config["seed"],
    )
    write_results(run / RESULTS_FILE, evaluation)  # before films, which take long and may fail
    with clock.phase("film"):
        videos, problem = make_films(config, evaluation, suite, protocol, make_actor, run)
    metrics = run / "metrics.jsonl"
    reference = probes.get("other_instruction_expert")
    write_report(
        run / "report.html",
        title=f"{suite.name}: {protocol.name}",
        evaluation=evaluation,
        curves=read_jsonl(metrics) if metrics.exists() else [],
        videos=videos,
        no_videos=problem,
        wall_clock=clock.seconds,
        chance=reference.success().mean if reference else None,
    )
    for name, figures in {protocol.name: evaluation, **probes}.items():
        rate = figures.success()
        print(
            f"{name}: {rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}] n={len(figures.valid)}"
            f"{_cost(figures, evaluation)}{_metrics(figures)}"
        )
    print(f"report: {run / 'report.html'}")
    return run / RESULTS_FILE


def _metrics(figures: Evaluation) -> str:
    found = figures.metrics().items()
    return "".join(f", {name} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in found)


def _cost(figures: Evaluation, base: Evaluation) -> str:
    if not figures.perturbation:
        return ""
    change = figures.difference_from(base)
    return f", {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}] by {figures.perturbation}"


def perturbed(
    config: Config, make_actor: Callable[[Any], Actor], suite: Suite, protocol: Protocol
) -> dict[str, Evaluation]:
    """The protocol's episodes again in each arm of `robustness`."""
    found = {}
    for name, perturbation in robustness.arms(config).items():
        harder, arm = perturbation.perturb(suite), robustness.perturb(protocol, perturbation)
        with open_envs(harder, config["eval"]) as envs:
            evaluation = judge(make_actor, envs, harder, arm, name)
        found[name] = replace(evaluation, perturbation=perturbation.label)
    return found


def judge(
    make_actor: Callable[[Any], Actor],
    envs: Any,
    suite: Suite,
    protocol: Protocol,
    description: str,
) -> Evaluation:
    """One protocol's episodes, acted and counted."""
    start = time.monotonic()
    outcomes = run_episodes(
        make_actor(envs),
        envs,
        protocol.assignments(suite),
        max_steps=protocol.max_steps,
        success=protocol.success,
        description=description,
    )
    return Evaluation(
        protocol=protocol.name,
        checkpoint=None,
        outcomes=outcomes,
        wall_s=time.monotonic() - start,
        seed=protocol.benchmark_seed,
    )


def obeying_experts(
    envs: Any, suite: Suite, config: Config, probes: Mapping[str, Evaluation]
) -> dict[str, Evaluation]:
    """What the other task's scripted expert gets in each scene: the chance level of obedience.

    Some tasks solve one another (who pushes a puck to a goal has also reached it), so the rate of
    a policy that does as it is told is not zero when it is told another task. Where the suite has
    no experts the chance level stays unknown.
    """
    found = {}
    for name, node in config.get("probes", {}).items() if has_experts(suite) else ():
        protocol: Protocol = instantiate(node)
        if protocol.wording == "other":

            def expert(assignment: Assignment) -> Any:
                task = other_task(suite, assignment.task, assignment.goal)
                return suite.expert(task, seed=assignment.seed)

            width = envs.single_action_space.shape[0]
            found[f"{name}_expert"] = judge(
                lambda envs, expert=expert, width=width: ExpertActor(  # type: ignore[misc]
                    expert, envs.num_envs, action_dim=width
                ),
                envs,
                suite,
                replace(protocol, name=f"{protocol.name}-expert"),
                f"{name} (expert)",
            )
    return found


def make_films(
    config: Config,
    evaluation: Evaluation,
    suite: Suite,
    protocol: Protocol,
    make_actor: Callable[[Any], Actor],
    run: Path,
) -> tuple[list[Video], str]:
    """Films, or none and the reason why."""
    settings = config["video"]
    chosen = films.choose(evaluation, settings["per_task"])
    if not chosen:
        return [], "video.per_task is 0"
    try:
        with open_envs(suite, config["eval"], render_size=tuple(settings["size"])) as envs:
            videos = films.film(
                chosen,
                make_actor=make_actor,
                envs=envs,
                folder=run / "videos",
                max_steps=protocol.max_steps,
                success=protocol.success,
                every=settings["every"],
                rate_hz=suite.rate_hz,
            )
    except (ImportError, RuntimeError) as error:  # no renderer or no encoder: results still count
        logger.warning("no films: %s", error)
        return [], str(error)
    return videos, ""


@contextmanager
def open_envs(
    suite: Suite, settings: Config, render_size: tuple[int, int] | None = None
) -> Iterator[Any]:
    """Vector environments over the suite, closed at the end."""
    workers = settings["workers"]
    envs = instantiate(
        {"_target_": "embodied_envs.vector.make_vec"},
        suite=suite,
        num_envs=settings["num_envs"],
        workers=available_cores() if workers is None else workers,
        render_size=render_size,
    )
    try:
        yield envs
    finally:
        envs.close()


class Stopwatch:
    """Seconds spent in each phase, added up over resumed runs in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def phase(self, name: str, world: World | None = None) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            if world is None or world.is_main:
                write_atomically(self.path, json.dumps(self.seconds))


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int | None, world: World) -> None:
    """Gives each process on this machine its share of the cores."""
    share = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads or share)


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


def evaluate(config: Any) -> Path:
    """What `python scripts/evaluate.py` does: a checkpoint by a named protocol."""
    plain = resolve(config)
    set_threads(plain["threads"], World(0, 1, torch.device("cpu")))
    policy, found = load_policy(
        Path(plain["checkpoint"]), plain["device"], plain.get("allow_targets", ())
    )
    stored = found.documents["config"]
    suite: Suite = instantiate(plain["suite"] or read_stored(stored)["task"]["suite"])
    settings = dict(plain["eval"])
    settings["action_horizon"] = settings["action_horizon"] or stored["eval"]["action_horizon"]
    asked = {name: plain.get(name, {}) for name in ("probes", "robustness")}
    settled = {**stored, **plain, "eval": settings, **asked}
    check_config(settled, suite)
    check_policy(settled, policy, suite)
    protocol = plain["protocol"]["name"]
    run = Path(plain["output"] or found.path.parent.parent / f"evaluate-{protocol}")
    return assess(
        settled,
        policy,
        suite,
        Stopwatch(run / "wall_clock.json"),
        run=run,
        fingerprint=found.documents["data"]["fingerprint"],
        source=str(found.path),
    )
