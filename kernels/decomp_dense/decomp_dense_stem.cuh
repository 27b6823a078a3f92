// Variant 3 of a network's first layer, included by decomp_dense.cu: one input channel, seven taps, any stride, plain f32
// arithmetic. A window has 7 values for any number of output channels, so the statistics of all of them follow from the sums and
// the products of its values: mean = w S / M and var = w R w / M - mean^2, in f64. 35 sums an axis replace 3 O of them, and each
// needs 7 loads and 35 multiply-adds a voxel. The writing pass keeps the 19 values of the crosses of four voxels in registers and
// walks the channels, so x is read once.

constexpr int kStemTaps = 7, kStemCross = 3 * kStemTaps - 2, kStemValues = kStemTaps + kStemTaps * (kStemTaps + 1) / 2;

struct StemMomentsConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    struct Shared {
        float value[kStemValues][threads];
    };
};
struct StemFinishConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    struct Shared {
        double sum[kStemTaps];
        double product[kStemTaps][kStemTaps];
    };
};
struct StemWriteConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t channels = 64;  // of the weights in shared memory at a time
    static constexpr uint32_t tile0 = threads * 4;
    struct Shared {
        float w[channels][kStemCross + 1];  // the last is the shift
    };
};

// x of a sample at a place; zero outside.
template <class T>
X2CT_DEVICE float stem_value(const DecompDenseParams& p, uint64_t sample, int64_t a1, int64_t a2, int64_t a3) {
    const bool inside = a1 >= 0 && a1 < p.in_size[0] && a2 >= 0 && a2 < p.in_size[1] && a3 >= 0 && a3 < p.in_size[2];
    return inside ? to_float(static_cast<const T*>(p.x)[((sample * p.in_size[0] + a1) * p.in_size[1] + a2) * p.in_size[2] + a3]) : 0.0f;
}

// Sums of the windows' values and products along axis blockIdx.y: a warp a line.
template <class T>
X2CT_DEVICE void stem_moments(const DecompDenseParams& p) {
    auto& s = shared_memory<StemMomentsConfig::Shared>();
    const uint32_t axis = blockIdx.y, e1 = p.out_size[0], e2 = p.out_size[1];
    const int64_t stride = p.stride;
    const uint64_t lines = p.batch * e1 * e2;
    float sums[kStemValues] = {};
    for (uint64_t line = uint64_t(blockIdx.x) * 4 + threadIdx.x / 32; line < lines; line += uint64_t(p.blocks) * 4) {
        const uint64_t sample = line / e2 / e1;
        const int64_t at1 = int64_t(line / e2 % e1) * stride, at2 = int64_t(line % e2) * stride;
        for (uint32_t e3 = threadIdx.x % 32; e3 < p.out_size[2]; e3 += 32) {
            float v[kStemTaps];
            X2CT_UNROLL
            for (int t = 0; t < kStemTaps; ++t) {
                const int64_t d = t - kStemTaps / 2;
                v[t] = stem_value<T>(p, sample, at1 + (axis == 0 ? d : 0), at2 + (axis == 1 ? d : 0), int64_t(e3) * stride + (axis == 2 ? d : 0));
            }
            int at = kStemTaps;
            X2CT_UNROLL
            for (int t = 0; t < kStemTaps; ++t) {
                sums[t] += v[t];
                X2CT_UNROLL
                for (int u = t; u < kStemTaps; ++u) sums[at++] += v[t] * v[u];
            }
        }
    }
    X2CT_UNROLL
    for (int i = 0; i < kStemValues; ++i) s.value[i][threadIdx.x] = sums[i];
    __syncthreads();
    if (threadIdx.x < uint32_t(kStemValues)) {
        double total = 0.0;
        for (uint32_t i = 0; i < StemMomentsConfig::threads; ++i) total += s.value[threadIdx.x][i];
        p.window_sums[(uint64_t(blockIdx.x) * 3 + axis) * kStemValues + threadIdx.x] = total;
    }
}

