"""A policy as one graph: normalisation, context, all steps of the sampler, and the clamp.

What is asked is fixed and so becomes part of the graph; what is sensed and what is drawn are its
inputs. With the draws as inputs a graph gives the policy's own action for the same noise, and needs
no random numbers of its own where it runs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from embodied.build import read_stored, resolve
from embodied.latency import made_up, with_sampling
from embodied.loading import load_policy
from embodied.noise import RowNoise
from embodied.policies.base import Policy
from embodied.results import versions
from embodied.structs import Condition, Observation

Inputs = tuple[Tensor, ...]
Run = Callable[..., Tensor]
FORMATS = {"torch": ".pt2", "inductor": ".aoti.pt2", "onnx": ".onnx"}
"""Name -> ending of the file."""

_TOLERANCE = 1e-4  # of the largest action


@dataclass(frozen=True)
class Draw:
    """What a sampler draws: "normal" or "uniform" numbers of a shape, and the latter in [0, 1]."""

    kind: str
    shape: tuple[int, ...]


class _Listed(RowNoise):
    """Notes what is drawn."""

    def __init__(self) -> None:
        super().__init__([torch.Generator().manual_seed(0)])
        self.draws: list[Draw] = []

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        self.draws.append(Draw("normal", shape))
        return super().normal(*shape, device=device)

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        self.draws.append(Draw("uniform", shape))
        return super().uniform(*shape, device=device)


class _Given:
    """Noise that was drawn before, in this order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = iter(draws)

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        return next(self._draws)

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        return next(self._draws)


class WholeLoop(nn.Module):
    """`Policy.act` for one robot, as a function of tensors alone.

    `forward` takes the state (1, T, S), the images (1, T, 3, h, w) uint8 of the cameras in the
    order of their names, and the draws, and gives the chunk (1, H, A).

    Attributes:
        names: of the inputs.
        draws: what the sampler draws, in its order.

    Args:
        condition: what is asked, one row.
    """

    def __init__(self, policy: Policy, condition: Condition) -> None:
        super().__init__()
        self.device = next(policy.parameters()).device
        self.policy, self.condition = policy.eval(), condition.to(self.device)
        self.cameras = tuple(sorted(policy.spec.cameras))
        noise = _Listed()
        with torch.no_grad():
            policy.act(made_up(policy, 1)[0], self.condition, noise=noise)
        self.draws = tuple(noise.draws)
        self.names = ("state", *self.cameras, *(f"noise_{i}" for i in range(len(self.draws))))

    def forward(self, *inputs: Tensor) -> Tensor:
        state, rest = inputs[0], inputs[1:]
        images = dict(zip(self.cameras, rest, strict=False))
        noise = _Given(rest[len(images) :])
        return self.policy.act(Observation(state, images), self.condition, noise=noise)

    def draw(self, generator: torch.Generator) -> Inputs:
        """Fresh noise, the last of the inputs."""
        made = {"normal": torch.randn, "uniform": torch.rand}
        drawn = (made[each.kind](each.shape, generator=generator) for each in self.draws)
        return tuple(x.to(self.device) for x in drawn)

    def example(self, seed: int = 0) -> Inputs:
        """Inputs with a made-up observation."""
        observation, _ = made_up(self.policy, 1)
        images = (observation.images[name] for name in self.cameras)
        return observation.state, *images, *self.draw(torch.Generator().manual_seed(seed))

    def facts(self) -> list[dict[str, Any]]:
        """Name, shape, dtype and, of noise, kind of each input, JSON-able."""
        given = len(self.names) - len(self.draws)
        kinds = ["sensed"] * given + [each.kind for each in self.draws]
        return [
            {"name": name, "shape": list(x.shape), "dtype": str(x.dtype)[6:], "kind": kind}
            for name, x, kind in zip(self.names, self.example(), kinds, strict=True)
        ]


@torch.no_grad()
def export(loop: WholeLoop) -> ExportedProgram:
    """The loop as a graph of ATen operations, whatever steps its sampler has unrolled."""
    return torch.export.export(loop, loop.example())


