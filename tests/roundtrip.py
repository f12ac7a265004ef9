"""Episodes of every shape, and what must be the same after they were written and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from embodied.structs import Annotation, Episode, Episodes, Spec
from embodied_datasets.formats import Format

SPEC = Spec(3, 2, (-4.0, -5.0), (4.0, 5.0), 12.5)
PARTS = Spec(3, 2, (-4.0, -5.0), (4.0, 5.0), 10.0, state_parts={"pose": 1, "goal": 2})
CAMERAS = Spec(
    *(3, 2, (-4.0, -5.0), (4.0, 5.0), 10.0),
    cameras={"front": (16, 18), "wrist": (8, 8)},
    render_profile="studio",
    state_parts={"pose": 2, "grip": 1},
)
_BLIND: dict[str, Any] = {"cameras": {}, "render_profile": None}
OPTIONAL = ("reward", "expert", "extras", "final", "final images", "final extras", "marks")
"""What an episode need not have."""
_FIELDS = ("instruction", "success", "terminated", "truncated", "info", "annotations")


def make_episode(seed: int, length: int = 5, spec: Spec = SPEC, **fields: Any) -> Episode:
    """An episode of reproducible noise with an instruction, rewards and images, no more."""
    rng = np.random.default_rng(seed)
    defaults = {
        "instruction": f"do {seed % 3}",
        "reward": rng.standard_normal(length, np.float32),
        "images": {
            name: rng.integers(0, 256, (length, *size, 3), np.uint8)
            for name, size in spec.cameras.items()
        },
    }
    state = rng.standard_normal((length, spec.state_dim), np.float32)
    action = rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32)
    return Episode(state, action, **(defaults | fields))


@st.composite
def data_sets(draw: st.DrawFn, *, mixed: bool = True) -> tuple[Spec, dict[str, Episode]]:
    """A spec, and episodes by key in the order of the keys, with any mix of optional fields.

    Args:
        mixed: whether one set's episodes may record different things.
    """
    spec = draw(st.sampled_from([SPEC, PARTS, CAMERAS]))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    optional = st.sets(st.sampled_from(OPTIONAL))
    common = draw(optional)
    return spec, {
        f"{i:03d}": rich_episode(i, n, spec, draw(optional) if mixed else common)
        for i, n in enumerate(lengths)
    }


def rich_episode(
    seed: int, length: int = 5, spec: Spec = SPEC, has: Collection[str] = OPTIONAL
) -> Episode:
    """An episode with the fields `has` besides those that all have, and any mix of flags."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {name: bool(rng.random() < 0.5) for name in _FIELDS[1:4]}
    if "reward" not in has:
        fields["reward"] = None
    if "expert" in has:
        fields["expert_action"] = rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32)
    if "extras" in has:
        fields["extras"] = {
            "states": rng.standard_normal((length, 4)),
            "contact": rng.random(length) < 0.5,
            "torque": rng.standard_normal((length, 2, 3), np.float32),
            "button_states": rng.integers(0, 9, length),
        }
    fields["final"] = _final(rng, spec, fields.get("extras", {}), has)
    if "marks" in has:
        fields["info"] = {"task": "t", "seed": seed, "nested": {"goal": [1, 0.5]}, "none": None}
        fields["annotations"] = (
            Annotation("task_aug", 'say "\u00fc"\u2026', 0, role="user"),
            Annotation("subtask", "reach", length - 1),
        )
        camera = next(iter(spec.cameras), None)
        if camera is not None:
            fields["annotations"] += (Annotation("trace", "[[0, 1]]", length - 1, camera),)
    return make_episode(seed, length, spec, **fields)


def _final(
    rng: np.random.Generator, spec: Spec, extras: Mapping[str, Any], has: Collection[str]
) -> dict[str, Any]:
    if "final" not in has:
        return {}
    final: dict[str, Any] = {"state": rng.standard_normal(spec.state_dim, np.float32)}
    if "final images" in has:
        for name, size in spec.cameras.items():
            final[f"images.{name}"] = rng.integers(0, 256, (*size, 3), np.uint8)
    if "final extras" in has:
        final |= {name: values[0] for name, values in extras.items()}
    return final


def write(
    format: Format, path: Path, spec: Spec, episodes: Mapping[str, Episode], **options: Any
) -> Path:
    """Writes and finalises a data set."""
    with format.create(path, spec, **options) as writer:
        for key, episode in episodes.items():
            writer.add(key, episode)
        writer.finalize()
    return path


def assert_same_set(
    found: Episodes, spec: Spec, wanted: Sequence[Episode], lost: Collection[str] = ()
) -> None:
    """Everything is as it was, except the `lost` fields of Episode.

    Images that are lost are gone, with the cameras and the marks in them, or have other pixels.
    """
    gone = "images" in lost and not found.spec.cameras
    assert found.spec == (dataclasses.replace(spec, **_BLIND) if gone else spec)
    assert len(found) == len(wanted)
    for index, episode in enumerate(wanted):
        assert_same(found[index], episode, lost)


def assert_same(found: Episode, wanted: Episode, lost: Collection[str] = ()) -> None:
    """Two episodes are equal, bit by bit and in types, except the `lost` fields."""
    if "images" in lost:
        found, wanted = _blind(found), _blind(wanted)
    for name in ("state", "action", "reward", "expert_action"):
        got, want = getattr(found, name), getattr(wanted, name)
        assert (got is None) == (want is None), name
        if want is not None:
            _assert_equal(name, got, want)
    for name in ("images", "extras", "final"):
        got, want = dict(getattr(found, name)), dict(getattr(wanted, name))
        assert got.keys() == want.keys(), name
        for key in want:
            _assert_equal(f"{name} {key}", got[key], np.asarray(want[key]))
    for name in set(_FIELDS) - set(lost):
        assert getattr(found, name) == getattr(wanted, name), name


def _blind(episode: Episode) -> Episode:
    """An episode without images and all that speaks of them."""
    final = {name: x for name, x in episode.final.items() if not name.startswith("images.")}
    annotations = tuple(each for each in episode.annotations if each.camera is None)
    return dataclasses.replace(episode, images={}, final=final, annotations=annotations)


def _assert_equal(name: str, got: Any, want: Any) -> None:
    assert got.dtype == want.dtype, name
    assert got.shape == want.shape, name
    np.testing.assert_array_equal(got, want, err_msg=name)
