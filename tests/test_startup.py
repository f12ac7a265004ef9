"""Asking for help or importing the package loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "mujoco", "metaworld", "wandb", "diffusers", "transformers", "pyarrow")
PROBE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "script",
    [
        "train.py",
        "scripts/collect.py",
        "scripts/evaluate.py",
        "scripts/compare.py",
        "scripts/render.py",
        "scripts/gallery.py",
    ],
)
def test_help_loads_nothing_heavy(script: str) -> None:
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), str(ROOT / script), "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stderr.strip() == "[]"
    assert len(process.stdout) > 100


def test_reading_and_checking_data_loads_no_torch() -> None:
    code = """
import sys
import embodied_datasets.checking.run, embodied_datasets.convert
from embodied_datasets.formats import all_formats
assert len(all_formats()) > 9
print([name for name in ("torch", "h5py", "zarr", "mujoco") if name in sys.modules])
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import embodied, sys; print([m for m in sys.modules if m in {'torch', 'hydra', 'numpy'}])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
