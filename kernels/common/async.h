// Asynchronous copies from global to shared memory (cp.async, sm_80): 16 bytes each, zero-filled past `source_bytes`.
// On the host a copy lands only when its group is waited for, as late as the model allows, so a missing wait shows.
#pragma once

#include "common.h"

X2CT_DEVICE void cp_async16(void* destination, const void* source, uint32_t source_bytes = 16) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(destination));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(source_bytes) : "memory");
#else
    x2ct_host::check_aligned(destination, 16, "async copy to shared memory");
    if (source_bytes) x2ct_host::check_aligned(source, 16, "async copy from global memory");
    x2ct_host::async_copy(destination, source, 16, source_bytes);
#endif
}

// 4-byte form for rows that are not 16-byte aligned.
X2CT_DEVICE void cp_async4(void* destination, const void* source, uint32_t source_bytes = 4) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(destination));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(source), "r"(source_bytes) : "memory");
#else
    x2ct_host::check_aligned(destination, 4, "async copy to shared memory");
    if (source_bytes) x2ct_host::check_aligned(source, 4, "async copy from global memory");
    x2ct_host::async_copy(destination, source, 4, source_bytes);
#endif
}

X2CT_DEVICE void cp_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    x2ct_host::async_commit();
#endif
}

// Waits until at most `Pending` of the newest groups are still under way. A barrier must follow before other threads read.
template <int Pending>
X2CT_DEVICE void cp_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#else
    x2ct_host::async_wait(Pending);
#endif
}
