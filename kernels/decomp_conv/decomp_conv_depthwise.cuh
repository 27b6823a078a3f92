// Variant 2 of the depthwise convolution with stride 1: included by decomp_conv.cu.
//
// Idea: a thread computes a segment of kSegment outputs along the branch's axis, for four neighbours along the contiguous axis
// (axes 1 and 2) or for one row (axis 3), from registers: an input is loaded once for the up to k outputs that it reaches. A tile
// (samples x T1 x T2 x T3 of one channel) is walked once per axis; the writing passes add the three up in shared memory.
// K is the number of taps that the code is unrolled for (the entries at the end of decomp_conv.cu): a kernel with fewer runs with
// zero weights around it.

struct DepthwiseConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t min_blocks = 4;
    static constexpr uint32_t segment = 8;      // outputs of a thread along the branch's axis
    static constexpr uint32_t extent = 16;      // of a tile along an axis at most
    static constexpr uint32_t capacity = 4096;  // elements of a tile at most
    static constexpr uint32_t tile0 = capacity, tile1 = extent, tile2 = segment;
    static_assert(extent * extent * extent <= capacity, "a tile of one sample fits");
};
constexpr int kSegment = int(DepthwiseConfig::segment);

// One tile of channel c: where it starts, and how much of it exists.
struct DepthwiseTile {
    uint64_t sample;   // first
    uint32_t first[3];
    uint32_t samples;  // that exist
};
X2CT_DEVICE DepthwiseTile depthwise_tile(const DecompConvParams& p, uint32_t index) {
    DepthwiseTile t;
    t.first[2] = index % p.tiles[3] * p.tile[3];
    index /= p.tiles[3];
    t.first[1] = index % p.tiles[2] * p.tile[2];
    index /= p.tiles[2];
    t.first[0] = index % p.tiles[1] * p.tile[1];
    t.sample = uint64_t(index / p.tiles[1]) * p.tile[0];
    const uint64_t left = p.batch - t.sample;
    t.samples = left < p.tile[0] ? uint32_t(left) : p.tile[0];
    return t;
}

// A segment of outputs along axis A, at A < 2 for four neighbours along the contiguous axis.
struct DepthwiseItem {
    uint64_t line;      // element: sample, channel and the two other coordinates; position 0 along the axis
    uint32_t position;  // first along the axis
    int count;          // outputs along the axis that exist
    int lanes;          // neighbours that exist (axis 3: 1 where the row does)
    uint32_t scratch;   // of the first output within the tile
};
template <int A>
X2CT_DEVICE uint32_t depthwise_items(const DecompConvParams& p) {
    const uint32_t all = p.tile[0] * p.tile[1] * p.tile[2] * p.tile[3];
    return A == 2 ? all / kSegment : all / p.tile[1 + A] * ((p.tile[1 + A] + kSegment - 1) / kSegment) / 4;
}
template <int A>
X2CT_DEVICE DepthwiseItem depthwise_item(const DecompConvParams& p, const DepthwiseTile& t, uint32_t index) {
    // Fastest: the contiguous axis, so that neighbouring threads read neighbouring addresses.
    uint32_t i[3];
    constexpr uint32_t wide = A == 2 ? kSegment : 4;
    const uint32_t columns = p.tile[3] / wide;
    i[2] = index % columns * wide;
    index /= columns;
    constexpr int other = A == 0 ? 1 : 0;  // of axes 1 and 2: the one walked across (axis 3: the slower)
    uint32_t sample;
    if (A == 2) {
        i[1] = index % p.tile[2];
        index /= p.tile[2];
        i[0] = index % p.tile[1];
        sample = index / p.tile[1];
    } else {
        i[other] = index % p.tile[1 + other];
        index /= p.tile[1 + other];
        const uint32_t segments = (p.tile[1 + A] + kSegment - 1) / kSegment;
        i[A] = index % segments * kSegment;
        sample = index / segments;
    }
    DepthwiseItem item;
    item.scratch = ((sample * p.tile[1] + i[0]) * p.tile[2] + i[1]) * p.tile[3] + i[2];
    int left[3];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        i[a] += t.first[a];
        left[a] = int(p.in_size[a]) - int(i[a]);
    }
    item.position = i[A];
    item.count = min(left[A], kSegment);
    item.lanes = A == 2 ? (left[0] > 0 && left[1] > 0 ? 1 : 0) : (left[other] > 0 ? min(left[2], 4) : 0);
    if (sample >= t.samples) item.lanes = 0;
    i[A] = 0;
    const uint64_t plane = (t.sample + sample) * p.out_channels + channel(p);
    item.line = ((plane * p.in_size[0] + i[0]) * p.in_size[1] + i[1]) * p.in_size[2] + i[2];
    return item;
}
template <int A>
X2CT_DEVICE uint64_t axis_stride(const DecompConvParams& p) {
    return A == 0 ? uint64_t(p.in_size[1]) * p.in_size[2] : A == 1 ? p.in_size[2] : 1;
}

