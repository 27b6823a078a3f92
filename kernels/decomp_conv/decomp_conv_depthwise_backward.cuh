// The backward pass of decomp_conv_depthwise.cuh.

// --- Backward: sums -------------------------------------------------------------------------------------------------------

// What is summed along an axis: sum g (z - mean), sum g, and C, Q and S of every tap (in a thread: C of every tap, then Q, then S).
constexpr int kAxisSums = 2, kTapSums = 3;
X2CT_DEVICE constexpr uint32_t axis_sums(uint32_t taps) { return kAxisSums + kTapSums * taps; }
// Where a block puts those of channel c and axis a.
X2CT_DEVICE double* axis_sums_at(const DecompConvParams& p, uint32_t block, uint32_t c, uint32_t a) {
    return p.partial + ((uint64_t(block) * p.out_channels + c) * 3 + a) * axis_sums(p.kernel);
}

template <int K>
struct GradientSumsConfig : DepthwiseConfig {
    static constexpr uint32_t min_blocks = K > 9 ? 2 : 3;  // the sums of a thread are registers
    struct Shared {
        ThreadSums<axis_sums(K)> sums;
    };
};

// A segment's share: x[R + K - 1] around it, g and z of it (zero where they do not exist).
template <int K>
X2CT_DEVICE void correlate(const float* x, const float (&g)[kSegment], const float (&w)[K], float mean, int count, float (&sums)[axis_sums(K)]) {
    float z[kSegment] = {};
    X2CT_UNROLL
    for (int t = 0; t < K; ++t) add_multiple<kSegment>(z, w[t], x + t);
    X2CT_UNROLL
    for (int r = 0; r < kSegment; ++r) {
        const bool exists = r < count;
        z[r] = exists ? z[r] - mean : 0.0f;
        sums[0] += g[r] * z[r];
        sums[1] += g[r];
        add_multiple<K>(sums + kAxisSums, g[r], x + r);
        add_multiple<K>(sums + kAxisSums + K, z[r], x + r);
        add_multiple<K>(sums + kAxisSums + 2 * K, exists ? 1.0f : 0.0f, x + r);
    }
}

template <int K, int A, class T>
X2CT_DEVICE void depthwise_axis_gradient_sums(const DecompConvParams& p, float (&sums)[axis_sums(K)]) {
    float w[K];
    load_weights(p, A, 1.0f, w);
    const float mean = p.mean[uint64_t(A) * p.out_channels + channel(p)];
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g);
    const int size = int(p.in_size[A]);
    const uint64_t stride = axis_stride<A>(p);
    for_block_tiles(p, [&](const DepthwiseTile& tile) {
        // Axes 1 and 2 take one line at a time here: the sums leave no registers for four.
        const uint32_t items = depthwise_items<A>(p) * (A == 2 ? 1 : 4);
        for (uint32_t index = threadIdx.x; index < items; index += DepthwiseConfig::threads) {
            const DepthwiseItem item = depthwise_item<A>(p, tile, A == 2 ? index : index / 4);
            const int lane = A == 2 ? 0 : int(index % 4);
            if (lane >= item.lanes || item.count <= 0) continue;
            float gs[kSegment];
            if constexpr (A == 2) {
                constexpr int halo = row_halo(K / 2);
                float v[kSegment + 2 * halo];
                load_row(x + item.line, int(item.position) - halo, size, p.vector, v);
                load_row(g + item.line, int(item.position), size, p.vector, gs);
                correlate(v + (halo - K / 2), gs, w, mean, item.count, sums);
            } else {
                const int first = int(item.position) - K / 2;
                float v[kSegment + K - 1];
                X2CT_UNROLL
                for (int m = 0; m < kSegment + K - 1; ++m) {
                    const int at = first + m;
                    v[m] = at >= 0 && at < size ? to_float(x[item.line + lane + at * int64_t(stride)]) : 0.0f;
                }
                X2CT_UNROLL
                for (int r = 0; r < kSegment; ++r)
                    gs[r] = r < item.count ? to_float(g[item.line + lane + (item.position + r) * stride]) : 0.0f;
                correlate(v, gs, w, mean, item.count, sums);
            }
        }
    });
}

