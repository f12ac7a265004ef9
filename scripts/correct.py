"""Corrects a policy while it acts: `python scripts/correct.py checkpoint=RUN`

Type what it should do instead; an empty line lets it go on. What happened is kept as a data set.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="correct", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.people.session import correct

        print(f"episodes: {correct(config)}")


if __name__ == "__main__":
    main()
