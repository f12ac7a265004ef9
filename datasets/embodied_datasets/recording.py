"""Recording the episodes of a suite in parallel: each once, whatever interrupts.

What all of them share is written down before the first, and refused if it differs later.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gymnasium
from tqdm import tqdm

from embodied.structs import Spec
from embodied.suites import Suite, image_profile
from embodied_datasets import lerobot_schema as schema
from embodied_datasets.files import read_json, write_json
from embodied_datasets.lerobot_writer import LeRobotWriter


class Job(Protocol):
    """One episode to record; the key is its name in the data set."""

    @property
    def key(self) -> str: ...


class Recorder(Protocol):
    """Records one episode after the other, in one process."""

    def run(self, job: Any) -> None: ...
    def close(self) -> None: ...


Start = Callable[[Path], Recorder]
"""Makes a recorder that writes into an `incoming` folder; must be picklable."""


def settle(root: Path, name: str, settings: Mapping[str, Any], verb: str) -> None:
    """Writes the settings of a data set to the file `name` in it, or compares them with it.

    Args:
        verb: what was done with them, such as "collected".

    Raises DataError naming all differences, or if there is a data set without the file.
    """
    path, settings = root / name, dict(json.loads(json.dumps(settings)))
    if not path.exists():
        if (root / schema.INFO_PATH).exists():
            message = f"{root} holds a data set without {name}"
            schema.fail("E_DATA_SETTINGS", None, message, "choose another folder")
        write_json(path, settings)
        return
    found = read_json(path)
    differences = [
        f"{name}: {found.get(name)} in the folder, {settings.get(name)} now"
        for name in sorted(found.keys() | settings.keys())
        if found.get(name) != settings.get(name)
    ]
    if differences:
        message = f"{root} was {verb} with other settings: {'; '.join(differences)}"
        remedy = "choose another folder, or use the same settings to resume"
        schema.fail("E_DATA_SETTINGS", None, message, remedy)


def fill(
    root: Path,
    spec: Spec,
    jobs: Sequence[Job],
    start: Start,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Records what is missing of the jobs' episodes, and finalises the data set.

    Args:
        workers: processes; None means one per core, and with 1 all runs in this process.
    """
    with LeRobotWriter(root, spec=spec) as writer:
        if writer.is_final:  # completed by recovering from an interruption
            return
        done = writer.keys
        missing = [job for job in jobs if job.key not in done]
        begin = functools.partial(start, writer.incoming)
        workers = min(workers or _num_cores(), len(missing))
        results = _in_processes(begin, missing, workers) if workers > 1 else _here(begin, missing)
        finished = len(jobs) - len(missing)
        with tqdm(total=len(jobs), initial=finished, unit="episode", disable=not progress) as bar:
            for _ in results:
                bar.update()
        writer.finalize()


def spec_of(suite: Suite) -> Spec:
    """Sizes, bounds and cameras of a suite's episodes; opens an environment to see them."""
    env = suite.make_env()
    try:
        spaces, action = env.observation_space, env.action_space
        assert isinstance(spaces, gymnasium.spaces.Dict)
        assert isinstance(action, gymnasium.spaces.Box)
        shapes = {name: space.shape or () for name, space in spaces.items()}
        return Spec(
            state_dim=shapes.pop("state")[0],
            action_dim=action.shape[0],
            action_low=tuple(action.low.tolist()),
            action_high=tuple(action.high.tolist()),
            rate_hz=float(suite.rate_hz),
            cameras={name: (shape[0], shape[1]) for name, shape in shapes.items()},
            render_profile=image_profile(suite),
        )
    finally:
        env.close()


def _here(begin: Callable[[], Recorder], jobs: Iterable[Job]) -> Iterator[None]:
    recorder = begin()
    try:
        for job in jobs:
            recorder.run(job)
            yield
    finally:
        recorder.close()


def _in_processes(
    begin: Callable[[], Recorder], jobs: Iterable[Job], workers: int
) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")  # a simulator's threads do not survive a fork
    with (
        _single_threaded(),
        ProcessPoolExecutor(workers, context, _start_worker, (begin,)) as pool,
    ):
        futures: list[Future[None]] = [pool.submit(_run_in_worker, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_recorder: Recorder | None = None  # a worker process builds its environment once


def _start_worker(begin: Callable[[], Recorder]) -> None:
    global _recorder
    _recorder = begin()


def _run_in_worker(job: Job) -> None:
    assert _recorder is not None
    _recorder.run(job)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Gives child processes one thread each for numerical libraries, which read this at start."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
