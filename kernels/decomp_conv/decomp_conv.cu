// Decomposed 3-D convolution (DCFormer, Sec. 3; Eq. 4-6): three parallel 1-D convolutions, one along each spatial axis, each
// with its own batch normalisation, summed. x [N, I, D1, D2, D3] and y [N, O, E1, E2, E3] are contiguous, f32 or bf16; weights,
// biases, statistics and their gradients are f32. k odd, P = k/2, stride s, E = (D - 1)/s + 1 on every axis.
//
//   forward   z_a[n,o,e] = sum over i, t of w_a[o,i,t] x[n,i, s e + (t - P) along axis a]       zero outside, a = 1, 2, 3
//             y = act(sum over a of (z_a + b_a - mean_a) rstd_a gamma_a + beta_a)               act: identity or GELU (erf)
//             mean, var of z_a + b_a over the batch, n and e (training), or the running ones; rstd = 1/sqrt(var + eps)
//             running = (1 - momentum) running + momentum (mean, var M/(M - 1)), M = N E1 E2 E3; without norm: y = act(sum z_a + b_a)
//   backward  dz_a = alpha g + beta (z_a - mean) + delta   with g = dy act'(.) and, in training,
//                alpha = gamma rstd,  beta = -alpha rstd dgamma / M,  delta = -alpha (sum g) / M     (otherwise beta = delta = 0)
//             dgamma = rstd sum g (z_a - mean);  dbeta = sum g;  db_a = sum dz_a (0 in training)
//             dw_a[t] = sum dz_a x(+t) = alpha C_t + beta Q_t + delta S_t,   C_t = sum g x(+t), S_t = sum x(+t) and
//             Q_t = sum (z_a - mean) x(+t), which is (R w - mean S)_t for the Gram matrix R of the windows: the matrix itself is never
//             needed.   dx = sum over a of the transposed convolutions of dz_a
//
// The bias is left out of z: in training it cancels, and only the running mean sees it.
//
// Depthwise (I = O, one filter a channel), variant 2 never writes a branch. Bytes with stride 1, A = those of x:
//   forward   training 3 A (statistics read x; writing reads x, writes y), otherwise 2 A
//   backward  5 A (sums read g, x; writing reads g, x, writes dx), otherwise (evaluation, no norm) 4 A + the x of the sums
//   GELU      adds a pass that reads x, dy and writes g: 3 A
// Halos are read again from the L1 and L2 caches. In groups of channels that fit the L2 cache together, each group's second pass
// finds there what its first one read: 2 A and 3 A (`first_channel`; an option). src/kernels/decomp_conv/traffic.rs
// counts the bytes of every launch, and those of a framework beside them.
// Dense (every output channel sees every input channel), variant 2: decomp_dense.cu.
//
// Variants: 1. naive: one thread an element, branches stored in f32. Any stride and grouping.
//           2. fused: decomp_conv_depthwise*.cuh (stride 1, at most 15 taps) and decomp_conv_strided.cuh (all others), or
//              decomp_dense.cu.
//           3. tensor cores (decomp_conv_tensor*.cuh): depthwise, stride 1, bf16, at most 15 taps; all but dx.
// Sums are two-stage: threads add a few hundred values in f32, blocks and what follows add in f64, in an order that depends on
// the shape alone.
// Test: cargo test --release ops::decomp_conv     Time: x2ct bench decomp_conv
#include <utility>

#include "common/common.h"
#include "decomp_conv_common.cuh"
#include "params.h"

enum DecompNorm : uint32_t { kNormNone = 0, kNormEval = 1, kNormTrain = 2 };

// Where the gradient of an input starts in `accumulate`.
enum GradientBit : uint32_t { kBitX = 0, kBitWeight = 1, kBitBias = 4, kBitGamma = 7, kBitBeta = 10 };

