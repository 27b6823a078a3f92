"""Symmetric InfoNCE, the tri-modal loss (X2CT-CLIP, Eq. 1), the pairwise sigmoid loss and binary cross entropy with logits."""

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from .case import TIGHT, Draw, build, relative_l2

SOURCE = "torch cross_entropy on {} embeddings, f64"


def contrast(a, b, scale, reduction):
    logits = scale * a @ b.T
    target = torch.arange(len(a))
    return sum(F.cross_entropy(rows, target, reduction=reduction) for rows in (logits, logits.T)) / 2


def related(draw, n, d, noise):
    """Two un-normalised embeddings of the same items: a shared part and noise of its own for each."""
    shared = draw.normal(n, d)
    return [shared * draw.uniform(0.5, 2.0, n, 1) + draw.normal(n, d, scale=noise) for _ in range(2)]


def info_nce():
    # The rows of the last case are unit vectors already, and the gradient is with respect to them.
    for n, d, scale, reduction, normalize in [(1, 3, 10.0, "mean", True), (2, 3, 2.718281828459045, "mean", True),
                                              (13, 7, 14.285714285714285, "sum", True), (129, 33, 1.0, "mean", True),
                                              (37, 64, 14.285714285714285, "mean", False)]:
        name = f"info_nce_n{n}_d{d}_{reduction}" + ("" if normalize else "_unit")
        draw = Draw(name)
        a, b = related(draw, n, d, 0.7)
        if not normalize:
            a, b = (F.normalize(x.double(), dim=1).float() for x in (a, b))

        def forward(i, w, _, reduction=reduction, normalize=normalize):
            rows = [F.normalize(i[key], dim=1) if normalize else i[key] for key in "ab"]
            return {"loss": contrast(*rows, w["scale"], reduction)}

        # A single pair has loss zero and gradient zero.
        gradients = n > 1
        case = build(name, "info_nce", forward, {"a": a, "b": b}, weights={"scale": torch.tensor(scale)},
                     attrs={"scale": scale, "reduction": reduction, "normalize": normalize},
                     tol=TIGHT | ({"atol": 1e-6} if n == 1 else {}), ups=("loss",) if gradients else None,
                     source=SOURCE.format("normalised" if normalize else "unit"))
        case.tensors["g.scale"] = case.tensors.pop("g.w.scale", None)
        del case.tensors["w.scale"]
        case.tensors = {key: value for key, value in case.tensors.items() if value is not None}
        yield case


def tri_modal():
    # n, d, weights of L(C,R), L(X,R), L(X,C), temperature, reduction, inputs that get a gradient
    shapes = [
        (31, 40, (0.0, 1.0, 1.0), 0.07, "mean", ("cxr",)),
        (17, 24, (0.5, 1.0, 2.0), 0.07, "mean", ("cxr", "ct", "report")),
        (5, 3, (1.0, 0.0, 1.0), 1.0, "sum", ("cxr", "ct", "report")),
        (65, 129, (0.25, 1.0, 0.0), 0.36787944117144233, "mean", ("cxr", "ct", "report")),
        (23, 16, (0.0, 0.0, 1.0), 0.01, "mean", ("cxr",)),
        (2, 2, (1.0, 1.0, 1.0), 0.5, "mean", ("cxr", "ct", "report")),
    ]
    for n, d, (alpha, beta, gamma), temperature, reduction, differentiable in shapes:
        name = f"tri_modal_n{n}_d{d}_a{alpha:g}b{beta:g}g{gamma:g}"
        draw = Draw(name)
        shared = draw.normal(n, d)
        inputs = {key: shared + draw.normal(n, d, scale=0.8) for key in ("cxr", "ct", "report")}

        def forward(i, w, b, weights=(alpha, beta, gamma), temperature=temperature, reduction=reduction):
            x, c, r = (F.normalize(i[key], dim=1) for key in ("cxr", "ct", "report"))
            pairs = [(c, r), (x, r), (x, c)]
            return {"loss": sum(weight * contrast(p, q, 1 / temperature, reduction)
                                for weight, (p, q) in zip(weights, pairs) if weight)}

        yield build(name, "tri_modal", forward, inputs, differentiable=differentiable, ups=("loss",),
                    attrs={"alpha": alpha, "beta": beta, "gamma": gamma, "temperature": temperature,
                           "reduction": reduction, "normalize": True}, source=SOURCE.format("normalised"))


