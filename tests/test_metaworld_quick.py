"""The quicker functions give the numbers of those that they stand in for, to the last bit."""

from __future__ import annotations

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from metaworld import env_dict
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation as SciPyRotation

from embodied_envs import metaworld_quick as quick

ROUNDS = 300


def test_the_norm_is_numpys_in_value_and_type() -> None:
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        long = rng.normal(size=6)
        for x in (long[:3], long[::2], long[0], long.astype(np.float32), np.array(long[0])):
            assert quick.norm(x) == np.linalg.norm(x)
            assert isinstance(quick.norm(x), np.floating)
    matrix = rng.normal(size=(3, 2))
    np.testing.assert_array_equal(quick.norm(matrix, axis=1), np.linalg.norm(matrix, axis=1))
    assert quick.norm(matrix) == np.linalg.norm(matrix)


def test_the_clip_is_numpys_in_value_and_type() -> None:
    for x in (np.float32(1.3), np.float32(-0.3), np.float64(-2.0), np.float64(np.nan)):
        ours, theirs = quick.clip(x, -1, 1), np.clip(x, -1, 1)
        np.testing.assert_equal(ours, theirs)
        assert type(ours) is type(theirs)
    np.testing.assert_array_equal(quick.clip(np.arange(4), 1, 2), [1, 1, 2, 2])


def test_stacked_numbers_are_numpys() -> None:
    x, y = np.float64(0.1), np.array([1.0, 2.0])
    for parts in ((x, x), (x, y), (y, x), (y, y), (x, y, x), [0.5, x]):
        np.testing.assert_array_equal(quick.hstack(parts), np.hstack(parts))


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
@pytest.mark.parametrize("bounds", [(0.0, 0.05), (0, 0), (0.2, 0.4)])
def test_the_tolerance_is_the_librarys(sigmoid: str, bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    for x in (*rng.uniform(-0.5, 0.5, ROUNDS), *bounds, 0.2, np.float64(np.nan)):
        for margin in (0.0, 0.3, np.float64(rng.uniform(0, 0.2))):
            options = {"bounds": bounds, "margin": margin, "sigmoid": sigmoid}
            ours, theirs = (f.tolerance(x, **options) for f in (quick, reward_utils))
            np.testing.assert_equal(ours, theirs)
            assert type(ours) is type(theirs)


def test_a_wrong_tolerance_is_refused_as_in_the_library() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        quick.tolerance(0.1, (0, 1), -1.0, "long_tail")
    with pytest.raises(ValueError, match="Lower bound"):
        quick.tolerance(0.1, (1, 0), 1.0, "long_tail")


def test_the_quaternion_of_a_matrix_is_scipys() -> None:
    rng, matrix = np.random.default_rng(0), np.zeros(9)
    quaternions = rng.normal(size=(ROUNDS, 4))
    quaternions[::3] *= [1, 1e-3, 1e-3, 1e-3]  # almost upright, as most objects are
    quaternions[:4] = np.eye(4)
    for quaternion in quaternions:
        mujoco.mju_quat2Mat(matrix, quaternion / np.linalg.norm(quaternion))
        ours, theirs = (
            kind.from_matrix(matrix.reshape(3, 3)) for kind in (quick.Rotation, SciPyRotation)
        )
        np.testing.assert_array_equal(ours.as_quat(), theirs.as_quat())


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1, 0.3), (np.float32(0.7), 0.2), (0, 0.5)])
def test_the_hamacher_product_is_the_librarys_in_value_and_type(a: float, b: float) -> None:
    ours, theirs = (f.hamacher_product(a, b) for f in (quick, reward_utils))
    assert ours == theirs
    assert type(ours) is type(theirs)
    for module in (quick, reward_utils):
        with pytest.raises(ValueError, match="1"):
            module.hamacher_product(1.5, b)


@pytest.mark.parametrize("density", ["high_density", "medium_density", None])
def test_the_caging_reward_is_the_librarys_in_value_and_type(density: str | None) -> None:
    rng = np.random.default_rng(0)
    options = {} if density is None else {density: True}
    beside, kinds = np.array([0, 0.03, 0]), set()
    for close in np.repeat([0.0, 1.0], ROUNDS):
        tcp = rng.uniform(0.0, 0.1, 3)
        scene = SimpleNamespace(
            obj_init_pos=tcp + rng.normal(size=3) * 0.1,
            init_tcp=rng.uniform(0.2, 0.3, 3),
            tcp_center=tcp,
            get_body_com={
                "leftpad": tcp + beside,
                "rightpad": tcp - beside,
            }.__getitem__,
        )
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        sizes = {"obj_radius": 0.015, "pad_success_thresh": 0.05, "object_reach_radius": 0.01}
        found = [
            caging(
                scene,
                action,
                tcp + (1 - close) * rng.normal(size=3) * 0.05,
                xz_thresh=0.01,
                **sizes,
                **options,
            )
            for caging, rng in (
                (quick._gripper_caging_reward, np.random.default_rng(1)),
                (SawyerXYZEnv._gripper_caging_reward, np.random.default_rng(1)),
            )
        ]
        assert found[0] == found[1]
        assert type(found[0]) is type(found[1])
        kinds.add((type(found[0]), found[0] > 0))
    assert (np.float32, True) in kinds  # where the gripper closes, it rounds as the action does


def test_the_librarys_classes_keep_their_own_functions() -> None:
    cls = env_dict.ENV_CLS_MAP["hammer-v3"]
    ours = quick.quick_class(cls)
    assert issubclass(ours, cls)
    assert cls._reward_quat.__globals__["np"] is np
    assert ours._reward_quat.__globals__["np"].linalg.norm is quick.norm
    assert ours.evaluate_state.__globals__["tolerance"] is quick.tolerance
    # the class reaches its static methods by its name, which must lead to the quick ones
    name = cls.__name__
    assert ours.compute_reward.__globals__[name]._reward_quat is ours._reward_quat
