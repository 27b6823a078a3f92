"""Matrix product, convolutions, attention, norms, activations, pooling, L2 normalisation, AdamW."""

import torch
import torch.nn.functional as F

from .case import EXACT, NORMED, TIGHT, Case, Draw, build, relative_l2

SOURCE = "torch.nn.functional, f64"


def linear():
    for m, k, n, bias in [(7, 13, 5, True), (33, 65, 31, True), (1, 1, 1, True), (17, 48, 96, False)]:
        name = f"linear_{m}x{k}x{n}" + ("" if bias else "_nobias")
        draw = Draw(name)
        weights = {"weight": draw.normal(n, k, scale=k**-0.5)} | ({"bias": draw.normal(n)} if bias else {})
        yield build(name, "linear", lambda i, w, b: {"y": F.linear(i["x"], w["weight"], w.get("bias"))},
                    {"x": draw.normal(m, k)}, weights=weights, attrs={"bias": bias}, source=SOURCE)


def matmul():
    for m, k, n, ta, tb in [(31, 17, 23, False, False), (5, 64, 129, False, True), (64, 7, 33, True, False),
                            (130, 3, 2, True, True)]:
        name = f"matmul_{m}x{k}x{n}_{'t' if ta else 'n'}{'t' if tb else 'n'}"
        draw = Draw(name)

        def forward(i, w, b, ta=ta, tb=tb):
            return {"y": (i["a"].T if ta else i["a"]) @ (i["b"].T if tb else i["b"])}

        yield build(name, "matmul", forward,
                    {"a": draw.normal(*((k, m) if ta else (m, k))), "b": draw.normal(*((n, k) if tb else (k, n)))},
                    attrs={"transpose_a": ta, "transpose_b": tb}, source=SOURCE)


def conv2d():
    # batch, in, out, height, width, kernel, stride, padding, bias
    shapes = [
        (2, 3, 8, 33, 29, 7, 2, 3, False),
        (2, 8, 16, 15, 17, 3, 2, 1, False),
        (3, 16, 12, 9, 7, 1, 1, 0, False),
        (2, 12, 7, 11, 13, 1, 2, 0, False),
        (1, 3, 5, 14, 19, 3, 1, 1, False),
        (2, 9, 33, 8, 8, 3, 1, 1, True),
        (1, 1, 1, 1, 1, 3, 1, 1, True),
        (1, 4, 6, 10, 13, 5, 3, 0, False),
    ]
    for n, c, o, h, width, kernel, stride, padding, bias in shapes:
        name = f"conv2d_n{n}c{c}o{o}_{h}x{width}_k{kernel}s{stride}p{padding}"
        draw = Draw(name)
        weights = {"weight": draw.normal(o, c, kernel, kernel, scale=(c * kernel * kernel) ** -0.5)}
        weights |= {"bias": draw.normal(o)} if bias else {}

        def forward(i, w, b, stride=stride, padding=padding):
            return {"y": F.conv2d(i["x"], w["weight"], w.get("bias"), stride, padding)}

        yield build(name, "conv2d", forward, {"x": draw.normal(n, c, h, width)}, weights=weights,
                    attrs={"stride": stride, "padding": padding, "bias": bias}, source=SOURCE)