// The weights of branch a of this block's channel, padded to K taps.
template <int K>
X2CT_DEVICE void load_weights(const DecompConvParams& p, uint32_t a, float factor, float (&w)[K]) {
    const int pad = (K - int(p.kernel)) / 2;
    const float* in = p.w[a] + uint64_t(channel(p)) * p.kernel;
    X2CT_UNROLL
    for (int t = 0; t < K; ++t) {
        w[t] = t >= pad && t < K - pad ? in[t - pad] : 0.0f;
        if (p.round_weights) w[t] = to_float(to_bf16(w[t]));
        w[t] *= factor;
    }
}

// f(0), f(1), ... f(N - 1) with constants for arguments: loops whose bounds depend on each other, written out by the compiler.
template <class F, int... I>
X2CT_DEVICE void written_out(F&& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
}
template <int N, class F>
X2CT_DEVICE void for_constants(F&& f) {
    written_out(f, std::make_integer_sequence<int, N>());
}

// load4 for what stays in a register of a processor.
template <class T>
X2CT_DEVICE Float4 load_lines(const T* p, int lanes, uint32_t vector) {
    float v[4];
    load4(p, lanes, vector, v);
    Float4 lines;
    X2CT_UNROLL
    for (int l = 0; l < 4; ++l) lines[l] = v[l];
    return lines;
}

// z[r] += sum over t of w[t] x[first + r + t] for R outputs of four lines; x is zero outside [0, size).
template <int K, int R, class T>
X2CT_DEVICE void convolve_lines(const T* x, uint64_t stride, int first, int size, int lanes, uint32_t vector, const float (&w)[K], Float4 (&z)[R]) {
    for_constants<R + K - 1>([&](auto constant) {
        constexpr int m = decltype(constant)::value;
        const int at = first + m;
        if (at < 0 || at >= size) return;
        const Float4 v = load_lines(x + at * int64_t(stride), lanes, vector);
        X2CT_UNROLL
        for (int r = 0; r < R; ++r) {
            if (m < r || m - r >= K) continue;
            multiply_add(z[r], w[m - r], v);
        }
    });
}

// sum[i] += factor * x[i] for i < N.
template <int N>
X2CT_DEVICE void add_multiple(float* sum, float factor, const float* x) {
    int i = 0;
#ifndef __CUDACC__
    // A processor's compiler would take these one by one.
    for (; i + 4 <= N; i += 4) {
        Float4 total, value;
        __builtin_memcpy(&total, sum + i, sizeof total);
        __builtin_memcpy(&value, x + i, sizeof value);
        multiply_add(total, factor, value);
        __builtin_memcpy(sum + i, &total, sizeof total);
    }
#endif
    X2CT_UNROLL
    for (; i < N; ++i) sum[i] += factor * x[i];
}

// z[r] += sum over t of w[t] v[offset + r + t].
template <int K, int R, int Count>
X2CT_DEVICE void convolve_row(const float (&v)[Count], int offset, const float (&w)[K], float (&z)[R]) {
    X2CT_UNROLL
    for (int t = 0; t < K; ++t) add_multiple<R>(z, w[t], v + offset + t);
}

