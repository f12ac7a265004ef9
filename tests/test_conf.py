"""Every `_target_` in conf/ imports, is allowed, and takes the keys that it is given."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from embodied.targets import ConfigError, check

ROOT = Path(__file__).parents[1] / "conf"
FILES = sorted(ROOT.rglob("*.yaml"))


def check_file(path: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(content, dict)
    content.pop("defaults", None)  # Hydra's own, beside what is built
    check(content)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_target_imports_is_allowed_and_takes_its_keys(path: Path) -> None:
    check_file(path)


def test_no_file_allows_more_targets() -> None:
    assert not [path for path in FILES if "allow_targets" in (OmegaConf.load(path) or {})]


def test_a_misspelt_key_in_a_file_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(
        "# @package _global_\ntask:\n- _target_: embodied.suites.Texts\n  canonica: ${name}\n"
    )
    with pytest.raises(ConfigError, match=r"task\.0\.canonica: .* did you mean 'canonical'"):
        check_file(path)
