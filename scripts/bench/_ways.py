"""Ways of running one policy for one robot: as it is, compiled, or as one graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from embodied.export import FORMATS, WholeLoop, export, load, save
from embodied.latency import calls
from embodied.policies.base import Policy
from embodied.structs import Condition
from scripts.bench._setup import INSTRUCTIONS

Act = Callable[[], Any]

CONDITION = Condition(language=INSTRUCTIONS[:1])


def eager(policy: Policy) -> Act:
    """`policy.act`, noise included."""
    return calls(policy, CONDITION)


def compiled(policy: Policy) -> Act:
    """The same by `torch.compile`."""
    return calls(policy, CONDITION, through=torch.compile)


def exported(policy: Policy) -> Act:
    """The graph of `torch.export`, whose operations torch runs one by one."""
    loop = WholeLoop(policy, CONDITION)
    return _fed(loop, export(loop).module())


def inductor(policy: Policy) -> Act:
    """The graph compiled beforehand (AOTInductor)."""
    return _through_a_file(policy, "inductor")


def onnx(policy: Policy) -> Act:
    """The graph in ONNX Runtime, on the CPU."""
    return _through_a_file(policy, "onnx")


def graph(policy: Policy) -> Act:
    """All kernels of a call recorded once and launched together (a CUDA graph)."""
    loop = WholeLoop(policy, CONDITION)
    inputs, stream = loop.example(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):  # what loads and allocates is not recorded
        for _ in range(3):
            loop(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(recorded):
        action = loop(*inputs)

    def replay(*given: torch.Tensor) -> torch.Tensor:
        for held, new in zip(inputs, given, strict=True):
            held.copy_(new)
        recorded.replay()
        return action

    return _fed(loop, replay)


WAYS: dict[str, Callable[[Policy], Act]] = {
    "eager": eager,
    "compiled": compiled,
    "exported": exported,
    "inductor": inductor,
    "onnx": onnx,
    "graph": graph,
}


def missing(way: str, device: str) -> str | None:
    """Why a way cannot be measured here; None if it can."""
    if way == "onnx" and device != "cpu":
        return "onnx is run on the CPU alone"
    if way == "onnx" and (
        lacking := [x for x in ("onnx", "onnxscript", "onnxruntime") if not find_spec(x)]
    ):
        return f"{', '.join(lacking)} not installed"
    if way == "graph" and not device.startswith("cuda"):
        return "CUDA graphs need --device cuda"
    return None


def _through_a_file(policy: Policy, form: str) -> Act:
    loop = WholeLoop(policy, CONDITION)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"policy{FORMATS[form]}"
        save(loop, path, form)
        return _fed(loop, load(path, form))


def _fed(loop: WholeLoop, run: Callable[..., torch.Tensor]) -> Act:
    """A call with fresh noise and what is sensed, until the action is on the CPU."""
    sensed = loop.example()[: len(loop.names) - len(loop.draws)]
    generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def act() -> torch.Tensor:
        return run(*sensed, *loop.draw(generator)).cpu()

    return act