// Sums of the block's threads, in f64: thread v adds the threads' v-th values in order and puts them at place(v), if not null.
template <int Values, uint32_t Threads = DepthwiseConfig::threads>
struct ThreadSums {
    float value[Values][Threads];
};
template <int Values, uint32_t Threads, class Place>
X2CT_DEVICE void add_threads(ThreadSums<Values, Threads>& s, const float (&mine)[Values], Place place) {
    static_assert(Values <= int(Threads), "one thread a value");
    __syncthreads();  // the previous sums have been read
    X2CT_UNROLL
    for (int v = 0; v < Values; ++v) s.value[v][threadIdx.x] = mine[v];
    __syncthreads();
    if (threadIdx.x >= Values) return;
    double* out = place(int(threadIdx.x));
    if (!out) return;
    double total = 0.0;
    for (uint32_t i = 0; i < Threads; ++i) total += s.value[threadIdx.x][i];
    *out = total;
}

template <class F>
X2CT_DEVICE void for_block_tiles(const DecompConvParams& p, F f) {
    const uint32_t all = p.tiles[0] * p.tiles[1] * p.tiles[2] * p.tiles[3];
    const uint32_t end = min(all, (blockIdx.x + 1) * p.tiles_per_block);
    for (uint32_t index = blockIdx.x * p.tiles_per_block; index < end; ++index) f(depthwise_tile(p, index));
}

// Calls f(segment, its item) for every segment of axis A that this thread takes, segment[r][l] being z.
template <int K, int A, class T, class F>
X2CT_DEVICE void for_segments(const DecompConvParams& p, const DepthwiseTile& tile, const float (&w)[K], F f) {
    const T* x = static_cast<const T*>(p.x);
    const uint32_t items = depthwise_items<A>(p);
    for (uint32_t index = threadIdx.x; index < items; index += DepthwiseConfig::threads) {
        const DepthwiseItem item = depthwise_item<A>(p, tile, index);
        if (item.lanes <= 0 || item.count <= 0) continue;
        const int first = int(item.position) - K / 2, size = int(p.in_size[A]);
        if constexpr (A == 2) {
            constexpr int halo = row_halo(K / 2);
            float v[kSegment + 2 * halo], z[kSegment] = {};
            load_row(x + item.line, int(item.position) - halo, size, p.vector, v);
            convolve_row<K, kSegment>(v, halo - K / 2, w, z);
            f(z, item);
        } else {
            Float4 z[kSegment] = {};
            convolve_lines<K, kSegment>(x + item.line, axis_stride<A>(p), first, size, item.lanes, p.vector, w, z);
            f(z, item);
        }
    }
}

// --- Statistics ---------------------------------------------------------------------------------------------------------

struct MomentsConfig : DepthwiseConfig {
    struct Shared {
        ThreadSums<6> sums;
        float pivot[4];  // three are used, and loaded as four
    };
};

template <int K, int A, class T>
X2CT_DEVICE void depthwise_axis_moments(const DecompConvParams& p, float pivot, float& sum, float& square) {
    float w[K];
    load_weights(p, A, 1.0f, w);
    auto add = [&](float z) {
        const float d = z - pivot;
        sum += d;
        square += d * d;
    };
    for_block_tiles(p, [&](const DepthwiseTile& tile) {
        for_segments<K, A, T>(p, tile, w, [&](const auto& z, const DepthwiseItem& item) {
            X2CT_UNROLL
            for (int r = 0; r < kSegment; ++r) {
                if (r >= item.count) continue;
                if constexpr (A == 2) {
                    add(z[r]);
                } else {
                    X2CT_UNROLL
                    for (int l = 0; l < 4; ++l)
                        if (l < item.lanes) add(z[r][l]);
                }
            }
        });
    });
}

// Any value of branch a of this block's channel, here that at the first sample's centre: it keeps a mean far from zero out of the
// squares.
template <class T>
X2CT_DEVICE float depthwise_pivot(const DecompConvParams& p, uint32_t a) {
    const uint32_t d2 = p.in_size[1], d3 = p.in_size[2];
    const int64_t stride = a == 0 ? int64_t(d2) * d3 : a == 1 ? d3 : 1;
    const int size = int(p.in_size[a]);
    const uint64_t centre = (uint64_t(p.in_size[0] / 2) * d2 + d2 / 2) * d3 + d3 / 2;
    const T* x = static_cast<const T*>(p.x) + channel(p) * in_voxels(p) + centre;
    const float* w = p.w[a] + uint64_t(channel(p)) * p.kernel;
    float z = 0.0f;
    for (int t = 0; t < int(p.kernel); ++t) {
        const int offset = t - int(p.kernel / 2), at = size / 2 + offset;
        if (at >= 0 && at < size) z += w[t] * to_float(x[offset * stride]);
    }
    return z;
}

