"""Runs of several seeds, trained together on one device."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from embodied.algorithms.actor_critic import ValueLearner
from embodied.algorithms.cohort import Cohort
from embodied.experience import Experience
from embodied.targets import ConfigError
from embodied.trainer import Trainer, run_together

logger = logging.getLogger(__name__)


def train_seeds(trainers: Sequence[Trainer]) -> None:
    """Trains runs that differ in their seeds to the last step, as each would be alone.

    Where a run was killed while its seeds were saved one after the other, those behind are first
    trained alone to where the others are. Recorded transitions are kept once for all.

    Raises ConfigError for learners that cannot be trained so.
    """
    learners = [each.algorithm for each in trainers]
    batched = [each for each in learners if isinstance(each, ValueLearner)]
    if len(batched) < len(learners) or any(each.early_stop for each in trainers):
        raise ConfigError(
            "E_CONFIG_VALUE: num_seeds > 1 is for learners with critics, such as algorithm=iql or "
            f"sac, without train.early_stop; got {type(learners[0]).__name__}: set num_seeds=1, "
            "and use -m seed=0,1,... for one run after the other"
        )
    _share_recorded(trainers)
    _catch_up(trainers)
    try:
        cohort = Cohort(batched)
    except ValueError as error:
        raise ConfigError(f"E_CONFIG_VALUE: {error}") from error
    run_together(trainers, cohort.update)


def _share_recorded(trainers: Sequence[Trainer]) -> None:
    sources = [each.source for each in trainers if isinstance(each.source, Experience)]
    for source in sources[1:]:
        source.recorded = sources[0].recorded


def _catch_up(trainers: Sequence[Trainer]) -> None:
    newest = max(each.step for each in trainers)
    for each in trainers:
        if each.step < newest:
            logger.info("%s goes on alone to step %d", each.directory, newest)
            steps, each.steps = each.steps, newest
            each.run()
            each.steps = steps
