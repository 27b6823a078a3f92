// Variant 3: the sums of the backward pass on tensor cores. Included by decomp_conv.cu.
//
// Idea: with i a place among 16 outputs of a line, j one among their 32 inputs and l a line, M[i, j] = sum over l of g[i, l] x[j, l] is
// a matrix product over lines, whose accumulators stay in registers for all that a block sees. C_t is the sum of the diagonal
// j = i + t - k/2 + 8 of M, taken once at the end. Q and S come the same way from z - mean and from ones (where outputs exist) in place
// of g; sum g (z - mean) is sum over t of w_t C_t - mean sum g. Only z - mean has to be rounded to bf16 for this: g and x are so stored.
//
// A third of a block's warps takes each axis. The walk is that of decomp_conv_tensor.cuh, with g beside x in shared memory.

struct TensorSumsConfig : TensorConfig {
    static constexpr uint32_t threads = 384;
    static constexpr uint32_t min_blocks = 1;  // 48 accumulators a thread
    static constexpr uint32_t warps = threads / 32, axis_warps = warps / 3;
    struct Inputs {
        Tile tile;
        alignas(16) bf16 g[depth * plane];
    };
    struct Shared {
        union {
            Inputs in;
            float products[kTapSums][warps][16][33];  // of C, Q and S; when all steps are done
        };
        float g_sums[threads];
    };
};

// Where the operands of an axis lie: what a lane passes to ldmatrix.
template <int A>
struct TensorOperands {
    TensorSumsConfig::Shared& s;
    int d1;     // of the step
    int fixed;  // axis 1: the row; axes 2 and 3: the plane
    int part;   // 16 columns: lines of axes 1 and 2, outputs of axis 3

    X2CT_DEVICE bf16* plane_row(int plane, int row) const { return ring_row(s.in.tile, d1 + plane, row); }
    // Axes 1 and 2: 16 lines at input place j.
    X2CT_DEVICE bf16* lines(int j) const {
        bf16* row = A == 0                     ? plane_row(j - kBorder, fixed)
                    : j < kBorder              ? s.in.tile.around[fixed][j]
                    : j < 32 - kBorder         ? plane_row(fixed, j - kBorder)
                                               : s.in.tile.around[fixed][j - int(TensorConfig::rows)];
        return row + 16 * part;
    }
    // Axis 3: eight input places from 8 chunk on, of one line.
    X2CT_DEVICE bf16* places(int chunk, int line) const {
        const int word = 2 * part - 1 + chunk;
        return word < 0                                ? s.in.tile.beside[fixed][0][line]
               : word < int(TensorConfig::columns) / 8 ? plane_row(fixed, line) + 8 * word
                                                       : s.in.tile.beside[fixed][1][line];
    }
    // x [32 places, 8 lines from 8 half on]: right operand of z.
    X2CT_DEVICE void of_z(int half, uint32_t (&x)[4]) const {
        const int lane = int(threadIdx.x % 32);
        if (A < 2) ldmatrix_x4_trans(x, lines(lane) + 8 * half);
        else ldmatrix_x4(x, places(lane / 8, 8 * half + lane % 8));
    }
    // x [16 lines, 16 places from 16 half on]: right operand of M, for two products.
    X2CT_DEVICE void of_products(int half, uint32_t (&x)[4]) const {
        const int lane = int(threadIdx.x % 32), chunk = 2 * half + lane / 16;
        if (A < 2) ldmatrix_x4(x, lines(8 * chunk + lane % 8) + 8 * (lane / 8 % 2));
        else ldmatrix_x4_trans(x, places(chunk, lane % 16));
    }
    // g [16 outputs, 16 lines]: left operand of M.
    X2CT_DEVICE void of_gradient(uint32_t (&g)[4]) const {
        const int lane = int(threadIdx.x % 32);
        const int plane = A == 0 ? lane % 16 : fixed, row = A == 0 ? fixed : A == 1 ? lane % 16 : lane / 16 * 8 + lane % 8;
        const int column = 16 * part + 8 * (A == 2 ? lane / 8 % 2 : lane / 16);
        const bf16* at = s.in.g + uint32_t(plane) * TensorConfig::plane + uint32_t(row) * TensorConfig::pitch + uint32_t(column);
        if (A < 2) ldmatrix_x4(g, at);
        else ldmatrix_x4_trans(g, at);
    }
};

// What a lane adds up: its parts of M for C, Q and S (8 places j each), and of sum g.
struct TensorSums {
    float product[kTapSums][4][4];
    float g;
};

