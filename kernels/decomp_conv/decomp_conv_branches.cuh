// What surrounds stored branches z [3, N, O, E] (f32): the naive variant of decomp_conv.cu.
//
// A block walks pieces of kPiece voxels of one channel, its threads four voxels at a time.

struct BranchConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t piece = 4096;  // voxels of one sample and channel
    static constexpr uint32_t tile0 = piece;
    template <int Values>
    struct Sums {
        float value[Values][threads];
    };
};
constexpr uint32_t kBranchGradientValues = 4;  // sum g; for each branch sum g (z - mean)

struct BranchMomentsConfig : BranchConfig {
    struct Shared {
        Sums<6> sums;
    };
};
struct BranchGradientConfig : BranchConfig {
    struct Shared {
        Sums<kBranchGradientValues> sums;
    };
};

X2CT_DEVICE uint64_t branch_stride(const DecompConvParams& p) { return p.batch * p.out_channels * out_voxels(p); }

// Calls f(element of [N, O, E], voxels from there on) for this thread's quarters of a piece of channel c.
template <class F>
X2CT_DEVICE void for_piece(const DecompConvParams& p, uint64_t piece, uint32_t c, F f) {
    const uint64_t voxels = out_voxels(p), pieces = (voxels + BranchConfig::piece - 1) / BranchConfig::piece;
    const uint64_t start = piece % pieces * BranchConfig::piece, row = (piece / pieces * p.out_channels + c) * voxels;
    const uint64_t end = min(voxels, start + BranchConfig::piece);
    for (uint64_t v = start + threadIdx.x * 4; v < end; v += BranchConfig::threads * 4) f(row + v, int(min(end - v, uint64_t(4))));
}
// The same for every piece of this block of a summing pass: blockIdx = (block, channel).
template <class F>
X2CT_DEVICE void for_block_pieces(const DecompConvParams& p, F f) {
    const uint64_t voxels = out_voxels(p), all = p.batch * ((voxels + BranchConfig::piece - 1) / BranchConfig::piece);
    const uint64_t end = min(all, uint64_t(blockIdx.x + 1) * p.tiles_per_block);
    for (uint64_t piece = uint64_t(blockIdx.x) * p.tiles_per_block; piece < end; ++piece) for_piece(p, piece, blockIdx.y, f);
}
template <int Values>
X2CT_DEVICE void add_branch_threads(BranchConfig::Sums<Values>& s, const float (&mine)[Values], double* out) {
    X2CT_UNROLL
    for (int v = 0; v < Values; ++v) s.value[v][threadIdx.x] = mine[v];
    __syncthreads();
    if (threadIdx.x < Values) {
        double total = 0.0;
        for (uint32_t i = 0; i < BranchConfig::threads; ++i) total += s.value[threadIdx.x][i];
        out[threadIdx.x] = total;
    }
}

X2CT_DEVICE void branch_moments(const DecompConvParams& p) {
    auto& s = shared_memory<BranchMomentsConfig::Shared>();
    const uint32_t vector = p.vector;
    double* out = p.partial + (uint64_t(blockIdx.x) * p.out_channels + blockIdx.y) * kMomentValues;
    // The pivot: the branch at the centre of the first sample, where no padding counts.
    const uint64_t rows = p.out_size[1], middle = (p.out_size[0] / 2 * rows + rows / 2) * p.out_size[2] + p.out_size[2] / 2;
    float pivot[3], sums[6] = {};
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) pivot[a] = p.z[a * branch_stride(p) + blockIdx.y * out_voxels(p) + middle];
    for_block_pieces(p, [&](uint64_t at, int count) {
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            float z[4];
            load4(p.z + a * branch_stride(p) + at, count, vector, z);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) {
                const float d = l < count ? z[l] - pivot[a] : 0.0f;
                sums[2 * a] += d;
                sums[2 * a + 1] += d * d;
            }
        }
    });
    add_branch_threads(s.sums, sums, out);
    if (threadIdx.x < 3) out[6 + threadIdx.x] = double(p.z[threadIdx.x * branch_stride(p) + blockIdx.y * out_voxels(p) + middle]);
}
/// Sums of stored branches.
X2CT_KERNEL(decomp_conv_branch_moments, DecompConvParams, BranchMomentsConfig, branch_moments)

// The sum of scaled branches and the shift: what is under the activation.
X2CT_DEVICE void branch_sum(const DecompConvParams& p, uint64_t at, uint32_t c, int count, uint32_t vector, float (&sum)[4]) {
    X2CT_UNROLL
    for (int l = 0; l < 4; ++l) sum[l] = p.shift[c];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        float z[4];
        load4(p.z + a * branch_stride(p) + at, count, vector, z);
        const float scale = p.scale[uint64_t(a) * p.out_channels + c];
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) sum[l] += scale * z[l];
    }
}

