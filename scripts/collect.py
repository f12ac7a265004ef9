"""Records demonstrations of a task's scripted experts: python scripts/collect.py task=metaworld

With behaviour=random, run, replay, locomotion or adroit somebody else acts, for offline learning
from rewards. The task's `collect` node says how many and where; a second run resumes the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from embodied.commands import command

if TYPE_CHECKING:
    from embodied_datasets.scripted import Collection


@command("config")
def main(config: DictConfig) -> None:
    from embodied.build import instantiate
    from embodied.suites import check_experts

    suite = instantiate(config.task.suite)
    if not config.task.collect:
        check_experts(suite)  # says who else could act
    show(instantiate(config.task.collect)(suite))


def show(collection: Collection) -> None:
    print(f"{collection.num_episodes} episodes in {collection.root}")
    for task, rate in collection.success_rate.items():
        print(f"{rate:7.1%} solved  {task}")
    for subtask, count in collection.subtasks.items():
        print(f"{count:7d} times  {subtask}")
    print(f"{collection.num_retries} unstable episodes were run again")


if __name__ == "__main__":
    main()
