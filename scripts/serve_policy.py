"""Serves a policy to robots: `python scripts/serve_policy.py checkpoint=RUN`

Clients of openpi work with it; see docs/serving.md.
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
