"""Data for offline learning: who acts in them, what is kept of it, and what trains from them."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from embodied.behaviours import TrainedPolicy, reached
from embodied.checkpoint_files import CheckpointError
from embodied.experiment import train
from embodied.loggers import read_jsonl
from embodied.replayed import ReplayedEpisodes
from embodied_datasets import played
from embodied_datasets.behaviours import Mixed, ScaledActor, SquashedActor, Uniform
from embodied_datasets.convert import convert
from embodied_datasets.faults import DataError
from embodied_datasets.lerobot import LeRobotDataset
from embodied_datasets.measures import returns_of
from embodied_datasets.scripted import collect
from embodied_envs.adroit import Adroit
from embodied_envs.gym_mujoco import GymMujoco
from embodied_envs.point import PointSuite
from embodied_envs.reach import Reach

WHOLE = {"steps_after_success": None, "final": True, "workers": 1, "progress": False}
ONLINE = ("algorithm=sac", "source=online", "source.random_steps=1000", "eval.action_horizon=1")


def collected(root, behaviour, episodes=4, suite=None, **options):
    suite = suite or Reach(max_steps=12)
    settings = {"noise": (0.0,), **WHOLE, **options}
    collect(suite, root, episodes_per_task=episodes, behaviour=behaviour, **settings)
    return LeRobotDataset(root)


def test_uniform_actions_fill_the_bounds_and_every_step_has_its_next_state(tmp_path):
    found = list(collected(tmp_path, Uniform(), episodes=20))
    actions = np.concatenate([each.action for each in found])
    assert np.abs(actions).max() <= 1
    assert actions.min(0).max() < -0.9
    assert actions.max(0).min() > 0.9
    for each in found:
        assert (each.truncated, each.terminated) == (True, False)
        moved = each.state[-1, :2] + 0.1 * each.action[-1]
        assert each.final["state"][:2] == pytest.approx(np.clip(moved, -1, 1), abs=1e-6)
    assert not np.array_equal(found[0].action, found[1].action)


def test_an_episode_goes_on_after_success_where_whole_ones_are_asked_for(tmp_path):
    short = collected(tmp_path / "a", None, steps_after_success=0, suite=Reach())
    whole = collected(tmp_path / "b", None, suite=Reach())
    assert [len(each) for each in whole] == [40] * 4
    assert max(len(each) for each in short) < 40
    assert all(each.success for each in whole)


def test_epsilon_is_the_share_of_steps_whose_action_is_not_the_experts(tmp_path):
    found = list(collected(tmp_path, None, episodes=30, epsilon=(0.3,), suite=Reach()))
    other = [np.any(each.action != each.expert_action, 1).mean() for each in found]
    assert np.mean(other) == pytest.approx(0.3, abs=0.05)
    assert found[0].info["epsilon"] == 0.3


def test_a_folder_of_another_behaviour_is_refused_and_older_settings_are_not(tmp_path):
    collected(tmp_path / "a", Uniform())
    with pytest.raises(DataError, match=r"behaviour: Uniform\(\) in the folder, None now"):
        collected(tmp_path / "a", None)
    collected(tmp_path / "b", None, final=False)
    assert not {"behaviour", "epsilon", "final"} & set((tmp_path / "b/collection.json").read_text())
    with pytest.raises(ValueError, match=r"epsilon must list shares in \[0, 1\], got \(2,\)"):
        collected(tmp_path / "c", None, epsilon=(2,))


def test_a_mixture_draws_who_acts_for_each_episode(tmp_path):
    class Still:
        def __call__(self, task, env, seed):
            return lambda state: np.zeros(2, np.float32)

        def __repr__(self):
            return "Still()"

    found = collected(tmp_path, Mixed((Still(), Uniform())), episodes=30)
    still = [not each.action.any() for each in found]
    assert 5 < sum(still) < 25


# Published policies


def perceptron(prefix, names, sizes):
    """Arrays of affine layers, the weights and biases of layer i all i + 1 hundredths."""
    arrays = {}
    for i, ((weight, bias), (a, b)) in enumerate(zip(names, sizes, strict=True), 1):
        arrays |= {f"{prefix}{weight}": np.full((b, a), 0.01 * i), f"{prefix}{bias}": np.full(b, i)}
    return arrays


def squashed(path, state_dim=11, action_dim=3, **changes):
    names = [
        (f"{layer}.weight", f"{layer}.bias")
        for layer in ("latent_pi.0", "latent_pi.2", "mu", "log_std")
    ]
    sizes = [(state_dim, 4), (4, 5), (5, action_dim), (5, action_dim)]
    arrays = perceptron("tqc/Hopper/", names, sizes)
    arrays["tqc/Hopper/mu.bias"] = np.full(action_dim, -2.0)
    np.savez(path, **(arrays | changes))
    return path


def test_a_squashed_actor_is_relu_relu_tanh_in_the_bounds(tmp_path):
    env = GymMujoco(("Hopper-v5",)).make_env()
    actor = SquashedActor(squashed(tmp_path / "a.npz"))
    state = np.linspace(-1, 1, 11) + 0.1
    x = max(0.0, 0.01 * 1.1 + 1)  # the sum of states is 1.1; all four units are alike
    x = max(0.0, 0.02 * 4 * x + 2)
    expected = np.tanh(0.03 * 5 * x - 2.0)
    assert actor("Hopper-v5", env, 0)(state) == pytest.approx([expected] * 3, abs=1e-6)
    drawn = replace(actor, draw=True)
    assert not np.array_equal(drawn("Hopper-v5", env, 0)(state), drawn("Hopper-v5", env, 1)(state))
    env.close()


@pytest.mark.parametrize(
    ("task", "changes", "named"),
    [
        ("Walker2d-v5", {}, "tqc/Walker2d/.*is not there: the file has tqc/Hopper"),
        (
            "Hopper-v5",
            {"tqc/Hopper/mu.weight": np.zeros((3, 4))},
            r"mu\.weight.*\(3, 4\).*\(3, 5\)",
        ),
        ("Hopper-v5", {"tqc/Hopper/mu.bias": np.full(3, np.nan)}, r"mu\.bias.*not finite"),
        ("Hopper-v5", {"tqc/Hopper/latent_pi.0.weight": np.zeros((4, 12))}, r"\(4, 12\).*11"),
    ],
)
def test_weights_of_another_shape_are_named(task, changes, named, tmp_path):
    env = GymMujoco((task,)).make_env()
    with pytest.raises(DataError, match=f"E_DATA_SHAPE.*{named}"):
        SquashedActor(squashed(tmp_path / "a.npz", **changes))(task, env, 0)
    env.close()


def published(folder, name):
    root = Path(os.environ.get("EMBODIED_REALDATA", "")) / folder / name
    if not os.environ.get("EMBODIED_REALDATA") or not root.exists():
        pytest.skip(f"set EMBODIED_REALDATA to a folder with {folder}/{name}")
    return root


@pytest.mark.realdata
@pytest.mark.parametrize(("task", "least"), [("Hopper-v5", 3000), ("HalfCheetah-v5", 9000)])
def test_published_actors_reach_the_returns_that_were_measured(task, least, tmp_path):
    actor = SquashedActor(published("mujoco_expert_policies", "policies.npz"))
    found = collected(tmp_path, actor, episodes=2, suite=GymMujoco((task,)))
    assert returns_of(found).mean() > least


@pytest.mark.realdata
@pytest.mark.parametrize("task", ["AdroitHandDoor-v1", "AdroitHandPen-v1"])
def test_published_hands_solve_their_tasks(task, tmp_path):
    actor = ScaledActor(published("adroit_dapg", "policies.npz"))
    suite = Adroit(tasks=(task,), reward="sparse")
    found = list(collected(tmp_path, actor, episodes=4, suite=suite))
    assert np.mean([each.success for each in found]) >= 0.5


# Our own runs


def online(compose_rewarded, folder, *overrides):
    config = compose_rewarded(folder, *ONLINE, "source.warmup_steps=40", *overrides)
    train(config)
    return str(folder)


def test_the_replay_buffer_holds_the_episodes_that_were_played(compose_rewarded, tmp_path):
    """With uniform actions an episode follows from its number, however many are played at once."""
    one = ReplayedEpisodes(online(compose_rewarded, tmp_path / "one"))
    scaled = ("source.reward.scale=2", "source.reward.shift=0.5", "source.num_envs=3")
    three = ReplayedEpisodes(online(compose_rewarded, tmp_path / "three", *scaled))
    assert sum(len(each) for each in one) == 46  # to warm up, and one for each of six updates
    assert [len(each) for each in one] == [10, 10, 10, 10, 6]
    assert [len(each) for each in three] == [10, 10, 10, 6, 6, 6]  # the last ones are under way
    for number in range(5):
        a, b = one[number], three[number]
        n = min(len(a), len(b))
        assert np.array_equal(a.state[:n], b.state[:n])
        assert np.array_equal(a.action[:n], b.action[:n])
        assert a.reward[:n] == pytest.approx(b.reward[:n], abs=1e-6)
        assert (a.terminated, a.truncated) == (b.terminated, b.truncated) == (False, True)
    assert np.array_equal(one[0].final["state"], three[0].final["state"])


def test_a_buffer_of_another_run_is_refused(compose_rewarded, tmp_path):
    run = online(compose_rewarded, tmp_path / "run")
    rows = np.memmap(tmp_path / "run/replay.f32", np.float32, "r+")
    rows[3] += 1
    rows.flush()
    with pytest.raises(CheckpointError, match="E_REPLAY_CHANGED"):
        ReplayedEpisodes(run)


def test_a_run_that_never_acted_has_no_episodes(compose_rewarded, tmp_path):
    train(compose_rewarded(tmp_path, "algorithm=iql", "eval.action_horizon=1"))
    with pytest.raises(ValueError, match="had not acted by step 6"):
        ReplayedEpisodes(str(tmp_path))


def test_a_replay_is_written_once_and_reads_back(compose_rewarded, tmp_path):
    episodes = ReplayedEpisodes(online(compose_rewarded, tmp_path / "run"))
    suite = PointSuite()
    with pytest.raises(ValueError, match=r"name the task that was played: .* has \d"):
        played.write(suite, tmp_path / "data", episodes=episodes)
    root = tmp_path / "reach"
    for _ in range(2):
        assert played.write(Reach(), root, episodes=episodes).num_episodes == len(episodes)
    for a, b in zip(episodes, LeRobotDataset(root), strict=True):
        assert np.array_equal(a.state, b.state)
        assert np.array_equal(a.reward, b.reward)
        assert np.array_equal(a.final["state"], b.final["state"])
        assert b.instruction == "go to the mark"


def test_the_first_checkpoint_that_came_far_enough_is_taken(tmp_path):
    rows = [(0, -100), (2, -80), (4, -55), (6, -30), (8, -40), (10, 0)]
    lines = [f'{{"step": {step}, "eval/return": {value}}}\n' for step, value in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    for step in (2, 4, 8, 10):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    # 60 % of the way from -100 to 0 is -40; step 6 was better, but was not kept.
    assert reached(tmp_path, 0.6).name == "step-00000008"
    assert reached(tmp_path, 0.4).name == "step-00000004"
    assert reached(tmp_path, 1.0).name == "step-00000010"
    (tmp_path / "checkpoints/step-00000010").rmdir()
    with pytest.raises(CheckpointError, match=r"E_CKPT_MISSING.*100%.*train\.keep"):
        reached(tmp_path, 1.0)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\].*got 0"):
        reached(tmp_path, 0)


def test_a_trained_policy_acts_as_it_would_be_evaluated_or_draws(compose_rewarded, tmp_path):
    run = online(compose_rewarded, tmp_path / "run")
    suite = PointSuite()
    env = suite.make_env()
    state = env.reset(seed=0)[0]["state"]
    task = suite.tasks[0]
    calm, lively = TrainedPolicy(run, explores=False), TrainedPolicy(run)
    a, b = (calm(task, env, seed)(state) for seed in (0, 1))
    assert np.array_equal(a, b)
    c, d = (lively(task, env, seed)(state) for seed in (0, 1))
    assert not np.array_equal(c, d)
    assert np.array_equal(c, lively(task, env, 0)(state))


# What trains from them


def d4rl_file(path, episodes):
    """A file as D4RL's are: flat, with flags where episodes end."""
    columns = {name: [] for name in ("observations", "actions", "rewards", "next_observations")}
    flags = {"terminals": [], "timeouts": []}
    for each in episodes:
        columns["observations"].append(each.state)
        columns["actions"].append(each.action)
        columns["rewards"].append(each.reward)
        columns["next_observations"].append(
            np.concatenate([each.state[1:], each.final["state"][None]])
        )
        for name, over in (("terminals", each.terminated), ("timeouts", each.truncated)):
            flags[name].append(np.arange(len(each)) == (len(each) - 1 if over else -1))
    with h5py.File(path, "w") as file:
        for name, parts in (columns | flags).items():
            file[name] = np.concatenate(parts)


@pytest.mark.parametrize("form", ["lerobot", "d4rl", "minari"])
def test_offline_learning_trains_from_every_format(form, compose_rewarded, tmp_path):
    data = collected(tmp_path / "lerobot", Uniform(), suite=PointSuite(), episodes=1)
    path = tmp_path / {"lerobot": "lerobot", "d4rl": "set.hdf5", "minari": "minari"}[form]
    if form == "d4rl":
        d4rl_file(path, data)
    elif form == "minari":
        convert(tmp_path / "lerobot", path, to="minari")
    overrides = (
        "algorithm=iql",
        "eval.action_horizon=1",
        "task.collect=null",
        "task.episodes={_target_: embodied_datasets.formats.open_episodes}",
        f"+task.episodes.path={path}",
        "~task.episodes.root",
        "~task.episodes.only_success",
    )
    train(compose_rewarded(tmp_path / "run", *overrides))
    rows = read_jsonl(tmp_path / "run/metrics.jsonl")
    assert np.isfinite(rows[-1]["critic_loss"])
    assert rows[-1]["step"] == 6
