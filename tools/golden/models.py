"""Decomposed convolution, DCFormer and ResNet, with the parameter names of the public checkpoints."""

import math

import torch
import torch.nn.functional as F

from .case import NORMED, TIGHT, Draw, build


def decomposed(x, w, b, prefix, kernel, stride, groups, training, norm=True, eps=1e-5, momentum=0.1):
    """Three one-dimensional convolutions, one per axis, each with its own batch norm, summed (DCFormer, Eq. 4 to 6)."""
    total = 0
    for axis in range(3):
        padding = [kernel // 2 if a == axis else 0 for a in range(3)]
        conv = f"{prefix}c{axis + 1}.0."
        y = F.conv3d(x, w[conv + "weight"], w.get(conv + "bias"), stride, padding, 1, groups)
        if norm:
            n = f"{prefix}norm.{axis}."
            y = F.batch_norm(y, b[n + "running_mean"], b[n + "running_var"], w[n + "weight"], w[n + "bias"],
                             training, momentum, eps)
        total = total + y
    return total


def decomposed_weights(draw, prefix, cin, cout, kernel, groups, bias=True, norm=True):
    weights, buffers = {}, {}
    for axis in range(3):
        extent = [kernel if a == axis else 1 for a in range(3)]
        scale = (cin // groups * kernel) ** -0.5
        weights[f"{prefix}c{axis + 1}.0.weight"] = draw.normal(cout, cin // groups, *extent, scale=scale)
        if bias:
            weights[f"{prefix}c{axis + 1}.0.bias"] = draw.normal(cout, scale=0.2)
        if norm:
            weights |= draw.norm_weights(cout, f"{prefix}norm.{axis}.")
            buffers |= draw.norm_buffers(cout, f"{prefix}norm.{axis}.")
    return weights, buffers


def decomp_conv():
    # name, x, out channels, kernel, stride, groups, mode, bias, norm
    runs = [
        ("depthwise_k15_train", (2, 3, 7, 19, 4), 3, 15, 1, 3, "train", True, True),
        ("depthwise_k5_nobias_train", (3, 5, 6, 2, 11), 5, 5, 1, 5, "train", False, True),
        ("depthwise_k9_eval", (1, 4, 5, 10, 1), 4, 9, 1, 4, "eval", True, True),
        ("depthwise_k3_nonorm", (2, 7, 3, 4, 5), 7, 3, 1, 7, "eval", True, False),
        ("depthwise_k9_train", (2, 4, 11, 5, 10), 4, 9, 1, 4, "train", True, True),
        ("depthwise_k11_odd_train", (1, 3, 13, 17, 7), 3, 11, 1, 3, "train", True, True),
        ("depthwise_k13_odd_train", (2, 2, 5, 19, 15), 2, 13, 1, 2, "train", True, True),
        ("depthwise_k9s4_eval", (1, 3, 14, 11, 9), 3, 9, 4, 3, "eval", True, True),
        ("depthwise_k17_train", (1, 2, 9, 20, 6), 2, 17, 1, 2, "train", True, True),
        ("depthwise_k7s4_train", (2, 6, 13, 9, 10), 6, 7, 4, 6, "train", True, True),
        ("dense_k7s4_odd_train", (2, 1, 17, 13, 9), 5, 7, 4, 1, "train", True, True),
        ("dense_k3_eval", (1, 6, 5, 7, 3), 9, 3, 1, 1, "eval", True, True),
        ("dense_k5_nobias_nonorm", (2, 3, 4, 5, 6), 4, 5, 1, 1, "eval", False, False),
        ("depthwise_k1_eval", (2, 2, 3, 1, 5), 2, 1, 1, 2, "eval", True, True),
        ("dense_k3_gelu_odd_train", (2, 5, 7, 5, 11), 7, 3, 1, 1, "train", True, True, True),
        ("dense_k7s4_odd_eval", (2, 1, 9, 18, 13), 6, 7, 4, 1, "eval", True, True),
    ]
    for suffix, shape, cout, kernel, stride, groups, mode, bias, norm, *gelu in runs:
        name = f"decomp_conv_{suffix}"
        draw = Draw(name)
        x = draw.normal(*shape, mean=0.5)
        weights, buffers = decomposed_weights(draw, "", shape[1], cout, kernel, groups, bias, norm)

        def forward(i, w, b, kernel=kernel, stride=stride, groups=groups, training=mode == "train", norm=norm, gelu=gelu):
            y = decomposed(i["x"], w, b, "", kernel, stride, groups, training, norm)
            return {"y": F.gelu(y) if gelu else y}

        attrs = {"kernel": kernel, "stride": stride, "groups": groups, "norm": norm, "bias": bias, "eps": 1e-5,
                 "momentum": 0.1, "axes": "c1 along the first spatial axis, c2 the second, c3 the third"}
        if gelu:
            attrs["gelu"] = True
        yield build(name, "decomp_conv", forward, {"x": x}, weights=weights, buffers=buffers, attrs=attrs, mode=mode,
                    tol=NORMED, source="torch conv3d and batch_norm, f64")


def mix(x, w, b, prefix, mixer, kernel, training):
    """The token mixer of a block: [B,C,H,W,D] to the same. `mixer` as the attribute of a case, None the decomposed one."""
    c, name = x.shape[1], (mixer or {"name": "decomposed"})["name"]
    if name == "decomposed":
        return decomposed(x, w, b, prefix + "dwconv.", kernel, 1, c, training)
    if name == "conv3d":
        p, k = prefix + "dwconv.", mixer["kernel"]
        y = F.conv3d(x, w[p + "conv.weight"], w[p + "conv.bias"], padding=k // 2, groups=c)
        return F.batch_norm(y, b[p + "norm.running_mean"], b[p + "norm.running_var"], w[p + "norm.weight"],
                            w[p + "norm.bias"], training, 0.1, 1e-5)
    if name == "avg_pool":
        # What avg_pool3d with count_include_pad=False does; that itself refuses axes shorter than its window.
        inside = F.avg_pool3d(F.pad(torch.ones_like(x), (1,) * 6), 3, 1)
        return F.avg_pool3d(F.pad(x, (1,) * 6), 3, 1) / inside - x
    p, heads = prefix + "attention.", c // mixer["head_dim"]
    t = x.flatten(2).transpose(1, 2)
    t = F.layer_norm(t, (c,), w[p + "norm.weight"], w[p + "norm.bias"], 1e-5)
    qkv = F.linear(t, w[p + "qkv.weight"], w[p + "qkv.bias"])
    q, k, v = qkv.unflatten(2, (3, heads, c // heads)).permute(2, 0, 3, 1, 4)
    t = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    t = F.linear(t, w[p + "proj.weight"], w[p + "proj.bias"])
    return t.transpose(1, 2).unflatten(2, x.shape[2:])


def mixer_weights(draw, prefix, c, mixer, kernel):
    name = (mixer or {"name": "decomposed"})["name"]
    if name == "decomposed":
        return decomposed_weights(draw, prefix + "dwconv.", c, c, kernel, c)
    if name == "conv3d":
        p, k = prefix + "dwconv.", mixer["kernel"]
        weights = {p + "conv.weight": draw.normal(c, 1, k, k, k, scale=k**-1.5), p + "conv.bias": draw.normal(c, scale=0.1)}
        return weights | draw.norm_weights(c, p + "norm."), draw.norm_buffers(c, p + "norm.")
    if name == "avg_pool":
        return {}, {}
    p = prefix + "attention."
    weights = draw.norm_weights(c, p + "norm.")
    for layer, outputs in [("qkv", 3 * c), ("proj", c)]:
        weights[f"{p}{layer}.weight"] = draw.normal(outputs, c, scale=c**-0.5)
        weights[f"{p}{layer}.bias"] = draw.normal(outputs, scale=0.1)
    return weights, {}


def dcformer_forward(channels, blocks, kernels, training, activation=False, projection=False, mixer=None):
    def forward(i, w, b):
        def act(x):
            return F.gelu(x) if activation else x

        # (B, 1, D, H, W) enters; everything after is (B, C, H, W, D).
        x = i["x"].permute(0, 1, 3, 4, 2)
        for layer in range(4):
            kernel, stride = (7, 4) if layer == 0 else (3, 1)
            x = act(decomposed(x, w, b, f"encoder.s0.0.{layer}.", kernel, stride, 1, training))
        out = {"s0": x}
        for stage in range(1, 5):
            for block in range(blocks[stage - 1]):
                p = f"encoder.s{stage}.{block}."
                if block == 0:
                    x = F.conv3d(F.max_pool3d(x, 3, 2, 1), w[p + "proj.weight"])
                y = mix(x, w, b, p, mixer, kernels[stage - 1], training)
                y = y.permute(0, 2, 3, 4, 1)
                y = F.gelu(F.linear(y, w[p + "mlp.mlp.0.weight"], w[p + "mlp.mlp.0.bias"]))
                y = F.linear(y, w[p + "mlp.mlp.3.weight"], w[p + "mlp.mlp.3.bias"])
                x = x + (w[p + "gamma"] * y).permute(0, 4, 1, 2, 3)
            out["y" if stage == 4 else f"s{stage}"] = x
        if projection:
            out["embedding"] = F.linear(x.mean((2, 3, 4)), w["to_visual_latent.weight"])
        return out

    return forward


def dcformer_weights(draw, channels, blocks, kernels, projection, mixer=None):
    weights, buffers = {}, {}

    def add(pair):
        weights.update(pair[0])
        buffers.update(pair[1])

    for layer in range(4):
        kernel, cin = (7, 1) if layer == 0 else (3, channels[0])
        add(decomposed_weights(draw, f"encoder.s0.0.{layer}.", cin, channels[0], kernel, 1))
    for stage in range(1, 5):
        c = channels[stage]
        for block in range(blocks[stage - 1]):
            p = f"encoder.s{stage}.{block}."
            if block == 0:
                cin = channels[stage - 1]
                weights[p + "proj.weight"] = draw.normal(c, cin, 1, 1, 1, scale=cin**-0.5)
            add(mixer_weights(draw, p, c, mixer, kernels[stage - 1]))
            weights[p + "mlp.mlp.0.weight"] = draw.normal(4 * c, c, scale=c**-0.5)
            weights[p + "mlp.mlp.0.bias"] = draw.normal(4 * c, scale=0.1)
            weights[p + "mlp.mlp.3.weight"] = draw.normal(c, 4 * c, scale=(4 * c) ** -0.5)
            weights[p + "mlp.mlp.3.bias"] = draw.normal(c, scale=0.1)
            # Far from the 1e-6 a fresh model starts with, so that the block is visible in the result.
            weights[p + "gamma"] = draw.uniform(0.1, 0.4, c)
    if projection:
        weights["to_visual_latent.weight"] = draw.normal(projection, channels[4], scale=channels[4] ** -0.5)
    return weights, buffers


def dcformer():
    # name, batch of 64^3 volumes, channels, blocks, kernels, mode, stem activation, projection
    runs = [
        ("dcformer_projection_eval", 1, [3, 4, 5, 6, 7], [2, 1, 1, 2], [13, 11, 9, 7], "eval", False, 24),
        ("dcformer_k7_gelu_train", 3, [4, 3, 5, 4, 6], [1, 1, 2, 1], [7, 7, 7, 7], "train", True, 0),
    ]
    for name, batch, channels, blocks, kernels, mode, activation, projection in runs:
        draw = Draw(name)
        weights, buffers = dcformer_weights(draw, channels, blocks, kernels, projection)
        attrs = {"channels": channels, "blocks": blocks, "kernels": kernels, "stem_activation": activation, "vq": False}
        attrs |= {"reduction": "channel", "projection": projection} if projection else {}
        forward = dcformer_forward(channels, blocks, kernels, mode == "train", activation, projection)
        yield build(name, "model.dcformer", forward, {"x": draw.normal(batch, 1, 64, 64, 64)}, weights=weights,
                    buffers=buffers, attrs=attrs, mode=mode, tol=NORMED,
                    ups=("embedding" if projection else "y",), drop=("g.in.x",),
                    source="torch, f64; input (B,1,D,H,W), feature maps (B,C,H,W,D)")


def mixers():
    """The siblings of the DCFormer: the same frame with another token mixer."""
    # name, volumes, channels, blocks, mixer, mode
    runs = [
        ("mixer_conv3d_train", (3, 1, 40, 33, 27), [3, 4, 5, 4, 6], [1, 1, 2, 1], {"name": "conv3d", "kernel": 7}, "train"),
        ("mixer_avg_pool_train", (3, 1, 40, 33, 27), [3, 4, 5, 4, 6], [1, 1, 2, 1], {"name": "avg_pool"}, "train"),
        ("mixer_attention_train", (3, 1, 40, 33, 27), [3, 4, 6, 4, 8], [1, 1, 2, 1], {"name": "attention", "head_dim": 2}, "train"),
        ("mixer_conv3d_eval", (1, 1, 33, 48, 40), [3, 4, 3, 5, 4], [1, 1, 1, 1], {"name": "conv3d", "kernel": 5}, "eval"),
    ]
    for name, shape, channels, blocks, mixer, mode in runs:
        draw = Draw(name)
        kernels = [13, 11, 9, 7]
        weights, buffers = dcformer_weights(draw, channels, blocks, kernels, 0, mixer)
        forward = dcformer_forward(channels, blocks, kernels, mode == "train", mixer=mixer)
        yield build(name, "model.dcformer", forward, {"x": draw.normal(*shape)}, weights=weights,
                    buffers=buffers, attrs={"channels": channels, "blocks": blocks, "kernels": kernels, "mixer": mixer,
                                            "vq": False}, mode=mode, tol=NORMED, drop=("g.in.x", "out.s0"),
                    source="torch, f64; input (B,1,D,H,W), feature maps (B,C,H,W,D)")


def vector_quantize(x, b, prefix, training, decay=0.8):
    """Tokens (.., D) to the rows of a codebook (1, M, D) by cosine, as vector-quantize-pytorch 1.1.2 does with use_cosine_sim, without
    k-means and without replacing codes: the output is of the codebook before the step, unused codes move toward their direction."""
    embed, size = b[prefix + "embed"], b[prefix + "cluster_size"]
    tokens = F.normalize(x.detach().reshape(-1, x.shape[-1]), dim=-1)
    units = F.normalize(embed[0], dim=-1)
    codes = (tokens @ units.T).argmax(1)
    y = embed[0][codes].reshape(x.shape)
    if training:
        onehot = F.one_hot(codes, units.shape[0]).to(x.dtype)
        bins = onehot.sum(0)
        means = F.normalize(onehot.T @ tokens / bins.clamp_min(1)[:, None], dim=-1)
        target = torch.where(bins[:, None] == 0, units, means)
        size.copy_((decay * size[0] + (1 - decay) * bins)[None])
        embed.copy_((decay * embed[0] + (1 - decay) * target)[None])
        y = x + (y - x).detach()
    return y


def volume_head_forward(reduction, vq=False):
    def forward(i, w, b):
        # The encoder's (B, C, H, W, D) as the released code orders it: (B, T, H, W, C), T along the depth.
        tokens = i["x"].permute(0, 4, 2, 3, 1)
        if vq:
            tokens = vector_quantize(tokens, b, "vq._codebook.", True)
        reduced = {"channel": lambda: tokens.mean((1, 2, 3)), "depth": lambda: tokens.mean(1).flatten(1),
                   "flatten": lambda: tokens.flatten(1)}[reduction]()
        return {"embedding": F.linear(reduced, w["to_visual_latent.weight"])}

    return forward


def volume_head():
    n, channels, h, w, d, projection = 3, 19, 3, 5, 2, 11
    for reduction, inputs in [("channel", channels), ("depth", h * w * channels), ("flatten", d * h * w * channels)]:
        name = f"volume_head_{reduction}"
        draw = Draw(name)
        x = draw.normal(n, channels, h, w, d, mean=0.2)
        weights = {"to_visual_latent.weight": draw.normal(projection, inputs, scale=inputs**-0.5)}
        attrs = {"reduction": reduction, "projection": projection}
        yield build(name, "model.volume_head", volume_head_forward(reduction), {"x": x}, weights=weights, attrs=attrs,
                    mode="eval", tol=TIGHT, ups=("embedding",), source="torch, f64; x (B,C,H,W,D)")
    name = "volume_head_vq_train"
    draw = Draw(name)
    codes = {"vq._codebook.initted": torch.ones(1), "vq._codebook.cluster_size": draw.uniform(0.0, 3.0, 1, 40),
             "vq._codebook.embed": F.normalize(draw.normal(1, 40, channels), dim=-1) * draw.uniform(0.6, 1.0, 1, 40, 1)}
    weights = {"to_visual_latent.weight": draw.normal(projection, h * w * channels, scale=(h * w * channels) ** -0.5)}
    yield build(name, "model.volume_head", volume_head_forward("depth", True), {"x": draw.normal(n, channels, h, w, d)},
                weights=weights, buffers=codes, attrs={"reduction": "depth", "projection": projection, "vq": True},
                mode="train", tol=TIGHT, ups=("embedding",), source="torch, f64; x (B,C,H,W,D)")


def vector_quantize_cases():
    # name, tokens, codes, mode
    for suffix, shape, codes, mode in [("train", (90, 13), 33, "train"), ("unused_train", (4, 5, 24), 150, "train"),
                                       ("eval", (65, 32), 70, "eval")]:
        name = f"vector_quantize_{suffix}"
        draw = Draw(name)
        buffers = {"cluster_size": draw.uniform(0.0, 3.0, 1, codes),
                   "embed": F.normalize(draw.normal(1, codes, shape[-1]), dim=-1) * draw.uniform(0.6, 1.0, 1, codes, 1)}

        def forward(i, w, b, training=mode == "train"):
            return {"y": vector_quantize(i["x"], b, "", training)}

        # Without training there is no straight-through gradient: nothing to differentiate.
        yield build(name, "vector_quantize", forward, {"x": draw.normal(*shape)}, buffers=buffers, attrs={"decay": 0.8},
                    mode=mode, tol=TIGHT, ups=("y",) if mode == "train" else None, source="torch, f64")


def resnet_plan(width, layers, bottleneck):
    """(prefix, in channels, mid channels, out channels, stride) of every block."""
    cin = width
    for stage, count in enumerate(layers):
        mid = width << stage
        out = mid * (4 if bottleneck else 1)
        for block in range(count):
            yield f"layer{stage + 1}.{block}.", cin, mid, out, 2 if stage and not block else 1
            cin = out


def resnet_forward(width, layers, bottleneck, training, eps=1e-5, momentum=0.1):
    def forward(i, w, b):
        def norm(x, p):
            return F.batch_norm(x, b[p + "running_mean"], b[p + "running_var"], w[p + "weight"], w[p + "bias"],
                                training, momentum, eps)

        x = F.relu(norm(F.conv2d(i["x"], w["conv1.weight"], None, 2, 3), "bn1."))
        x = F.max_pool2d(x, 3, 2, 1)
        for p, _, _, _, stride in resnet_plan(width, layers, bottleneck):
            if bottleneck:
                y = F.relu(norm(F.conv2d(x, w[p + "conv1.weight"]), p + "bn1."))
                y = F.relu(norm(F.conv2d(y, w[p + "conv2.weight"], None, stride, 1), p + "bn2."))
                y = norm(F.conv2d(y, w[p + "conv3.weight"]), p + "bn3.")
            else:
                y = F.relu(norm(F.conv2d(x, w[p + "conv1.weight"], None, stride, 1), p + "bn1."))
                y = norm(F.conv2d(y, w[p + "conv2.weight"], None, 1, 1), p + "bn2.")
            if p + "downsample.0.weight" in w:
                x = norm(F.conv2d(x, w[p + "downsample.0.weight"], None, stride), p + "downsample.1.")
            x = F.relu(x + y)
        out = {"y": x.mean((2, 3))}
        if "to_xray_latent.weight" in w:
            out["embedding"] = F.linear(out["y"], w["to_xray_latent.weight"])
        return out

    return forward


def resnet_weights(draw, width, layers, bottleneck, projection=0):
    weights, buffers = {}, {}

    def conv(name, cin, cout, kernel):
        scale = math.sqrt(2 / (cout * kernel * kernel))
        weights[name + ".weight"] = draw.normal(cout, cin, kernel, kernel, scale=scale)

    def norm(prefix, channels):
        weights.update(draw.norm_weights(channels, prefix + "."))
        buffers.update(draw.norm_buffers(channels, prefix + "."))

    conv("conv1", 3, width, 7)
    norm("bn1", width)
    for p, cin, mid, out, stride in resnet_plan(width, layers, bottleneck):
        sizes = [(cin, mid, 1), (mid, mid, 3), (mid, out, 1)] if bottleneck else [(cin, mid, 3), (mid, out, 3)]
        for index, (a, c, kernel) in enumerate(sizes, 1):
            conv(f"{p}conv{index}", a, c, kernel)
            norm(f"{p}bn{index}", c)
        # A residual branch smaller than the trunk, as in a trained network: else f32 itself is 1e-4 off in 50 layers.
        weights[f"{p}bn{index}.weight"] *= 0.2
        if stride != 1 or cin != out:
            conv(f"{p}downsample.0", cin, out, 1)
            norm(f"{p}downsample.1", out)
    if projection:
        features = width * 8 * (4 if bottleneck else 1)
        weights["to_xray_latent.weight"] = draw.normal(projection, features, scale=features**-0.5)
    return weights, buffers


def same_as_torchvision():
    """The forward above at the published width is torchvision's, to rounding."""
    import torchvision

    for make, layers, bottleneck in [(torchvision.models.resnet18, [2, 2, 2, 2], False),
                                     (torchvision.models.resnet50, [3, 4, 6, 3], True)]:
        draw = Draw("torchvision")
        model = make(weights=None).double()
        model.fc = torch.nn.Identity()
        model.eval()
        weights, buffers = resnet_weights(draw, 64, layers, bottleneck)
        state = {key: value.double() for key, value in (weights | buffers).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing), (missing, unexpected)
        x = draw.normal(1, 3, 64, 64).double()
        with torch.no_grad():
            ours = resnet_forward(64, layers, bottleneck, False)({"x": x}, state, state)["y"]
            assert torch.allclose(model(x), ours, rtol=1e-10), make.__name__


def resnet():
    same_as_torchvision()
    # name, op, x, width, blocks, bottleneck, mode, projection
    runs = [
        ("resnet18_w6_train", "model.resnet18", (2, 3, 64, 64), 6, [2, 2, 2, 2], False, "train", 0),
        ("resnet18_w4_projection_eval", "model.resnet18", (3, 3, 45, 37), 4, [2, 2, 2, 2], False, "eval", 20),
        ("resnet50_w3_projection_train", "model.resnet50", (2, 3, 64, 64), 3, [3, 4, 6, 3], True, "train", 12),
    ]
    for name, op, shape, width, layers, bottleneck, mode, projection in runs:
        draw = Draw(name)
        weights, buffers = resnet_weights(draw, width, layers, bottleneck, projection)
        attrs = {"width": width, "layers": layers, "eps": 1e-5, "momentum": 0.1}
        attrs |= {"projection": projection} if projection else {}
        yield build(name, op, resnet_forward(width, layers, bottleneck, mode == "train"), {"x": draw.normal(*shape)},
                    weights=weights, buffers=buffers, attrs=attrs, mode=mode, tol=NORMED,
                    ups=("embedding" if projection else "y",), source="torch, f64; names as torchvision")


def cases():
    for family in (decomp_conv, dcformer, mixers, volume_head, vector_quantize_cases, resnet):
        yield from family()