// partial[block] of this block's channel.
template <int K, class T>
X2CT_DEVICE void depthwise_moments(const DecompConvParams& p) {
    auto& s = shared_memory<MomentsConfig::Shared>();
    double* out = p.partial + (uint64_t(blockIdx.x) * p.out_channels + channel(p)) * kMomentValues;
    if (threadIdx.x < 3) s.pivot[threadIdx.x] = depthwise_pivot<T>(p, threadIdx.x);
    __syncthreads();
    float sums[6] = {};
    depthwise_axis_moments<K, 0, T>(p, s.pivot[0], sums[0], sums[1]);
    depthwise_axis_moments<K, 1, T>(p, s.pivot[1], sums[2], sums[3]);
    depthwise_axis_moments<K, 2, T>(p, s.pivot[2], sums[4], sums[5]);
    add_threads(s.sums, sums, [&](int v) { return out + v; });
    if (threadIdx.x < 3) out[6 + threadIdx.x] = double(s.pivot[threadIdx.x]);
}

// --- Writing ------------------------------------------------------------------------------------------------------------

struct WriteConfig : DepthwiseConfig {
    struct Shared {
        float sum[capacity];
    };
};

template <int K, int A, class T>
X2CT_DEVICE void depthwise_axis_sum(const DecompConvParams& p, const DepthwiseTile& tile, float* sum) {
    float w[K];
    load_weights(p, A, p.scale[uint64_t(A) * p.out_channels + channel(p)], w);
    const uint32_t stride = A == 0 ? p.tile[2] * p.tile[3] : p.tile[3];
    for_segments<K, A, T>(p, tile, w, [&](const auto& z, const DepthwiseItem& item) {
        X2CT_UNROLL
        for (int r = 0; r < kSegment; ++r) {
            if (r >= item.count) continue;
            float* at = sum + item.scratch + r * stride;
            float total[4] = {z[r][0], z[r][1], z[r][2], z[r][3]};
            if (A == 1) {
                float old[4];
                load_float(at, old);
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) total[l] += old[l];
            }
            store_float(at, total);
        }
    });
}

// y = act(shift + sum of scaled branches); with p.slope y = g act'(that), the gradient under the activation.
template <int K, class T>
X2CT_DEVICE void depthwise_write(const DecompConvParams& p) {
    auto& s = shared_memory<WriteConfig::Shared>();
    const DepthwiseTile tile = depthwise_tile(p, blockIdx.x);
    depthwise_axis_sum<K, 0, T>(p, tile, s.sum);
    __syncthreads();
    depthwise_axis_sum<K, 1, T>(p, tile, s.sum);
    __syncthreads();
    float w[K];
    load_weights(p, 2, p.scale[2 * uint64_t(p.out_channels) + channel(p)], w);
    const float shift = p.shift[channel(p)];
    const T* g = static_cast<const T*>(p.g);
    T* y = static_cast<T*>(p.y);
    for_segments<K, 2, T>(p, tile, w, [&](const auto& z, const DepthwiseItem& item) {
        X2CT_UNROLL
        for (int i = 0; i < kSegment; i += 4) {
            const int count = item.count - i;
            if (count <= 0) continue;  // the sum of what lies outside was not written
            float part[4];
            load_float(s.sum + item.scratch + i, part);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) part[l] += shift + z[i + l];
            const uint64_t at = item.line + item.position + i;
            if (p.slope) {
                float up[4];
                load4(g + at, count, p.vector, up);
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) part[l] = up[l] * activation_slope(part[l]);
            } else {
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) part[l] = activation(part[l], p.gelu);
            }
            store4(y + at, count, p.vector, part);
        }
    });
}
