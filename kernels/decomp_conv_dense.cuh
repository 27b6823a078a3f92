// Variant 2 of the dense convolution of decomp_conv.cu: what a matrix product needs around it.
//
// A branch of one sample is z [O, E] = w [O, I k] columns [I k, E] with columns[(i, t), e] = x[i, s e + (t - P) along the axis];
// dw = dz columns^T, and the gradient of the columns, w^T dz, is gathered into dx.

struct DenseConfig : KernelDefaults {
    static constexpr uint32_t segment = 16;  // elements of a thread, along the contiguous axis
    static constexpr uint32_t tile0 = threads, tile1 = segment;
};

// A thread's segment of the contiguous axis of [rows, size].
struct DenseSegment {
    uint64_t row;
    int64_t at[3];
    int count;  // elements; not above 0 for a thread without work
};
X2CT_DEVICE DenseSegment dense_segment(uint64_t rows, const uint32_t (&size)[3]) {
    DenseSegment s;
    uint64_t index = uint64_t(blockIdx.x) * DenseConfig::threads + threadIdx.x;
    const uint32_t segments = (size[2] + DenseConfig::segment - 1) / DenseConfig::segment;
    s.at[2] = int64_t(index % segments) * DenseConfig::segment;
    index /= segments;
    s.at[1] = int64_t(index % size[1]);
    index /= size[1];
    s.at[0] = int64_t(index % size[0]);
    s.row = index / size[0];
    s.count = s.row < rows ? int(min(int64_t(DenseConfig::segment), size[2] - s.at[2])) : 0;
    return s;
}

// columns of p.sample along p.axis.
template <class T>
X2CT_DEVICE void dense_columns(const DecompConvParams& p) {
    const DenseSegment s = dense_segment(uint64_t(p.in_channels) * p.kernel, p.out_size);
    if (s.count <= 0) return;
    const uint64_t channel = s.row / p.kernel;
    const int64_t offset = int64_t(s.row % p.kernel) - p.kernel / 2;
    int64_t at[3];
    X2CT_UNROLL
    for (uint32_t a = 0; a < 3; ++a) at[a] = s.at[a] * p.stride + (a == p.axis ? offset : 0);
    T* out = static_cast<T*>(p.columns) + s.row * out_voxels(p) + (s.at[0] * p.out_size[1] + s.at[1]) * p.out_size[2] + s.at[2];
    const bool inside = at[0] >= 0 && at[0] < p.in_size[0] && at[1] >= 0 && at[1] < p.in_size[1];
    const T* row = static_cast<const T*>(p.x) + (p.sample * p.in_channels + channel) * in_voxels(p);
    if (inside) row += (at[0] * p.in_size[1] + at[1]) * p.in_size[2];
    for (int i = 0; i < s.count; ++i) {
        const int64_t column = at[2] + int64_t(i) * p.stride;
        out[i] = inside && column >= 0 && column < p.in_size[2] ? row[column] : from_float<T>(0.0f);
    }
}

// dx of p.sample from the gradients of the columns of all three axes.
template <class T>
X2CT_DEVICE void dense_input_gradient(const DecompConvParams& p) {
    const DenseSegment s = dense_segment(p.in_channels, p.in_size);
    if (s.count <= 0) return;
    const uint64_t voxels = out_voxels(p);
    const int64_t stride = p.stride;
    float sum[DenseConfig::segment] = {};
    for (uint32_t a = 0; a < 3; ++a) {
        for (uint32_t t = 0; t < p.kernel; ++t) {
            // The output whose tap t reads this input: exists where stride divides the place it would start from.
            const int64_t shift = int64_t(p.kernel / 2) - t;
            const int64_t d1 = s.at[0] + (a == 0 ? shift : 0), d2 = s.at[1] + (a == 1 ? shift : 0), d3 = s.at[2] + (a == 2 ? shift : 0);
            if (d1 < 0 || d2 < 0 || d1 % stride || d2 % stride) continue;
            const int64_t o1 = d1 / stride, o2 = d2 / stride;
            if (o1 >= p.out_size[0] || o2 >= p.out_size[1]) continue;
            const T* in = static_cast<const T*>(p.columns) + ((uint64_t(a) * p.in_channels + s.row) * p.kernel + t) * voxels +
                          (o1 * p.out_size[1] + o2) * p.out_size[2];
            const int64_t size = int64_t(p.out_size[2]);
            const bool whole = stride == 1 && d3 >= 0 && d3 + int64_t(DenseConfig::segment) <= size;
            if (whole) {
                X2CT_UNROLL
                for (int i = 0; i < int(DenseConfig::segment); ++i) sum[i] += to_float(in[d3 + i]);
            } else {
                X2CT_UNROLL
                for (int i = 0; i < int(DenseConfig::segment); ++i) {
                    const int64_t d = d3 + i;
                    if (d >= 0 && d % stride == 0 && d / stride < size) sum[i] += to_float(in[d / stride]);
                }
            }
        }
    }
    T* dx = static_cast<T*>(p.dx) + (p.sample * p.in_channels + s.row) * in_voxels(p) + (s.at[0] * p.in_size[1] + s.at[1]) * p.in_size[2] + s.at[2];
    X2CT_UNROLL
    for (int i = 0; i < int(DenseConfig::segment); ++i)
        if (i < s.count) write_gradient(dx + i, sum[i], adds_to(p, kBitX));
}

X2CT_KERNEL(decomp_conv_columns_f32, DecompConvParams, DenseConfig, dense_columns<float>)
X2CT_KERNEL(decomp_conv_columns_bf16, DecompConvParams, DenseConfig, dense_columns<bf16>)
X2CT_KERNEL(decomp_conv_dense_input_gradient_f32, DecompConvParams, DenseConfig, dense_input_gradient<float>)
X2CT_KERNEL(decomp_conv_dense_input_gradient_bf16, DecompConvParams, DenseConfig, dense_input_gradient<bf16>)
