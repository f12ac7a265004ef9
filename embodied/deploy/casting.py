"""From the config of a session to who takes part in it: policy, operator, hands, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodied.actors import PREVIOUS_ACTION
from embodied.build import instantiate
from embodied.deploy.brain import Brain
from embodied.deploy.clock import Clock
from embodied.deploy.control import Plant, Ready
from embodied.deploy.episodes import Setting
from embodied.deploy.keyboard import Keyboard
from embodied.deploy.minds import Demonstrator
from embodied.deploy.operator import Speech
from embodied.deploy.recorder import Keeping
from embodied.deploy.senses import STATE, camera_sizes, floats
from embodied.deploy.station import Cast
from embodied.deploy.thinker import Mind
from embodied.deploy.typist import Typist
from embodied.execution import execution_of
from embodied.loading import load_policy
from embodied.people.terminal import Phrasebook
from embodied.policies.base import Policy
from embodied.structs import Spec
from embodied.suites import Assignment, Suite
from embodied.targets import ConfigError

Config = Mapping[str, Any]
_WRITER = "embodied_datasets.lerobot_writer.LeRobotWriter"


@dataclass(frozen=True)
class Player:
    """What plans in a session, and what is known of it.

    Attributes:
        spec: of a policy, as far as it is known; None for anybody else.
        level: "motion" or "subtask": what its phrases are.
    """

    mind: Mind
    speech: Speech
    rate_hz: float
    spec: Spec | None = None
    level: str = "subtask"


def plant_of(config: Config) -> Plant:
    """What the control process is to run."""
    return Plant(
        robot=config["robot"],
        extra_targets=config.get("allow_targets", ()),
        guards=config["guards"],
        mode=config["mode"],
        priority=config["priority"],
    )


def policy_player(config: Config) -> Player:
    """The policy of a checkpoint, in this process."""
    policy, found = load_policy(
        Path(config["checkpoint"]), config["device"], config.get("allow_targets", ())
    )
    stored = found.documents["config"]
    level = (stored.get("source", {}).get("told") or {}).get("phrases") or "subtask"
    settings = config["eval"]
    brain = Brain(
        policy,
        instruction=config["instruction"],
        action_horizon=settings["action_horizon"],
        execution=execution_of(settings),
    )
    _wake(brain)
    return Player(brain, speech_of(config, policy, level), policy.spec.rate_hz, policy.spec, level)


def server_player(config: Config) -> Player:
    """The policy of a server, which must be there, and be one of ours."""
    from embodied.serve.client import PolicyClient  # of an extra package
    from embodied.serve.remote import RemoteBrain

    client = PolicyClient(config["server"], key=config["key"], timeout_s=config["timeout_s"])
    client.connect()
    if not client.is_ours:
        raise ConfigError(
            f"E_SERVE_MISMATCH: {config['server']} does not say what it wants to see, as plain "
            "openpi servers do not; serve the policy with scripts/serve_policy.py"
        )
    facts = client.metadata
    level = "motion" if config["phrases_are"] == "motion" else "subtask"
    book = Phrasebook(facts["phrases"], is_open=not facts["phrases"] or config["any_words"])
    speech = _speech(config, book, level if facts["phrases"] else "task")
    brain = RemoteBrain(client, instruction=config["instruction"])
    return Player(brain, speech, facts["rate_hz"], _spec_by(facts), level)


def _spec_by(facts: Mapping[str, Any]) -> Spec:
    """The sizes that a server's metadata tells."""
    shapes = {each["feature"]: tuple(each["shape"]) for each in facts["features"].values()}
    actions = facts["actions"]
    return Spec(
        state_dim=shapes.pop(STATE)[0],
        action_dim=actions["shape"][1],
        action_low=tuple(actions["low"]),
        action_high=tuple(actions["high"]),
        rate_hz=facts["rate_hz"],
        cameras={name: (shape[0], shape[1]) for name, shape in shapes.items()},
    )


def _wake(brain: Brain) -> None:
    """Infers once, since the first time takes seconds where models are loaded when they are
    needed; whoever begins an episode resets it."""
    spec = brain.policy.spec
    blank = {name: np.zeros((*size, 3), np.uint8) for name, size in spec.cameras.items()}
    action = np.zeros(spec.action_dim, np.float32)
    brain.infer({STATE: np.zeros(spec.state_dim, np.float32), PREVIOUS_ACTION: action, **blank})


def speech_of(config: Config, policy: Policy, level: str) -> Speech:
    """What a policy can be told: the phrases that it knows, else instructions in any words."""
    planner = policy.as_planner()
    known = () if planner is None else planner.candidates
    book = Phrasebook(known, is_open=planner is None or config["any_words"])
    return _speech(config, book, "task" if planner is None else level)


def _speech(config: Config, book: Phrasebook, level: str) -> Speech:
    size = config["sketch_size"]
    return Speech(
        book,
        level="motion" if level == "motion" else "subtask" if level == "subtask" else "task",
        hold_s=config["hold_s"],
        sketch=None if size is None else (size[0], size[1]),
        hands=config["teleop"] is not None,
    )


def hands_of(config: Config, ready: Ready, clock: Clock, rate_hz: float) -> Keyboard | None:
    """What acts while the operator has taken over; None where nothing can."""
    if config["teleop"] is None:
        return None
    if config["teleop"] != "keyboard":
        raise ConfigError(
            f"E_CONFIG_VALUE: teleop must be keyboard or null, got {config['teleop']!r}"
        )
    return Keyboard(ready.limits, clock, dt_s=1 / rate_hz, speed=config["teleop_speed"])


