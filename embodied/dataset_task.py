"""Tasks of recorded data alone: policies are judged by predicting episodes that were held out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.build import instantiate
from embodied.curve_point import CurvePoint
from embodied.data.actions import ActionSpace
from embodied.data.adapted import PREVIOUS_ACTION, Adapted
from embodied.data.asked import told_by
from embodied.data.cache import Recording, cache_folder, record
from embodied.data.describe import describe, show
from embodied.data.mixture import mix
from embodied.data.windows import Windows
from embodied.data.wordings import Wordings, gather_wordings, hold_out, split_episodes
from embodied.distributed import World
from embodied.encoders.image import ImageEncoder
from embodied.exam import Exam, write_exam
from embodied.open_loop import Probe
from embodied.policies.base import Policy
from embodied.preflight import check_action_horizon, check_counts
from embodied.stopwatch import Stopwatch
from embodied.structs import Episodes, Spec, place
from embodied.targets import ConfigError
from embodied.tasks import Config, TrainingData, make_goals
from embodied.window_data import WindowData

logger = logging.getLogger(__name__)

_COUNTS = (
    ("train.steps", 0),
    ("train.batch_size", 1),
    ("train.save_every", 1),
    ("train.log_every", 1),
    ("train.keep", 1),
    ("data.frames_per_episode", 1),
    ("data.num_traces", 0),
)
_VIEW = ("state", "cameras", "pose")  # what each data set may say for itself


class DatasetTask:
    """One data set, or several that are mixed: `data.path`, or `source.sets`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data: Mapping[str, Any] = config["data"]
        self.sets = self._set_nodes()

    def _set_nodes(self) -> dict[str, Mapping[str, Any]]:
        sets = self.config["source"].get("sets")
        if not sets:
            return {"": self.data}
        known = {"weight", "path", "format", "options", "action_space", *_VIEW}
        for name, node in sets.items():
            if unknown := sorted(node.keys() - known):
                raise ConfigError(
                    f"E_CONFIG_KEY: source.sets.{name} takes no {unknown}; it takes {sorted(known)}"
                )
        return {str(name): {**self.data, **node} for name, node in sets.items()}

    def check(self) -> None:
        """Raises ConfigError for counts and fractions out of range, or where no path is named."""
        check_counts(self.config, _COUNTS)
        make_goals(self.config["source"]["goals"])
        told_by(self.config["source"]["told"], self.config["seed"])
        for name, node in self.sets.items():
            if not node.get("path"):
                key = f"source.sets.{name}.path" if name else "data.path"
                raise ConfigError(f"E_CONFIG_VALUE: {key} must name a file or folder of episodes")
        for key, low in (("val_fraction", 0.0), ("held_out_wordings", -1e-9)):
            value = self.data[key]
            if not (isinstance(value, int | float) and low < value < 1):
                raise ConfigError(f"E_CONFIG_VALUE: data.{key} must lie in [0, 1), got {value!r}")

    def load(self, world: World) -> TrainingData:
        """Opens, decodes, splits and shows the data."""
        self._adapted = {name: self._open(node) for name, node in self.sets.items()}
        recordings = {name: self._record(episodes) for name, episodes in self._adapted.items()}
        self._words = hold_out(
            gather_wordings(texts for each in recordings.values() for texts in each.wordings),
            self.data["held_out_wordings"],
            self.config["seed"],
        )
        self._instructions = [text for each in recordings.values() for text in each.instructions]
        self._numbers = [number for each in recordings.values() for number in each.numbers]
        told = told_by(self.config["source"]["told"], self.config["seed"])
        windows = self._mix(recordings).asking(told)
        train, held_out = self._split(recordings, self._words)
        self._train, self._held_out = windows.select(train), windows.select(held_out)
        self._chosen = held_out
        spec = self._common_spec()
        self._table = [*describe(self._train, spec), *self._space_rows(), self._held_out_row()]
        if world.is_main:
            logger.info("%s", show(self._table))
        return WindowData(self.config, self._train, spec, "+".join(self._fingerprints()))

    def _open(self, node: Mapping[str, Any]) -> Adapted:
        """One data set, seen as its node says."""
        opener = instantiate(
            self.config["task"]["open"], extra_targets=self.config.get("allow_targets", ())
        )
        episodes: Episodes = opener(
            node["path"], format=node.get("format"), **(node.get("options") or {})
        )
        size = self.data["image_size"]
        return Adapted(
            episodes,
            **{name: node.get(name) for name in _VIEW},
            image_size=None if size is None else tuple(size),
            action_space=_space(node.get("action_space")),
            to=_space(self.data["convert_to"]),
        )

    def _record(self, episodes: Episodes) -> Recording:
        on_disk = bool(episodes.spec.cameras) or self.config["source"]["placement"] == "stream"
        cache = cache_folder() if on_disk else None
        return record(episodes, label=self.config["task"]["label"], cache=cache)

    def _mix(self, recordings: Mapping[str, Recording]) -> Windows:
        rewordings = self._words.rewordings(reword=self.config["train"]["reword"])
        windows = {name: Windows.of(x, rewordings) for name, x in recordings.items()}
        if list(windows) == [""]:
            return windows[""]
        weights = {name: float(self.sets[name].get("weight", 1.0)) for name in windows}
        return mix({name: (x, weights[name]) for name, x in windows.items()})

    def _split(
        self, recordings: Mapping[str, Recording], words: Wordings
    ) -> tuple[list[int], list[int]]:
        """Within each data set; episodes are numbered through all of them."""
        train, held_out, offset = list[int](), list[int](), 0
        for name, each in recordings.items():
            mine = split_episodes(
                each.instructions, words, self.data["val_fraction"], self.config["seed"]
            )
            train += [offset + i for i in mine[0]]
            held_out += [offset + i for i in mine[1]]
            offset += len(each.instructions)
            if not mine[0]:
                raise ValueError(
                    f"no episode of {self.sets[name]['path']} is left to train on; lower "
                    "data.held_out_wordings"
                )
        if not held_out:
            raise ValueError(
                f"{offset} episodes are too few to hold one out; a task of recorded data needs two"
            )
        return train, held_out

    def _common_spec(self) -> Spec:
        """The data sets' spec, with bounds that hold all their actions."""
        specs = {name: episodes.spec for name, episodes in self._adapted.items()}
        first = next(iter(specs.values()))
        for field in ("state_dim", "action_dim", "rate_hz", "cameras"):
            found = {name: getattr(spec, field) for name, spec in specs.items()}
            if any(value != getattr(first, field) for value in found.values()):
                raise ValueError(
                    f"E_SPEC_MISMATCH: mixed data sets must agree in {field}, got {found}; map "
                    "their features, cameras or action spaces (source.sets.NAME.state, .cameras, "
                    ".action_space with data.convert_to; data.image_size)"
                )
        places = {name: place(spec, PREVIOUS_ACTION) for name, spec in specs.items()}
        if len(set(places.values())) > 1:
            raise ValueError(
                f"E_SPEC_MISMATCH: mixed data sets must have {PREVIOUS_ACTION!r} at the same place "
                f"of the state, got {places}; name it in each source.sets.NAME.state, or in none"
            )
        lows = zip(*(spec.action_low for spec in specs.values()), strict=True)
        highs = zip(*(spec.action_high for spec in specs.values()), strict=True)
        bounds = tuple(map(min, lows)), tuple(map(max, highs))
        return Spec(**{**vars(first), "action_low": bounds[0], "action_high": bounds[1]})

    def _fingerprints(self) -> list[str]:
        return [episodes.fingerprint for episodes in self._adapted.values()]

    def _space_rows(self) -> list[dict[str, str]]:
        """What actions were declared to mean, and what they were turned into."""
        return [
            {
                "feature": f"action space {name}".rstrip(),
                "size": "",
                "what is in it": f"{each.action_space}, as declared"
                + (f"; turned into {each.to}" if each.to not in (None, each.action_space) else ""),
            }
            for name, each in self._adapted.items()
            if each.action_space is not None
        ]

    def _held_out_row(self) -> dict[str, str]:
        unseen = sorted(self._words.held_out)
        words = f"; wordings never trained on: {len(unseen)}" if unseen else ""
        return {
            "feature": "held out",
            "size": f"{len(self._chosen)}",
            "what is in it": f"episodes, {len(self._held_out):,} frames{words}",
        }

    def check_policy(self, policy: Policy) -> None:
        check_action_horizon(self.config, policy)
        if policy.spec.cameras and not any(isinstance(x, ImageEncoder) for x in policy.modules()):
            logger.warning(
                "the policy does not look at the images of %s: policy=chunk_images does, and "
                "data.cameras={} leaves them out",
                sorted(policy.spec.cameras),
            )

    def curve(self) -> CurvePoint:
        """Raises ConfigError: there is no world to act in."""
        raise ConfigError(
            "E_CONFIG_VALUE: eval.every needs a suite to act in, and this task has recorded data "
            "alone; set it to null"
        )

    def assess(self, policy: Policy, fingerprint: str, clock: Stopwatch) -> Path:
        """Measures held-out loss and open-loop errors, and reports them."""
        probe = Probe(
            windows=self._held_out,
            train=self._train,
            obs_horizon=policy.obs_horizon,
            pred_horizon=policy.pred_horizon,
            past_actions=policy.sees_past_actions,
            frames=self.data["frames_per_episode"],
            goals=make_goals(self.config["source"]["goals"]),
            seed=self.config["seed"],
        )
        exam = Exam(
            probe=probe,
            words=self._words,
            instructions=[self._instructions[i] for i in self._chosen],
            numbers=[self._numbers[i] for i in self._chosen],
            seed=self.config["seed"],
        )
        start = time.monotonic()
        with clock.phase("evaluate"):
            answers = exam.ask(policy.eval())
        return write_exam(
            self.config,
            policy,
            exam,
            answers,
            table=self._table,
            fingerprint=fingerprint,
            wall_s=time.monotonic() - start,
            clock=clock,
        )


def _space(node: Mapping[str, Any] | None) -> ActionSpace | None:
    if node is None:
        return None
    found: ActionSpace = instantiate({"_target_": "embodied.data.actions.ActionSpace", **node})
    return found
