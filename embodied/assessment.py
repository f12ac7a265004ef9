"""A policy's figures: its protocol, probes and arms of robustness, films and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embodied import robustness
from embodied.build import instantiate, read_stored, resolve
from embodied.distributed import World, set_threads
from embodied.evaluation import evaluate as run_episodes
from embodied.films import make_films
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.probes import opened, probes
from embodied.protocols import Protocol, other_task
from embodied.report import write_report
from embodied.results import RESULTS_FILE, Evaluation, versions, write_results
from embodied.rollout import Actor, Controller, ExpertActor
from embodied.simulators import open_envs
from embodied.stopwatch import Stopwatch
from embodied.suites import Assignment, Suite, has_experts

Config = Mapping[str, Any]


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
        found = probe(config, make_actor, suite, envs)
    if config.get("robustness"):
        with clock.phase("robustness"):
            found |= perturbed(config, make_actor, suite, protocol)
    evaluation = replace(
        main_evaluation,
        checkpoint=source or str(run / "checkpoints"),
        probes=found,
        versions=versions(),
        fingerprint=fingerprint,
        config=dict(config),
        seed=config["seed"],
    )
    write_results(run / RESULTS_FILE, evaluation)  # before films, which take long and may fail
    with clock.phase("film"):
        videos, problem = make_films(config, evaluation, suite, protocol, make_actor, run)
    metrics = run / "metrics.jsonl"
    reference = found.get("other_instruction_expert")
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
    for name, figures in {protocol.name: evaluation, **found}.items():
        rate = figures.success()
        print(
            f"{name}: {rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}] n={len(figures.valid)}"
            f"{_cost(figures, evaluation)}"
        )
    print(f"report: {run / 'report.html'}")
    return run / RESULTS_FILE


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


def probe(
    config: Config, make_actor: Callable[[Any], Actor], suite: Suite, envs: Any
) -> dict[str, Evaluation]:
    """The episodes of every probe; where the words are another task's, also its expert's.

    Args:
        envs: vector environments over `suite`, for the probes that have no suite of their own.
    """
    found = {}
    for name, protocol in probes(config).items():
        with opened(protocol, suite, envs, config["eval"]) as (place, open_there):
            found[name] = judge(make_actor, open_there, place, protocol, name)
            if protocol.wording == "other" and has_experts(place):
                found[f"{name}_expert"] = obeying_experts(open_there, place, protocol, name)
    return found


def obeying_experts(envs: Any, suite: Suite, protocol: Protocol, description: str) -> Evaluation:
    """What the other task's scripted expert gets in each scene: the chance level of obedience.

    Some tasks solve one another (who pushes a puck to a goal has also reached it), so the rate of
    a policy that does as it is told is not zero when it is told another task. Where the suite has
    no experts the chance level stays unknown.
    """

    def expert(assignment: Assignment) -> Any:
        task = other_task(suite, assignment.task, assignment.goal)
        return suite.expert(task, seed=assignment.seed)

    def make_actor(envs: Any) -> Actor:
        width = envs.single_action_space.shape[0]
        return ExpertActor(expert, envs.num_envs, action_dim=width)

    named = replace(protocol, name=f"{protocol.name}-expert")
    return judge(make_actor, envs, suite, named, f"{description} (expert)")
