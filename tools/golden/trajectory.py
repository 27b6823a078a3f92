"""Short training runs, with the state before every step and the drift between two PyTorch backends."""

import contextlib
import math

import torch
import torch.nn.functional as F

from .case import Case, Draw, relative_l2
from .losses import contrast
from .models import dcformer_forward, dcformer_weights, resnet_forward, resnet_weights

LAYERS = [2, 2, 2, 2]
NORM = {"norm_eps": 1e-5, "momentum": 0.1}


class ResNet18:
    """X2CT-CLIP's step: ResNet-18, projection and tri-modal loss; AdamW with clipping, decay on all parameters."""

    op, channels_last = "trajectory.resnet18", torch.channels_last

    def __init__(self, draw, width, batch, side, d):
        self.attrs = {"width": width, "layers": LAYERS, "projection": d, **NORM,
                      "alpha": 0.0, "beta": 1.0, "gamma": 1.0, "temperature": 0.07, "reduction": "mean",
                      "lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 1e-4, "max_norm": 0.5}
        self.weights, self.buffers = resnet_weights(draw, width, LAYERS, False, d)
        self.inputs = {"x": draw.normal(batch, 3, side, side), "ct": draw.normal(batch, d),
                       "report": draw.normal(batch, d)}
        self.forward = resnet_forward(width, LAYERS, False, True, *NORM.values())

    def loss(self, x, inputs):
        scale = 1 / self.attrs["temperature"]
        return (self.attrs["beta"] * contrast(x, inputs["report"], scale, "mean")
                + self.attrs["gamma"] * contrast(x, inputs["ct"], scale, "mean"))

    def decays(self, _):
        return True


class DcFormer:
    """DCFormer-CLIP's step beside frozen text: InfoNCE at a constant scale; AdamW, matrices alone decay, no clipping."""

    op, channels_last = "trajectory.dcformer", torch.channels_last_3d

    def __init__(self, draw, channels, kernels, batch, size, d):
        blocks = [1, 1, 1, 1]
        self.attrs = {"channels": channels, "blocks": blocks, "kernels": kernels, "projection": d, **NORM,
                      "scale": math.e, "lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.05,
                      "decay": "matrices", "max_norm": 0.0}
        self.weights, self.buffers = dcformer_weights(draw, channels, blocks, kernels, d)
        self.inputs = {"x": draw.normal(batch, 1, *size), "report": draw.normal(batch, d)}
        self.forward = dcformer_forward(channels, blocks, kernels, True, projection=True)

    def loss(self, x, inputs):
        return contrast(x, inputs["report"], self.attrs["scale"], "mean")

    def decays(self, weight):
        return weight.dim() >= 2


class Run:
    """A model and its optimizer, advanced one step at a time."""

    def __init__(self, model, state, dtype):
        self.model, attrs = model, model.attrs
        self.weights = {key: torch.nn.Parameter(state[key].to(dtype).clone()) for key in model.weights}
        self.buffers = {key: state[key].to(dtype).clone() for key in model.buffers}
        groups = [{"params": [p for p in self.weights.values() if model.decays(p) == decays],
                   "weight_decay": attrs["weight_decay"] if decays else 0.0} for decays in (True, False)]
        groups = [group for group in groups if group["params"]]
        options = {key: attrs[key] for key in ("lr", "betas", "eps")}
        self.optimizer = torch.optim.AdamW(groups, foreach=False, **options)

    def state(self):
        return {key: value.detach().clone() for key, value in (self.weights | self.buffers).items()}

    @torch.no_grad()
    def round(self):
        """Rounds parameters and buffers to f32 in place and returns them."""
        for value in (self.weights | self.buffers).values():
            value.copy_(value.float())
        return self.state()

    def parameters(self):
        return torch.cat([value.detach().double().reshape(-1) for value in self.weights.values()])

    def step(self, inputs):
        """The loss and the gradients before clipping."""
        dtype = next(iter(self.weights.values())).dtype
        self.optimizer.zero_grad()
        inputs = {key: value.to(dtype) for key, value in inputs.items()}
        x = self.model.forward({"x": inputs["x"]}, self.weights, self.buffers)["embedding"]
        rows = {key: F.normalize(value, dim=1) for key, value in inputs.items() if key != "x"}
        loss = self.model.loss(F.normalize(x, dim=1), rows)
        loss.backward()
        gradients = {key: value.grad.clone() for key, value in self.weights.items()}
        if self.model.attrs["max_norm"]:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.model.attrs["max_norm"], foreach=False)
        self.optimizer.step()
        return loss.item(), gradients


