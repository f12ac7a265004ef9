"""Looks at recorded data: what is wrong with them, what is in them, how they are normalised.

    python scripts/inspect.py check PATH [--json] [--strict] [--against OTHER] [--fix]
    python scripts/inspect.py show PATH [-o page.html]
    python scripts/inspect.py norm-report PATH [--checkpoint RUN]

`check` exits with 0 where nothing is wrong, 1 where faults were found, 2 where nothing can be read.
Fault codes: docs/data_checks.md.
"""

import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_HERE = Path(__file__).resolve().parent


def _elsewhere() -> list[str]:
    """The module search path without this folder, where this file hides the library's `inspect`."""
    return [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]


if __name__ == "inspect":
    # Another script of this folder, whose path comes first, asked for the standard library's
    # module: it gets that one. The import system hands out what stands in sys.modules at the end.
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    _spec = PathFinder.find_spec("inspect", _elsewhere())
    assert _spec is not None
    assert _spec.loader is not None
    _module = module_from_spec(_spec)
    sys.modules["inspect"] = _module
    _spec.loader.exec_module(_module)


def _read_policy(run: Path) -> "Mapping[str, Any]":
    """The state dict of a run's newest policy, or of the one in a `step-*` directory, as arrays."""
    from embodied import checkpoint
    from embodied.checkpoint_files import load

    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    found = load(run) if run.name.startswith("step-") else checkpoint.latest(folder)
    if found is None:
        raise FileNotFoundError(f"E_CKPT_MISSING: {folder} holds no checkpoint; name a run")
    tensors = found.tensors["policy"]
    return {name: x.float().numpy() for name, x in tensors.items() if x.is_floating_point()}


if __name__ == "__main__":
    # Python put the script's folder first; argparse and dataclasses must not import this file.
    sys.path[:] = _elsewhere()
    from embodied_datasets.checking.commands import main

    sys.exit(main(read_policy=_read_policy))