// 16 outputs, of which `count` exist, of 16 lines.
template <int A>
X2CT_DEVICE void add_products(const TensorOperands<A>& x, const uint32_t (&w)[2][4], float mean, int count, TensorSums& sums) {
    const int group = int(threadIdx.x % 32 / 4);
    const bool low = group < count, high = group + 8 < count;
    uint32_t left[kTapSums][4];
    x.of_gradient(left[0]);
    X2CT_UNROLL
    for (int half = 0; half < 2; ++half) {
        float z[4] = {-mean, -mean, -mean, -mean};
        uint32_t b[4];
        x.of_z(half, b);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mma_bf16(z, w[0], first);
        mma_bf16(z, w[1], second);
        left[1][2 * half] = low ? pack_bf16(z[0], z[1]) : 0u;
        left[1][2 * half + 1] = high ? pack_bf16(z[2], z[3]) : 0u;
        left[2][2 * half] = low ? 0x3f803f80u : 0u;  // two ones
        left[2][2 * half + 1] = high ? 0x3f803f80u : 0u;
    }
    X2CT_UNROLL
    for (int i = 0; i < 4; ++i) sums.g += to_float(bf16{uint16_t(left[0][i])}) + to_float(bf16{uint16_t(left[0][i] >> 16)});
    X2CT_UNROLL
    for (int half = 0; half < 2; ++half) {
        uint32_t b[4];
        x.of_products(half, b);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        X2CT_UNROLL
        for (int kind = 0; kind < kTapSums; ++kind) {
            mma_bf16(sums.product[kind][2 * half], left[kind], first);
            mma_bf16(sums.product[kind][2 * half + 1], left[kind], second);
        }
    }
}

// partial[block] of this block's channel.
X2CT_DEVICE void tensor_gradient_sums(const DecompConvParams& p) {
    using C = TensorSumsConfig;
    auto& s = shared_memory<C::Shared>();
    const int warp = int(threadIdx.x / 32), axis = warp / int(C::axis_warps), mine = warp % int(C::axis_warps);
    const int group = int(threadIdx.x % 32 / 4), pair = int(threadIdx.x % 4) * 2;
    uint32_t w[2][4];
    load_toeplitz_left(p, axis, w);
    const float mean = p.mean[uint64_t(axis) * p.out_channels + channel(p)];
    const TensorWalk walk = tensor_walk(p);
    const int size1 = int(p.in_size[0]), rows = min(int(p.in_size[1]) - walk.row, int(C::rows));
    const int columns = min(int(p.in_size[2]) - walk.column, int(C::columns)), parts = (columns + 15) / 16;
    const bf16* gradient = static_cast<const bf16*>(p.g) + walk.volume;
    TensorSums sums = {};
    for (int d1 = 0; d1 < size1; d1 += int(C::depth)) {
        if (d1 > 0) __syncthreads();  // the step before reads the tile
        constexpr uint32_t words = C::columns / 8;
        for (uint32_t i = threadIdx.x; i < C::depth * C::rows * words; i += C::threads) {
            const int word = int(i % words), row = int(i / words % C::rows), plane = int(i / words / C::rows);
            copy_voxels(p, gradient, d1 + plane, walk.row + row, walk.column + 8 * word,
                        s.in.g + uint32_t(plane) * C::plane + uint32_t(row) * C::pitch + uint32_t(8 * word));
        }
        load_step<C>(p, walk, d1, s.in.tile);
        const int planes = min(size1 - d1, int(C::depth));
        for (int i = mine; i < (axis == 0 ? rows : planes) * parts; i += int(C::axis_warps)) {
            const int fixed = i / parts, part = i % parts;
            if (axis == 0) add_products<0>({s, d1, fixed, part}, w, mean, planes, sums);
            else if (axis == 1) add_products<1>({s, d1, fixed, part}, w, mean, rows, sums);
            else add_products<2>({s, d1, fixed, part}, w, mean, columns - 16 * part, sums);
        }
    }
    __syncthreads();  // the tile gives way to the products
    X2CT_UNROLL
    for (int kind = 0; kind < kTapSums; ++kind) {
        X2CT_UNROLL
        for (int i = 0; i < 16; ++i)
            s.products[kind][warp][group + i / 2 % 2 * 8][i / 4 * 8 + pair + i % 2] = sums.product[kind][i / 4][i % 4];
    }
    s.g_sums[threadIdx.x] = sums.g;
    __syncthreads();
    const int kernel = int(p.kernel);
    for (int v = int(threadIdx.x); v < 3 * kTapSums * kernel; v += int(C::threads)) {
        const int a = v / (kTapSums * kernel), t = v / kTapSums % kernel, kind = v % kTapSums;
        double total = 0.0;
        for (int n = 0; n < int(C::axis_warps); ++n)
            for (int i = 0; i < 16; ++i) total += s.products[kind][a * int(C::axis_warps) + n][i][i + t - kernel / 2 + kBorder];
        axis_sums_at(p, blockIdx.x, channel(p), uint32_t(a))[kAxisSums + kTapSums * t + kind] = total;
    }
    __syncthreads();
    if (threadIdx.x < 3) {
        const uint32_t a = threadIdx.x, threads = C::threads / 3;
        double* out = axis_sums_at(p, blockIdx.x, channel(p), a);
        const float* weights = p.w[a] + uint64_t(channel(p)) * p.kernel;
        double sum = 0.0, product = 0.0;
        for (uint32_t i = 0; i < threads; ++i) sum += s.g_sums[a * threads + i];
        for (int t = 0; t < kernel; ++t) product += double(to_float(to_bf16(weights[t]))) * out[kAxisSums + kTapSums * t];
        out[0] = product - double(p.mean[uint64_t(a) * p.out_channels + channel(p)]) * sum;
        out[1] = sum;
    }
}
/// Depthwise on tensor cores: correlations of g and of the branches with x.
X2CT_KERNEL(decomp_conv_tensor_gradient_sums_bf16, DecompConvParams, TensorSumsConfig, tensor_gradient_sums)