// What decomp_conv_finish takes, as one block's sums, of axis blockIdx.x: the pivot is the mean itself.
X2CT_DEVICE void stem_finish(const DecompDenseParams& p) {
    auto& s = shared_memory<StemFinishConfig::Shared>();
    const uint32_t axis = blockIdx.x, value = threadIdx.x;
    if (value < uint32_t(kStemValues)) {
        double total = 0.0;
        for (uint32_t b = 0; b < p.blocks; ++b) total += p.window_sums[(uint64_t(b) * 3 + axis) * kStemValues + value];
        if (value < uint32_t(kStemTaps)) {
            s.sum[value] = total;
        } else {
            uint32_t t = 0, first = kStemTaps;
            while (value >= first + kStemTaps - t) first += kStemTaps - t++;
            const uint32_t u = t + value - first;
            s.product[t][u] = s.product[u][t] = total;
        }
    }
    __syncthreads();
    const double m = double(p.batch) * p.out_size[0] * double(plane_voxels(p));
    for (uint32_t o = threadIdx.x; o < p.out_channels; o += StemFinishConfig::threads) {
        const float* w = p.w[axis] + uint64_t(o) * kStemTaps;
        double mean = 0.0, square = 0.0;
        for (int t = 0; t < kStemTaps; ++t) {
            mean += w[t] * s.sum[t];
            double row = 0.0;
            for (int u = 0; u < kStemTaps; ++u) row += w[u] * s.product[t][u];
            square += w[t] * row;
        }
        mean /= m;
        double* out = p.partial + uint64_t(o) * kDenseMomentValues;
        out[2 * axis] = 0.0;
        out[2 * axis + 1] = square - m * mean * mean;
        out[6 + axis] = mean;
    }
}

// y of four voxels of a line a thread, all output channels.
template <class T>
X2CT_DEVICE void stem_write(const DecompDenseParams& p) {
    auto& s = shared_memory<StemWriteConfig::Shared>();
    const uint32_t e3 = p.out_size[2], groups = (e3 + 3) / 4;
    const uint64_t index = uint64_t(blockIdx.x) * StemWriteConfig::threads + threadIdx.x, line = index / groups;
    const int64_t stride = p.stride, first = int64_t(index % groups) * 4;
    const uint64_t plane = line / p.out_size[1], sample = plane / p.out_size[0];
    const bool work = sample < p.batch;
    const int64_t at1 = int64_t(plane % p.out_size[0]) * stride, at2 = int64_t(line % p.out_size[1]) * stride;
    Float4 x[kStemCross];
    X2CT_UNROLL
    for (int t = 0; t < kStemCross; ++t) {
        const CrossTap tap = cross_tap(t, kStemTaps);
        const int64_t d1 = tap.axis == 0 ? tap.offset : 0, d2 = tap.axis == 1 ? tap.offset : 0, d3 = tap.axis == 2 ? tap.offset : 0;
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l)
            x[t][l] = work && first + l < e3 ? stem_value<T>(p, sample, at1 + d1, at2 + d2, (first + l) * stride + d3) : 0.0f;
    }
    const uint64_t volume = p.out_size[0] * plane_voxels(p);
    T* y = static_cast<T*>(p.y) + sample * p.out_channels * volume + (plane % p.out_size[0] * p.out_size[1] + line % p.out_size[1]) * e3 + first;
    for (uint32_t begin = 0; begin < p.out_channels; begin += StemWriteConfig::channels) {
        const uint32_t count = min(StemWriteConfig::channels, p.out_channels - begin);
        __syncthreads();  // the channels before are done with
        for (uint32_t i = threadIdx.x; i < count * (kStemCross + 1); i += StemWriteConfig::threads) {
            const uint32_t o = i / (kStemCross + 1), t = i % (kStemCross + 1);
            s.w[o][t] = t < uint32_t(kStemCross) ? static_cast<const float*>(p.folded)[uint64_t(begin + o) * kStemCross + t] : p.shift[begin + o];
        }
        __syncthreads();
        if (!work) continue;
        for (uint32_t o = 0; o < count; ++o) {
            Float4 sum = {};
            X2CT_UNROLL
            for (int t = 0; t < kStemCross; ++t) multiply_add(sum, s.w[o][t], x[t]);
            float out[4];
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) out[l] = activation(sum[l] + s.w[o][kStemCross], p.gelu);
            store4(y + (begin + o) * volume, int(e3 - first), p.vector, out);
        }
    }
}

/// First layer: sums of the windows.
X2CT_KERNEL(decomp_dense_stem_moments_f32, DecompDenseParams, StemMomentsConfig, stem_moments<float>)
X2CT_KERNEL(decomp_dense_stem_moments_bf16, DecompDenseParams, StemMomentsConfig, stem_moments<bf16>)
/// First layer: sums of the branches from those of the windows.
X2CT_KERNEL(decomp_dense_stem_finish, DecompDenseParams, StemFinishConfig, stem_finish)
/// First layer: y.
X2CT_KERNEL(decomp_dense_stem_write_f32, DecompDenseParams, StemWriteConfig, stem_write<float>)
X2CT_KERNEL(decomp_dense_stem_write_bf16, DecompDenseParams, StemWriteConfig, stem_write<bf16>)