X2CT_DEVICE uint32_t adds_to(const DecompConvParams& p, uint32_t bit) { return (p.accumulate >> bit) & 1u; }
// Of a block of a grid (work, channels of the launch).
X2CT_DEVICE uint32_t channel(const DecompConvParams& p) { return p.first_channel + blockIdx.y; }
X2CT_DEVICE uint64_t in_voxels(const DecompConvParams& p) { return uint64_t(p.in_size[0]) * p.in_size[1] * p.in_size[2]; }
X2CT_DEVICE uint64_t out_voxels(const DecompConvParams& p) { return uint64_t(p.out_size[0]) * p.out_size[1] * p.out_size[2]; }
// M: values a channel of y has.
X2CT_DEVICE double out_count(const DecompConvParams& p) { return double(p.batch) * double(out_voxels(p)); }

// What follows from the moments of branch a of channel c: of z, without the bias. Returns what the branch adds to `shift`.
X2CT_DEVICE double write_statistics(const DecompConvParams& p, uint32_t a, uint32_t c, double mean, double variance) {
    const uint64_t at = uint64_t(a) * p.out_channels + c;
    const double bias = p.bias[a] ? double(p.bias[a][c]) : 0.0;
    if (p.norm == kNormNone) {
        p.mean[at] = 0.0f;
        p.rstd[at] = p.scale[at] = 1.0f;
        return bias;
    }
    if (p.norm == kNormEval) {
        mean = double(p.running_mean[a][c]) - bias;
        variance = double(p.running_var[a][c]);
    } else {
        const double m = out_count(p);
        p.running_mean[a][c] = float((1.0 - p.momentum) * p.running_mean[a][c] + p.momentum * (mean + bias));
        p.running_var[a][c] = float((1.0 - p.momentum) * p.running_var[a][c] + p.momentum * variance * m / (m - 1.0));
    }
    const double rstd = 1.0 / sqrt(variance + p.eps), scale = rstd * double(p.gamma[a][c]);
    p.mean[at] = float(mean);
    p.rstd[at] = float(rstd);
    p.scale[at] = float(scale);
    return double(p.beta[a][c]) - double(float(mean)) * double(float(scale));
}

// alpha, beta and delta of dz = alpha g + beta (z - mean) + delta.
struct BranchGradient {
    double alpha, beta, delta;
};
// Gradients of branch a's vectors from sum g and sum g (z - mean), and the coefficients of dz.
X2CT_DEVICE BranchGradient write_branch_gradient(const DecompConvParams& p, uint32_t a, uint32_t c, double sum_g, double sum_gz) {
    const uint64_t at = uint64_t(a) * p.out_channels + c;
    BranchGradient b = {1.0, 0.0, 0.0};
    if (p.norm != kNormNone) {
        const double rstd = p.rstd[at], dgamma = sum_gz * rstd, m = out_count(p);
        b.alpha = double(p.gamma[a][c]) * rstd;
        if (p.norm == kNormTrain) {
            b.beta = -b.alpha * rstd * dgamma / m;
            b.delta = -b.alpha * sum_g / m;
        }
        if (p.dgamma[a]) write_gradient(p.dgamma[a] + c, float(dgamma), adds_to(p, kBitGamma + a));
        if (p.dbeta[a]) write_gradient(p.dbeta[a] + c, float(sum_g), adds_to(p, kBitBeta + a));
    }
    if (p.dbias[a]) write_gradient(p.dbias[a] + c, p.norm == kNormTrain ? 0.0f : float(b.alpha * sum_g), adds_to(p, kBitBias + a));
    float* out = p.coefficients + (uint64_t(c) * 3 + a) * 3;
    out[0] = float(b.alpha);
    out[1] = float(b.beta);
    out[2] = float(b.delta);
    return b;
}

// Values of a block of the statistics pass: for each branch sum (z - pivot) and sum (z - pivot)^2, then the three pivots.
constexpr uint32_t kMomentValues = 9;

