"""Only one run may write to a directory."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from embodied.locks import RunLock, RunLocked

HOLD = """
import os, sys, time
from embodied.locks import RunLock
def tell(name):  # one write, so that the lines of two processes never mix
    os.write(1, f"{name} {os.getpid()}\\n".encode())
with RunLock(sys.argv[1]):
    if "fork" in sys.argv and os.fork() == 0:
        tell("worker")
        time.sleep(60)
        os._exit(0)
    tell("held")
    time.sleep(60)
"""


def start_holder(directory: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(directory), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_pids(process: subprocess.Popen[str], lines: int) -> dict[str, int]:
    assert process.stdout is not None
    pairs = [process.stdout.readline().split() for _ in range(lines)]
    return {name: int(pid) for name, pid in pairs}


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_file_tells_process_host_and_start(tmp_path: Path) -> None:
    with RunLock(tmp_path / "new") as lock:
        found = json.loads(lock.path.read_text())
    assert found.keys() == {"pid", "host", "started"}
    assert (found["pid"], found["host"]) == (os.getpid(), socket.gethostname())


def test_a_second_holder_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunLocked, match=str(os.getpid())), RunLock(tmp_path):
        pass


def test_the_lock_can_be_taken_again_after_an_error_inside_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    with lock:
        assert lock.path.read_text()
    assert lock.path.read_text() == ""


def test_a_second_process_is_told_pid_host_and_what_to_do(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    try:
        pid = read_pids(process, 1)["held"]
        with pytest.raises(RunLocked) as caught, RunLock(tmp_path):
            pass
    finally:
        kill(process)
    text = str(caught.value)
    assert text.startswith("E_RUN_LOCKED")
    for part in (str(tmp_path), f"process {pid}", socket.gethostname(), "another directory"):
        assert part in text


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    read_pids(process, 1)
    kill(process)
    assert "pid" in (tmp_path / "run.lock").read_text()
    with RunLock(tmp_path) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_forked_worker_that_outlives_its_run_does_not_hold_the_lock(tmp_path: Path) -> None:
    process = start_holder(tmp_path, "fork")
    worker = read_pids(process, 2)["worker"]
    try:
        kill(process)
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_an_unsigned_lock_is_still_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        lock.path.write_text("")
        with pytest.raises(RunLocked, match="not signed"), RunLock(tmp_path):
            pass


def test_locking_needs_no_torch() -> None:
    code = "import embodied.locks, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
