// Barriers in shared memory that count arrivals and bytes (mbarrier), and bulk copies from global memory that report to one
// (cp.async.bulk, the one-dimensional form of TMA: no tensor map, any launcher): sm_90.
//
// A barrier is in phase 0, 1, 2, ...; a phase ends when every expected arrival has come and every announced byte has landed.
// Whoever waits for parity p passes once a phase of that parity has ended, so parity 1 passes before anything has happened.
//
// On the host a copy lands when the launch's threads run forward: at the wait that cannot do without it, as late as the model
// allows; in reverse order: at once, as early as it allows; in a seeded order: one or the other. A missing wait for the bytes
// shows in the first, a slot that is refilled too early in the second.
#pragma once

#include "common.h"

struct alignas(8) Mbarrier {
    uint64_t state;  // opaque
};

#ifndef __CUDACC__
namespace x2ct_host {
void barrier_init(Mbarrier* barrier, uint32_t arrivals);
void barrier_arrive(Mbarrier* barrier, uint32_t bytes);
void barrier_wait(Mbarrier* barrier, uint32_t parity);
void bulk_copy(void* destination, const void* source, uint32_t bytes, Mbarrier* barrier);
}  // namespace x2ct_host
#else
X2CT_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
#endif

// One thread calls; show_to_async and a block barrier follow before anyone else uses the barrier.
X2CT_DEVICE void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
#ifdef __CUDACC__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
    x2ct_host::barrier_init(barrier, arrivals);
#endif
}

// Shows what this thread has written to shared memory, barriers or operands, to the engines that copy and multiply.
X2CT_DEVICE void show_to_async() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

X2CT_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
    x2ct_host::barrier_arrive(barrier, 0);
#endif
}

// Arrives, and announces bytes that the phase waits for.
X2CT_DEVICE void mbarrier_arrive_expecting(Mbarrier* barrier, uint32_t bytes) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#else
    x2ct_host::barrier_arrive(barrier, bytes);
#endif
}

X2CT_DEVICE void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
#ifdef __CUDACC__
    uint32_t done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    } while (!done);
#else
    x2ct_host::barrier_wait(barrier, parity);
#endif
}

// Copies `bytes`, a multiple of 16, from global to shared memory, both aligned to 16; they count for the barrier's phase.
X2CT_DEVICE void bulk_copy(void* destination, const void* source, uint32_t bytes, Mbarrier* barrier) {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(destination)),
                 "l"(source), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
#else
    x2ct_host::check_aligned(destination, 16, "bulk copy to shared memory");
    x2ct_host::check_aligned(source, 16, "bulk copy from global memory");
    if (bytes % 16) x2ct_host::fail("a bulk copy of %u bytes, which is no multiple of 16", bytes);
    x2ct_host::bulk_copy(destination, source, bytes, barrier);
#endif
}
