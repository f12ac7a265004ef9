"""Where metrics go: a local JSONL that is always written, the console, and wandb by choice."""

from __future__ import annotations

import json
import logging
import math
import netrc
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes named scalars: floats, or 0-d tensors, which are read only here."""

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None: ...
    def close(self) -> None: ...


def to_floats(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """The metrics as plain floats; waits for the device where they are tensors."""
    return {name: float(value) for name, value in metrics.items()}


class JsonlLogger:
    """One JSON object per line, {"step": int, <metric>: float}; metrics may vary and appear late.

    A value that is not finite is written as null, because JSON has no NaN. Nothing but the
    metrics enters a row, so that an interrupted and resumed run writes the very same bytes as an
    unbroken one, provided that its metrics are the same.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(self.path)
        self._file = self.path.open("ab")

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        row = {name: v if math.isfinite(v) else None for name, v in to_floats(metrics).items()}
        self._file.write(json.dumps({"step": step, **row}).encode() + b"\n")
        self._file.flush()

    def resume(self, step: int) -> None:
        """Drops the rows after `step`, which the resumed run writes again."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if len(kept) == len(lines):  # also the null device, which must never be replaced
            return
        self._file.close()
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_bytes(b"".join(kept))
        temporary.replace(self.path)
        self._file = self.path.open("ab")

    def close(self) -> None:
        self._file.close()


def read_jsonl(path: Path | str) -> list[dict[str, float]]:
    """The rows of a JSONL file of metrics, null as NaN; a line cut off by a crash is left out."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]


class ConsoleLogger:
    """One line per call, printed above a tqdm bar if there is one.

    Args:
        write: takes the line; the default is `tqdm.write`.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or _tqdm_write

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        values = (f"{name} {value:.4g}" for name, value in to_floats(metrics).items())
        self._write("  ".join([f"step {step}", *values]))

    def close(self) -> None:
        pass


class WandbLogger:
    """Sends metrics to Weights & Biases; offline by default, and never asks for anything.

    Without an API key, or if the server does not answer in time, it goes on offline and says in
    one line how to upload the run later.

    Args:
        dir: where wandb writes its files.
        mode: "offline" writes files only; "online" sends them as the run goes.
        timeout_s: how long the start, and at the end the upload, may wait for the server, in s.
        name: of the run; wandb invents one if None.
        config: the run's configuration, shown beside it.
        write: takes the one line; the default is `tqdm.write`.
    """

    def __init__(
        self,
        project: str,
        dir: Path | str,
        *,
        mode: Literal["offline", "online"] = "offline",
        timeout_s: float = 20.0,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        write: Callable[[str], object] | None = None,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ValueError(f"mode must be 'offline' or 'online', got {mode!r}")
        wandb = _import_wandb()
        Path(dir).mkdir(parents=True, exist_ok=True)
        # The rest of the time is for starting wandb itself and then the offline run.
        settings = wandb.Settings(console="off", silent=True, init_timeout=0.8 * timeout_s)
        if hasattr(settings, "finish_timeout"):  # not in the oldest wandb that we allow
            settings.finish_timeout = timeout_s
        self._init = partial(
            wandb.init, project=project, dir=str(dir), name=name, config=config, settings=settings
        )
        run, why = self._online(wandb) if mode == "online" else (None, "")
        self._run: Any = run or self._init(mode="offline")
        if why:
            upload = f"wandb sync {self._run.settings.sync_dir}"
            (write or _tqdm_write)(f"wandb: {why}; logging offline, upload later with: {upload}")

    def _online(self, wandb: Any) -> tuple[Any, str]:
        """A run that reaches the server, or None and the reason."""
        if not _has_credentials(wandb.setup().settings):
            return None, "no API key found"  # wandb.init would ask for one
        try:
            return self._init(mode="online"), ""
        except wandb.Error as error:
            return None, f"the server cannot be used ({str(error).splitlines()[0]})"

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        self._run.log(to_floats(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class Loggers:
    """The JSONL and any others; one that fails is left out from then on, and training goes on.

    A failing JSONL is an error: it is the record of the run.
    """

    def __init__(self, jsonl: JsonlLogger, *others: Logger) -> None:
        self.jsonl = jsonl
        self._others = list(others)

    def log(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        values = to_floats(metrics)
        self.jsonl.log(values, step)
        self._each(lambda other: other.log(values, step))

    def resume(self, step: int) -> None:
        """Drops the rows after `step` from the JSONL; others keep what they were told."""
        self.jsonl.resume(step)

    def close(self) -> None:
        self.jsonl.close()
        self._each(lambda other: other.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for other in tuple(self._others):
            try:
                call(other)
            except Exception as error:  # whatever a tracker raises must not end the training
                self._others.remove(other)
                name = type(other).__name__
                logger.warning("%s failed and is left out from here on: %r", name, error)


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("WandbLogger needs the package wandb: pip install wandb") from error
    return wandb


def _has_credentials(settings: Any) -> bool:
    """Whether wandb finds an API key or an identity token without asking."""
    if settings.api_key or settings.identity_token_file:
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return (
            netrc.netrc(file).authenticators(urlsplit(settings.base_url).hostname or "") is not None
        )
    except (OSError, netrc.NetrcParseError):
        return False


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line that a kill left without its end, so that appending cannot extend it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _tqdm_write(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)
