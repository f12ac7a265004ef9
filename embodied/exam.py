"""What held-out episodes ask of a policy, its answers, and the results and report of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.wordings import Wordings
from embodied.loggers import read_jsonl
from embodied.open_loop import Errors, Probe, errors_json, estimate_json, some_evenly
from embodied.open_loop_report import write_open_loop_report
from embodied.policies.base import Policy
from embodied.results import RESULTS_FILE, versions, write_atomically
from embodied.stopwatch import Stopwatch

Config = Mapping[str, Any]
Table = Sequence[Mapping[str, str]]
HOLD = "hold_last_action"
RECORDED = "recorded"
_FEW = 5  # episodes below which a bootstrap says little


@dataclass(frozen=True)
class Exam:
    """Held-out episodes, and the ways in which they are asked.

    Attributes:
        instructions: of the held-out episodes, as recorded.
        numbers: which episodes of their data sets they are.
    """

    probe: Probe
    words: Wordings
    instructions: Sequence[str]
    numbers: Sequence[int]
    seed: int = 0

    def texts(self) -> dict[str, dict[int, str | None]]:
        """Way of asking -> held-out episode -> what the policy is told; only ways that exist.

        "recorded": as in the data, or in a trained wording of it where that is held out;
        "held_out_wordings": in words of the same meaning that were never trained on;
        "wrong_instruction": in words of another meaning; "none": without any.
        """
        random = np.random.default_rng(self.seed)
        ways: dict[str, dict[int, str | None]] = {
            name: {} for name in (RECORDED, "held_out_wordings", "wrong_instruction", "none")
        }
        for episode in self.probe.episodes:
            text = self.instructions[episode]
            trained, unseen = self.words.trained(text), self.words.unseen(text)
            if trained:
                ways[RECORDED][episode] = text if text in trained else trained[0]
            if unseen:
                heard = text if text in unseen else unseen[random.integers(len(unseen))]
                ways["held_out_wordings"][episode] = heard
            if others := self.words.others(text):
                ways["wrong_instruction"][episode] = others[random.integers(len(others))]
            ways["none"][episode] = None
        return {name: texts for name, texts in ways.items() if texts}

    def ask(self, policy: Policy) -> Answers:
        """The policy's errors in each way of being asked, and those of the baselines."""
        texts = self.texts()
        asked = {name: self.probe.measure(policy, each) for name, each in texts.items()}
        episodes = self.probe.episodes
        baselines = {name: self.probe.baseline(name, episodes) for name in self.probe.baselines}
        return Answers({name: tuple(each) for name, each in texts.items()}, asked, baselines)


@dataclass(frozen=True)
class Answers:
    """Attributes:
    episodes: way of asking -> the held-out episodes that were asked so.
    asked: way of asking -> the policy's errors on them.
    baselines: name -> errors on all held-out episodes that have two steps.
    """

    episodes: Mapping[str, tuple[int, ...]]
    asked: Mapping[str, Errors]
    baselines: Mapping[str, Errors]

    @property
    def main(self) -> str:
        """The way of asking whose error is the result."""
        return next(iter(self.asked))

    def hold(self, name: str) -> Errors:
        """The last action held, on the same episodes as a way of asking."""
        episodes = self.episodes["none"]
        return self.baselines[HOLD].only(np.isin(episodes, self.episodes[name]))


def write_exam(
    config: Config,
    policy: Policy,
    exam: Exam,
    answers: Answers,
    *,
    table: Table,
    fingerprint: str,
    wall_s: float,
    clock: Stopwatch,
) -> Path:
    """Writes results.json and report.html to the run, prints the figures; the results' path."""
    run = Path(config["run_dir"])
    content = {
        "protocol": "open-loop",
        "checkpoint": str(run / "checkpoints"),
        **figures(exam, answers),
        "notes": _notes(answers),
        "data": [dict(row) for row in table],
        "wall_s": wall_s,
        "seed": config["seed"],
        "versions": versions(),
        "fingerprint": fingerprint,
        "config": dict(config),
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(run / RESULTS_FILE, text + "\n")
    metrics = run / "metrics.jsonl"
    write_open_loop_report(
        run / "report.html",
        title=f"{config['task']['name']}: open-loop",
        content=content,
        asked=answers.asked,
        baselines=answers.baselines,
        traces=_traces(config, policy, exam),
        curves=read_jsonl(metrics) if metrics.exists() else [],
        wall_clock=clock.seconds,
    )
    print("\n".join(summary(content)))
    print(f"report: {run / 'report.html'}")
    return run / RESULTS_FILE


def figures(exam: Exam, answers: Answers) -> dict[str, Any]:
    """The measured part of results.json; errors are normalised unless they say otherwise."""
    main = answers.asked[answers.main]
    return {
        "error": estimate_json(main.mean()),
        "loss": estimate_json(main.mean_loss()),
        "asked": {
            name: errors_json(errors, answers.hold(name)) for name, errors in answers.asked.items()
        },
        "baselines": {name: errors_json(each, None) for name, each in answers.baselines.items()},
        "by_source": _by_source(exam, answers),
        "scale": exam.probe.scale.tolist(),
        "held_out": [exam.numbers[i] for i in exam.probe.episodes],
    }


def _notes(answers: Answers) -> list[str]:
    """What a reader must know to believe the intervals."""
    count = len(answers.asked[answers.main].total)
    if count >= _FEW:
        return []
    return [
        f"Only {count} held-out episodes: the intervals are too narrow, and without width for one. "
        "Raise data.val_fraction or record more."
    ]


def _by_source(exam: Exam, answers: Answers) -> dict[str, Any]:
    """The main error for each of several data sets that were mixed."""
    windows = exam.probe.windows
    if len(windows.sources) == 1:
        return {}
    source = windows.episode_source.numpy()[list(answers.episodes[answers.main])]
    errors = answers.asked[answers.main]
    return {
        name: estimate_json(errors.only(source == i).mean())
        for i, name in enumerate(windows.sources)
        if (source == i).any()
    }


def _traces(config: Config, policy: Policy, exam: Exam) -> list[tuple[str, Any, Any]]:
    """A title, the recorded and the predicted actions (L, A) of a few held-out episodes."""
    every, texts = config["eval"]["action_horizon"], exam.texts()
    told = next(iter(texts.values()))
    return [
        (
            f"episode {exam.numbers[episode]}: {told[episode]}",
            exam.probe.recorded(episode).numpy(),
            exam.probe.trace(policy, episode, told[episode], every).numpy(),
        )
        for episode in some_evenly(list(told), config["data"]["num_traces"])
    ]


def summary(content: Mapping[str, Any]) -> list[str]:
    """The errors in each way of being asked, and of the baselines, a line each."""
    lines = [
        f"{name}: error {_text(each['error'])}, loss {_text(each['loss'])}, "
        f"{_text(each['against_hold_last_action'], signed=True)} to holding the last action"
        for name, each in content["asked"].items()
    ]
    lines += [f"{k}: error {_text(each['error'])}" for k, each in content["baselines"].items()]
    lines += [f"data set {k}: error {_text(each)}" for k, each in content["by_source"].items()]
    return [*lines, *content["notes"]]


def _text(found: Mapping[str, Any], *, signed: bool = False) -> str:
    form = "+.4f" if signed else ".4f"
    interval = f"[{found['low']:{form}}, {found['high']:{form}}]"
    return f"{found['mean']:{form}} {interval} n={found['episodes']}"
