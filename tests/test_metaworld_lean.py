"""The quicker functions give the numbers of those that they stand in for, to the last bit."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from metaworld import env_dict
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation as SciPyRotation

from embodied_envs import metaworld_lean as lean

ROUNDS = 300


def test_the_norm_is_numpys_in_value_and_type() -> None:
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        long = rng.normal(size=6)
        for x in (long[:3], long[::2], long[0], long.astype(np.float32), np.array(long[0])):
            assert lean.norm(x) == np.linalg.norm(x)
            assert isinstance(lean.norm(x), np.floating)
    matrix = rng.normal(size=(3, 2))
    np.testing.assert_array_equal(lean.norm(matrix, axis=1), np.linalg.norm(matrix, axis=1))
    assert lean.norm(matrix) == np.linalg.norm(matrix)


def test_the_clip_is_numpys_in_value_and_type() -> None:
    for x in (np.float32(1.3), np.float32(-0.3), np.float64(-2.0), np.float64(np.nan)):
        ours, theirs = lean.clip(x, -1, 1), np.clip(x, -1, 1)
        np.testing.assert_equal(ours, theirs)
        assert type(ours) is type(theirs)
    np.testing.assert_array_equal(lean.clip(np.arange(4), 1, 2), [1, 1, 2, 2])


def test_stacked_numbers_are_numpys() -> None:
    x, y = np.float64(0.1), np.array([1.0, 2.0])
    for parts in ((x, x), (x, y), (y, x), (y, y), (x, y, x), [0.5, x]):
        np.testing.assert_array_equal(lean.hstack(parts), np.hstack(parts))


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
@pytest.mark.parametrize("bounds", [(0.0, 0.05), (0, 0), (0.2, 0.4)])
def test_the_tolerance_is_the_librarys(sigmoid: str, bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    for x in (*rng.uniform(-0.5, 0.5, ROUNDS), *bounds, 0.2, np.float64(np.nan)):
        for margin in (0.0, 0.3, np.float64(rng.uniform(0, 0.2))):
            options = {"bounds": bounds, "margin": margin, "sigmoid": sigmoid}
            ours, theirs = (f.tolerance(x, **options) for f in (lean, reward_utils))
            np.testing.assert_equal(ours, theirs)
            assert type(ours) is type(theirs)


def test_a_wrong_tolerance_is_refused_as_in_the_library() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        lean.tolerance(0.1, (0, 1), -1.0, "long_tail")
    with pytest.raises(ValueError, match="Lower bound"):
        lean.tolerance(0.1, (1, 0), 1.0, "long_tail")


def test_the_quaternion_of_a_matrix_is_scipys() -> None:
    rng, matrix = np.random.default_rng(0), np.zeros(9)
    quaternions = rng.normal(size=(ROUNDS, 4))
    quaternions[::3] *= [1, 1e-3, 1e-3, 1e-3]  # almost upright, as most objects are
    quaternions[:4] = np.eye(4)
    for quaternion in quaternions:
        mujoco.mju_quat2Mat(matrix, quaternion / np.linalg.norm(quaternion))
        ours, theirs = (
            kind.from_matrix(matrix.reshape(3, 3)) for kind in (lean.Rotation, SciPyRotation)
        )
        np.testing.assert_array_equal(ours.as_quat(), theirs.as_quat())


def test_the_librarys_classes_keep_their_own_functions() -> None:
    cls = env_dict.ENV_CLS_MAP["hammer-v3"]
    quick = lean.lean_class(cls)
    assert issubclass(quick, cls)
    assert cls._reward_quat.__globals__["np"] is np
    assert quick._reward_quat.__globals__["np"].linalg.norm is lean.norm
    assert quick._gripper_caging_reward.__globals__["reward_utils"].tolerance is lean.tolerance
    # the class reaches its static methods by its name, which must lead to the quick ones
    name = cls.__name__
    assert quick.compute_reward.__globals__[name]._reward_quat is quick._reward_quat
