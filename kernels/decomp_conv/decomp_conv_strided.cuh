// Variant 2 of the depthwise convolution with any stride and any number of taps: included by decomp_conv.cu.
//
// Idea: strided outputs share few inputs (of every s^3 voxels about 3 k / s are read), so nothing is kept for the next output: a
// thread takes one output, or one voxel of dx, at a time, neighbours along the contiguous axis lie in neighbouring threads, and
// what a branch value needs comes from the caches. The sums of the backward pass take kTapGroup taps at a time. dx recomputes
// every branch value that it needs, 3 k^2 / s^3 multiply-adds a voxel: little with a stride, and with stride 1 only kernels beyond
// the unrolled ones come here.

struct StridedConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t piece = 1024;  // voxels of one sample and channel that a block takes at a time
    static constexpr uint32_t tile0 = piece;
};
static_assert(StridedConfig::threads == DepthwiseConfig::threads, "the threads' sums are shared");
constexpr int kTapGroup = 8;

// Calls f(voxel of [N, C, size], sample, place in the volume) for this thread's voxels of a piece of channel(p). Places
// advance from the piece's first one in 32 bits: a volume may have more voxels than that.
template <class F>
X2CT_DEVICE void for_strided_piece(const DecompConvParams& p, uint32_t piece, const uint32_t (&size)[3], F f) {
    const uint64_t voxels = uint64_t(size[0]) * size[1] * size[2];
    const uint32_t pieces = uint32_t((voxels + StridedConfig::piece - 1) / StridedConfig::piece);
    const uint64_t sample = piece / pieces, start = uint64_t(piece % pieces) * StridedConfig::piece;
    const uint64_t row = (sample * p.out_channels + channel(p)) * voxels + start;
    const uint32_t count = uint32_t(min(voxels - start, uint64_t(StridedConfig::piece)));
    const uint32_t first[3] = {uint32_t(start / size[2] / size[1]), uint32_t(start / size[2] % size[1]), uint32_t(start % size[2])};
    for (uint32_t i = threadIdx.x; i < count; i += StridedConfig::threads) {
        const uint32_t along = first[2] + i, rows = first[1] + along / size[2];
        const int at[3] = {int(first[0] + rows / size[1]), int(rows % size[1]), int(along % size[2])};
        f(row + i, sample, at);
    }
}
// The same for the pieces of this block of a summing pass.
template <class F>
X2CT_DEVICE void for_strided_outputs(const DecompConvParams& p, F f) {
    const uint32_t end = min(p.tiles[0], (blockIdx.x + 1) * p.tiles_per_block);
    for (uint32_t piece = blockIdx.x * p.tiles_per_block; piece < end; ++piece) for_strided_piece(p, piece, p.out_size, f);
}

X2CT_DEVICE int64_t strided_step(const DecompConvParams& p, uint32_t a) {
    return a == 0 ? int64_t(p.in_size[1]) * p.in_size[2] : a == 1 ? p.in_size[2] : 1;
}
// The input under the middle tap of an output, all branches having one.
template <class T>
X2CT_DEVICE const T* strided_centre(const DecompConvParams& p, uint64_t sample, const int (&out)[3]) {
    const uint64_t s = p.stride, plane = (sample * p.in_channels + channel(p)) * p.in_size[0] + out[0] * s;
    return static_cast<const T*>(p.x) + (plane * p.in_size[1] + out[1] * s) * p.in_size[2] + out[2] * s;
}
X2CT_DEVICE const float* strided_weights(const DecompConvParams& p, uint32_t a) { return p.w[a] + uint64_t(channel(p)) * p.kernel; }

// z of branch a for the output at place `out` along it.
template <class T>
X2CT_DEVICE float strided_branch(const DecompConvParams& p, const T* centre, uint32_t a, int out) {
    const int radius = int(p.kernel / 2), at = out * int(p.stride);
    const int first = max(0, radius - at), end = min(int(p.kernel), int(p.in_size[a]) - at + radius);
    const int64_t step = strided_step(p, a);
    const float* w = strided_weights(p, a);
    float z = 0.0f;
    for (int t = first; t < end; ++t) z += w[t] * to_float(centre[(t - radius) * step]);
    return z;
}

