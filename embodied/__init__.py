"""Robot policies that follow any kind of instruction, improve, and run on a robot.

Importing this package is cheap; `embodied.train(config)` does what `python train.py` does.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that `import embodied` loads neither torch nor Hydra.
    if name == "train":
        from embodied.experiment import train

        return train
    if name == "evaluate":
        from embodied.assessment import evaluate

        return evaluate
    raise AttributeError(f"module 'embodied' has no attribute {name!r}")