def aligned():
    """Matches far closer than anything else, by open_clip's ClipLoss; `torch_f32` is how far its own f32 is from its f64."""
    for n, d, scale, noise in [(33, 48, 14.285714285714285, 0.05), (33, 48, 100.0, 0.5), (65, 96, 14.285714285714285, 0.3),
                               (40, 64, 100.0, 0.9)]:
        name = f"clip_loss_n{n}_d{d}_scale{scale:.0f}_noise{noise:g}"
        a, b = related(Draw(name), n, d, noise)

        def forward(i, w, _, scale=scale):
            return {"loss": ClipLoss()(*(F.normalize(i[key], dim=1) for key in "ab"), scale)}

        case = build(name, "info_nce", forward, {"a": a, "b": b}, ups=("loss",), tol=TIGHT,
                     attrs={"scale": scale, "reduction": "mean", "normalize": True}, source="open_clip ClipLoss, f64")
        single = {key: value.clone().requires_grad_(True) for key, value in {"a": a, "b": b}.items()}
        loss = forward(single, {}, {})["loss"]
        loss.backward()
        case.attrs["torch_f32"] = {"out.loss": relative_l2(loss.detach(), case.tensors["out.loss"])} | {
            f"g.in.{key}": relative_l2(value.grad, case.tensors[f"g.in.{key}"]) for key, value in single.items()}
        # Logits of 100 are rounded by as much as PyTorch's f32 shows.
        case.tol = {"rel_l2": max(1e-5, 2 * max(case.attrs["torch_f32"].values()))}
        case.margin = 0.5
        yield case


def siglip():
    for n, d, scale, bias in [(1, 4, 10.0, -10.0), (2, 3, 1.0, 0.5), (29, 18, 10.0, -10.0), (67, 33, 100.0, -30.0)]:
        name = f"siglip_n{n}_d{d}_scale{scale:.0f}"
        a, b = related(Draw(name), n, d, 0.7)

        def forward(i, w, _):
            rows = [F.normalize(i[key], dim=1) for key in "ab"]
            return {"loss": SigLipLoss()(*rows, w["scale"], w["bias"])}

        case = build(name, "siglip", forward, {"a": a, "b": b}, tol=TIGHT, ups=("loss",),
                     weights={"scale": torch.tensor(scale), "bias": torch.tensor(bias)},
                     attrs={"scale": scale, "bias": bias, "reduction": "mean", "normalize": True},
                     source="open_clip SigLipLoss, f64")
        for key in ("scale", "bias"):
            case.tensors[f"g.{key}"] = case.tensors.pop(f"g.w.{key}")
            del case.tensors[f"w.{key}"]
        yield case


def bce_with_logits():
    # n, classes, how far the logits are spread, whether positives have weights and targets lie between 0 and 1 too
    for n, c, spread, weighted, soft in [(1, 1, 1.0, False, False), (37, 18, 2.0, True, False), (257, 5, 30.0, False, False),
                                         (64, 13, 4.0, True, True), (1, 67, 1.0, False, True)]:
        name = f"bce_with_logits_n{n}c{c}" + ("_weighted" if weighted else "") + ("_soft" if soft else "")
        draw = Draw(name)
        targets = draw.uniform(-0.5, 1.5, n, c)
        inputs = {"logits": draw.normal(n, c, scale=spread), "targets": targets.clamp(0, 1) if soft else (targets > 0.8).float()}

        def forward(i, w, b):
            return {"loss": F.binary_cross_entropy_with_logits(i["logits"], i["targets"], pos_weight=b.get("pos_weight"))}

        yield build(name, "bce_with_logits", forward, inputs, buffers={"pos_weight": draw.uniform(0.2, 9.0, c)} if weighted else {},
                    attrs={"pos_weight": weighted}, ups=("loss",),
                    source="torch.nn.functional, f64, binary_cross_entropy_with_logits")


def cases():
    yield from info_nce()
    yield from tri_modal()
    yield from aligned()
    yield from siglip()
    yield from bce_with_logits()
