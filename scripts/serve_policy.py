"""Serves a policy to robots and to openpi's clients: `python scripts/serve_policy.py checkpoint=RUN`

See docs/serving.md.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../conf", config_name="serve_policy", version_base="1.3")
def main(config: DictConfig) -> None:
    from embodied.cli import clear_errors  # late: --help must not wait for torch

    with clear_errors():
        from embodied.serve.command import serve_checkpoint

        serve_checkpoint(config)


if __name__ == "__main__":
    main()
