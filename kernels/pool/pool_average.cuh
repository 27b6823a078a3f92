// Average pooling of volumes with a window of 3 x 3 x 3 and stride 1, the token mixer of PoolFormer (Yu et al. 2022) in three
// dimensions; included by pool.cu.
//
//   y[i] = (sum of x over the window of i) / (voxels of it that exist) [- x[i]]        padding is left out of sum and count
//   dx[i] = sum of dy[o] / (voxels of o's window that exist) over the windows o that hold i [- dy[i]]
//
// Both are one walk: the division is of what is written, or (`transposed`) of what is read.
//
// Bytes: x and y once; neighbouring rows come from the caches. Variants: 1. naive: one thread a voxel. 2. rows: one thread eight voxels
// of a row; the columns of the window's nine rows are added first, then three columns at a time.

constexpr int kAvgColumns = 8;
struct AvgPoolConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = threads, tile1 = kAvgColumns;
};

// One over the positions of i's window that exist along an axis.
X2CT_DEVICE float avg_share(int i, int size) { return 1.0f / float(3 - (i == 0 ? 1 : 0) - (i == size - 1 ? 1 : 0)); }

template <class T>
X2CT_DEVICE void avg_pool_naive(const AvgPoolParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * AvgPoolConfig::threads + threadIdx.x;
    const int d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const uint64_t voxels = uint64_t(d[0]) * d[1] * d[2];
    if (i >= p.images * voxels) return;
    const T* x = static_cast<const T*>(p.x) + i / voxels * voxels;
    const uint64_t at = i % voxels;
    const int o[3] = {int(at / (uint64_t(d[1]) * d[2])), int(at / d[2] % d[1]), int(at % d[2])};
    float sum = 0.0f;
    for (int a = max(0, o[0] - 1); a <= min(d[0] - 1, o[0] + 1); ++a)
        for (int b = max(0, o[1] - 1); b <= min(d[1] - 1, o[1] + 1); ++b)
            for (int c = max(0, o[2] - 1); c <= min(d[2] - 1, o[2] + 1); ++c) {
                const float share = p.transposed ? avg_share(a, d[0]) * avg_share(b, d[1]) * avg_share(c, d[2]) : 1.0f;
                sum += share * to_float(x[(uint64_t(a) * d[1] + b) * d[2] + c]);
            }
    if (!p.transposed) sum *= avg_share(o[0], d[0]) * avg_share(o[1], d[1]) * avg_share(o[2], d[2]);
    if (p.minus_input) sum -= to_float(x[at]);
    write_gradient(static_cast<T*>(p.y) + i, sum, p.accumulate);
}

template <class T>
X2CT_DEVICE void avg_pool_rows(const AvgPoolParams& p) {
    const int d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const uint32_t columns = (p.size[2] + kAvgColumns - 1) / kAvgColumns;
    uint64_t index = uint64_t(blockIdx.x) * AvgPoolConfig::threads + threadIdx.x;
    if (index >= p.images * d[0] * d[1] * columns) return;
    const int column = int(index % columns) * kAvgColumns;
    index /= columns;
    const int row = int(index % d[1]);
    index /= d[1];
    const int plane = int(index % d[0]);
    const uint64_t image = index / d[0] * d[0] * d[1] * d[2];
    const T* x = static_cast<const T*>(p.x) + image;
    constexpr int halo = row_halo(1), width = kAvgColumns + 2 * halo;
    float sums[width] = {}, own[kAvgColumns] = {};  // sums[halo + i]: of the column of voxel i
    for (int a = max(0, plane - 1); a <= min(d[0] - 1, plane + 1); ++a) {
        for (int b = max(0, row - 1); b <= min(d[1] - 1, row + 1); ++b) {
            float v[width];
            load_row(x + (uint64_t(a) * d[1] + b) * d[2], column - halo, d[2], p.vector, v);
            const float share = p.transposed ? avg_share(a, d[0]) * avg_share(b, d[1]) : 1.0f;
            X2CT_UNROLL
            for (int i = halo - 1; i <= halo + kAvgColumns; ++i) sums[i] += share * v[i];
            if (a != plane || b != row) continue;
            X2CT_UNROLL
            for (int i = 0; i < kAvgColumns; ++i) own[i] = v[halo + i];
        }
    }
    const float share = p.transposed ? 1.0f : avg_share(plane, d[0]) * avg_share(row, d[1]);
    if (p.transposed) {
        X2CT_UNROLL
        for (int i = halo - 1; i <= halo + kAvgColumns; ++i) sums[i] *= avg_share(column + i - halo, d[2]);
    }
    T* y = static_cast<T*>(p.y) + image + (uint64_t(plane) * d[1] + row) * d[2];
    X2CT_UNROLL
    for (int i = 0; i < kAvgColumns; i += 4) {
        const int count = d[2] - column - i;
        float part[4], old[4] = {};
        if (p.accumulate) load4(static_cast<const T*>(y + column + i), count, p.vector, old);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) {
            const int at = halo + i + l;
            part[l] = (sums[at - 1] + sums[at] + sums[at + 1]) * share * (p.transposed ? 1.0f : avg_share(column + i + l, d[2]));
            part[l] += old[l] - (p.minus_input ? own[i + l] : 0.0f);
        }
        store4(y + column + i, count, p.vector, part);
    }
}

/// y, one thread a voxel; tile\[0\] a block.
X2CT_KERNEL(avg_pool_naive_f32, AvgPoolParams, AvgPoolConfig, avg_pool_naive<float>)
X2CT_KERNEL(avg_pool_naive_bf16, AvgPoolParams, AvgPoolConfig, avg_pool_naive<bf16>)
/// The same, one thread tile\[1\] voxels of a row; tile\[0\] threads a block.
X2CT_KERNEL(avg_pool_rows_f32, AvgPoolParams, AvgPoolConfig, avg_pool_rows<float>)
X2CT_KERNEL(avg_pool_rows_bf16, AvgPoolParams, AvgPoolConfig, avg_pool_rows<bf16>)
