"""DCFormer's decomposed convolution in Triton, as count_peers.py counts it: three depthwise convolutions along depth, height and
width, each with the batch norm of training, added up, and all gradients. Branches are computed again where they are needed, as a
Triton programmer would rather than write three tensors; Inductor leaves the convolutions to a library's kernels.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def convolved(x, w, at, place, length, stride, inside, K: tl.constexpr):
    """One branch at the elements `at`, which stand at `place` of `length` along its axis."""
    total = tl.zeros(at.shape, tl.float32)
    for k in tl.static_range(K):
        there = inside & (place + (k - K // 2) >= 0) & (place + (k - K // 2) < length)
        total += tl.load(w + k) * tl.load(x + at + (k - K // 2) * stride, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def branches(x, w, channel, channels, at, D, H, W, K: tl.constexpr):
    """The three branches at the elements `at` of a channel of one sample; zero outside it."""
    inside = at < D * H * W
    d = convolved(x, w + channel * K, at, at // (H * W), D, H * W, inside, K)
    h = convolved(x, w + (channels + channel) * K, at, at // W % H, H, W, inside, K)
    v = convolved(x, w + (2 * channels + channel) * K, at, at % W, W, 1, inside, K)
    return d, h, v


@triton.jit
def branch_moments(x, w, partial, channels, D, H, W, K: tl.constexpr, BLOCK: tl.constexpr):
    """Sums and sums of squares of each branch over a block of elements: partial [N C, blocks, 6]."""
    slab, channel = tl.program_id(0), tl.program_id(0) % channels
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d, h, v = branches(x + slab.to(tl.int64) * D * H * W, w, channel, channels, at, D, H, W, K)
    to = partial + (slab * tl.num_programs(1) + tl.program_id(1)) * 6
    tl.store(to, tl.sum(d, 0))
    tl.store(to + 1, tl.sum(h, 0))
    tl.store(to + 2, tl.sum(v, 0))
    tl.store(to + 3, tl.sum(d * d, 0))
    tl.store(to + 4, tl.sum(h * h, 0))
    tl.store(to + 5, tl.sum(v * v, 0))


@triton.jit
def summed(partial, of, channel, channels, samples, blocks, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Sum of column `of` of a channel's rows of partial [N C, blocks, WIDTH]."""
    part = tl.arange(0, PARTS)
    row = (part // blocks * channels + channel) * blocks + part % blocks
    return tl.sum(tl.load(partial + row * WIDTH + of, mask=part < samples * blocks, other=0.0), 0)


@triton.jit
def moments_finish(partial, mean, rstd, channels, samples, blocks, count, eps, PARTS: tl.constexpr):
    """Mean and reciprocal standard deviation of each branch of a channel: [3, C]."""
    channel = tl.program_id(0)
    for branch in tl.static_range(3):
        average = summed(partial, branch, channel, channels, samples, blocks, 6, PARTS) / count
        square = summed(partial, 3 + branch, channel, channels, samples, blocks, 6, PARTS) / count
        tl.store(mean + branch * channels + channel, average)
        tl.store(rstd + branch * channels + channel, 1 / tl.sqrt(square - average * average + eps))


@triton.jit
def normalised(z, mean, rstd, at):
    return (z - tl.load(mean + at)) * tl.load(rstd + at)


@triton.jit
def branch_write(x, w, mean, rstd, gamma, beta, y, channels, D, H, W, K: tl.constexpr, BLOCK: tl.constexpr):
    """y = the sum of the normalised branches."""
    slab, channel = tl.program_id(0), tl.program_id(0) % channels
    at, base = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), slab.to(tl.int64) * D * H * W
    z = branches(x + base, w, channel, channels, at, D, H, W, K)
    total = tl.zeros([BLOCK], tl.float32)
    for branch in tl.static_range(3):
        of = branch * channels + channel
        total += tl.load(gamma + of) * normalised(z[branch], mean, rstd, of) + tl.load(beta + of)
    tl.store(y + base + at, total.to(y.dtype.element_ty), mask=at < D * H * W)


