// Variant 3 of the dense decomposed convolution, included by decomp_dense.cu: bf16 on tensor cores, k = 3, stride 1, at most 64
// input channels. No column is written.
//
// A block takes 4 x 4 x 8 voxels of one sample and up to 64 output channels. The voxels and a halo of one lie in shared memory
// voxel by voxel, channels contiguous, so that every tap reads rows that ldmatrix takes as they are, wherever the tap shifts
// them to; x is transposed on its way there, from NCDHW. Weights follow tap by tap, one ahead, by asynchronous copies.
// Warps take a plane each: [channels, 32 voxels]. Statistics run the three axes one after another in the same accumulators
// (z never leaves the registers); the writing pass runs the seven taps of the folded cross.

struct CrossTile : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t min_blocks = 2;
    static constexpr int taps = 3;                        // k
    static constexpr uint32_t tile0 = 4, tile1 = 4, tile2 = 8;  // output voxels; a warp a plane, eight voxels a column of fragments
    static constexpr int lines = tile1 + 2, columns = tile2 + 2;  // with the halo
    static constexpr int voxels = (tile0 + 2) * lines * columns;
    static constexpr int channels = 64;
    static constexpr int pitch = channels + 8;            // elements from row to row: eight rows touch all banks
    static_assert(voxels % 8 == 0 && tile0 * 32 == threads, "whole groups of voxels; a warp a plane");
};
// M: groups of 16 output channels.
template <int M>
struct CrossShared {
    alignas(16) bf16 x[CrossTile::voxels][CrossTile::pitch];
    alignas(16) bf16 w[2][16 * M][CrossTile::pitch];
};
template <int M>
struct CrossWriteConfig : CrossTile {
    static constexpr uint32_t tile3 = 16 * M;
    using Shared = CrossShared<M>;
};
template <int M>
struct CrossMomentsConfig : CrossTile {
    static constexpr uint32_t tile3 = 16 * M;
    struct Shared {
        CrossShared<M> tile;
        float pivot[3][16 * M];
        float sums[4][16 * M][2];      // of the warps
        double totals[3][16 * M][2];   // of the tiles so far
    };
    static_assert(sizeof(Shared) <= 99 * 1024, "the shared memory of sm_86");
};

// Where a tile begins.
struct CrossPlace {
    uint64_t sample;
    int at[3];
};
X2CT_DEVICE CrossPlace cross_place(const DecompDenseParams& p, uint32_t tile) {
    CrossPlace place;
    place.at[2] = int(tile % p.tiles[2] * CrossTile::tile2);
    tile /= p.tiles[2];
    place.at[1] = int(tile % p.tiles[1] * CrossTile::tile1);
    tile /= p.tiles[1];
    place.at[0] = int(tile % p.tiles[0] * CrossTile::tile0);
    place.sample = tile / p.tiles[0];
    return place;
}

// x around a tile. Lanes take 8 voxels of 4 pairs of channels: their stores meet no bank twice.
X2CT_DEVICE void load_box(const DecompDenseParams& p, const CrossPlace& place, bf16 (&to)[CrossTile::voxels][CrossTile::pitch]) {
    const int lane = int(threadIdx.x % 32), channels = int(p.in_channels);
    const uint64_t volume = in_voxels(p);
    for (int group = int(threadIdx.x / 32); group < CrossTile::voxels / 8; group += int(CrossTile::threads / 32)) {
        const int v = group * 8 + lane % 8;
        const int a1 = place.at[0] + v / (CrossTile::lines * CrossTile::columns) - 1;
        const int a2 = place.at[1] + v / CrossTile::columns % CrossTile::lines - 1, a3 = place.at[2] + v % CrossTile::columns - 1;
        const bool inside = a1 >= 0 && a1 < int(p.in_size[0]) && a2 >= 0 && a2 < int(p.in_size[1]) && a3 >= 0 && a3 < int(p.in_size[2]);
        const uint64_t at = inside ? (uint64_t(a1) * p.in_size[1] + a2) * p.in_size[2] + a3 : 0;
        const bf16* in = static_cast<const bf16*>(p.x) + place.sample * channels * volume + at;
        X2CT_UNROLL
        for (int c = 0; c < CrossTile::channels; c += 8) {
            const int pair = c + lane / 8 * 2;
            if (c >= (channels + 15) / 16 * 16) break;
            Vec<bf16, 2> both = {};
            if (inside && pair < channels) both.v[0] = in[uint64_t(pair) * volume];
            if (inside && pair + 1 < channels) both.v[1] = in[uint64_t(pair + 1) * volume];
            store_vec<2>(&to[v][pair], both);
        }
    }
}