// One block a channel: statistics from the blocks' sums (or the running ones), scale and shift.
struct DecompFinishConfig : KernelDefaults {
    static constexpr uint32_t threads = 96;  // a warp a branch
    struct Shared {
        double sums[3][32][2];
        double shift[3];
    };
};
X2CT_DEVICE void decomp_conv_finish_body(const DecompConvParams& p) {
    auto& s = shared_memory<DecompFinishConfig::Shared>();
    const uint32_t c = p.first_channel + blockIdx.x, a = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool train = p.norm == kNormTrain;
    double sums[2] = {};
    for (uint32_t b = lane; train && b < p.blocks; b += 32) {
        const double* in = p.partial + (uint64_t(b) * p.out_channels + c) * kMomentValues + a * 2;
        sums[0] += in[0];
        sums[1] += in[1];
    }
    s.sums[a][lane][0] = sums[0];
    s.sums[a][lane][1] = sums[1];
    __syncthreads();
    if (lane == 0) {
        double mean = 0.0, variance = 0.0;
        if (train) {
            const double m = out_count(p);
            for (int l = 0; l < 32; ++l) {
                mean += s.sums[a][l][0];
                variance += s.sums[a][l][1];
            }
            mean /= m;
            variance = variance / m - mean * mean;
            variance = variance < 0.0 ? 0.0 : variance;  // a constant branch may round there; NaN stays NaN
            mean += p.partial[uint64_t(c) * kMomentValues + 6 + a];
        }
        s.shift[a] = write_statistics(p, a, c, mean, variance);
    }
    __syncthreads();
    if (threadIdx.x == 0) p.shift[c] = float(s.shift[0] + s.shift[1] + s.shift[2]);
}
/// Statistics, scale and shift of each channel from the sums of blocks or the running ones; a block a channel.
X2CT_KERNEL(decomp_conv_finish, DecompConvParams, DecompFinishConfig, decomp_conv_finish_body)

#include "decomp_conv_branches.cuh"
#include "decomp_conv_depthwise.cuh"
#include "decomp_conv_depthwise_backward.cuh"
#include "decomp_conv_naive.cuh"
#include "decomp_conv_strided.cuh"
#include "decomp_conv_tensor.cuh"
#include "decomp_conv_tensor_backward.cuh"

