// Part of norm.cu: normalisation of the rows of x [M, D].
//
//   layer norm   y = (x - mean) rstd weight + bias, mean and (biased) variance of the row
//                g = dy weight;  xhat = (x - mean) rstd
//                dx = rstd (g - mean(g) - xhat mean(g xhat));  dweight = sum over rows of dy xhat;  dbias = sum of dy
//   L2           y = x / max(||x||, eps)
//                dx = (dy - xhat (xhat . dy)) / ||x||, xhat = x / ||x||;  dy / eps where ||x|| < eps: the clamped norm is a
//                constant there, also at zero (as PyTorch's normalize)
//
// `lanes` neighbouring threads share a row and meet in shared memory: 8 or 32 on a GPU (128 bytes side by side), 1 on a
// processor, where a row fits the cache and waiting is what costs. Sums are f32 per thread, f64 across lanes, in order; the
// layer norm's are taken about the row's first element.
//
// Bytes: forward 2 A (the second reading of a row hits the cache). Backward 3 A for dx; dweight and dbias read x and dy once
// more (2 A), column-wise and two-stage like the batch norm's. One variant: the lanes are what there is to choose.
#pragma once

struct RowConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;  // threads of a block, to be shared among rows
    static constexpr int batch = 4;             // loads under way per thread
    struct Shared {
        float lanes[2][threads];
    };
};

// What one thread visits: every lanes-th vector of its row.
struct RowThread {
    uint64_t row, offset;  // offset: of the row's first element
    uint32_t lane, first;  // first: element of the row the thread starts at
    uint32_t stride, visits;
};
template <int W>
X2CT_DEVICE RowThread row_thread(const RowNormParams& p) {
    RowThread t;
    t.row = uint64_t(blockIdx.x) * (RowConfig::threads / p.lanes) + threadIdx.x / p.lanes;
    t.lane = threadIdx.x % p.lanes;
    t.offset = t.row * p.channels;
    t.first = t.lane * W;
    t.stride = p.lanes * W;
    const uint32_t vectors = uint32_t(p.channels / W);
    t.visits = t.row < p.rows && t.lane < vectors ? (vectors - t.lane + p.lanes - 1) / p.lanes : 0;
    return t;
}

// Sums of two values over the lanes of a row, in every lane. Every thread of the block calls, once.
X2CT_DEVICE void row_sums(const RowNormParams& p, const RowThread& t, const float (&mine)[2], double (&total)[2]) {
    total[0] = mine[0];
    total[1] = mine[1];
    if (p.lanes == 1) return;
    auto& s = shared_memory<RowConfig::Shared>();
    s.lanes[0][threadIdx.x] = mine[0];
    s.lanes[1][threadIdx.x] = mine[1];
    __syncthreads();
    const uint32_t first = threadIdx.x - t.lane;
    total[0] = total[1] = 0.0;
    for (uint32_t l = 0; l < p.lanes; ++l) {
        total[0] += s.lanes[0][first + l];
        total[1] += s.lanes[1][first + l];
    }
}

template <int W>
X2CT_DEVICE float add_up(const float (&x)[W]) {
    float sum = 0.0f;
    X2CT_UNROLL
    for (int j = 0; j < W; ++j) sum += x[j];
    return sum;
}

template <class T, int W>
X2CT_DEVICE void layer_norm_rows(const RowNormParams& p) {
    const RowThread t = row_thread<W>(p);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    T* y = static_cast<T*>(p.y) + t.offset;
    const float k = t.row < p.rows ? to_float(x[0]) : 0.0f;
    float sum[W] = {}, square[W] = {};
    for_visits<RowConfig::batch>(t.visits, [&](uint32_t i, auto batch) {
        constexpr int U = decltype(batch)::value;
        Vec<T, W> v[U];
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) v[u] = load_vec<W>(x + t.first + (i + u) * t.stride);
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) {
                const float d = to_float(v[u].v[j]) - k;
                sum[j] += d;
                square[j] += d * d;
            }
        }
    });
    double total[2];
    row_sums(p, t, {add_up(sum), add_up(square)}, total);
    if (t.row >= p.rows) return;
    const double shifted = total[0] / double(p.channels);
    const double variance = total[1] / double(p.channels) - shifted * shifted;
    const float mean = float(k + shifted), rstd = float(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + p.eps));
    if (t.lane == 0) {
        p.mean[t.row] = mean;
        p.scale[t.row] = rstd;
    }
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float v[W], weight[W], bias[W];
        load_float(x + c, v);
        load_channels(p.weight + c, weight);
        load_channels(p.bias + c, bias);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) v[j] = (v[j] - mean) * rstd * weight[j] + bias[j];
        store_float(y + c, v);
    }
}

