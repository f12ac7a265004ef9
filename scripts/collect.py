"""Records demonstrations of a task's scripted experts: python scripts/collect.py task=metaworld

The task's `collect` node says how many and where; a second run resumes the first.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from embodied.build import instantiate


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    suite = instantiate(cfg.task.suite)
    collection = instantiate(cfg.task.collect)(suite)
    print(f"{collection.num_episodes} episodes in {collection.root}")
    for task, rate in collection.success_rate.items():
        print(f"{rate:7.1%} solved  {task}")
    print(f"{collection.num_retries} unstable episodes were run again")


if __name__ == "__main__":
    main()
