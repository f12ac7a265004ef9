"""Evaluates a checkpoint: `python scripts/evaluate.py checkpoint=RUN protocol=mt-v3`."""

from omegaconf import DictConfig

from embodied.commands import command


@command("evaluate")
def main(config: DictConfig) -> None:
    from embodied.assessment import evaluate

    print(f"results: {evaluate(config)}")


if __name__ == "__main__":
    main()