@triton.jit
def gradient_sums(x, w, g, mean, rstd, partial, channels, D, H, W, K: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of g and of g times each normalised branch over a block of elements: partial [N C, blocks, 4]."""
    slab, channel = tl.program_id(0), tl.program_id(0) % channels
    at, base = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), slab.to(tl.int64) * D * H * W
    z = branches(x + base, w, channel, channels, at, D, H, W, K)
    upstream = tl.load(g + base + at, mask=at < D * H * W, other=0.0).to(tl.float32)
    to = partial + (slab * tl.num_programs(1) + tl.program_id(1)) * 4
    tl.store(to, tl.sum(upstream, 0))
    for branch in tl.static_range(3):
        hat = normalised(z[branch], mean, rstd, branch * channels + channel)
        tl.store(to + 1 + branch, tl.sum(upstream * hat, 0))


@triton.jit
def gradient_finish(partial, dgamma, dbeta, channels, samples, blocks, PARTS: tl.constexpr):
    """Gradients of gamma and beta, [3, C]."""
    channel = tl.program_id(0)
    beta = summed(partial, 0, channel, channels, samples, blocks, 4, PARTS)
    for branch in tl.static_range(3):
        tl.store(dbeta + branch * channels + channel, beta)
        gamma = summed(partial, 1 + branch, channel, channels, samples, blocks, 4, PARTS)
        tl.store(dgamma + branch * channels + channel, gamma)


@triton.jit
def branch_gradient(
    x, w, g, mean, rstd, gamma, dgamma, dbeta, dz, elements, channels, count, D, H, W, K: tl.constexpr, BLOCK: tl.constexpr
):
    """dz [3, N, C, D, H, W], the gradients of the branches."""
    slab, channel = tl.program_id(0), tl.program_id(0) % channels
    at, base = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), slab.to(tl.int64) * D * H * W
    inside = at < D * H * W
    z = branches(x + base, w, channel, channels, at, D, H, W, K)
    upstream = tl.load(g + base + at, mask=inside, other=0.0).to(tl.float32)
    for branch in tl.static_range(3):
        of = branch * channels + channel
        hat = normalised(z[branch], mean, rstd, of)
        centred = upstream - (tl.load(dbeta + of) + hat * tl.load(dgamma + of)) / count
        gradient = tl.load(gamma + of) * tl.load(rstd + of) * centred
        tl.store(dz + branch * elements.to(tl.int64) + base + at, gradient.to(dz.dtype.element_ty), mask=inside)


@triton.jit
def turned(dz, w, at, place, length, stride, inside, K: tl.constexpr):
    """One branch's part of the gradient of x: its convolution turned round."""
    total = tl.zeros(at.shape, tl.float32)
    for k in tl.static_range(K):
        there = inside & (place + (K // 2 - k) >= 0) & (place + (K // 2 - k) < length)
        total += tl.load(w + k) * tl.load(dz + at + (K // 2 - k) * stride, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def input_gradient(dz, w, dx, elements, channels, D, H, W, K: tl.constexpr, BLOCK: tl.constexpr):
    """dx from the gradients of the branches."""
    slab, channel = tl.program_id(0), tl.program_id(0) % channels
    at, base = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), slab.to(tl.int64) * D * H * W
    inside, far = at < D * H * W, elements.to(tl.int64)
    total = turned(dz + base, w + channel * K, at, at // (H * W), D, H * W, inside, K)
    total += turned(dz + far + base, w + (channels + channel) * K, at, at // W % H, H, W, inside, K)
    total += turned(dz + 2 * far + base, w + (2 * channels + channel) * K, at, at % W, W, 1, inside, K)
    tl.store(dx + base + at, total.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def weight_gradient(
    x, dz, dw, elements, channels, samples, D, H, W, K: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr
):
    """dw [3, C, K]: all taps of one branch of a channel."""
    channel, branch = tl.program_id(0), tl.program_id(1)
    stride = tl.where(branch == 0, H * W, tl.where(branch == 1, W, 1))
    length = tl.where(branch == 0, D, tl.where(branch == 1, H, W))
    step = tl.arange(0, TAPS) - K // 2
    total = tl.zeros([TAPS, BLOCK], tl.float32)
    for sample in range(samples):
        base = (sample * channels + channel).to(tl.int64) * D * H * W
        for first in range(0, D * H * W, BLOCK):
            at = first + tl.arange(0, BLOCK)
            inside, place = at < D * H * W, at // stride % length
            gradient = tl.load(dz + branch * elements.to(tl.int64) + base + at, mask=inside, other=0.0).to(tl.float32)
            there = place[None, :] + step[:, None]
            mask = inside[None, :] & (there >= 0) & (there < length) & (step[:, None] <= K // 2)
            values = tl.load(x + base + at[None, :] + step[:, None] * stride, mask=mask, other=0.0).to(tl.float32)
            total += values * gradient[None, :]
    tap = tl.arange(0, TAPS)
    tl.store(dw + (branch * channels + channel) * K + tap, tl.sum(total, 1), mask=tap < K)


def forward_and_backward(x, w, gamma, beta, g, eps=1e-5):
    """y and the gradients of x, w, gamma and beta. x and g [N, C, D, H, W], w [3, C, K], gamma and beta [3, C]."""
    samples, channels, *size = x.shape
    taps, volume = w.shape[2], size[0] * size[1] * size[2]
    block = min(triton.next_power_of_2(volume), 1024)
    blocks, f32 = triton.cdiv(volume, block), torch.float32
    grid, count = (samples * channels, blocks), samples * volume
    parts = triton.next_power_of_2(samples * blocks)
    partial = torch.empty(samples * channels * blocks * 6, dtype=f32)
    mean, rstd, dgamma, dbeta = (torch.empty(3, channels, dtype=f32) for _ in range(4))
    y, dx, dw = torch.empty_like(x), torch.empty_like(x), torch.empty_like(w)
    dz = torch.empty(3, *x.shape, dtype=x.dtype)
    shape = dict(K=taps, BLOCK=block, num_warps=4)
    branch_moments[grid](x, w, partial, channels, *size, **shape)
    moments_finish[(channels,)](partial, mean, rstd, channels, samples, blocks, count, eps, PARTS=parts, num_warps=1)
    branch_write[grid](x, w, mean, rstd, gamma, beta, y, channels, *size, **shape)
    gradient_sums[grid](x, w, g, mean, rstd, partial, channels, *size, **shape)
    gradient_finish[(channels,)](partial, dgamma, dbeta, channels, samples, blocks, PARTS=parts, num_warps=1)
    branch_gradient[grid](x, w, g, mean, rstd, gamma, dgamma, dbeta, dz, x.numel(), channels, count, *size, **shape)
    input_gradient[grid](dz, w, dx, x.numel(), channels, *size, **shape)
    weight_gradient[(channels, 3)](
        x, dz, dw, x.numel(), channels, samples, *size, K=taps, TAPS=triton.next_power_of_2(taps), BLOCK=min(block, 256), num_warps=4
    )
    return {"y": y, "dx": dx, "dw": dw, "dgamma": dgamma, "dbeta": dbeta}