template <class T>
X2CT_DEVICE void strided_moments(const DecompConvParams& p) {
    auto& s = shared_memory<MomentsConfig::Shared>();
    double* out = p.partial + (uint64_t(blockIdx.x) * p.out_channels + channel(p)) * kMomentValues;
    // The pivot: the branch at the centre of the first sample.
    if (threadIdx.x < 3) {
        const int at[3] = {int(p.out_size[0] / 2), int(p.out_size[1] / 2), int(p.out_size[2] / 2)};
        s.pivot[threadIdx.x] = strided_branch(p, strided_centre<T>(p, 0, at), threadIdx.x, int(p.out_size[threadIdx.x] / 2));
    }
    __syncthreads();
    float pivot[3], sums[6] = {};
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) pivot[a] = s.pivot[a];
    for_strided_outputs(p, [&](uint64_t, uint64_t sample, const int (&at)[3]) {
        const T* centre = strided_centre<T>(p, sample, at);
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            const float d = strided_branch(p, centre, a, at[a]) - pivot[a];
            sums[2 * a] += d;
            sums[2 * a + 1] += d * d;
        }
    });
    add_threads(s.sums, sums, [&](int v) { return out + v; });
    if (threadIdx.x < 3) out[6 + threadIdx.x] = double(s.pivot[threadIdx.x]);
}

// As depthwise_write. blockIdx = (piece of all samples, channel).
template <class T>
X2CT_DEVICE void strided_write(const DecompConvParams& p) {
    const uint32_t c = channel(p);
    const float shift = p.shift[c];
    float scale[3];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) scale[a] = p.scale[uint64_t(a) * p.out_channels + c];
    for_strided_piece(p, blockIdx.x, p.out_size, [&](uint64_t element, uint64_t sample, const int (&at)[3]) {
        const T* centre = strided_centre<T>(p, sample, at);
        float sum = shift;
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) sum += scale[a] * strided_branch(p, centre, a, at[a]);
        const float y = p.slope ? to_float(static_cast<const T*>(p.g)[element]) * activation_slope(sum) : activation(sum, p.gelu);
        static_cast<T*>(p.y)[element] = from_float<T>(y);
    });
}

struct StridedMomentsConfig : StridedConfig {
    using Shared = MomentsConfig::Shared;
};
struct StridedSumsConfig : StridedConfig {
    struct Shared {
        ThreadSums<int(axis_sums(kTapGroup))> sums;
    };
};
template <class T>
X2CT_DEVICE void strided_gradient_sums(const DecompConvParams& p) {
    auto& s = shared_memory<StridedSumsConfig::Shared>();
    const T* g = static_cast<const T*>(p.g);
    const int kernel = int(p.kernel), radius = kernel / 2;
    for (uint32_t a = 0; a < 3; ++a) {
        const float mean = p.mean[uint64_t(a) * p.out_channels + channel(p)];
        const int64_t step = strided_step(p, a);
        const int size = int(p.in_size[a]);
        double* out = axis_sums_at(p, blockIdx.x, channel(p), a);
        for (int first = 0; first < kernel; first += kTapGroup) {
            const int taps = min(kernel - first, kTapGroup);
            float sums[axis_sums(kTapGroup)] = {};
            for_strided_outputs(p, [&](uint64_t element, uint64_t sample, const int (&at)[3]) {
                const T* centre = strided_centre<T>(p, sample, at);
                const int along = a == 0 ? at[0] : a == 1 ? at[1] : at[2];
                const float up = to_float(g[element]), z = strided_branch(p, centre, a, along) - mean;
                sums[0] += up * z;
                sums[1] += up;
                X2CT_UNROLL
                for (int t = 0; t < kTapGroup; ++t) {
                    const int offset = first + t - radius, input = along * int(p.stride) + offset;
                    if (t >= taps || input < 0 || input >= size) continue;
                    const float x = to_float(centre[offset * step]);
                    float* tap = sums + kAxisSums + kTapSums * t;
                    tap[0] += up * x;
                    tap[1] += z * x;
                    tap[2] += x;
                }
            });
            add_threads(s.sums, sums, [&](int v) -> double* {
                if (v < kAxisSums) return first == 0 ? out + v : nullptr;
                return v < int(axis_sums(taps)) ? out + kTapSums * first + v : nullptr;
            });
        }
    }
}