template <int K, int A, class T>
X2CT_DEVICE void depthwise_gradient_sums_along(const DecompConvParams& p, ThreadSums<int(axis_sums(K))>& s) {
    float sums[axis_sums(K)] = {};
    depthwise_axis_gradient_sums<K, A, T>(p, sums);
    double* out = axis_sums_at(p, blockIdx.x, channel(p), A);
    // The taps of zero weight before and after the kernel's are left out.
    const int kernel = int(p.kernel), before = (K - kernel) / 2;
    add_threads(s, sums, [&](int v) -> double* {
        if (v < kAxisSums) return out + v;
        const int kind = (v - kAxisSums) / K, t = (v - kAxisSums) % K - before;
        return t >= 0 && t < kernel ? out + kAxisSums + kTapSums * t + kind : nullptr;
    });
}
template <int K, class T>
X2CT_DEVICE void depthwise_gradient_sums(const DecompConvParams& p) {
    auto& s = shared_memory<typename GradientSumsConfig<K>::Shared>();
    depthwise_gradient_sums_along<K, 0, T>(p, s.sums);
    depthwise_gradient_sums_along<K, 1, T>(p, s.sums);
    depthwise_gradient_sums_along<K, 2, T>(p, s.sums);
}

// One block a channel: gradients of every parameter, and the coefficients of dz, from the blocks' sums.
struct GradientFinishConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    struct Shared {
        double sums[3][kAxisSums];
        BranchGradient branch[3];
    };
};
X2CT_DEVICE void depthwise_gradient_finish(const DecompConvParams& p) {
    auto& s = shared_memory<GradientFinishConfig::Shared>();
    const uint32_t c = p.first_channel + blockIdx.x, thread = threadIdx.x;
    auto total = [&](uint32_t a, uint32_t value) {
        double sum = 0.0;
        for (uint32_t b = 0; b < p.blocks; ++b) sum += axis_sums_at(p, b, c, a)[value];
        return sum;
    };
    if (thread < 3 * kAxisSums) s.sums[thread / kAxisSums][thread % kAxisSums] = total(thread / kAxisSums, thread % kAxisSums);
    __syncthreads();
    if (thread < 3) s.branch[thread] = write_branch_gradient(p, thread, c, s.sums[thread][1], s.sums[thread][0]);
    __syncthreads();
    for (uint32_t i = thread; i < 3 * p.kernel; i += GradientFinishConfig::threads) {
        const uint32_t a = i / p.kernel, t = i % p.kernel, tap = kAxisSums + kTapSums * t;
        if (!p.dw[a]) continue;
        const BranchGradient b = s.branch[a];
        const double dw = b.alpha * total(a, tap) + b.beta * total(a, tap + 1) + b.delta * total(a, tap + 2);
        write_gradient(p.dw[a] + uint64_t(c) * p.kernel + t, float(dw), adds_to(p, kBitWeight + a));
    }
}
/// Depthwise: gradients of the parameters from the sums of blocks; a block a channel.
X2CT_KERNEL(decomp_conv_gradient_finish, DecompConvParams, GradientFinishConfig, depthwise_gradient_finish)

// --- Backward: dx -----------------------------------------------------------------------------------------------------------

// What a channel's branch needs for dz = alpha g + beta (z - mean) + delta.
struct BranchCoefficients {
    float alpha, beta, delta, mean;
};
template <int A>
X2CT_DEVICE BranchCoefficients branch_coefficients(const DecompConvParams& p) {
    const float* c = p.coefficients + (uint64_t(channel(p)) * 3 + A) * 3;
    return {c[0], c[1], c[2], p.mean[uint64_t(A) * p.out_channels + channel(p)]};
}

