"""A short training run, with the state before every step and the drift between two PyTorch backends."""

import contextlib

import torch
import torch.nn.functional as F

from .case import Case, Draw, relative_l2
from .losses import contrast
from .models import resnet_forward, resnet_weights

LAYERS = [2, 2, 2, 2]


class Run:
    """ResNet-18, projection and tri-modal loss under AdamW with clipping, advanced one step at a time."""

    def __init__(self, weights, buffers, attrs, dtype):
        self.attrs = attrs
        self.weights = {key: torch.nn.Parameter(value.to(dtype).clone()) for key, value in weights.items()}
        self.buffers = {key: value.to(dtype).clone() for key, value in buffers.items()}
        self.forward = resnet_forward(attrs["width"], LAYERS, False, True, attrs["norm_eps"], attrs["momentum"])
        options = {key: attrs[key] for key in ("lr", "betas", "eps", "weight_decay")}
        self.optimizer = torch.optim.AdamW(self.weights.values(), foreach=False, **options)

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

    def step(self, images, ct, report):
        """The loss and the gradients before clipping."""
        dtype = next(iter(self.weights.values())).dtype
        self.optimizer.zero_grad()
        x = self.forward({"x": images.to(dtype)}, self.weights, self.buffers)["embedding"]
        x, c, r = (F.normalize(rows.to(dtype), dim=1) for rows in (x, ct, report))
        scale = 1 / self.attrs["temperature"]
        loss = self.attrs["beta"] * contrast(x, r, scale, "mean") + self.attrs["gamma"] * contrast(x, c, scale, "mean")
        loss.backward()
        gradients = {key: value.grad.clone() for key, value in self.weights.items()}
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.attrs["max_norm"], foreach=False)
        self.optimizer.step()
        return loss.item(), gradients


def split(state, weights):
    return {key: state[key] for key in weights}, {key: value for key, value in state.items() if key not in weights}


def backends():
    """Two ways PyTorch computes the same f32 step on this machine: oneDNN, and its own loops on NHWC tensors."""
    yield contextlib.nullcontext(), torch.contiguous_format
    yield torch.backends.mkldnn.flags(enabled=False), torch.channels_last


def trajectory(name, width, batch, side, d, steps, gradient_steps):
    draw = Draw(name)
    attrs = {"width": width, "layers": LAYERS, "projection": d, "norm_eps": 1e-5, "momentum": 0.1, "alpha": 0.0,
             "beta": 1.0, "gamma": 1.0, "temperature": 0.07, "reduction": "mean", "lr": 1e-3, "betas": [0.9, 0.99],
             "eps": 1e-8, "weight_decay": 1e-4, "max_norm": 0.5, "steps": steps}
    weights, buffers = resnet_weights(draw, width, LAYERS, False, d)
    inputs = {"x": draw.normal(batch, 3, side, side), "ct": draw.normal(batch, d), "report": draw.normal(batch, d)}

    reference = Run(weights, buffers, attrs, torch.float64)
    tensors, losses, parameters, margins = {f"in.{key}": value for key, value in inputs.items()}, [], [], []
    for k in range(steps):
        # The reference itself continues from the rounded state that is stored, so that one step from it is exact.
        state = reference.round()
        tensors |= {f"state.{k}.{key}": value for key, value in state.items()}
        loss, gradients = reference.step(*inputs.values())
        losses.append(loss)
        parameters.append(reference.parameters())
        if k in gradient_steps:
            tensors |= {f"g.{k}.{key}": value for key, value in gradients.items()}
            _, single = Run(*split(state, weights), attrs, torch.float32).step(*inputs.values())
            margins += [(relative_l2(single[key], value) / 1e-4, f"g.{k}.{key}") for key, value in gradients.items()]
    tensors |= {f"after.{key}": value for key, value in reference.state().items()}
    tensors["out.loss"] = torch.tensor(losses, dtype=torch.float64)

    free_losses, free_parameters = [], []
    for context, layout in backends():
        with context:
            run = Run(weights, buffers, attrs, torch.float32)
            images = inputs["x"].contiguous(memory_format=layout)
            series = []
            for _ in range(steps):
                loss, _ = run.step(images, inputs["ct"], inputs["report"])
                series.append((loss, run.parameters()))
            free_losses.append([loss for loss, _ in series])
            free_parameters.append([values for _, values in series])
    spread_loss, spread_parameters = [], []
    for k in range(steps):
        runs = [losses[k], free_losses[0][k], free_losses[1][k]]
        spread_loss.append((max(runs) - min(runs)) / abs(losses[k]))
        runs = [parameters[k], free_parameters[0][k], free_parameters[1][k]]
        spread_parameters.append(max((a - b).norm() / parameters[k].norm() for a in runs for b in runs).item())
    tensors["spread.loss"] = torch.tensor(spread_loss).cummax(0).values
    tensors["spread.parameters"] = torch.tensor(spread_parameters).cummax(0).values
    case = Case(name, "trajectory.resnet18", attrs, "train",
                {"loss": 1e-5, "rel_l2": 1e-4, "atol_of_max_grad": 1e-5, "spreads": 3.0},
                "torch f64; spread: f64 and two f32 backends of the same run", tensors)
    case.margin, case.worst = max(margins)
    return case


def cases():
    yield trajectory("trajectory_resnet18_w4", width=4, batch=8, side=48, d=16, steps=10, gradient_steps=(0, 9))


def large():
    yield trajectory("trajectory_resnet18_w16", width=16, batch=16, side=64, d=512, steps=10, gradient_steps=range(10))
