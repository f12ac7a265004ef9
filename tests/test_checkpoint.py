"""A checkpoint is whole or absent, and what is loaded is what was saved."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embodied import checkpoint_files
from embodied.checkpoint import latest, pin, pins, save, step_path
from embodied.checkpoint_files import CheckpointError, CorruptCheckpoint, load


def save_step(directory: Path, step: int, *, tag: int = 0, keep: int = 3) -> Path:
    tensors = {
        "policy": {"weight": torch.full((3, 4), float(step)), "tag": torch.tensor(tag)},
        "optimizer": {"step": torch.tensor(step)},
    }
    return save(directory, step, tensors=tensors, documents={"config": {"tag": tag}}, keep=keep)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def steps(directory: Path) -> list[int]:
    return [int(name.split("-")[1]) for name in names(directory) if name.startswith("step-")]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Round trip

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
VIEWS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: x.transpose(0, -1) if x.ndim else x,
    lambda x: x[..., ::2] if x.ndim else x,
    lambda x: x[1:] if x.ndim else x,
    lambda x: x.expand(2, *x.shape),
    lambda x: x.requires_grad_() if x.is_floating_point() else x,
]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    values = torch.randint(-9, 9, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
    return draw(st.sampled_from(VIEWS))(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(group=st.dictionaries(st.text(min_size=1), tensors(), max_size=4), document=JSON)
def test_what_is_loaded_is_what_was_saved(group: dict[str, Tensor], document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), 7, tensors={"policy": group}, documents={"notes": document})
        found = load(path)
    assert (found.step, found.path.name) == (7, "step-00000007")
    assert found.documents == {"notes": document}
    assert found.tensors["policy"].keys() == group.keys()
    for name, tensor in group.items():
        loaded = found.tensors["policy"][name]
        assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(loaded, tensor)


def test_tensors_that_share_storage_come_back_apart(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    group = {"encoder": weight, "decoder": weight, "part": weight[2:4]}
    group["turned"] = weight.view(2, 3).T
    found = load(save(tmp_path, 0, tensors={"policy": group}, documents={})).tensors["policy"]
    assert all(torch.equal(found[name], tensor) for name, tensor in group.items())
    found["encoder"].zero_()
    assert torch.equal(found["decoder"], weight)


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    first, same, other = (load(save_step(tmp_path / str(i), 1, tag=i // 2)) for i in range(3))
    assert first.digest == same.digest != other.digest


def test_a_copy_may_have_any_name(tmp_path: Path) -> None:
    path = save_step(tmp_path, 5)
    copy = shutil.copytree(path, tmp_path / "my-best-policy")
    (copy / ".DS_Store").touch()
    assert load(copy).step == 5


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({0: "a"}, "the key 0 is not a string"),
        ({"a": [{1: 2}]}, "the key 1 is not a string"),
        ({"a": float("nan")}, "not JSON compliant"),
        ({"a": torch.zeros(1)}, "Tensor is not JSON serializable"),
    ],
)
def test_a_document_that_json_would_change_is_refused(
    document: Any, what: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"E_CKPT_CONTENT: document 'state': .*{what}"):
        save(tmp_path, 1, tensors={}, documents={"state": document})
    assert names(tmp_path) == []


@pytest.mark.parametrize("bad", [torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()])
def test_a_tensor_that_the_format_lacks_is_refused(bad: Tensor, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="E_CKPT_CONTENT: tensors 'other'"):
        save(tmp_path, 1, tensors={"other": {"x": bad}}, documents={})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "manifest", "/tmp/x"])
def test_names_must_be_plain_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be a file name"):
        save(tmp_path / "run", 1, tensors={}, documents={name: 1})
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_policy_with_nan_is_never_saved(value: float, tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    weight = torch.zeros(2, 2)
    weight[1, 0] = value
    with pytest.raises(CheckpointError, match=r"E_CKPT_NONFINITE: .*policy/weight"):
        save(tmp_path, 2, tensors={"policy": {"weight": weight}}, documents={})
    assert names(tmp_path) == ["step-00000001"]
    save(tmp_path, 3, tensors={"statistics": {"minimum": weight}}, documents={})


# Corruption

CONFIG, MANIFEST, POLICY = "config.json", "manifest.json", "policy.safetensors"
SAVED = [CONFIG, MANIFEST, "optimizer.safetensors", POLICY]


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_and_rehash(path: Path, name: str, data: bytes) -> None:
    (path / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(path, lambda manifest: manifest["files"].update({name: entry}))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def swap(path: Path) -> None:
    (path / "policy.safetensors").rename(path / "x")
    (path / "optimizer.safetensors").rename(path / "policy.safetensors")
    (path / "x").rename(path / "optimizer.safetensors")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "tensor bit": (lambda p: flip(p / POLICY, -1), "policy.safetensors: wrong hash"),
    "header bit": (lambda p: flip(p / POLICY, 9), "policy.safetensors: wrong hash"),
    "tensors cut": (lambda p: cut(p / POLICY, 50), "policy.safetensors: wrong size, 50"),
    "tensors empty": (lambda p: cut(p / POLICY, 0), "policy.safetensors: wrong size"),
    "tensors missing": (lambda p: (p / POLICY).unlink(), "policy.safetensors: missing"),
    "tensors a folder": (lambda p: to_folder(p / POLICY), "safetensors: missing file"),
    "tensors swapped": (swap, "policy.safetensors: wrong size"),
    "document bit": (lambda p: flip(p / CONFIG, 3), "config.json: wrong hash"),
    "document cut": (lambda p: cut(p / CONFIG, 5), "config.json: wrong size"),
    "document missing": (lambda p: (p / CONFIG).unlink(), "config.json: missing file"),
    "document invalid": (lambda p: replace_and_rehash(p, CONFIG, b"{"), "config.json: Expect"),
    "tensors invalid": (
        lambda p: replace_and_rehash(p, POLICY, b"\xff" * 99),
        "policy.safetensors: .*header",
    ),
    "extra file": (lambda p: (p / "z.pkl").touch(), "extra file z.pkl"),
    "manifest missing": (lambda p: (p / MANIFEST).unlink(), "missing file manifest.json"),
    "manifest empty": (lambda p: cut(p / MANIFEST, 0), "manifest.json is empty"),
    "manifest cut": (lambda p: cut(p / MANIFEST, 60), "manifest.json is truncated"),
    "manifest binary": (lambda p: (p / MANIFEST).write_bytes(b"\xff\0"), "is truncated"),
    "manifest a list": (lambda p: (p / MANIFEST).write_text("[]"), "is truncated"),
    "no file list": (lambda p: edit_manifest(p, lambda m: m.pop("files")), "KeyError.'files'"),
    "file list a list": (lambda p: edit_manifest(p, lambda m: m.update(files=[1])), "lists files"),
    "other schema": (
        lambda p: edit_manifest(p, lambda m: m.update(schema=2)),
        "schema 2, .* reads 1",
    ),
    "other step": (lambda p: edit_manifest(p, lambda m: m.update(step=19)), "is of step 19"),
    "infinite step": (lambda p: edit_manifest(p, lambda m: m.update(step=1e999)), "is of step inf"),
    "other hash": (
        lambda p: edit_manifest(p, lambda m: m["files"][CONFIG].update(sha256="0" * 64)),
        "config.json: wrong hash",
    ),
    "entry damaged": (
        lambda p: edit_manifest(p, lambda m: m["files"].update({CONFIG: None})),
        "config.json: ",
    ),
    "escaping name": (
        lambda p: edit_manifest(p, lambda m: m["files"].update({"../x.json": {}})),
        "lists files that no checkpoint holds: .*x.json",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_named_and_the_checkpoint_before_is_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt, what = CORRUPTIONS[name]
    save_step(tmp_path, 10)
    path = save_step(tmp_path, 20)
    corrupt(path)
    with pytest.raises(CorruptCheckpoint, match=f"E_CKPT_CORRUPT: {path}: .*{what}"):
        load(path)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert names(tmp_path) == ["corrupt-step-00000020-1", "step-00000010"]
    (warning,) = warnings(caplog)
    assert "corrupt-step-00000020-1" in warning
    save_step(tmp_path, 20)
    assert steps(tmp_path) == [10, 20]


def test_all_damage_is_listed_at_once(tmp_path: Path) -> None:
    path = save_step(tmp_path, 20)
    (path / "extra.json").touch()
    (path / "config.json").unlink()
    flip(path / "policy.safetensors", -1)
    with pytest.raises(CorruptCheckpoint) as caught:
        load(path)
    for what in ("extra file extra.json", "config.json: missing", "policy.safetensors: wrong hash"):
        assert what in str(caught.value)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = save_step(tmp_path, 20)
    manifest = load(path)
    randomness = random.Random(0)
    for _ in range(200):
        file = path / randomness.choice(SAVED)
        data = bytearray(file.read_bytes())
        good = bytes(data)
        data[randomness.randrange(len(data))] ^= 1 << randomness.randrange(8)
        file.write_bytes(data)
        try:
            found = load(path)  # white space in the manifest may differ
            assert json.loads(bytes(data)) == json.loads(good)
            assert found.digest != manifest.digest
        except CorruptCheckpoint:
            pass
        file.write_bytes(good)


def test_quarantine_never_overwrites(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        cut(save_step(tmp_path, 1) / "manifest.json", 0)
        assert latest(tmp_path) is None
    assert names(tmp_path) == ["corrupt-step-00000001-1", "corrupt-step-00000001-2"]
    assert len(warnings(caplog)) == 2


def test_a_directory_that_cannot_be_changed_is_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(tmp_path, 1)
    cut(save_step(tmp_path, 2) / "manifest.json", 0)

    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "not moved aside" in warnings(caplog)[0]


def test_trouble_in_reading_quarantines_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(tmp_path, 1)

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            latest(tmp_path)
    assert names(tmp_path) == ["step-00000001"]


def test_no_checkpoint_is_none_but_a_wrong_path_is_an_error(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None
    with pytest.raises(CheckpointError, match="E_CKPT_MISSING"):
        load(tmp_path / "nowhere")


# Pruning


def test_the_newest_are_kept_and_the_pinned(tmp_path: Path) -> None:
    for step in range(1, 8):
        save_step(tmp_path, step, keep=2)
        if step in (2, 4):
            pin(tmp_path, "best", step)
    pin(tmp_path, "demo", 7)
    assert steps(tmp_path) == [4, 6, 7]
    assert pins(tmp_path) == {"best": 4, "demo": 7}
    assert load(step_path(tmp_path, pins(tmp_path)["best"])).step == 4
    with pytest.raises(CheckpointError, match="E_CKPT_MISSING: cannot pin 'best': no step 5"):
        pin(tmp_path, "best", 5)


def test_the_checkpoint_just_written_is_kept_though_others_are_higher(tmp_path: Path) -> None:
    for step in (100, 200, 50):
        save_step(tmp_path, step, keep=1)
    assert steps(tmp_path) == [50, 200]


def test_nothing_is_removed_when_the_pins_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_step(tmp_path, 1, keep=1)
    (tmp_path / "pins.json").write_text("{")
    save_step(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [1, 2]
    assert "pins.json is damaged" in warnings(caplog)[-1]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    for tag in range(3):
        save_step(tmp_path, 1, tag=tag)
    assert names(tmp_path) == ["step-00000001"]
    assert load(tmp_path / "step-00000001").documents["config"] == {"tag": 2}


@pytest.mark.parametrize(("step", "keep"), [(-1, 1), (1, 0)])
def test_senseless_arguments_are_refused(step: int, keep: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"step={step}, keep={keep}"):
        save_step(tmp_path, step, keep=keep)


# Faults


class Crash(BaseException):
    """The process is gone: no handler may count on running."""


class Faults:
    """Lets the k-th file operation fail, or the process die there (k = `at`, from 1)."""

    def __init__(self, at: int, *, dies: bool = False) -> None:
        self.at, self.dies = at, dies
        self.calls: list[tuple[str, str]] = []

    def step(self, name: str, path: object) -> bool:
        self.calls.append((name, Path(str(path)).name))
        return len(self.calls) == self.at or (self.dies and len(self.calls) > self.at)

    def fail(self) -> None:
        if self.dies:
            raise Crash
        raise OSError(errno.EIO, "Input/output error")

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: object, *args: Any, **keywords: Any) -> Any:
            if self.step(name, os.readlink(f"/proc/self/fd/{path}") if name == "fsync" else path):
                self.fail()
            return function(path, *args, **keywords)

        return wrapped

    def open(self, path: Path, mode: str) -> "FaultyFile":
        if self.step("create", path):
            self.fail()
        return FaultyFile(self, path)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, self.wrap(name, getattr(os, name)))
        patch.setattr(checkpoint_files, "open", self.open, raising=False)


class FaultyFile:
    """A file of which a failing write leaves the first half."""

    def __init__(self, faults: Faults, path: Path) -> None:
        self.faults, self.file = faults, path.open("wb")
        self.flush, self.fileno = self.file.flush, self.file.fileno

    def __enter__(self) -> "FaultyFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        if self.faults.step("write", self.file.name):
            self.file.write(data[: len(data) // 2])
            self.faults.fail()
        self.file.write(data)


Attempt = Callable[[Path], object]
ATTEMPTS: dict[str, tuple[Attempt, set[tuple[int, int]], tuple[int, int]]] = {
    # what is tried after steps 10 and 20: (step, tag) that may be found, and that of a success
    "new step": (lambda path: save_step(path, 30, keep=2), {(20, 0), (30, 0)}, (30, 0)),
    "same step": (lambda path: save_step(path, 20, tag=1), {(20, 0), (20, 1)}, (20, 1)),
    "pin": (lambda path: pin(path, "best", 10), {(20, 0)}, (20, 0)),
}


@pytest.mark.parametrize("dies", [False, True], ids=["fails", "dies"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_good_checkpoint_is_left_wherever_it_fails(
    name: str, dies: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt, possible, wanted = ATTEMPTS[name]
    for step in (10, 20):
        save_step(tmp_path / "start", step)
    pin(tmp_path / "start", "best", 20)
    for at in range(1, 200):
        faults, done = Faults(at, dies=dies), False
        directory = shutil.copytree(tmp_path / "start", tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                attempt(directory)
                done = True
            except (Crash, CheckpointError):
                pass
        found = latest(directory)
        assert found is not None
        state = (found.step, int(found.tensors["policy"]["tag"]))
        assert state in ({wanted} if done else possible), (at, faults.calls)
        assert pins(directory)["best"] in (10, 20)
        save_step(directory, 40)
        assert not [entry for entry in names(directory) if not entry.startswith(("step", "pins"))]
        if len(faults.calls) < at:
            break
    assert at > 5
    assert done
    assert not [text for text in warnings(caplog) if "E_CKPT_CORRUPT" in text]


def test_everything_is_on_disk_before_the_rename_shows_it(tmp_path: Path) -> None:
    faults = Faults(0)
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        path = save_step(tmp_path, 1)
    rename = faults.calls.index(("rename", f".tmp-{path.name}"))
    synced = [name for call, name in faults.calls[:rename] if call == "fsync"]
    assert sorted(synced) == sorted([*SAVED, f".tmp-{path.name}"])
    assert synced[-2:] == ["manifest.json", f".tmp-{path.name}"]
    assert ("fsync", tmp_path.name) in faults.calls[rename:]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_named_and_the_old_checkpoint_intact(
    code: int, tmp_path: Path
) -> None:
    save_step(tmp_path, 1)

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_files, "write", refuse)
        with pytest.raises(CheckpointError) as caught:
            save_step(tmp_path, 2)
    text = str(caught.value)
    assert text.startswith("E_DISK_FULL")
    for part in (str(tmp_path), os.strerror(code), "bytes free", "free space"):
        assert part in text
    assert names(tmp_path) == ["step-00000001"]


DISK_FULL = """
import resource, sys, torch
from pathlib import Path
from embodied.checkpoint import latest, save
from embodied.checkpoint_files import CheckpointError
directory = Path(sys.argv[1])
def attempt(step, size):
    save(directory, step, tensors={"policy": {"x": torch.ones(size)}}, documents={})