// y = act(that); with p.slope y = g act'(that). blockIdx = (piece of all samples, channel).
template <class T>
X2CT_DEVICE void branch_write(const DecompConvParams& p) {
    const uint32_t vector = p.vector, c = blockIdx.y;
    const T* g = static_cast<const T*>(p.g);
    for_piece(p, blockIdx.x, c, [&](uint64_t at, int count) {
        float v[4], up[4] = {};
        branch_sum(p, at, c, count, vector, v);
        if (p.slope) load4(g + at, count, vector, up);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[l] = p.slope ? up[l] * activation_slope(v[l]) : activation(v[l], p.gelu);
        store4(static_cast<T*>(p.y) + at, count, vector, v);
    });
}
/// y from stored branches.
X2CT_KERNEL(decomp_conv_branch_write_f32, DecompConvParams, BranchConfig, branch_write<float>)
X2CT_KERNEL(decomp_conv_branch_write_bf16, DecompConvParams, BranchConfig, branch_write<bf16>)

template <class T>
X2CT_DEVICE void branch_gradient_sums(const DecompConvParams& p) {
    auto& s = shared_memory<BranchGradientConfig::Shared>();
    const uint32_t vector = p.vector;
    const T* g = static_cast<const T*>(p.g);
    float sums[kBranchGradientValues] = {}, mean[3];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) mean[a] = p.mean[uint64_t(a) * p.out_channels + blockIdx.y];
    for_block_pieces(p, [&](uint64_t at, int count) {
        float up[4];
        load4(g + at, count, vector, up);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) sums[0] += up[l];
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            float z[4];
            load4(p.z + a * branch_stride(p) + at, count, vector, z);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) sums[1 + a] += up[l] * (z[l] - mean[a]);
        }
    });
    add_branch_threads(s.sums, sums, p.partial + (uint64_t(blockIdx.x) * p.out_channels + blockIdx.y) * kBranchGradientValues);
}
/// Sums of the gradient against stored branches.
X2CT_KERNEL(decomp_conv_branch_gradient_sums_f32, DecompConvParams, BranchGradientConfig, branch_gradient_sums<float>)
X2CT_KERNEL(decomp_conv_branch_gradient_sums_bf16, DecompConvParams, BranchGradientConfig, branch_gradient_sums<bf16>)

// One warp a channel.
struct BranchGradientFinishConfig : KernelDefaults {
    static constexpr uint32_t threads = 32;
    struct Shared {
        double sums[kBranchGradientValues];
    };
};
X2CT_DEVICE void branch_gradient_finish(const DecompConvParams& p) {
    auto& s = shared_memory<BranchGradientFinishConfig::Shared>();
    const uint32_t c = blockIdx.x, v = threadIdx.x;
    if (v < kBranchGradientValues) {
        double total = 0.0;
        for (uint32_t b = 0; b < p.blocks; ++b) total += p.partial[(uint64_t(b) * p.out_channels + c) * kBranchGradientValues + v];
        s.sums[v] = total;
    }
    __syncthreads();
    if (v < 3) write_branch_gradient(p, v, c, s.sums[0], s.sums[1 + v]);
}
/// Gradients of the vectors, and the coefficients of dz; a block a channel.
X2CT_KERNEL(decomp_conv_branch_gradient_finish, DecompConvParams, BranchGradientFinishConfig, branch_gradient_finish)

// dz of the three branches. blockIdx as in branch_write.
template <class T>
X2CT_DEVICE void branch_gradient(const DecompConvParams& p) {
    const uint32_t vector = p.vector, c = blockIdx.y;
    const T* g = static_cast<const T*>(p.g);
    float* dz = p.dz;
    for_piece(p, blockIdx.x, c, [&](uint64_t at, int count) {
        float up[4];
        load4(g + at, count, vector, up);
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            const float* k = p.coefficients + (uint64_t(c) * 3 + a) * 3;
            const float mean = p.mean[uint64_t(a) * p.out_channels + c];
            float z[4];
            load4(p.z + a * branch_stride(p) + at, count, vector, z);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) z[l] = k[0] * up[l] + k[1] * (z[l] - mean) + k[2];
            store4(dz + a * branch_stride(p) + at, count, vector, z);
        }
    });
}
/// dz, in f32.
X2CT_KERNEL(decomp_conv_branch_gradient_naive_f32, DecompConvParams, BranchConfig, branch_gradient<float>)
X2CT_KERNEL(decomp_conv_branch_gradient_naive_bf16, DecompConvParams, BranchConfig, branch_gradient<bf16>)
