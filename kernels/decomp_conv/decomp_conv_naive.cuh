// Variant 1 of decomp_conv.cu: one thread an element of whatever a phase writes.

struct NaiveBranchConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;  // items of a block
};

// The place of an element of [3, N, channels, size].
struct NaivePlace {
    uint32_t axis, channel;
    uint64_t sample;
    int64_t at[3];
};
X2CT_DEVICE NaivePlace naive_place(uint64_t index, uint64_t batch, uint32_t channels, const uint32_t (&size)[3]) {
    NaivePlace place;
    X2CT_UNROLL
    for (int a = 2; a >= 0; --a) {
        place.at[a] = int64_t(index % size[a]);
        index /= size[a];
    }
    place.channel = uint32_t(index % channels);
    index /= channels;
    place.sample = index % batch;
    place.axis = uint32_t(index / batch);
    return place;
}
X2CT_DEVICE uint64_t naive_index() { return uint64_t(blockIdx.x) * NaiveBranchConfig::threads + threadIdx.x; }

// Element of x under tap t of the window of an output along an axis; negative outside.
X2CT_DEVICE int64_t under_tap(const DecompConvParams& p, uint32_t axis, const int64_t (&out)[3], uint32_t tap) {
    int64_t element = 0;
    bool inside = true;
    X2CT_UNROLL
    for (uint32_t a = 0; a < 3; ++a) {
        const int64_t at = out[a] * p.stride + (a == axis ? int64_t(tap) - int64_t(p.kernel / 2) : 0);
        inside &= at >= 0 && at < p.in_size[a];
        element = element * p.in_size[a] + at;
    }
    return inside ? element : -1;
}
// Input channels that an output channel sees: all, or its own.
X2CT_DEVICE uint32_t fan_in(const DecompConvParams& p) { return p.dense ? p.in_channels : 1; }
template <class T>
X2CT_DEVICE const T* input_volume(const DecompConvParams& p, uint64_t sample, uint32_t out_channel, uint32_t i) {
    return static_cast<const T*>(p.x) + (sample * p.in_channels + (p.dense ? i : out_channel)) * in_voxels(p);
}

template <class T>
X2CT_DEVICE void naive_branches(const DecompConvParams& p) {
    const uint64_t index = naive_index();
    if (index >= 3 * p.batch * p.out_channels * out_voxels(p)) return;
    const NaivePlace o = naive_place(index, p.batch, p.out_channels, p.out_size);
    const float* w = p.w[o.axis] + uint64_t(o.channel) * fan_in(p) * p.kernel;
    float sum = 0.0f;
    for (uint32_t i = 0; i < fan_in(p); ++i) {
        const T* x = input_volume<T>(p, o.sample, o.channel, i);
        for (uint32_t t = 0; t < p.kernel; ++t) {
            const int64_t at = under_tap(p, o.axis, o.at, t);
            if (at >= 0) sum += w[i * p.kernel + t] * to_float(x[at]);
        }
    }
    p.z[index] = sum;
}

// dw of one weight, from dz in f32.
template <class T>
X2CT_DEVICE void naive_weight_gradient(const DecompConvParams& p) {
    const uint64_t weights = uint64_t(p.out_channels) * fan_in(p) * p.kernel, index = naive_index();
    if (index >= 3 * weights) return;
    const uint32_t a = uint32_t(index / weights), t = uint32_t(index % p.kernel);
    const uint32_t i = uint32_t(index / p.kernel % fan_in(p)), c = uint32_t(index % weights / p.kernel / fan_in(p));
    if (!p.dw[a]) return;
    double sum = 0.0;
    for (uint64_t n = 0; n < p.batch; ++n) {
        const T* x = input_volume<T>(p, n, c, i);
        const float* dz = p.dz + ((a * p.batch + n) * p.out_channels + c) * out_voxels(p);
        for (uint64_t o = 0; o < out_voxels(p); ++o) {
            const int64_t out[3] = {int64_t(o / p.out_size[2] / p.out_size[1]), int64_t(o / p.out_size[2] % p.out_size[1]), int64_t(o % p.out_size[2])};
            const int64_t at = under_tap(p, a, out, t);
            if (at >= 0) sum += double(dz[o]) * to_float(x[at]);
        }
    }
    write_gradient(p.dw[a] + index % weights, float(sum), adds_to(p, kBitWeight + a));
}

// Calls f(axis, tap, output voxel) for every output that reads the input at a place.
template <class F>
X2CT_DEVICE void for_readers(const DecompConvParams& p, const int64_t (&at)[3], F f) {
    X2CT_UNROLL
    for (uint32_t a = 0; a < 3; ++a) {
        const uint32_t b = (a + 1) % 3, c = (a + 2) % 3;
        if (at[b] % p.stride || at[c] % p.stride) continue;
        int64_t out[3];
        out[b] = at[b] / p.stride;
        out[c] = at[c] / p.stride;
        for (uint32_t t = 0; t < p.kernel; ++t) {
            const int64_t scaled = at[a] + p.kernel / 2 - t;
            out[a] = scaled / p.stride;
            if (scaled < 0 || scaled % p.stride || out[a] >= p.out_size[a]) continue;
            f(a, t, uint64_t((out[0] * p.out_size[1] + out[1]) * p.out_size[2] + out[2]));
        }
    }
}

// dx of one element, from dz in f32.
template <class T>
X2CT_DEVICE void naive_input_gradient(const DecompConvParams& p) {
    const uint64_t index = naive_index();
    if (index >= p.batch * p.in_channels * in_voxels(p)) return;
    const NaivePlace i = naive_place(index, p.batch, p.in_channels, p.in_size);
    float sum = 0.0f;
    for (uint32_t c = p.dense ? 0 : i.channel; c < (p.dense ? p.out_channels : i.channel + 1); ++c) {
        for_readers(p, i.at, [&](uint32_t a, uint32_t t, uint64_t o) {
            const float* dz = p.dz + ((a * p.batch + i.sample) * p.out_channels + c) * out_voxels(p);
            sum += p.w[a][(uint64_t(c) * fan_in(p) + (p.dense ? i.channel : 0)) * p.kernel + t] * dz[o];
        });
    }
    write_gradient(static_cast<T*>(p.dx) + index, sum, adds_to(p, kBitX));
}

/// Variant 1: the branches.
X2CT_KERNEL(decomp_conv_naive_branches_f32, DecompConvParams, NaiveBranchConfig, naive_branches<float>)
X2CT_KERNEL(decomp_conv_naive_branches_bf16, DecompConvParams, NaiveBranchConfig, naive_branches<bf16>)
/// Variant 1: dw from dz.
X2CT_KERNEL(decomp_conv_naive_weight_gradient_f32, DecompConvParams, NaiveBranchConfig, naive_weight_gradient<float>)
X2CT_KERNEL(decomp_conv_naive_weight_gradient_bf16, DecompConvParams, NaiveBranchConfig, naive_weight_gradient<bf16>)
/// Variant 1: dx from dz.
X2CT_KERNEL(decomp_conv_naive_input_gradient_f32, DecompConvParams, NaiveBranchConfig, naive_input_gradient<float>)
X2CT_KERNEL(decomp_conv_naive_input_gradient_bf16, DecompConvParams, NaiveBranchConfig, naive_input_gradient<bf16>)