template <class T, int W>
X2CT_DEVICE void layer_norm_gradient_rows(const RowNormParams& p) {
    const RowThread t = row_thread<W>(p);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* dy = static_cast<const T*>(p.dy) + t.offset;
    T* dx = static_cast<T*>(p.dx) + t.offset;
    const float mean = t.row < p.rows ? p.mean[t.row] : 0.0f, rstd = t.row < p.rows ? p.scale[t.row] : 0.0f;
    float sum[W] = {}, sum_hat[W] = {};
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float xs[W], g[W], weight[W];
        load_float(x + c, xs);
        load_float(dy + c, g);
        load_channels(p.weight + c, weight);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) {
            g[j] *= weight[j];
            sum[j] += g[j];
            sum_hat[j] += g[j] * ((xs[j] - mean) * rstd);
        }
    }
    double total[2];
    row_sums(p, t, {add_up(sum), add_up(sum_hat)}, total);
    if (t.row >= p.rows) return;
    const float c0 = float(total[0] / double(p.channels)), c1 = float(total[1] / double(p.channels));
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float xs[W], g[W], weight[W];
        load_float(x + c, xs);
        load_float(dy + c, g);
        load_channels(p.weight + c, weight);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) g[j] = rstd * (g[j] * weight[j] - c0 - (xs[j] - mean) * rstd * c1);
        store_gradient(dx + c, g, p.accumulate_dx);
    }
}

// partial[block] = (sum dy, sum dy xhat) of the block's rows, column by column.
template <class T, int W>
X2CT_DEVICE void layer_norm_columns(const RowNormParams& p) {
    auto& s = shared_memory<ColumnSumConfig::Shared>();
    const ColumnThread t = column_thread<W>(p.walk, p.rows, p.channels);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* dy = static_cast<const T*>(p.dy) + t.offset;
    const uint64_t row = t.first_row + uint64_t(t.lane) * p.walk.lane_step;
    float sums[2][W] = {};
    for_visits<ColumnConfig::gradient_batch>(t.visits, [&](uint32_t i, auto batch) {
        constexpr int U = decltype(batch)::value;
        Vec<T, W> xs[U], dys[U];
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            xs[u] = load_vec<W>(x + (i + u) * t.stride);
            dys[u] = load_vec<W>(dy + (i + u) * t.stride);
        }
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            const uint64_t r = row + uint64_t(i + u) * p.walk.row_step;
            const float mean = p.mean[r], rstd = p.scale[r];
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) {
                const float g = to_float(dys[u].v[j]);
                sums[0][j] += g;
                sums[1][j] += g * ((to_float(xs[u].v[j]) - mean) * rstd);
            }
        }
    });
    reduce_lanes(p.walk, t, p.channels, sums, &s.lanes[0][0], ColumnSumConfig::plane, [&](uint64_t c, const double(&totals)[2]) {
        double* out = p.partial + uint64_t(blockIdx.x) * 2 * p.channels + c;
        out[0] = totals[0];
        out[p.channels] = totals[1];
    });
}

X2CT_DEVICE void layer_norm_finish_body(const RowNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * FinishConfig::tile0 + threadIdx.x % FinishConfig::tile0;
    double total[2];
    add_blocks(p.channels, p.blocks, total, [&](uint32_t b, double(&sum)[2]) {
        const double* in = p.partial + uint64_t(b) * 2 * p.channels + c;
        sum[0] += in[0];
        sum[1] += in[p.channels];
    });
    if (threadIdx.x >= FinishConfig::tile0 || c >= p.channels) return;
    if (p.dweight) write_gradient(p.dweight + c, float(total[1]), p.accumulate_dweight);
    if (p.dbias) write_gradient(p.dbias + c, float(total[0]), p.accumulate_dbias);
}

