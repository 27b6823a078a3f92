// Vector access: N elements of T in one aligned transaction of at most 16 bytes.
#pragma once

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
    T v[N];
};

// Elements of T in 16 bytes.
template <class T>
X2CT_DEVICE constexpr int vec_width() {
    return int(16 / sizeof(T));
}

template <int N, class T>
X2CT_DEVICE Vec<T, N> load_vec(const T* p) {
    static_assert(sizeof(T) * N <= 16, "one transaction");
#ifndef __CUDACC__
    x2ct_host::check_aligned(p, sizeof(T) * N, "load");
#endif
    return *reinterpret_cast<const Vec<T, N>*>(p);
}

template <int N, class T>
X2CT_DEVICE void store_vec(T* p, const Vec<T, N>& value) {
#ifndef __CUDACC__
    x2ct_host::check_aligned(p, sizeof(T) * N, "store");
#endif
    *reinterpret_cast<Vec<T, N>*>(p) = value;
}

template <int N, class T>
X2CT_DEVICE void load_float(const T* p, float (&out)[N]) {
    const Vec<T, N> packed = load_vec<N>(p);
    X2CT_UNROLL
    for (int i = 0; i < N; ++i) out[i] = to_float(packed.v[i]);
}

template <int N, class T>
X2CT_DEVICE void store_float(T* p, const float (&in)[N]) {
    Vec<T, N> packed;
    X2CT_UNROLL
    for (int i = 0; i < N; ++i) packed.v[i] = from_float<T>(in[i]);
    store_vec<N>(p, packed);
}

// Four floats that stay in one register of a processor, whatever its compiler makes of the loops around them.
#ifdef __CUDACC__
struct alignas(16) Float4 {
    float lane[4];
    X2CT_DEVICE float& operator[](int i) { return lane[i]; }
    X2CT_DEVICE float operator[](int i) const { return lane[i]; }
};
#else
typedef float Float4 __attribute__((vector_size(16), may_alias));
#endif

// sum += a * b
X2CT_DEVICE void multiply_add(Float4& sum, float a, const Float4& b) {
#ifdef __CUDACC__
    X2CT_UNROLL
    for (int i = 0; i < 4; ++i) sum.lane[i] += a * b.lane[i];
#else
    sum += a * b;
#endif
}
