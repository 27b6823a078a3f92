"""One reference case: computed by PyTorch in f64, stored as f32 in the format of tests/golden/README.md."""

import json
import struct
import zlib
from dataclasses import dataclass

import torch

FORMAT = "x2ct-golden-1"
# Relative L2 per tensor. The bound for gradients is wider where a batch norm amplifies rounding.
EXACT = {"rel_l2": 1e-6}
TIGHT = {"rel_l2": 1e-5}
NORMED = {"rel_l2": 1e-4, "atol_of_max_grad": 1e-5}


class Draw:
    """Random tensors that depend on the case's name alone, rounded to f32 so that what is stored is what was used."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape, scale=1.0, mean=0.0):
        return (torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale + mean).float()

    def uniform(self, low, high, *shape):
        return (torch.rand(*shape, generator=self.generator, dtype=torch.float64) * (high - low) + low).float()

    def norm_weights(self, channels, prefix=""):
        return {f"{prefix}weight": self.uniform(0.5, 1.5, channels), f"{prefix}bias": self.normal(channels, scale=0.3)}

    def norm_buffers(self, channels, prefix=""):
        return {
            f"{prefix}running_mean": self.normal(channels, scale=0.3),
            f"{prefix}running_var": self.uniform(0.5, 2.0, channels),
        }


@dataclass
class Case:
    name: str
    op: str
    attrs: dict
    mode: str
    tol: dict
    source: str
    tensors: dict
    # How far PyTorch's own f32 is from its f64, in units of the tolerance: a case near 1 would be unfair.
    margin: float = 0.0
    worst: str = ""

    def save(self, folder):
        metadata = {"format": FORMAT, "op": self.op, "mode": self.mode, "source": self.source}
        metadata |= {"attrs": json.dumps(self.attrs), "tol": json.dumps(self.tol)}
        # Written here because the safetensors package orders the metadata anew in every run: a file that did not change
        # must not look changed.
        header, payload, end = {"__metadata__": metadata}, [], 0
        for key, value in sorted(self.tensors.items()):
            payload.append(value.detach().float().contiguous().numpy().tobytes())
            begin, end = end, end + len(payload[-1])
            header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path = folder / f"{self.name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(payload))
        return path


def relative_l2(x, reference):
    x, reference = x.double(), reference.double()
    return ((x - reference).norm() / reference.norm().clamp_min(1e-300)).item()


def _run(dtype, forward, inputs, weights, buffers, differentiable, ups):
    def cast(value, grad):
        return value.to(dtype).clone().requires_grad_(grad)

    given = {key: cast(value, key in differentiable) for key, value in inputs.items()}
    params = {key: cast(value, True) for key, value in weights.items()}
    state = {key: cast(value, False) for key, value in buffers.items()}
    outputs = forward(given, params, state)
    expected = {f"out.{key}": value.detach() for key, value in outputs.items()}
    changed = {key: value for key, value in state.items() if not torch.equal(value, buffers[key].to(dtype))}
    expected |= {f"after.{key}": value for key, value in changed.items()}
    if ups is not None:
        sum((outputs[key] * up.to(dtype)).sum() for key, up in ups.items()).backward()
        expected |= {f"g.in.{key}": given[key].grad for key in differentiable if given[key].grad is not None}
        expected |= {f"g.w.{key}": value.grad for key, value in params.items() if value.grad is not None}
    return expected


def build(name, op, forward, inputs, *, weights=None, buffers=None, attrs=None, mode="", tol=TIGHT, source,
          differentiable=None, ups=("y",), drop=()):
    """Runs `forward(inputs, weights, buffers) -> {output: tensor}` in f64 and records outputs and gradients.

    `ups` names the outputs that receive a random upstream gradient (a scalar output receives 1); None: no backward.
    `buffers` that the forward changes in place become `after.*`. `drop` leaves out tensors that would be too large.
    """
    weights, buffers = weights or {}, buffers or {}
    differentiable = list(inputs) if differentiable is None else list(differentiable)
    draw = Draw(name + "/up")
    with torch.no_grad():
        copies = [{key: value.clone() for key, value in group.items()} for group in (inputs, weights, buffers)]
        shapes = forward(*copies)
    gradients = None
    if ups is not None:
        gradients = {key: draw.normal(*shapes[key].shape) if shapes[key].dim() else torch.ones(()) for key in ups}

    expected = _run(torch.float64, forward, inputs, weights, buffers, differentiable, gradients)
    single = _run(torch.float32, forward, inputs, weights, buffers, differentiable, gradients)
    case = Case(name, op, attrs or {}, mode, tol, source, {})
    largest = max((value.abs().max().item() for key, value in expected.items() if key.startswith("g.")), default=0.0)
    for key, value in expected.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: {key} is not finite")
        used = relative_l2(single[key], value) / tol["rel_l2"]
        floor = tol.get("atol_of_max_grad", 0.0) * largest if key.startswith("g.") else tol.get("atol", 0.0)
        if floor > 0:
            used = min(used, (single[key] - value).abs().max().item() / floor)
        if used > case.margin:
            case.margin, case.worst = used, key

    case.tensors = {f"in.{key}": value for key, value in inputs.items()}
    case.tensors |= {f"w.{key}": value for key, value in (weights | buffers).items()}
    case.tensors |= {f"up.{key}": value for key, value in (gradients or {}).items() if value.dim()}
    case.tensors |= {key: value for key, value in expected.items() if key not in drop}
    return case
