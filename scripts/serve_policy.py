"""Serves a policy to robots: `python scripts/serve_policy.py checkpoint=RUN`

Clients of openpi work with it; see docs/serving.md.
"""

from omegaconf import DictConfig

from embodied.commands import command


@command("serve_policy")
def main(config: DictConfig) -> None:
    from embodied.serve.command import serve_checkpoint

    serve_checkpoint(config)


if __name__ == "__main__":
    main()
