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

enum DecompNorm : uint32_t { kNormNone = 0, kNormEval = 1, kNormTrain = 2 };

// Operands of every phase; those a phase does not use are null.
struct DecompConvParams {
    const void* x;            // [N, I, D1, D2, D3]
    const void* g;            // [N, O, E1, E2, E3]: gradient of y, or of what is under the activation
    void* y;                  // as g: the output of a writing pass
    void* dx;                 // as x
    float* z;                 // [3, N, O, E]: stored branches
    float* dz;                // [3, N, O, E]
    const float* w[3];        // [O, I or 1, k]
    const float* bias[3];     // [O], or null
    const float* gamma[3];    // [O], like the following; null without norm
    const float* beta[3];
    float* running_mean[3];
    float* running_var[3];
    float* mean;              // [3, O]: of z
    float* rstd;              // [3, O]
    float* scale;             // [3, O]: gamma rstd
    float* shift;             // [O]: what is added to the sum of scaled branches
    float* coefficients;      // [O, 3, 3]: alpha, beta, delta
    double* partial;          // sums of blocks
    float* dw[3];             // gradients, or null
    float* dbias[3];
    float* dgamma[3];
    float* dbeta[3];
    double eps;
    double momentum;
    uint64_t batch;           // N
    uint32_t in_channels;
    uint32_t out_channels;
    uint32_t in_size[3];      // D
    uint32_t out_size[3];     // E
    uint32_t kernel;
    uint32_t stride;
    uint32_t dense;           // 1: every output channel sees every input channel
    uint32_t norm;            // DecompNorm
    uint32_t gelu;            // 1: the activation is GELU
    uint32_t slope;           // 1: a writing pass writes the gradient under it, from g
    uint32_t vector;          // 1: rows (depthwise) or volumes (branches) start at multiples of four elements
    uint32_t accumulate;      // bit i: add to the gradient of input i (x, w, bias, gamma, beta: 0, 1-3, 4-6, 7-9, 10-12)
    uint32_t tile[4];         // samples, and extent along each axis, of a tile
    uint32_t tiles[4];        // number of tiles
    uint32_t tiles_per_block; // of a summing pass
    uint32_t blocks;          // of a summing pass, a channel
    uint32_t first_channel;   // of a launch
    uint32_t channels;        // of a launch
    uint32_t round_weights;   // 1: to bf16, as in all passes of the tensor-core variant
};
X2CT_FIELDS(DecompConvParams, x, g, y, dx, z, dz, w, bias, gamma, beta, running_mean, running_var, mean, rstd, scale, shift,
            coefficients, partial, dw, dbias, dgamma, dbeta, eps, momentum, batch, in_channels, out_channels, in_size, out_size, kernel,
            stride, dense, norm, gelu, slope, vector, accumulate, tile, tiles, tiles_per_block, blocks, first_channel, channels, round_weights)

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
X2CT_KERNEL(decomp_conv_finish, DecompConvParams, DecompFinishConfig, decomp_conv_finish_body)

#include "decomp_conv_branches.cuh"
#include "decomp_conv_depthwise.cuh"
#include "decomp_conv_depthwise_backward.cuh"
#include "decomp_conv_naive.cuh"
#include "decomp_conv_strided.cuh"
#include "decomp_conv_tensor.cuh"
#include "decomp_conv_tensor_backward.cuh"

// The unrolled depthwise kernels of one tap count; src/kernels/decomp_conv.rs lists the same counts.
#define X2CT_TAPS(K)                                                                                                              \
    X2CT_KERNEL(decomp_conv_moments##K##_f32, DecompConvParams, MomentsConfig, depthwise_moments<K, float>)                       \
    X2CT_KERNEL(decomp_conv_moments##K##_bf16, DecompConvParams, MomentsConfig, depthwise_moments<K, bf16>)                       \
    X2CT_KERNEL(decomp_conv_write##K##_f32, DecompConvParams, WriteConfig, depthwise_write<K, float>)                             \
    X2CT_KERNEL(decomp_conv_write##K##_bf16, DecompConvParams, WriteConfig, depthwise_write<K, bf16>)                             \
    X2CT_KERNEL(decomp_conv_gradient_sums##K##_f32, DecompConvParams, GradientSumsConfig<K>, depthwise_gradient_sums<K, float>)   \
    X2CT_KERNEL(decomp_conv_gradient_sums##K##_bf16, DecompConvParams, GradientSumsConfig<K>, depthwise_gradient_sums<K, bf16>)   \
    X2CT_KERNEL(decomp_conv_input_gradient##K##_f32, DecompConvParams, InputGradientConfig, depthwise_input_gradient<K, float>)   \
    X2CT_KERNEL(decomp_conv_input_gradient##K##_bf16, DecompConvParams, InputGradientConfig, depthwise_input_gradient<K, bf16>)
X2CT_TAPS(7)
X2CT_TAPS(9)
X2CT_TAPS(11)
X2CT_TAPS(13)
X2CT_TAPS(15)