// The weights of one tap: columns [column, column + I) of a matrix, for the block's output channels.
template <int M>
X2CT_DEVICE void load_tap(const DecompDenseParams& p, const bf16* matrix, uint64_t depth, uint64_t column, bf16 (&to)[16 * M][CrossTile::pitch]) {
    const uint32_t first = blockIdx.y * 16 * M;
    X2CT_UNROLL
    for (int i = 0; i < 16 * M * 8 / int(CrossTile::threads); ++i) {
        const uint32_t index = i * CrossTile::threads + threadIdx.x, row = index / 8, c = index % 8 * 8;
        const uint32_t valid = first + row < p.out_channels ? remaining(c, p.in_channels, 8) : 0;
        copy_chunk(&to[row][c], valid ? matrix + (first + row) * depth + column + c : matrix, valid, p.aligned != 0);
    }
    cp_async_commit();
}

// sum += the weights of a tap times x, shifted by it.
template <int M>
X2CT_DEVICE void add_tap(const DecompDenseParams& p, const CrossShared<M>& s, int stage, const CrossTap& tap, float (&sum)[M][4][4]) {
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
    const int plane = warp + 1 + (tap.axis == 0 ? tap.offset : 0), line = 1 + (tap.axis == 1 ? tap.offset : 0);
    const int column = 1 + low + (tap.axis == 2 ? tap.offset : 0);
    X2CT_UNROLL
    for (int c = 0; c < CrossTile::channels; c += 16) {
        if (c >= int(p.in_channels)) break;
        uint32_t a[M][4], b[2][4];
        X2CT_UNROLL
        for (int i = 0; i < M; ++i) ldmatrix_x4(a[i], &s.w[stage][16 * i + 8 * middle + low][c + 8 * high]);
        X2CT_UNROLL
        for (int j = 0; j < 2; ++j)
            ldmatrix_x4(b[j], &s.x[(plane * CrossTile::lines + line + 2 * j + high) * CrossTile::columns + column][c + 8 * middle]);
        X2CT_UNROLL
        for (int i = 0; i < M; ++i)
            X2CT_UNROLL
            for (int j = 0; j < 4; ++j) {
                const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                mma_bf16(sum[i][j], a[i], pair);
            }
    }
}

// One branch's value at the centre of the first sample, where no padding counts: the pivot of its sums. A thread a branch and channel.
X2CT_DEVICE void dense_pivots(const DecompDenseParams& p) {
    const uint64_t index = dense_index();
    if (index >= 3 * p.out_channels) return;
    const uint32_t a = uint32_t(index / p.out_channels), o = uint32_t(index % p.out_channels), k = p.kernel;
    const uint64_t step = a == 0 ? uint64_t(p.in_size[1]) * p.in_size[2] : a == 1 ? p.in_size[2] : 1;
    const uint64_t rows = p.in_size[1], centre = (p.in_size[0] / 2 * rows + rows / 2) * p.in_size[2] + p.in_size[2] / 2;
    const bf16* x = static_cast<const bf16*>(p.x) + centre;
    const bf16* w = static_cast<const bf16*>(p.matrices) + index * k * p.in_channels;
    float sum = 0.0f;
    for (uint32_t j = 0; j < k; ++j) {
        const int64_t offset = int64_t(branch_tap(a, j, k)) - k / 2, at = p.in_size[a] / 2 + offset;
        if (at < 0 || at >= p.in_size[a]) continue;
        for (uint32_t i = 0; i < p.in_channels; ++i)
            sum += to_float(w[j * p.in_channels + i]) * to_float(x[int64_t(i * in_voxels(p)) + offset * int64_t(step)]);
    }
    p.partial[uint64_t(o) * kDenseMomentValues + 6 + a] = double(sum);
}