// dx. blockIdx = (piece of the volumes of x, channel).
template <class T>
X2CT_DEVICE void strided_input_gradient(const DecompConvParams& p) {
    const T* g = static_cast<const T*>(p.g);
    const int stride = int(p.stride), kernel = int(p.kernel), radius = kernel / 2;
    BranchCoefficients branch[3] = {branch_coefficients<0>(p), branch_coefficients<1>(p), branch_coefficients<2>(p)};
    for_strided_piece(p, blockIdx.x, p.in_size, [&](uint64_t element, uint64_t sample, const int (&at)[3]) {
        int out[3];
        bool sampled[3];  // whether outputs lie at this place of an axis
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            out[a] = at[a] / stride;
            sampled[a] = out[a] * stride == at[a];
        }
        float sum = 0.0f;
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            if (!sampled[(a + 1) % 3] || !sampled[(a + 2) % 3]) continue;
            const BranchCoefficients b = branch[a];
            const float* w = strided_weights(p, a);
            // Outputs whose windows reach this place.
            const int first = at[a] > radius ? (at[a] - radius + stride - 1) / stride : 0;
            const int end = min(int(p.out_size[a]), (at[a] + radius) / stride + 1);
            int place[3] = {out[0], out[1], out[2]};
            for (place[a] = first; place[a] < end; ++place[a]) {
                const uint64_t plane = (sample * p.out_channels + channel(p)) * p.out_size[0] + place[0];
                float dz = b.alpha * to_float(g[(plane * p.out_size[1] + place[1]) * p.out_size[2] + place[2]]) + b.delta;
                if (p.norm == kNormTrain) dz += b.beta * (strided_branch(p, strided_centre<T>(p, sample, place), a, place[a]) - b.mean);
                sum += w[at[a] + radius - place[a] * stride] * dz;
            }
        }
        write_gradient(static_cast<T*>(p.dx) + element, sum, adds_to(p, kBitX));
    });
}

/// Depthwise, any stride and tap count: sums of the branches.
X2CT_KERNEL(decomp_conv_strided_moments_f32, DecompConvParams, StridedMomentsConfig, strided_moments<float>)
X2CT_KERNEL(decomp_conv_strided_moments_bf16, DecompConvParams, StridedMomentsConfig, strided_moments<bf16>)
/// Depthwise, any stride and tap count: y.
X2CT_KERNEL(decomp_conv_strided_write_f32, DecompConvParams, StridedConfig, strided_write<float>)
X2CT_KERNEL(decomp_conv_strided_write_bf16, DecompConvParams, StridedConfig, strided_write<bf16>)
/// Depthwise, any stride and tap count: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_strided_gradient_sums_f32, DecompConvParams, StridedSumsConfig, strided_gradient_sums<float>)
X2CT_KERNEL(decomp_conv_strided_gradient_sums_bf16, DecompConvParams, StridedSumsConfig, strided_gradient_sums<bf16>)
/// Depthwise, any stride and tap count: dx.
X2CT_KERNEL(decomp_conv_strided_input_gradient_f32, DecompConvParams, StridedConfig, strided_input_gradient<float>)
X2CT_KERNEL(decomp_conv_strided_input_gradient_bf16, DecompConvParams, StridedConfig, strided_input_gradient<bf16>)
