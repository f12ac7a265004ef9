"""Episodes of every shape, and what must be the same after they were written and read."""

from __future__ import annotations

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
    cameras={"front": (6, 5), "wrist": (4, 4)},
    render_profile="studio",
    state_parts={"pose": 2, "grip": 1},
)
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
def data_sets(draw: st.DrawFn) -> tuple[Spec, dict[str, Episode]]:
    """A spec, and episodes by key in the order of the keys, with any mix of optional fields."""
    spec = draw(st.sampled_from([SPEC, PARTS, CAMERAS]))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    return spec, {f"{i:03d}": draw(episodes(spec, i, n)) for i, n in enumerate(lengths)}


@st.composite
def episodes(draw: st.DrawFn, spec: Spec, seed: int, length: int) -> Episode:
    """One of them."""
    rng = np.random.default_rng(seed)
    has = {name: draw(st.booleans()) for name in ("reward", "expert", "extras", "final", "marks")}
    full = make_episode(seed, length, spec)
    fields: dict[str, Any] = {name: draw(st.booleans()) for name in _FIELDS[1:4]}
    if not has["reward"]:
        fields["reward"] = None
    if has["expert"]:
        fields["expert_action"] = rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32)
    if has["extras"]:
        fields["extras"] = {
            "states": rng.standard_normal((length, 4)),
            "contact": rng.random(length) < 0.5,
            "torque": rng.standard_normal((length, 2, 3), np.float32),
            "count": rng.integers(0, 9, length),
        }
    if has["final"]:
        fields["final"] = _final(draw, rng, spec, fields.get("extras", {}))
    if has["marks"]:
        fields["info"] = {"task": f"t{seed}", "noise": 0.25, "goal": [1, 2], "note": 'say "ü"'}
        fields["annotations"] = (
            Annotation("subtask", "reach", 0),
            Annotation("trace", "[[0, 1]]", length - 1, next(iter(spec.cameras), None)),
        )
    return make_episode(
        seed, length, spec, images=full.images, **({"reward": full.reward} | fields)
    )


def _final(
    draw: st.DrawFn, rng: np.random.Generator, spec: Spec, extras: Mapping[str, Any]
) -> dict[str, Any]:
    final: dict[str, Any] = {"state": rng.standard_normal(spec.state_dim, np.float32)}
    if draw(st.booleans()):
        for name, size in spec.cameras.items():
            final[f"images.{name}"] = rng.integers(0, 256, (*size, 3), np.uint8)
    if draw(st.booleans()):
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
    """Everything is as it was, except the `lost` fields of Episode, which must be empty."""
    if "images" in lost:
        assert not found.spec.cameras
    else:
        assert found.spec == spec
    assert len(found) == len(wanted)
    for index, episode in enumerate(wanted):
        assert_same(found[index], episode, lost)


def assert_same(found: Episode, wanted: Episode, lost: Collection[str] = ()) -> None:
    """Two episodes are equal, bit by bit and in types, except the `lost` fields."""
    for name in ("state", "action", "reward", "expert_action"):
        got, want = getattr(found, name), getattr(wanted, name)
        assert (got is None) == (want is None), name
        if want is not None:
            _assert_equal(name, got, want)
    for name in ("images", "extras", "final"):
        got, want = dict(getattr(found, name)), dict(getattr(wanted, name))
        if name in lost:
            assert not got
            continue
        if "images" in lost:
            want = {key: x for key, x in want.items() if not key.startswith("images.")}
        assert got.keys() == want.keys(), name
        for key in want:
            _assert_equal(f"{name} {key}", got[key], np.asarray(want[key]))
    for name in set(_FIELDS) - set(lost):
        assert getattr(found, name) == getattr(wanted, name), name


def _assert_equal(name: str, got: Any, want: Any) -> None:
    assert got.dtype == want.dtype, name
    assert got.shape == want.shape, name
    np.testing.assert_array_equal(got, want, err_msg=name)
