"""A policy's figures: results, films and the report, and one line for each protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embodied.build import instantiate, read_stored, resolve
from embodied.checkpoint_files import some
from embodied.films import make_films
from embodied.judging import judge
from embodied.latency import with_sampling, within
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.parts import MAIN, asked, perturbed
from embodied.policies.base import Policy
from embodied.preflight import check_config, check_policy
from embodied.protocols import Protocol
from embodied.report import write_report
from embodied.results import RESULTS_FILE, Evaluation, Outcome, versions, write_results
from embodied.retrieval import retrieve
from embodied.simulators import choose_backend, place
from embodied.stopwatch import Stopwatch
from embodied.suites import Suite

Config = Mapping[str, Any]


def evaluate(config: Any) -> Path:
    """What `python scripts/evaluate.py` does: a checkpoint by a named protocol."""
    plain = resolve(config)
    policy, found = load_policy(
        Path(plain["checkpoint"]), plain["device"], plain.get("allow_targets", ())
    )
    stored = found.documents["config"]
    suite: Suite = instantiate(plain["suite"] or suite_of(stored))
    settings = {
        name: stored["eval"].get(name) if value is None else value
        for name, value in plain["eval"].items()
    }
    asked = {name: plain.get(name, {}) for name in ("probes", "robustness")}
    settled = {**stored, **plain, "eval": settings, **asked}
    check_config(settled, suite)
    backend = choose_backend(settled, suite)
    check_policy(settled, policy, suite)
    protocol: Protocol = instantiate(plain["protocol"])
    name = protocol.name_on(suite) + place(backend)
    run = Path(plain["output"] or found.path.parent.parent / f"evaluate-{name}")
    return assess(
        settled,
        policy,
        suite,
        Stopwatch(run / "wall_clock.json"),
        run=run,
        fingerprint=found.documents["data"]["fingerprint"],
        source=str(found.path),
    )


def suite_of(stored: Config) -> Any:
    """The config node of the suite that a stored config trained on; raises ValueError where it
    trained on recorded data."""
    task = read_stored(stored)["task"]
    if "suite" not in task:
        raise ValueError(
            f"E_SPEC_MISMATCH: this policy learned from recorded data (task={task['name']}), with "
            "no world to act in; its run's results.json has its open-loop errors. To act, name a "
            "suite of the same sizes: '+suite={_target_: ...}'"
        )
    return task["suite"]


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
    protocol: Protocol = instantiate(config["protocol"])
    config = {**config, "env": {**config["env"], "backend": choose_backend(config, suite)}}
    config, policy = _sampling(config, policy)
    with clock.phase("evaluate"):
        probes = judge(config, policy, asked(config, suite))
    main_evaluation = probes.pop(MAIN)
    if config.get("retrieval"):
        with clock.phase("retrieval"):
            probes |= retrieve(config, policy, suite)
    if config.get("robustness"):
        with clock.phase("robustness"):
            probes |= judge(config, policy, perturbed(config, suite))
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
        videos, problem = make_films(config, evaluation, suite, protocol, policy, run)
    metrics = run / "metrics.jsonl"
    reference = probes.get("other_instruction_expert")
    write_report(
        run / "report.html",
        title=f"{suite.name}: {evaluation.protocol}",
        evaluation=evaluation,
        curves=read_jsonl(metrics) if metrics.exists() else [],
        videos=videos,
        no_videos=problem,
        wall_clock=clock.seconds,
        chance=reference.success().mean if reference else None,
    )
    for name, figures in {evaluation.protocol: evaluation, **probes}.items():
        print("\n".join(summary(name, figures, evaluation)))
    print(f"report: {run / 'report.html'}")
    return run / RESULTS_FILE


def _sampling(config: Config, policy: Policy) -> tuple[Config, Policy]:
    """The policy with the sampling that `eval` asks for, and the config that says which."""
    settings = config["eval"]
    if options := settings.get("sampling"):
        config, policy = with_sampling(config, policy, options)
    if settings.get("latency_ms"):
        torch.set_num_threads(config["threads"] or 1)  # those of each shard
        config, policy = within(config, policy, settings["latency_ms"])
        chosen = {name: config["policy"]["head"].get(name) for name in ("sampler", "num_steps")}
        print(f"latency_ms={settings['latency_ms']:g}: {chosen}")
    return config, policy


def summary(name: str, figures: Evaluation, base: Evaluation) -> list[str]:
    """Success, and every episode that does not count in it with the reason."""
    rate = figures.success()
    interval = f"[{rate.low:.3f}, {rate.high:.3f}]"
    more = f"{_cost(figures, base)}{_metrics(figures)}"
    lines = [f"{name}: {rate.mean:.3f} {interval} n={len(figures.valid)}{more}"]
    if lost := figures.invalid:
        lines.append(f"  {len(lost)} of {len(figures.outcomes)} episodes INVALID, not counted:")
        for reason, outcomes in _by_reason(lost).items():
            episodes = [f"{o.assignment.task} goal {o.assignment.goal}" for o in outcomes]
            lines.append(f"  {some(episodes, limit=32)}: {reason}")
    return lines


def _by_reason(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.reason, []).append(outcome)
    return found


def _metrics(figures: Evaluation) -> str:
    found = figures.metrics().items()
    return "".join(f", {name} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in found)


def _cost(figures: Evaluation, base: Evaluation) -> str:
    if not figures.perturbation:
        return ""
    change = figures.difference_from(base)
    return f", {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}] by {figures.perturbation}"