// The unrolled depthwise kernels of one tap count; src/kernels/decomp_conv.rs lists the same counts.
/// Depthwise, stride 1, at most 7 taps: sums of the branches.
X2CT_KERNEL(decomp_conv_moments7_f32, DecompConvParams, MomentsConfig, depthwise_moments<7, float>)
X2CT_KERNEL(decomp_conv_moments7_bf16, DecompConvParams, MomentsConfig, depthwise_moments<7, bf16>)
/// Depthwise, stride 1, at most 7 taps: y.
X2CT_KERNEL(decomp_conv_write7_f32, DecompConvParams, WriteConfig, depthwise_write<7, float>)
X2CT_KERNEL(decomp_conv_write7_bf16, DecompConvParams, WriteConfig, depthwise_write<7, bf16>)
/// Depthwise, stride 1, at most 7 taps: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_gradient_sums7_f32, DecompConvParams, GradientSumsConfig<7>, depthwise_gradient_sums<7, float>)
X2CT_KERNEL(decomp_conv_gradient_sums7_bf16, DecompConvParams, GradientSumsConfig<7>, depthwise_gradient_sums<7, bf16>)
/// Depthwise, stride 1, at most 7 taps: dx.
X2CT_KERNEL(decomp_conv_input_gradient7_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<7, float>)
X2CT_KERNEL(decomp_conv_input_gradient7_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<7, bf16>)
/// Depthwise, stride 1, at most 9 taps: sums of the branches.
X2CT_KERNEL(decomp_conv_moments9_f32, DecompConvParams, MomentsConfig, depthwise_moments<9, float>)
X2CT_KERNEL(decomp_conv_moments9_bf16, DecompConvParams, MomentsConfig, depthwise_moments<9, bf16>)
/// Depthwise, stride 1, at most 9 taps: y.
X2CT_KERNEL(decomp_conv_write9_f32, DecompConvParams, WriteConfig, depthwise_write<9, float>)
X2CT_KERNEL(decomp_conv_write9_bf16, DecompConvParams, WriteConfig, depthwise_write<9, bf16>)
/// Depthwise, stride 1, at most 9 taps: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_gradient_sums9_f32, DecompConvParams, GradientSumsConfig<9>, depthwise_gradient_sums<9, float>)
X2CT_KERNEL(decomp_conv_gradient_sums9_bf16, DecompConvParams, GradientSumsConfig<9>, depthwise_gradient_sums<9, bf16>)
/// Depthwise, stride 1, at most 9 taps: dx.
X2CT_KERNEL(decomp_conv_input_gradient9_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<9, float>)
X2CT_KERNEL(decomp_conv_input_gradient9_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<9, bf16>)
/// Depthwise, stride 1, at most 11 taps: sums of the branches.
X2CT_KERNEL(decomp_conv_moments11_f32, DecompConvParams, MomentsConfig, depthwise_moments<11, float>)
X2CT_KERNEL(decomp_conv_moments11_bf16, DecompConvParams, MomentsConfig, depthwise_moments<11, bf16>)
/// Depthwise, stride 1, at most 11 taps: y.
X2CT_KERNEL(decomp_conv_write11_f32, DecompConvParams, WriteConfig, depthwise_write<11, float>)
X2CT_KERNEL(decomp_conv_write11_bf16, DecompConvParams, WriteConfig, depthwise_write<11, bf16>)
/// Depthwise, stride 1, at most 11 taps: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_gradient_sums11_f32, DecompConvParams, GradientSumsConfig<11>, depthwise_gradient_sums<11, float>)
X2CT_KERNEL(decomp_conv_gradient_sums11_bf16, DecompConvParams, GradientSumsConfig<11>, depthwise_gradient_sums<11, bf16>)
/// Depthwise, stride 1, at most 11 taps: dx.
X2CT_KERNEL(decomp_conv_input_gradient11_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<11, float>)
X2CT_KERNEL(decomp_conv_input_gradient11_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<11, bf16>)
/// Depthwise, stride 1, at most 13 taps: sums of the branches.
X2CT_KERNEL(decomp_conv_moments13_f32, DecompConvParams, MomentsConfig, depthwise_moments<13, float>)
X2CT_KERNEL(decomp_conv_moments13_bf16, DecompConvParams, MomentsConfig, depthwise_moments<13, bf16>)
/// Depthwise, stride 1, at most 13 taps: y.
X2CT_KERNEL(decomp_conv_write13_f32, DecompConvParams, WriteConfig, depthwise_write<13, float>)
X2CT_KERNEL(decomp_conv_write13_bf16, DecompConvParams, WriteConfig, depthwise_write<13, bf16>)
/// Depthwise, stride 1, at most 13 taps: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_gradient_sums13_f32, DecompConvParams, GradientSumsConfig<13>, depthwise_gradient_sums<13, float>)
X2CT_KERNEL(decomp_conv_gradient_sums13_bf16, DecompConvParams, GradientSumsConfig<13>, depthwise_gradient_sums<13, bf16>)
/// Depthwise, stride 1, at most 13 taps: dx.
X2CT_KERNEL(decomp_conv_input_gradient13_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<13, float>)
X2CT_KERNEL(decomp_conv_input_gradient13_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<13, bf16>)
/// Depthwise, stride 1, at most 15 taps: sums of the branches.
X2CT_KERNEL(decomp_conv_moments15_f32, DecompConvParams, MomentsConfig, depthwise_moments<15, float>)
X2CT_KERNEL(decomp_conv_moments15_bf16, DecompConvParams, MomentsConfig, depthwise_moments<15, bf16>)
/// Depthwise, stride 1, at most 15 taps: y.
X2CT_KERNEL(decomp_conv_write15_f32, DecompConvParams, WriteConfig, depthwise_write<15, float>)
X2CT_KERNEL(decomp_conv_write15_bf16, DecompConvParams, WriteConfig, depthwise_write<15, bf16>)
/// Depthwise, stride 1, at most 15 taps: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_gradient_sums15_f32, DecompConvParams, GradientSumsConfig<15>, depthwise_gradient_sums<15, float>)
X2CT_KERNEL(decomp_conv_gradient_sums15_bf16, DecompConvParams, GradientSumsConfig<15>, depthwise_gradient_sums<15, bf16>)
/// Depthwise, stride 1, at most 15 taps: dx.
X2CT_KERNEL(decomp_conv_input_gradient15_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<15, float>)
X2CT_KERNEL(decomp_conv_input_gradient15_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<15, bf16>)
