// What every kernel file includes: one vocabulary for the GPU build (nvcc) and the host build (any C++17 compiler).
//
// A kernel is a function template `template <class T> __device__ void body(const Params& p)`, instantiated by one line
//     X2CT_KERNEL(entry_name, Params, Config, body<T>)
// where Config is a struct of constants derived from KernelDefaults. On the GPU the line is an `extern "C" __global__`
// entry that takes its parameter struct by value; on the host it is a function that runs the same body block by block
// (see host.h). The constants reach Rust through a table beside the entry, so that no literal is typed twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

// What Rust reads to launch an entry. Mirrors `KernelConfig` in src/kernels/mod.rs.
struct KernelConfig {
    uint32_t threads;       // threads of a block, all along x
    uint32_t min_blocks;    // blocks per multiprocessor that the register budget is planned for
    uint32_t shared_bytes;  // dynamic shared memory of a block
    uint32_t params_bytes;  // sizeof the parameter struct
    uint32_t cooperative;   // 1: all blocks are resident and may call grid_sync()
    uint32_t tile[4];       // what the geometry in src/kernels/NAME.rs divides the problem by
};

// A kernel's constants: derive from this and shadow what differs.
struct KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t min_blocks = 1;
    static constexpr bool cooperative = false;
    static constexpr uint32_t tile0 = 1, tile1 = 1, tile2 = 1, tile3 = 1;
    struct Shared {};  // the layout of the block's shared memory
};

#ifdef __CUDACC__

#define X2CT_DEVICE __device__ __forceinline__
#define X2CT_UNROLL _Pragma("unroll")
// Before a loop over a thread's elements that a processor shall do on vectors: g++ writes a short one out before it looks for them.
#define X2CT_VECTORS _Pragma("unroll")

// A pointer to global memory as one value. Without this the compiler may take the sum behind it apart and repeat its 64-bit
// arithmetic at every access of a loop.
template <class T>
X2CT_DEVICE T* one_value(T* pointer) {
    asm("" : "+l"(pointer));
    __builtin_assume(__isGlobal(pointer));
    return pointer;
}

// What shared memory begins at a multiple of: where wgmma exists, of the 1,024 bytes after which its swizzle repeats.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define X2CT_SHARED_ALIGNMENT 1024
#else
#define X2CT_SHARED_ALIGNMENT 128
#endif

// The block's shared memory as the layout S of its Config.
template <class S>
X2CT_DEVICE S& shared_memory() {
    static_assert(alignof(S) <= X2CT_SHARED_ALIGNMENT, "the layout fits where shared memory begins");
    extern __shared__ __align__(X2CT_SHARED_ALIGNMENT) unsigned char x2ct_shared_bytes[];
    return *reinterpret_cast<S*>(x2ct_shared_bytes);
}

#else

#include "host.h"

#define X2CT_DEVICE inline
#define X2CT_UNROLL
#ifdef __clang__
#define X2CT_VECTORS
#else
#define X2CT_VECTORS _Pragma("GCC unroll 1")
#endif

template <class T>
X2CT_DEVICE T* one_value(T* pointer) {
    return pointer;
}

#endif

// Bytes of a layout. On the GPU in whole words of 16 bytes: where a kernel reads most of the last word, nvcc reads all of it.
template <class S>
constexpr uint32_t shared_bytes_of() {
    if (std::is_empty<S>::value) return 0;
#ifdef __CUDACC__
    return uint32_t(sizeof(S) + 15) / 16 * 16;
#else
    return uint32_t(sizeof(S));
#endif
}

template <class C, class P>
constexpr KernelConfig kernel_config() {
    static_assert(C::threads % 32 == 0 && C::threads <= 1024, "whole warps, at most 1024 threads");
    static_assert(std::is_trivially_copyable<P>::value, "parameters travel by value");
    static_assert(sizeof(P) <= 4096, "parameters fit the launch limit of every driver");
    return {C::threads, C::min_blocks, shared_bytes_of<typename C::Shared>(), sizeof(P), C::cooperative, {C::tile0, C::tile1, C::tile2, C::tile3}};
}

#ifdef __CUDACC__

#define X2CT_KERNEL(name, P, C, ...)                                                                              \
    extern "C" __global__ void __launch_bounds__(C::threads, C::min_blocks) name(const __grid_constant__ P p) {   \
        __VA_ARGS__(p);                                                                                           \
    }                                                                                                             \
    extern "C" {                                                                                                  \
    __device__ KernelConfig name##_config = kernel_config<C, P>();                                                \
    }

#else

// Null launch: only the table is wanted.
#define X2CT_KERNEL(name, P, C, ...)                                                                              \
    extern "C" const KernelConfig* x2ct_host_##name(const x2ct_host::Launch* launch) {                            \
        static constexpr KernelConfig config = kernel_config<C, P>();                                             \
        if (launch) x2ct_host::run(*launch, config, #name, [](const void* p) { __VA_ARGS__(*static_cast<const P*>(p)); }); \
        return &config;                                                                                           \
    }

#endif

#include "types.h"
#include "vec.h"
