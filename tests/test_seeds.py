"""Several seeds trained together: each is what it would be alone."""

import pytest
import torch

from embodied.algorithms.cohort import Cohort
from embodied.algorithms.mdpo import OffPolicyMDPO
from embodied.build import instantiate
from embodied.checkpoint import latest
from embodied.experiment import train
from embodied.loading import load_policy
from embodied.loggers import read_jsonl
from embodied.structs import Condition, Observation
from embodied.targets import ConfigError
from embodied.trainer import Trainer
from tests.test_goal_learning import make_gciql, make_hiql, make_source
from tests.test_learners import SPEC, WORLD, compose, random_batch

SEEDS = range(3)
LEARNERS = {
    **dict.fromkeys(("iql", "awac", "td3_bc", "sac", "rlpd", "cql", "cal_ql"), ()),
    **dict.fromkeys(("famo2o_iql", "famo2o_cql"), ()),
    "mdpo_off_policy": ("algorithm.refresh_every=2",),
}


def make(name, seed, *overrides):
    config = compose(name, "train.steps=1000", "algorithm.actor_every=2", *overrides)
    torch.manual_seed(seed)
    policy = instantiate(config["policy"], spec=SPEC)
    policy.fit_normalizers(Observation(torch.zeros(0, 1, 1)), Condition(), torch.zeros(0, 1))
    return instantiate(config["algorithm"])(policy, world=WORLD, steps=1000, seed=seed)


def states(learner):
    """All that a checkpoint holds, by name."""
    groups, _ = learner.state_dict()
    named = {**groups, "policy": learner.inference_state()}
    return {f"{group}.{name}": x for group, found in named.items() for name, x in found.items()}


def require_alike(first, second):
    a, b = states(first), states(second)
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert torch.allclose(x.float(), b[name].float(), atol=2e-6), name


@pytest.mark.parametrize("name", LEARNERS)
def test_each_seed_learns_as_it_would_alone(name):
    """Parameters, targets and moments; the actor learns in every other step."""
    alone, together = ([make(name, seed, *LEARNERS[name]) for seed in SEEDS] for _ in range(2))
    cohort = Cohort(together)
    for step in range(4):
        batches = [random_batch(16, seed=10 * step + seed) for seed in SEEDS]
        expected = [x.update(batch, step) for x, batch in zip(alone, batches, strict=True)]
        found = cohort.update(batches, step)
        for mine, its in zip(found, expected, strict=True):
            assert {k: float(x) for k, x in mine.items()} == pytest.approx(
                {k: float(x) for k, x in its.items()}, abs=1e-4
            )
    for mine, its in zip(together, alone, strict=True):
        require_alike(mine, its)


@pytest.mark.parametrize("make", [make_gciql, make_hiql])
def test_so_do_learners_of_goals(make):
    alone, together = ([make(seed=seed) for seed in SEEDS] for _ in range(2))
    cohort, source = Cohort(together), make_source(batch_size=16)
    for step in range(3):
        batches = [next(source) for _ in SEEDS]
        for learner, batch in zip(alone, batches, strict=True):
            learner.update(batch, step)
        cohort.update(batches, step)
    for mine, its in zip(together, alone, strict=True):
        require_alike(mine, its)


def test_a_cohort_of_trained_learners_goes_on_with_their_moments():
    alone, together = ([make("sac", seed) for seed in SEEDS] for _ in range(2))
    for step in range(3):
        for each in (*alone, *together):
            each.update(random_batch(16, seed=step), step)
    cohort = Cohort(together)
    for step in range(3, 6):
        batch = random_batch(16, seed=step)
        cohort.update([batch] * 3, step)
        for each in alone:
            each.update(batch, step)
    for mine, its in zip(together, alone, strict=True):
        require_alike(mine, its)


def test_a_learner_of_another_way_to_update_is_refused():
    class Other(OffPolicyMDPO):
        def update(self, batch, step):
            return {}

    learner = make("mdpo_off_policy", 0)
    learner.__class__ = Other
    with pytest.raises(ValueError, match="num_seeds=1"):
        Cohort([learner])


# Whole runs

RUN = (
    "algorithm=iql",
    "source=offline_to_online",
    "source.offline_steps=3",
    "source.warmup_steps=4",
    "eval.action_horizon=1",
    "eval.every=4",
    "eval.episodes=2",
    "train.steps=6",
)


def test_each_seeds_run_is_an_ordinary_one(compose_rewarded, tmp_path):
    train(compose_rewarded(tmp_path / "all", *RUN, "num_seeds=2", "seed=5"))
    train(compose_rewarded(tmp_path / "alone", *RUN, "seed=6"))
    mine, its = tmp_path / "all" / "seed-6", tmp_path / "alone"
    a, b = (latest(run / "checkpoints") for run in (mine, its))
    assert a.step == b.step == 6
    for group, tensors in b.tensors.items():
        for name, x in tensors.items():
            assert torch.allclose(a.tensors[group][name].float(), x.float(), atol=1e-5), name
    same = {"run_dir": str(its)}
    assert {**a.documents["config"], **same} == {**b.documents["config"], **same}
    load_policy(mine, "cpu")
    curves = [
        [row["eval/return"] for row in read_jsonl(run / "metrics.jsonl") if "eval/return" in row]
        for run in (mine, its)
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert (tmp_path / "all" / "seed-5" / "results.json").exists()


class Killed(BaseException):
    """Stands for a SIGKILL."""


@pytest.mark.slow
def test_a_run_killed_between_the_saves_of_two_seeds_goes_on(
    compose_rewarded, tmp_path, monkeypatch
):
    config = compose_rewarded(tmp_path / "killed", *RUN, "num_seeds=2")
    save = Trainer.save

    def save_and_die(self):
        save(self)
        if self.step == 4:
            monkeypatch.setattr(Trainer, "save", save)
            raise Killed

    monkeypatch.setattr(Trainer, "save", save_and_die)
    with pytest.raises(Killed):
        train(config)
    steps = [latest(tmp_path / "killed" / f"seed-{k}" / "checkpoints").step for k in (0, 1)]
    assert steps == [4, 2]
    train(config)
    train(compose_rewarded(tmp_path / "unbroken", *RUN, "num_seeds=2"))
    for seed in (0, 1):
        a, b = (
            latest(tmp_path / run / f"seed-{seed}" / "checkpoints").tensors["policy"]
            for run in ("killed", "unbroken")
        )
        assert all(torch.allclose(x, b[name], atol=1e-5) for name, x in a.items())


def test_a_learner_without_critics_is_refused(compose, tmp_path):
    with pytest.raises(ConfigError, match="num_seeds=1"):
        train(compose(tmp_path, "num_seeds=2"))