def save(loop: WholeLoop, path: Path, form: str) -> None:
    """Writes the loop in one of `FORMATS`: "torch" for `torch.export.load`, "inductor" compiled
    for machines like this one (AOTInductor; needs a C++ compiler, and a minute or two), "onnx".

    Raises ImportError where a package for ONNX is missing, naming the extra to install.
    """
    if form not in FORMATS:
        raise ValueError(f"formats must be among {', '.join(FORMATS)}, got {form!r}")
    if form == "onnx":
        _require("onnx", "onnxscript")
    program = export(loop)
    if form == "torch":
        torch.export.save(program, path)
    elif form == "inductor":
        from torch._inductor import aoti_compile_and_package  # late: it looks for compilers

        aoti_compile_and_package(program, package_path=str(path))
    else:
        torch.onnx.export(
            program,
            f=path,
            external_data=False,
            input_names=list(loop.names),
            output_names=["action"],
        )


def load(path: Path, form: str) -> Run:
    """What `save` wrote, as a function of the loop's inputs.

    Only for files that you trust: a compiled one is machine code.
    """
    if form == "torch":
        module: Run = torch.export.load(path).module()
        return module
    if form == "inductor":
        from torch._inductor import aoti_load_package

        return aoti_load_package(str(path), run_single_threaded=True)
    return _onnx_run(path)


def _onnx_run(path: Path) -> Run:
    """On the CPU, with as many threads as torch has now."""
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = (x.numpy() for x in inputs)
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX needs the packages {', '.join(missing)}: pip install 'embodied-policies[export]'"
        )


@torch.inference_mode()
def distance(loop: WholeLoop, run: Run, *, calls: int = 5) -> float:
    """The largest difference between the actions of the loop and of what it became."""
    examples = [loop.example(seed) for seed in range(calls)]
    return max(float((loop(*each) - run(*each)).abs().max()) for each in examples)


def export_policy(config: Any) -> Path:
    """What `python scripts/export.py` does: the folder with the files, and `export.json` about
    them.

    Raises RuntimeError where a written file does not give the policy's actions.
    """
    plain = resolve(config)
    trusted = plain.get("allow_targets", ())
    policy, found = load_policy(Path(plain["checkpoint"]), plain["device"], trusted)
    stored: Mapping[str, Any] = {**read_stored(found.documents["config"]), "allow_targets": trusted}
    if plain["sampling"]:
        stored, policy = with_sampling(stored, policy, plain["sampling"])
    torch.set_num_threads(plain["threads"])
    words = plain["instruction"]
    loop = WholeLoop(policy, Condition(language=None if words is None else (words,)))
    folder = Path(plain["output"] or found.path.parent.parent / "export")
    folder.mkdir(parents=True, exist_ok=True)
    written = {form: _write(loop, folder, form) for form in plain["formats"]}
    facts = {
        "checkpoint": str(found.path),
        "instruction": words,
        "head": stored["policy"]["head"],
        "spec": dataclasses.asdict(policy.spec),
        "inputs": loop.facts(),
        "output": {"name": "action", "shape": [1, policy.pred_horizon, policy.spec.action_dim]},
        "files": written,
        "versions": versions(),
    }
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder


def _write(loop: WholeLoop, folder: Path, form: str) -> dict[str, Any]:
    path = folder / f"policy{FORMATS.get(form, '')}"
    save(loop, path, form)
    if form == "onnx" and find_spec("onnxruntime") is None:
        print(f"{path}: not compared with the policy, since onnxruntime is not installed")
        return {"path": path.name, "distance": None}
    apart = distance(loop, load(path, form))
    print(f"{path}: actions differ from the policy's by at most {apart:.2g}")
    if not apart <= _TOLERANCE * _scale(loop.policy):
        raise RuntimeError(f"{path} does not give the policy's actions: they differ by {apart:.2g}")
    return {"path": path.name, "distance": apart}


def _scale(policy: Policy) -> float:
    spec = policy.spec
    return max(abs(x) for x in (*spec.action_low, *spec.action_high) if math.isfinite(x))