def depthwise_conv3d():
    for shape, kernel, bias in [((2, 3, 5, 7, 9), 7, True), ((1, 2, 4, 3, 8), 13, True), ((1, 3, 6, 5, 4), 3, False)]:
        name = f"depthwise_conv3d_{'x'.join(map(str, shape))}_k{kernel}"
        draw, c = Draw(name), shape[1]
        weights = {"weight": draw.normal(c, 1, kernel, kernel, kernel, scale=kernel**-1.5)}
        weights |= {"bias": draw.normal(c)} if bias else {}

        def forward(i, w, b, padding=kernel // 2, c=c):
            return {"y": F.conv3d(i["x"], w["weight"], w.get("bias"), padding=padding, groups=c)}

        yield build(name, "depthwise_conv3d", forward, {"x": draw.normal(*shape)}, weights=weights,
                    attrs={"kernel": kernel, "bias": bias}, source=SOURCE)


def attention():
    def forward(i, w, b):
        return {"y": F.scaled_dot_product_attention(i["q"], i["k"], i["v"])}

    # samples, heads, tokens, dimensions of a head; how far the logits are spread
    for n, h, t, d, spread in [(2, 3, 37, 8, 1.0), (1, 2, 70, 32, 3.0), (1, 1, 33, 64, 1.0), (1, 2, 1, 5, 1.0)]:
        name = f"attention_n{n}h{h}_{t}x{d}"
        draw = Draw(name)
        inputs = {"q": draw.normal(n, h, t, d, scale=spread), "k": draw.normal(n, h, t, d), "v": draw.normal(n, h, t, d)}
        yield build(name, "attention", forward, inputs, tol=NORMED, source=SOURCE + ", scaled_dot_product_attention")


def batch_norm():
    runs = [(4, 7, 5, 3, "train", 0.0), (2, 33, 8, 9, "train", 20.0), (3, 5, 7, 1, "eval", 0.0)]
    for n, c, h, width, mode, mean in runs:
        name = f"batch_norm_n{n}c{c}_{h}x{width}_{mode}"
        draw = Draw(name)
        x = draw.normal(n, c, h, width, scale=2.0, mean=mean)

        def forward(i, w, b, training=mode == "train"):
            y = F.batch_norm(i["x"], b["running_mean"], b["running_var"], w["weight"], w["bias"], training, 0.1, 1e-5)
            return {"y": y}

        yield build(name, "batch_norm", forward, {"x": x}, weights=draw.norm_weights(c), buffers=draw.norm_buffers(c),
                    attrs={"eps": 1e-5, "momentum": 0.1}, mode=mode, tol=NORMED, source=SOURCE)


def layer_norm():
    for rows, d, eps in [(13, 96, 1e-5), (5, 7, 1e-5), (3, 770, 1e-12), (1, 5, 1e-5)]:
        name = f"layer_norm_{rows}x{d}"
        draw = Draw(name)

        def forward(i, w, b, d=d, eps=eps):
            return {"y": F.layer_norm(i["x"], (d,), w["weight"], w["bias"], eps)}

        yield build(name, "layer_norm", forward, {"x": draw.normal(rows, d, scale=3.0, mean=1.0)},
                    weights=draw.norm_weights(d), attrs={"eps": eps}, tol=NORMED, source=SOURCE)


def pointwise():
    draw = Draw("pointwise")
    x = draw.normal(7, 131, scale=3.0)
    yield build("relu_7x131", "relu", lambda i, w, b: {"y": F.relu(i["x"])}, {"x": x}, tol=EXACT, source=SOURCE)
    yield build("gelu_7x131", "gelu", lambda i, w, b: {"y": F.gelu(i["x"])}, {"x": x}, source=SOURCE + ", erf form")
    yield build("add_3x5x17", "add", lambda i, w, b: {"y": i["a"] + i["b"]},
                {"a": draw.normal(3, 5, 17), "b": draw.normal(3, 5, 17)}, tol=EXACT, source=SOURCE)


def pool():
    for shape, kernel, stride, padding in [((2, 5, 13, 9), 3, 2, 1), ((1, 3, 8, 8), 2, 2, 0), ((1, 2, 1, 1), 3, 2, 1)]:
        name = f"max_pool2d_{'x'.join(map(str, shape))}_k{kernel}s{stride}p{padding}"

        def forward(i, w, b, k=kernel, s=stride, p=padding):
            return {"y": F.max_pool2d(i["x"], k, s, p)}

        yield build(name, "max_pool2d", forward, {"x": Draw(name).normal(*shape)}, tol=EXACT, source=SOURCE,
                    attrs={"kernel": kernel, "stride": stride, "padding": padding})
    for shape in [(2, 3, 7, 6, 5), (1, 4, 8, 9, 1)]:
        name = f"max_pool3d_{'x'.join(map(str, shape))}_k3s2p1"
        yield build(name, "max_pool3d", lambda i, w, b: {"y": F.max_pool3d(i["x"], 3, 2, 1)},
                    {"x": Draw(name).normal(*shape)}, tol=EXACT, source=SOURCE,
                    attrs={"kernel": 3, "stride": 2, "padding": 1})
    for shape, minus_input in [((2, 3, 7, 6, 5), True), ((1, 2, 4, 9, 12), False)]:
        name = f"avg_pool3d_{'x'.join(map(str, shape))}" + ("_minus_input" if minus_input else "")

        def average(i, w, b, minus_input=minus_input):
            y = F.avg_pool3d(i["x"], 3, 1, 1, count_include_pad=False)
            return {"y": y - i["x"] if minus_input else y}

        yield build(name, "avg_pool3d", average, {"x": Draw(name).normal(*shape)}, source=SOURCE,
                    attrs={"kernel": 3, "stride": 1, "padding": 1, "minus_input": minus_input})
    for shape in [(3, 17, 7, 7), (2, 5, 3, 11), (1, 1, 1, 1)]:
        name = f"global_avg_pool_{'x'.join(map(str, shape))}"
        yield build(name, "global_avg_pool", lambda i, w, b: {"y": i["x"].mean((2, 3))},
                    {"x": Draw(name).normal(*shape)}, tol=TIGHT, source=SOURCE)


def l2_normalize():
    def forward(i, w, b):
        return {"y": F.normalize(i["x"], dim=1, eps=1e-12)}

    for rows, d in [(9, 48), (5, 513), (3, 1)]:
        name = f"l2_normalize_{rows}x{d}"
        # A single column normalises to +-1, whose gradient is zero: no backward there.
        yield build(name, "l2_normalize", forward, {"x": Draw(name).normal(rows, d, scale=4.0)},
                    attrs={"eps": 1e-12}, ups=("y",) if d > 1 else None, source=SOURCE)
    x = Draw("l2_normalize_zero_row").normal(4, 33)
    x[2] = 0
    yield build("l2_normalize_zero_row", "l2_normalize", forward, {"x": x}, attrs={"eps": 1e-12}, ups=None,
                source=SOURCE)


def adamw():
    runs = [
        ("adamw_plain", 37, 3, dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0), 0.0),
        ("adamw_clip", 1031, 5, dict(lr=5e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-2), 0.5),
        ("adamw_unclipped", 5, 4, dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=5e-2), 1e4),
    ]
    for name, n, steps, options, max_norm in runs:
        draw = Draw(name)
        start = draw.normal(n)
        gradients = [draw.normal(n, scale=0.3) for _ in range(steps)]
        results = []
        for dtype in (torch.float64, torch.float32):
            parameter = torch.nn.Parameter(start.to(dtype).clone())
            optimizer = torch.optim.AdamW([parameter], foreach=False, **options)
            for gradient in gradients:
                parameter.grad = gradient.to(dtype).clone()
                if max_norm > 0:
                    torch.nn.utils.clip_grad_norm_([parameter], max_norm)
                optimizer.step()
            state = optimizer.state[parameter]
            results.append({"out.param": parameter.detach(), "out.exp_avg": state["exp_avg"],
                            "out.exp_avg_sq": state["exp_avg_sq"]})
        expected, single = results
        attrs = options | {"betas": list(options["betas"]), "max_norm": max_norm, "steps": steps}
        source = "torch.optim.AdamW after clip_grad_norm_, f64"
        case = Case(name, "adamw", attrs, "train", TIGHT, source, dict(expected))
        case.tensors |= {"in.param": start} | {f"in.grad.{k + 1}": g for k, g in enumerate(gradients)}
        errors = [(relative_l2(single[key], value), key) for key, value in expected.items()]
        case.margin, case.worst = max(errors)
        case.margin /= TIGHT["rel_l2"]
        yield case


def cases():
    for family in (linear, matmul, conv2d, depthwise_conv3d, attention, batch_norm, layer_norm, pointwise, pool, l2_normalize, adamw):
        yield from family()