template <int M>
X2CT_DEVICE void dense_moments_mma(const DecompDenseParams& p) {
    using Config = CrossMomentsConfig<M>;
    auto& s = shared_memory<typename Config::Shared>();
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
    const uint32_t first = blockIdx.y * 16 * M;
    const uint64_t depth = 3 * uint64_t(p.in_channels);
    for (uint32_t i = threadIdx.x; i < 3 * 16 * M; i += Config::threads) {
        const uint32_t a = i / (16 * M), o = i % (16 * M);
        s.pivot[a][o] = first + o < p.out_channels ? float(p.partial[uint64_t(first + o) * kDenseMomentValues + 6 + a]) : 0.0f;
        s.totals[a][o][0] = s.totals[a][o][1] = 0.0;
    }
    const auto load = [&](int t) {
        const uint32_t a = t / 3;
        load_tap<M>(p, static_cast<const bf16*>(p.matrices) + a * p.out_channels * depth, depth, uint64_t(t % 3) * p.in_channels, s.tile.w[t % 2]);
    };
    for (uint32_t tile = blockIdx.x; tile < p.batch * p.tiles[0] * p.tiles[1] * p.tiles[2]; tile += p.blocks) {
        __syncthreads();  // nobody reads the tile before any more
        const CrossPlace place = cross_place(p, tile);
        load(0);
        load_box(p, place, s.tile.x);
        float sum[M][4][4] = {};
        for (int t = 0; t < 9; ++t) {
            cp_async_wait<0>();
            // The weights have arrived, and those before are no longer read: their place is filled next.
            __syncthreads();
            if (t + 1 < 9) load(t + 1);
            const int a = t / 3;
            add_tap<M>(p, s.tile, t % 2, {uint32_t(a), int32_t(branch_tap(a, t % 3, 3)) - 1}, sum);
            if (t % 3 != 2) continue;
            // A branch is complete.
            X2CT_UNROLL
            for (int row = 0; row < 2 * M; ++row) {
                const int o = 8 * row + lane / 4;
                float one = 0.0f, two = 0.0f;
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j)
                    X2CT_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const int e3 = place.at[2] + lane % 4 * 2 + half;
                        float& z = sum[row / 2][j][2 * (row % 2) + half];
                        const bool inside = place.at[0] + warp < int(p.out_size[0]) && place.at[1] + j < int(p.out_size[1]) && e3 < int(p.out_size[2]);
                        const float d = inside ? z - s.pivot[a][o] : 0.0f;
                        one += d;
                        two += d * d;
                        z = 0.0f;
                    }
                X2CT_UNROLL
                for (int lanes = 1; lanes < 4; lanes *= 2) {
                    one += __shfl_xor_sync(kFullWarp, one, lanes);
                    two += __shfl_xor_sync(kFullWarp, two, lanes);
                }
                if (lane % 4 == 0) {
                    s.sums[warp][o][0] = one;
                    s.sums[warp][o][1] = two;
                }
            }
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < 2 * 16 * M; i += Config::threads) {
                double total = 0.0;
                for (int w = 0; w < 4; ++w) total += s.sums[w][i / 2][i % 2];
                s.totals[a][i / 2][i % 2] += total;
            }
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 6 * 16 * M; i += Config::threads) {
        const uint32_t o = i / 6, value = i % 6;
        if (first + o < p.out_channels)
            p.partial[(uint64_t(blockIdx.x) * p.out_channels + first + o) * kDenseMomentValues + value] = s.totals[value / 2][o][value % 2];
    }
}

template <int M>
X2CT_DEVICE void dense_write_mma(const DecompDenseParams& p) {
    auto& s = shared_memory<CrossShared<M>>();
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
    const uint64_t depth = 7 * uint64_t(p.in_channels), volume = in_voxels(p);
    const auto load = [&](int t) { load_tap<M>(p, static_cast<const bf16*>(p.folded), depth, uint64_t(t) * p.in_channels, s.w[t % 2]); };
    const CrossPlace place = cross_place(p, blockIdx.x);
    load(0);
    load_box(p, place, s.x);
    float sum[M][4][4] = {};
    for (int t = 0; t < 7; ++t) {
        cp_async_wait<0>();
        __syncthreads();  // as above
        if (t + 1 < 7) load(t + 1);
        add_tap<M>(p, s, t % 2, cross_tap(t, 3), sum);
    }
    const int e1 = place.at[0] + warp, e3 = place.at[2] + lane % 4 * 2;
    if (e1 >= int(p.out_size[0]) || e3 >= int(p.out_size[2])) return;
    const bool pairs = p.out_size[2] % 2 == 0 && p.vector;
    X2CT_UNROLL
    for (int row = 0; row < 2 * M; ++row) {
        const uint32_t o = blockIdx.y * 16 * M + 8 * row + lane / 4;
        if (o >= p.out_channels) break;
        const float shift = p.shift[o];
        X2CT_UNROLL
        for (int j = 0; j < 4; ++j) {
            const int e2 = place.at[1] + j;
            if (e2 >= int(p.out_size[1])) break;
            const float* z = &sum[row / 2][j][2 * (row % 2)];
            const float both[2] = {activation(z[0] + shift, p.gelu), activation(z[1] + shift, p.gelu)};
            bf16* y = static_cast<bf16*>(p.y) + (place.sample * p.out_channels + o) * volume + (uint64_t(e1) * p.out_size[1] + e2) * p.out_size[2] + e3;
            if (pairs) {
                store_float(y, both);
            } else {
                y[0] = to_bf16(both[0]);
                if (e3 + 1 < int(p.out_size[2])) y[1] = to_bf16(both[1]);
            }
        }
    }
}

/// Tensor cores: the branches at the first voxel.
X2CT_KERNEL(decomp_dense_pivots, DecompDenseParams, DenseConfig, dense_pivots)
/// Tensor cores, at most 32 output channels a block or more: sums of the branches.
X2CT_KERNEL(decomp_dense_mma_moments32, DecompDenseParams, CrossMomentsConfig<2>, dense_moments_mma<2>)
/// Tensor cores, at most 32 output channels a block or more: sums of the branches.
X2CT_KERNEL(decomp_dense_mma_moments64, DecompDenseParams, CrossMomentsConfig<4>, dense_moments_mma<4>)
/// Likewise: y.
X2CT_KERNEL(decomp_dense_mma_write32, DecompDenseParams, CrossWriteConfig<2>, dense_write_mma<2>)
/// Likewise: y.
X2CT_KERNEL(decomp_dense_mma_write64, DecompDenseParams, CrossWriteConfig<4>, dense_write_mma<4>)
