"""Writes a policy as one graph: `python scripts/export.py checkpoint=RUN instruction="go left"`."""

from omegaconf import DictConfig

from embodied.commands import command


@command("export")
def main(config: DictConfig) -> None:
    from embodied.export import export_policy

    print(f"exported: {export_policy(config)}")


if __name__ == "__main__":
    main()