attempt(1, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    attempt(2, 100_000)
except CheckpointError as error:
    print(error)
attempt(3, 10)
print([path.name for path in sorted(directory.iterdir())], latest(directory).step)
"""


@pytest.mark.slow  # a whole process
def test_a_file_size_limit_acts_like_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "E_DISK_FULL" in output
    assert "['step-00000001', 'step-00000003'] 3" in output


def save_forever(directory: Path, first: int, pipe: int) -> None:
    for step in range(first, first + 1_000_000):
        save_step(directory, step, tag=step, keep=2)
        os.write(pipe, f"{step}\n".encode())


def kill_while_saving(directory: Path, first: int, delay_s: float) -> int:
    """Returns the last step that the child knew to be saved."""
    receive, send = os.pipe()
    context = multiprocessing.get_context("fork")  # the child need not import torch again
    child = context.Process(target=save_forever, args=(directory, first, send))
    child.start()
    os.close(send)
    with os.fdopen(receive) as pipe:
        known = int(pipe.readline())
        time.sleep(delay_s)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        return int(([str(known), *pipe.read().split()])[-1])


def drill(directory: Path, kills: int) -> int:
    """Returns how many of the kills hit a save half-way."""
    randomness, first, inside = random.Random(kills), 1, 0
    for _ in range(kills):
        known = kill_while_saving(directory, first, randomness.uniform(0, 0.05))
        inside += any(name.startswith(".tmp-step") for name in names(directory))
        found = latest(directory)
        assert found is not None
        assert found.step in (known, known + 1)
        assert found.documents["config"] == {"tag": found.step}
        assert torch.equal(found.tensors["policy"]["weight"], torch.full((3, 4), found.step))
        assert not [name for name in names(directory) if name.startswith("corrupt")]
        first = found.step + 1
    return inside


def test_a_killed_save_costs_at_most_that_save(tmp_path: Path) -> None:
    assert drill(tmp_path, kills=20) >= 3


@pytest.mark.slow
def test_hundreds_of_killed_saves(tmp_path: Path) -> None:
    assert drill(tmp_path, kills=500) >= 75