template <int K, int A, class T>
X2CT_DEVICE void depthwise_axis_gradient(const DecompConvParams& p, const DepthwiseTile& tile, float* sum) {
    float w[K];
    load_weights(p, A, 1.0f, w);
    const BranchCoefficients b = branch_coefficients<A>(p);
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g);
    const int size = int(p.in_size[A]);
    const int64_t stride = int64_t(axis_stride<A>(p));
    const uint32_t scratch_stride = A == 0 ? p.tile[2] * p.tile[3] : p.tile[3], items = depthwise_items<A>(p);
    for (uint32_t index = threadIdx.x; index < items; index += DepthwiseConfig::threads) {
        const DepthwiseItem item = depthwise_item<A>(p, tile, index);
        if (item.lanes <= 0 || item.count <= 0) continue;
        constexpr int reach = kSegment + K - 1;  // dz that the segment needs
        const int first = int(item.position) - K / 2;
        Float4 z[reach] = {}, out[kSegment] = {};
        // x comes in order, so that z[q] is whole once x[q + K - 1] has been added, and is not needed after that.
        for_constants<reach + K - 1>([&](auto constant) {
            constexpr int m = decltype(constant)::value, q = m - K + 1;
            const int at = first - K / 2 + m, at_q = first + q;
            if (p.norm == kNormTrain && at >= 0 && at < size) {
                const Float4 v = load_lines(x + item.line + at * stride, item.lanes, p.vector);
                X2CT_UNROLL
                for (int j = 0; j < reach; ++j) {
                    if (m < j || m - j >= K) continue;
                    multiply_add(z[j], w[m - j], v);
                }
            }
            if constexpr (q >= 0) {
                if (at_q < 0 || at_q >= size) return;
                Float4 dz = load_lines(g + item.line + at_q * stride, item.lanes, p.vector);
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) dz[l] = b.alpha * dz[l] + b.beta * (z[q][l] - b.mean) + b.delta;
                X2CT_UNROLL
                for (int r = 0; r < kSegment; ++r) {
                    if (q < r || q - r >= K) continue;
                    multiply_add(out[r], w[K - 1 - q + r], dz);
                }
            }
        });
        X2CT_UNROLL
        for (int r = 0; r < kSegment; ++r) {
            if (r >= item.count) continue;
            float* at = sum + item.scratch + r * scratch_stride;
            float total[4] = {out[r][0], out[r][1], out[r][2], out[r][3]};
            if (A == 1) {
                float old[4];
                load_float(at, old);
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) total[l] += old[l];
            }
            store_float(at, total);
        }
    }
}

struct InputGradientConfig : WriteConfig {
    static constexpr uint32_t min_blocks = 3;  // a window of branch gradients in registers
};

template <int K, class T>
X2CT_DEVICE void depthwise_input_gradient(const DecompConvParams& p) {
    auto& s = shared_memory<WriteConfig::Shared>();
    const DepthwiseTile tile = depthwise_tile(p, blockIdx.x);
    depthwise_axis_gradient<K, 0, T>(p, tile, s.sum);
    __syncthreads();
    depthwise_axis_gradient<K, 1, T>(p, tile, s.sum);
    __syncthreads();
    float w[K], flipped[K];
    load_weights(p, 2, 1.0f, w);
    X2CT_UNROLL
    for (int t = 0; t < K; ++t) flipped[t] = w[K - 1 - t];
    const BranchCoefficients b = branch_coefficients<2>(p);
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g);
    T* dx = static_cast<T*>(p.dx);
    const int size = int(p.in_size[2]);
    const uint32_t items = depthwise_items<2>(p);
    for (uint32_t index = threadIdx.x; index < items; index += DepthwiseConfig::threads) {
        const DepthwiseItem item = depthwise_item<2>(p, tile, index);
        if (item.lanes <= 0 || item.count <= 0) continue;
        constexpr int halo = row_halo(K / 2), wide = row_halo(K / 2 * 2), reach = kSegment + K - 1;
        const int position = int(item.position);
        float z[reach] = {}, gs[kSegment + 2 * halo], dz[reach], out[kSegment] = {};
        if (p.norm == kNormTrain) {
            float v[kSegment + 2 * wide];
            load_row(x + item.line, position - wide, size, p.vector, v);
            convolve_row<K, reach>(v, wide - K / 2 * 2, w, z);
        }
        load_row(g + item.line, position - halo, size, p.vector, gs);
        X2CT_UNROLL
        for (int q = 0; q < reach; ++q) {
            const int at = position - K / 2 + q;
            dz[q] = at >= 0 && at < size ? b.alpha * gs[halo - K / 2 + q] + b.beta * (z[q] - b.mean) + b.delta : 0.0f;
        }
        convolve_row<K, kSegment>(dz, 0, flipped, out);
        X2CT_UNROLL
        for (int i = 0; i < kSegment; i += 4) {
            const int count = item.count - i;
            if (count <= 0) continue;  // the sum of what lies outside was not written
            float part[4], old[4] = {};
            load_float(s.sum + item.scratch + i, part);
            T* at = dx + item.line + position + i;
            if (adds_to(p, kBitX)) load4(static_cast<const T*>(at), count, p.vector, old);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) part[l] += out[i + l] + old[l];
            store4(at, count, p.vector, part);
        }
    }
}
