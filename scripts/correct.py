"""Corrects a policy while it acts: `python scripts/correct.py checkpoint=RUN`

Type what it should do instead; an empty line lets it go on. What happened is kept as a data set.
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("correct")
def main(config: DictConfig) -> None:
    from embodied.people.session import correct

    print(f"episodes: {correct(config)}")


if __name__ == "__main__":
    main()