def world_of(config: Config) -> tuple[Suite, Assignment]:
    """The suite behind a simulated robot, and the episode that it runs."""
    robot = config["robot"]
    if "world" not in robot:
        raise ConfigError(
            "E_CONFIG_VALUE: robot has no world: experts and simulated people need a simulated one"
        )
    suite: Suite = instantiate(robot["world"], extra_targets=config.get("allow_targets", ()))
    given = dict(robot.get("options") or {})
    task = given.get("task", suite.tasks[0])
    goal, seed = given.get("goal", 0), given.get("benchmark_seed", 0)
    return suite, Assignment(task, goal, seed, robot.get("seed", 0), config["instruction"])


def demonstrator(config: Config) -> Player:
    """The expert of a simulated robot's world."""
    if not config["robot"]["drive"]["_target_"].endswith(".Direct"):
        raise ConfigError(
            "E_CONFIG_VALUE: experts act in the environment's own actions, which "
            f"{config['robot']['name']} is not commanded; use by=keyboard"
        )
    suite, assignment = world_of(config)
    expert = suite.expert(assignment.task, seed=assignment.seed)
    speech = Speech(Phrasebook((), is_open=False), hands=config["teleop"] is not None)
    return Player(Demonstrator(expert), speech, float(suite.rate_hz))


def typist_of(config: Config, rate_hz: float) -> Typist | None:
    """The simulated person beside the robot, if there is one."""
    if config.get("person") is None:  # an empty choice of a group leaves no key
        return None
    suite, assignment = world_of(config)
    people = instantiate(config["person"], suite=suite).share([assignment])
    return Typist(people.begin(assignment), config["instruction"], rate_hz)


def cast_of(config: Config, player: Player, ready: Ready, clock: Clock) -> Cast:
    """Everybody in their places; refuses a policy that was trained on another robot."""
    if player.spec is not None:
        check_fit(player.spec, ready)
    return Cast(
        mind=player.mind,
        dt_s=1 / player.rate_hz,
        every_s=config["replan_s"],
        speech=player.speech,
        hands=hands_of(config, ready, clock, player.rate_hz),
        lines=[(float(each["at_s"]), str(each["say"])) for each in config["lines"]],
        watch=typist_of(config, player.rate_hz),
        arms=config["arm"],
        seconds=config["seconds"],
        who=config["who"],
    )


def check_fit(spec: Spec, ready: Ready) -> None:
    """Raises ConfigError with all the differences of a policy's robot and this one."""
    here = spec_of(ready, spec.rate_hz, None)
    problems = [
        f"{name} is {there}, and the robot's {mine}"
        for name, there, mine in (
            ("state_dim", spec.state_dim, here.state_dim),
            ("action_dim", spec.action_dim, here.action_dim),
            *((f"camera {name}", size, here.cameras.get(name)) for name, size in _sizes(spec)),
        )
        if there != mine
    ]
    if problems:
        raise ConfigError(
            f"E_SPEC_MISMATCH: the policy does not fit {ready.name}: its {'; its '.join(problems)}"
        )


def _sizes(spec: Spec) -> list[tuple[str, tuple[int, int]]]:
    return [(name, (size[0], size[1])) for name, size in spec.cameras.items()]


def spec_of(ready: Ready, rate_hz: float, cameras: list[str] | None) -> Spec:
    """Of a robot's episodes.

    Args:
        cameras: those that are kept; None for all.
    """
    sizes = camera_sizes(ready.features)
    if unknown := set(cameras or ()) - set(sizes):
        raise ConfigError(
            f"E_CONFIG_VALUE: {ready.name} has no camera {sorted(unknown)}: {sorted(sizes)}"
        )
    state = ready.features.get(STATE)
    limits = ready.limits
    return Spec(
        state_dim=int(np.prod(state)) if isinstance(state, tuple) else len(floats(ready.features)),
        action_dim=len(limits.names),
        action_low=tuple(limits.low.tolist()),
        action_high=tuple(limits.high.tolist()),
        rate_hz=rate_hz,
        cameras={name: sizes[name] for name in (sizes if cameras is None else cameras)},
    )


def keeping_of(config: Config, player: Player, ready: Ready) -> Keeping | None:
    """What is kept of the session; None where nothing is."""
    if config["output"] is None:
        return None
    root, kept = Path(config["output"]), config["cameras"]
    if kept is None and player.spec is not None:
        kept = list(player.spec.cameras)  # so that its own data and these train together
    spec = spec_of(ready, config["record_hz"] or player.rate_hz, kept)
    facts = {"robot": ready.name, "person": config["who"], "seed": config["seed"]}
    for name in ("checkpoint", "server"):
        if config.get(name) is not None:
            facts[name] = str(config[name])
    actor = "person" if isinstance(player.mind, Keyboard) else "policy"
    setting = Setting(spec, ready.features, config["instruction"], player.level, actor, facts)
    film = config["film"]
    if film is not None and film not in camera_sizes(ready.features):
        raise ConfigError(
            f"E_CONFIG_VALUE: film is {film!r}, and the cameras of {ready.name} are "
            f"{sorted(camera_sizes(ready.features))}"
        )
    writer = {"_target_": _WRITER, "root": str(root)}
    return Keeping(setting, writer, None if film is None else (film, root))
