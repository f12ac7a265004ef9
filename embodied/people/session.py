"""What `scripts/correct.py` does: someone corrects a checkpoint's policy, which is kept as data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embodied.assessment import suite_of
from embodied.build import instantiate, resolve
from embodied.evaluation import Trial
from embodied.loading import load_policy
from embodied.people.corrections import People, View
from embodied.people.live import play_and_keep, watched
from embodied.people.simulated import Simulated
from embodied.people.terminal import Lines, Phrasebook, Quit, Terminal
from embodied.policies.base import Policy
from embodied.preflight import check_action_horizon, check_spaces
from embodied.progress import Progress
from embodied.protocols import Protocol
from embodied.results import Outcome
from embodied.rollout import Controller
from embodied.simulators import open_envs
from embodied.structs import Episode, Spec
from embodied.suites import Assignment, Suite
from embodied.targets import ConfigError
from embodied.video import encode_mp4

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]


def correct(config: Any) -> Path:
    """Runs the episodes that the config asks for and adds them to a data set; its folder.

    With `person` simulated people correct those of the protocol; else whoever sits at the terminal
    corrects one after the other.
    """
    plain = resolve(config)
    policy, found = load_policy(
        Path(plain["checkpoint"]), plain["device"], plain.get("allow_targets", ())
    )
    stored = found.documents["config"]
    suite: Suite = instantiate(plain["suite"] or suite_of(stored))
    settings = dict(plain["eval"])
    settings["action_horizon"] = settings["action_horizon"] or stored["eval"]["action_horizon"]
    plain["eval"] = settings
    plain["level"] = plain["level"] or _level(stored)
    check_action_horizon(plain, policy)
    root = Path(plain["output"] or found.path.parent.parent / "corrected")
    spec: Spec = instantiate({"_target_": "embodied_datasets.recording.spec_of"}, suite=suite)
    if plain.get("person"):
        _simulate(plain, policy, suite, spec, root)
    else:
        _meet(plain, policy, suite, spec, root)
    return root


def _open(root: Path, spec: Spec) -> Any:
    target = {"_target_": "embodied_datasets.lerobot_writer.LeRobotWriter"}
    return instantiate(target, root=root, spec=spec)


def _level(stored: Config) -> str:
    """What the phrases are that the policy was trained with; people name sub-tasks to others."""
    told = stored.get("source", {}).get("told") or {}
    level: str = told.get("phrases") or "subtask"
    return level


# Simulated people


def _simulate(config: Config, policy: Policy, suite: Suite, spec: Spec, root: Path) -> None:
    """Every episode of the protocol once; those that are there are not run again."""
    protocol: Protocol = instantiate(config["protocol"])
    assignments = protocol.assignments(suite)
    people: Simulated = instantiate(config["person"], suite=suite).share(assignments)
    settings = {name: config[name] for name in ("checkpoint", "person", "protocol", "eval", "seed")}
    with _open(root, spec) as writer:
        instantiate(
            {"_target_": "embodied_datasets.recording.settle"},
            root=root,
            name="corrections.json",
            settings=settings,
            verb="corrected",
        )
        keys = [f"{i:06d}" for i in range(len(assignments))]
        done = writer.keys
        left = [i for i, key in enumerate(keys) if key not in done]
        trials = [Trial(assignments[i], protocol.max_steps, protocol.success) for i in left]

        def write(number: int, episode: Episode) -> None:
            writer.add(keys[left[number]], episode)

        ended = _play(config, policy, suite, spec, people, trials, write)
        writer.finalize()
    _print(ended)


def _play(
    config: Config,
    policy: Policy,
    suite: Suite,
    spec: Spec,
    people: Simulated,
    trials: Sequence[Trial],
    write: Callable[[int, Episode], None],
) -> list[Outcome]:
    found: list[Outcome] = []
    with (
        open_envs(watched(suite), config["env"]) as envs,
        Progress({"correct": len(trials)}) as bar,
    ):
        _check(policy, envs, suite)
        controller = Controller(policy, envs.num_envs, **config["eval"])
        level = config["level"]
        for ended in play_and_keep(controller, people, envs, trials, write, spec=spec, level=level):
            found += ended.values()
            bar.add("correct", ended.values())
    return found


def _print(outcomes: Sequence[Outcome]) -> None:
    valid = [outcome for outcome in outcomes if outcome.valid]
    if not valid:
        print(f"no new episodes; {len(outcomes)} were invalid")
        return
    means = {
        "success": np.mean([outcome.success for outcome in valid]),
        **{
            name: np.mean([outcome.metrics[name] for outcome in valid])
            for name in ("corrections", "corrected_share")
        },
    }
    text = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    print(f"{len(valid)} episodes: {text}; {len(outcomes) - len(valid)} invalid, not kept")


# A person at the terminal


class Camera:
    """Shows what happens: the newest frame in a PNG that is replaced at each step.

    Args:
        every: steps between frames.
    """

    def __init__(self, envs: Any, path: Path, every: int) -> None:
        self._envs, self._path, self._every = envs, path, every
        self.frames: list[NDArray[np.uint8]] = []
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, view: View) -> None:
        if view.step % self._every == 0 and (frame := self._envs.render()[0]) is not None:
            self.frames.append(frame)
            new = self._path.with_name(f".new-{self._path.name}")
            Image.fromarray(frame).save(new)
            new.replace(self._path)  # a viewer never sees half a picture

    def film(self, path: Path, fps: float) -> None:
        """Writes all frames of the episode as an MP4, and forgets them."""
        if self.frames:
            try:
                path.write_bytes(encode_mp4(self.frames, fps=fps / self._every))
            except ImportError as error:  # the episode counts without it
                logger.warning("no film: %s", error)
        self.frames = []


def _meet(config: Config, policy: Policy, suite: Suite, spec: Spec, root: Path) -> None:
    shown = config["frame"]
    settings = {**config["env"], "num_envs": 1, "workers": 0, "backend": "python"}
    path = Path(shown["path"] or root / "newest.png")
    with ExitStack() as stack:
        writer = stack.enter_context(_open(root, spec))
        if writer.is_final:
            raise ConfigError(f"E_CONFIG_VALUE: {root} is finalised; name another output")
        envs = stack.enter_context(open_envs(suite, settings, tuple(shown["size"])))
        _check(policy, envs, suite)
        stream = sys.stdin
        if config["input"]:
            stream = stack.enter_context(Path(config["input"]).open(encoding="utf-8"))
        camera = Camera(envs, path, shown["every"])
        terminal = _terminal(config, policy, suite, Lines(stream), camera)
        print(f"the newest frame: {path}", *terminal.book.lines(), sep="\n", flush=True)
        controller = Controller(policy, 1, **config["eval"])
        for assignment in _assignments(config, suite):
            key = f"{len(writer.keys):06d}"
            steps = config["max_steps"] or suite.max_steps
            going = _run(
                controller,
                terminal,
                envs,
                Trial(assignment, steps),
                writer,
                key,
                spec,
                config["level"],
            )
            if shown["film"]:
                camera.film(root / f"{key}.mp4", suite.rate_hz)
            if not going:
                break


def _run(
    controller: Controller,
    people: People,
    envs: Any,
    trial: Trial,
    writer: Any,
    key: str,
    spec: Spec,
    level: str,
) -> bool:
    """One episode, whatever ends it; whether the person wants another."""

    def write(number: int, episode: Episode) -> None:
        writer.add(key, episode)
        told = len(episode.info["interventions"])
        end = "solved" if episode.success else "not solved"
        print(f"{end} after {len(episode)} steps, {told} corrections; kept as {key}", flush=True)

    try:
        for _ in play_and_keep(
            controller, people, envs, [trial], write, spec=spec, level=level, keep_unfinished=True
        ):
            pass
    except (Quit, KeyboardInterrupt):
        return False
    return True


def _terminal(
    config: Config, policy: Policy, suite: Suite, lines: Lines, camera: Camera
) -> Terminal:
    planner, any_words = policy.as_planner(), config["any_words"]
    said_as = config["said_as"] or ("language" if planner is None else "motion")
    known = list(config["phrases"] or (() if planner is None else planner.candidates))
    if said_as == "language" and not known:
        known = [suite.texts(task).canonical for task in suite.tasks]
    if any_words and planner is not None and not planner.understands("any words"):
        raise ConfigError(
            "E_CONFIG_VALUE: any_words=true needs a policy that knows phrases by their words, and "
            "this one knows them by number"
        )
    speed = config["speed"]
    if speed is not None and speed <= 0:
        raise ConfigError(f"E_CONFIG_VALUE: speed must be above 0, or null, got {speed}")
    return Terminal(
        lines,
        Phrasebook(known, is_open=said_as == "language" or any_words),
        period_s=None if speed is None else 1 / (speed * suite.rate_hz),
        turn=config["turn"],
        steps=config["steps"],
        replan=config["replan"],
        said_as=said_as,
        show=camera,
        say=lambda text: print(text, flush=True),
        name=config["who"],
    )


def _assignments(config: Config, suite: Suite) -> list[Assignment]:
    asked, seed = config["episode"], config["seed"]
    task = asked["task"] or suite.tasks[0]
    if task not in suite.tasks:
        raise ConfigError(
            f"E_CONFIG_VALUE: episode.task must be one of {list(suite.tasks)}, got {task!r}"
        )
    text = asked["instruction"] or suite.texts(task).canonical
    return [
        Assignment(
            task, (asked["goal"] + i) % suite.num_goals, asked["benchmark_seed"], seed + i, text
        )
        for i in range(config["episodes"])
    ]


def _check(policy: Policy, envs: Any, suite: Suite) -> None:
    check_spaces(
        policy.spec, envs.single_observation_space, envs.single_action_space, name=suite.name
    )