def backends(channels_last):
    """Two ways PyTorch computes the same f32 step on this machine: oneDNN, its own loops on channels-last tensors."""
    yield contextlib.nullcontext(), torch.contiguous_format
    yield torch.backends.mkldnn.flags(enabled=False), channels_last


def free_run(model, context, layout, steps):
    """Loss and parameters after every step, in f32."""
    with context:
        run = Run(model, model.weights | model.buffers, torch.float32)
        inputs = model.inputs | {"x": model.inputs["x"].contiguous(memory_format=layout)}
        for _ in range(steps):
            loss, _ = run.step(inputs)
            yield loss, run.parameters()


def trajectory(name, model, steps, gradient_steps):
    reference = Run(model, model.weights | model.buffers, torch.float64)
    tensors, losses, parameters, margins = {f"in.{key}": value for key, value in model.inputs.items()}, [], [], []
    for k in range(steps):
        # The reference itself continues from the rounded state that is stored, so that one step from it is exact.
        state = reference.round()
        tensors |= {f"state.{k}.{key}": value for key, value in state.items()}
        loss, gradients = reference.step(model.inputs)
        losses.append(loss)
        parameters.append(reference.parameters())
        if k in gradient_steps:
            tensors |= {f"g.{k}.{key}": value for key, value in gradients.items()}
            _, single = Run(model, state, torch.float32).step(model.inputs)
            largest = max(value.abs().max() for value in gradients.values())
            for key, value in gradients.items():
                # Within either of the comparator's two bounds.
                used = min(relative_l2(single[key], value) / 1e-4, (single[key] - value).abs().max() / (1e-5 * largest))
                margins.append((float(used), f"g.{k}.{key}"))
    tensors |= {f"after.{key}": value for key, value in reference.state().items()}
    tensors["out.loss"] = torch.tensor(losses, dtype=torch.float64)

    free = [list(free_run(model, context, layout, steps)) for context, layout in backends(model.channels_last)]
    spread_loss, spread_parameters = [], []
    for k in range(steps):
        runs = [losses[k]] + [run[k][0] for run in free]
        spread_loss.append((max(runs) - min(runs)) / abs(losses[k]))
        runs = [parameters[k]] + [run[k][1] for run in free]
        spread_parameters.append(max((a - b).norm() / parameters[k].norm() for a in runs for b in runs).item())
    tensors["spread.loss"] = torch.tensor(spread_loss).cummax(0).values
    tensors["spread.parameters"] = torch.tensor(spread_parameters).cummax(0).values
    attrs = model.attrs | {"steps": steps}
    tolerance = {"loss": 1e-5, "rel_l2": 1e-4, "atol_of_max_grad": 1e-5, "spreads": 3.0}
    case = Case(name, model.op, attrs, "train", tolerance,
                "torch f64; spread: f64 and two f32 backends of the same run", tensors)
    case.margin, case.worst = max(margins)
    return case


def cases():
    name = "trajectory_resnet18_w4"
    yield trajectory(name, ResNet18(Draw(name), width=4, batch=8, side=48, d=16), 10, (0, 9))
    name = "trajectory_dcformer_c4"
    model = DcFormer(Draw(name), [4, 4, 6, 8, 10], [7, 5, 3, 3], batch=6, size=(33, 40, 24), d=16)
    yield trajectory(name, model, 20, (0, 19))


def large():
    name = "trajectory_resnet18_w16"
    yield trajectory(name, ResNet18(Draw(name), width=16, batch=16, side=64, d=512), 10, range(10))
    name = "trajectory_dcformer_nano"
    # Of a dozen draws, one that f32 can follow: in others two neighbours under a max pool are nearly equal and f32 picks the
    # other, or the batch norms of the last stage, which see 8 values here, amplify rounding.
    draw = Draw(f"{name}/0")
    model = DcFormer(draw, [32, 32, 64, 128, 256], [13, 11, 9, 7], batch=8, size=(64, 64, 64), d=512)
    yield trajectory(name, model, 20, (0, 19))
