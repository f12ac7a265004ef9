"""Recorded episodes seen in another form: features, cameras, image sizes, action space, rate."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from embodied.data.actions import ActionSpace, check_convertible, convert, stride
from embodied.structs import Annotation, Episode, Episodes, Spec

Array = NDArray[Any]
PREVIOUS_ACTION = "previous_action"
"""The feature that is made of actions: what was done at the step before."""
_MOMENTARY = ("interjection", "trace", "vqa")  # annotations that belong to their step alone


class Adapted:
    """Episodes whose spec, states, images and actions are changed as they are read.

    Args:
        state: names of the features that lie end to end in the new state: "state", parts of it
            (`Spec.state_parts`), extras, or "previous_action"; None keeps the state.
        cameras: name in the new episodes -> recorded name; None keeps all.
        image_size: (h, w) in pixels that all images are resized to.
        action_space: what the recorded actions mean.
        to: what they are turned into; needs `action_space`. A lower rate takes every k-th step.
        pose: where the *recorded* state holds the pose that actions change: indices, in the order
            of an absolute action without gripper.

    "previous_action" is the executed action of the step before, as these episodes have it: in the
    space and at the rate that they are turned into. Nobody recorded what a robot held before an
    episode's first step, and that step's own action must not be told, so episodes begin one step
    later. Whoever acts gives the command that the robot holds. A feature recorded under this name
    is not looked at.

    Raises ActionSpaceError, naming both, where there is no conversion.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        state: Sequence[str] | None = None,
        cameras: Mapping[str, str] | None = None,
        image_size: tuple[int, int] | None = None,
        action_space: ActionSpace | None = None,
        to: ActionSpace | None = None,
        pose: Sequence[int] | None = None,
    ) -> None:
        if to is not None and action_space is None:
            raise ValueError("action_space must say what the recorded actions mean, to convert")
        self.episodes, self.state, self.pose = episodes, state, pose
        self.cameras = _known_cameras(episodes.spec, cameras)
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        self.action_space, self.to = action_space, to
        if action_space is not None:
            action_space.pose_dim(episodes.spec.action_dim)
        if action_space is not None and to is not None:
            check_convertible(action_space, to, pose is not None)

    def __len__(self) -> int:
        return len(self.episodes)

    def __iter__(self) -> Iterator[Episode]:
        return (self._adapt(episode) for episode in self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self._adapt(self.episodes[index])

    @property
    def fingerprint(self) -> str:
        """Of the data and of all that is changed."""
        names = ("state", "cameras", "image_size", "action_space", "to", "pose")
        changes = {name: str(getattr(self, name)) for name in names}
        return hashlib.sha256(f"{self.episodes.fingerprint}/{changes}".encode()).hexdigest()

    @cached_property
    def spec(self) -> Spec:
        """Sizes, bounds and rate of the changed episodes; reads all actions where they change."""
        spec = self._with_actions(self.episodes.spec)
        sizes = {name: spec.cameras[recorded] for name, recorded in self.cameras.items()}
        if self.image_size is not None:
            sizes = dict.fromkeys(sizes, self.image_size)
        parts = self._parts(spec.action_dim)
        return dataclasses.replace(
            spec,
            state_dim=sum(parts.values()) if parts else spec.state_dim,
            state_parts=parts or spec.state_parts,
            cameras=sizes,
        )

    def _with_actions(self, spec: Spec) -> Spec:
        if self.to is None:
            return spec
        low, high = self._bounds()
        return dataclasses.replace(
            spec,
            action_dim=len(low),
            action_low=tuple(low.tolist()),
            action_high=tuple(high.tolist()),
            rate_hz=self.to.rate_hz,
        )

    def _parts(self, action_dim: int) -> dict[str, int]:
        if self.state is None:
            return {}
        first = self.episodes[0]
        return {
            name: action_dim if name == PREVIOUS_ACTION else self._feature(first, name).shape[1]
            for name in self.state
        }

    def _bounds(self) -> tuple[Array, Array]:
        extremes = []
        for episode in self.episodes:
            if len(episode):
                action = self._convert(episode.action, episode)
                extremes.append((action.min(0), action.max(0)))
        lows, highs = zip(*extremes, strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def _adapt(self, episode: Episode) -> Episode:
        step, skip = self._step, self._skip
        rows = slice(skip * step, None, step)
        action, expert = self._convert(episode.action, episode), episode.expert_action
        return dataclasses.replace(
            episode,
            state=self._state(episode, rows, action[:-1]),
            action=action[skip:] if skip else action,
            expert_action=None if expert is None else self._convert(expert, episode)[skip:],
            reward=_add_up(episode.reward, step, skip),
            images=_Images(episode.images, self.cameras, self.image_size, rows),
            extras={name: x[rows] for name, x in episode.extras.items()},
            final=self._final(episode.final),
            annotations=_moved(episode.annotations, step, skip),
        )

    @property
    def _step(self) -> int:
        """How many recorded steps are one."""
        if self.to is None or self.action_space is None:
            return 1
        return stride(self.action_space, self.to)

    @property
    def _skip(self) -> int:
        """How many steps are left out, since nothing is known of what was done before them."""
        return int(PREVIOUS_ACTION in (self.state or ()))

    def _final(self, final: Mapping[str, Array]) -> dict[str, Array]:
        """What was seen at the end, under its new names; a state of another form is left out."""
        found = {k: x for k, x in final.items() if k != "state" and not k.startswith("images.")}
        if self.state is None and "state" in final:
            found["state"] = final["state"]
        for name, recorded in self.cameras.items():
            if f"images.{recorded}" in final:
                image = final[f"images.{recorded}"]
                size = self.image_size
                found[f"images.{name}"] = image if size is None else resize(image[None], size)[0]
        return found

    def _state(self, episode: Episode, rows: slice, previous: Array) -> NDArray[np.float32]:
        """The new state at recorded steps `rows`; `previous` is what was done before each."""
        if self.state is None:
            return episode.state[rows]
        found = [
            previous if name == PREVIOUS_ACTION else self._feature(episode, name)[rows]
            for name in self.state
        ]
        return np.concatenate(found, axis=1).astype(np.float32)

    def _feature(self, episode: Episode, name: str) -> Array:
        parts = self.episodes.spec.state_parts
        if name in parts:
            names = list(parts)
            start = sum(parts[each] for each in names[: names.index(name)])
            return episode.state[:, start : start + parts[name]]
        if name == "state":
            return episode.state
        if name not in episode.extras:
            known = ["state", *parts, *episode.extras, PREVIOUS_ACTION]
            raise ValueError(f"there is no feature {name!r} to make a state of; there are {known}")
        return np.asarray(episode.extras[name]).reshape(len(episode), -1)

    def _convert(self, action: NDArray[np.float32], episode: Episode) -> NDArray[np.float32]:
        if self.to is None or self.action_space is None:
            return action
        pose = None if self.pose is None else episode.state[:, list(self.pose)]
        return convert(action, self.action_space, self.to, pose)


def _known_cameras(spec: Spec, cameras: Mapping[str, str] | None) -> dict[str, str]:
    chosen = {name: name for name in spec.cameras} if cameras is None else dict(cameras)
    if unknown := sorted(set(chosen.values()) - spec.cameras.keys()):
        raise ValueError(f"there are no cameras {unknown}; there are {sorted(spec.cameras)}")
    return chosen


def _add_up(reward: NDArray[np.float32] | None, step: int, skip: int) -> NDArray[np.float32] | None:
    if reward is None or step == 1:
        return None if reward is None else reward[skip:]
    return np.add.reduceat(reward, np.arange(0, len(reward), step))[skip:]


def _moved(annotations: Sequence[Annotation], step: int, skip: int) -> tuple[Annotation, ...]:
    """Annotations at the steps that are left; those that last may begin in one that is not."""
    found = [dataclasses.replace(each, step=each.step // step - skip) for each in annotations]
    return tuple(
        dataclasses.replace(each, step=max(0, each.step))
        for each in found
        if each.step >= 0 or each.style not in _MOMENTARY
    )


class _Images(Mapping[str, NDArray[np.uint8]]):
    """Renamed, thinned and resized images, made when they are looked at."""

    def __init__(
        self,
        images: Mapping[str, NDArray[np.uint8]],
        names: Mapping[str, str],
        size: tuple[int, int] | None,
        rows: slice,
    ) -> None:
        self._images, self._names, self._size, self._rows = images, names, size, rows

    def __getitem__(self, camera: str) -> NDArray[np.uint8]:
        images = self._images[self._names[camera]][self._rows]
        return images if self._size is None else resize(images, self._size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def resize(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(L, h, w, 3) images in another size (h, w), bilinear, averaging where they shrink."""
    if images.shape[1:3] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)
    found = interpolate(pixels, size, mode="bilinear", antialias=True)
    return np.asarray(found.movedim(1, -1).contiguous().numpy())