template <class T, int W>
X2CT_DEVICE void l2_normalize_rows(const RowNormParams& p) {
    const RowThread t = row_thread<W>(p);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    T* y = static_cast<T*>(p.y) + t.offset;
    float square[W] = {};
    for (uint32_t i = 0; i < t.visits; ++i) {
        float v[W];
        load_float(x + t.first + i * t.stride, v);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) square[j] += v[j] * v[j];
    }
    double total[2];
    row_sums(p, t, {add_up(square), 0.0f}, total);
    if (t.row >= p.rows) return;
    const double norm = sqrt(total[0]);
    const float scale = float(1.0 / (norm < p.eps ? p.eps : norm));
    if (t.lane == 0) p.scale[t.row] = scale;
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float v[W];
        load_float(x + c, v);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) v[j] *= scale;
        store_float(y + c, v);
    }
}

template <class T, int W>
X2CT_DEVICE void l2_normalize_gradient_rows(const RowNormParams& p) {
    const RowThread t = row_thread<W>(p);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* dy = static_cast<const T*>(p.dy) + t.offset;
    T* dx = static_cast<T*>(p.dx) + t.offset;
    const float scale = t.row < p.rows ? p.scale[t.row] : 0.0f;
    float dot[W] = {};
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float xs[W], g[W];
        load_float(x + c, xs);
        load_float(dy + c, g);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) dot[j] += xs[j] * scale * g[j];
    }
    double total[2];
    row_sums(p, t, {add_up(dot), 0.0f}, total);
    if (t.row >= p.rows) return;
    // A clamped norm is a constant.
    const float along = scale < float(1.0 / p.eps) ? float(total[0]) : 0.0f;
    for (uint32_t i = 0; i < t.visits; ++i) {
        const uint32_t c = t.first + i * t.stride;
        float xs[W], g[W];
        load_float(x + c, xs);
        load_float(dy + c, g);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) g[j] = scale * (g[j] - xs[j] * scale * along);
        store_gradient(dx + c, g, p.accumulate_dx);
    }
}

template <class T>
X2CT_DEVICE void layer_norm(const RowNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) layer_norm_rows<T, width>(p);
    else layer_norm_rows<T, 1>(p);
}
template <class T>
X2CT_DEVICE void layer_norm_gradient(const RowNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) layer_norm_gradient_rows<T, width>(p);
    else layer_norm_gradient_rows<T, 1>(p);
}
template <class T>
X2CT_DEVICE void layer_norm_gradient_sums(const RowNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) layer_norm_columns<T, width>(p);
    else layer_norm_columns<T, 1>(p);
}
template <class T>
X2CT_DEVICE void l2_normalize(const RowNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) l2_normalize_rows<T, width>(p);
    else l2_normalize_rows<T, 1>(p);
}
template <class T>
X2CT_DEVICE void l2_normalize_gradient(const RowNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) l2_normalize_gradient_rows<T, width>(p);
    else l2_normalize_gradient_rows<T, 1>(p);
}

/// y, mean, rstd; tile\[0\] threads a block, shared among rows.
X2CT_KERNEL(layer_norm_f32, RowNormParams, RowConfig, layer_norm<float>)
X2CT_KERNEL(layer_norm_bf16, RowNormParams, RowConfig, layer_norm<bf16>)
/// dx.
X2CT_KERNEL(layer_norm_gradient_f32, RowNormParams, RowConfig, layer_norm_gradient<float>)
X2CT_KERNEL(layer_norm_gradient_bf16, RowNormParams, RowConfig, layer_norm_gradient<bf16>)
/// Per block of rows: sum dy and sum dy xhat of each column.
X2CT_KERNEL(layer_norm_gradient_sums_f32, RowNormParams, ColumnSumConfig, layer_norm_gradient_sums<float>)
X2CT_KERNEL(layer_norm_gradient_sums_bf16, RowNormParams, ColumnSumConfig, layer_norm_gradient_sums<bf16>)
/// dweight and dbias from the blocks' sums; tile\[0\] channels a block.
X2CT_KERNEL(layer_norm_gradient_finish, RowNormParams, FinishConfig, layer_norm_finish_body)
/// y and 1 / max(norm, eps).
X2CT_KERNEL(l2_normalize_f32, RowNormParams, RowConfig, l2_normalize<float>)
X2CT_KERNEL(l2_normalize_bf16, RowNormParams, RowConfig, l2_normalize<bf16>)
/// dx.
X2CT_KERNEL(l2_normalize_gradient_f32, RowNormParams, RowConfig, l2_normalize_gradient<float>)
X2CT_KERNEL(l2_normalize_gradient_bf16, RowNormParams, RowConfig, l2_normalize_gradient<bf16>)
