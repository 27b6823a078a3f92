// Fibers of the host build: a stack with a guard page and a context switch of a few instructions (System V x86-64 and
// AAPCS64). Only host.cpp uses this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define X2CT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define X2CT_ASAN 1
#endif
#endif

#ifdef X2CT_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old, size_t* size_old);
void __asan_unpoison_memory_region(void const volatile* addr, size_t size);
}
#endif

namespace x2ct_host {

#ifdef X2CT_ASAN
constexpr size_t kStackBytes = 256 * 1024;  // instrumented frames are larger
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Saves the callee-saved registers and the stack pointer to *from, continues at `to`.
extern "C" void x2ct_switch(void** from, void* to);

#if defined(__APPLE__)
#define X2CT_SYMBOL "_x2ct_switch"
#else
#define X2CT_SYMBOL "x2ct_switch"
#endif

#if defined(__x86_64__)
asm(".text\n.globl " X2CT_SYMBOL "\n.p2align 4\n" X2CT_SYMBOL
    ":\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");
constexpr size_t kSavedWords = 6;
inline void* prepare_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top);
    *--sp = nullptr;  // the entry's return address, and the alignment the ABI asks for at a function's first instruction
    *--sp = reinterpret_cast<void*>(entry);
    for (size_t i = 0; i < kSavedWords; ++i) *--sp = nullptr;
    return sp;
}
#elif defined(__aarch64__)
asm(".text\n.globl " X2CT_SYMBOL "\n.p2align 4\n" X2CT_SYMBOL
    ":\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
    "  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
    "  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n  ret\n");
inline void* prepare_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top) - 20;
    for (int i = 0; i < 20; ++i) sp[i] = nullptr;
    sp[11] = reinterpret_cast<void*>(entry);  // x30: where `ret` goes
    return sp;
}
#else
#error "x2ct's host build supports x86-64 and aarch64"
#endif

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;  // lowest usable byte
    void* asan_fake_stack = nullptr;
    uint32_t thread = 0;  // index of the thread it runs

    Fiber() {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        void* region = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (region == MAP_FAILED) abort();
        mprotect(region, page, PROT_NONE);  // an overflow faults instead of overwriting a neighbour
        stack = static_cast<char*>(region) + page;
    }
    Fiber(const Fiber&) = delete;
    ~Fiber() {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        munmap(stack - page, kStackBytes + page);
    }
    // The next switch to this fiber enters `entry` on an empty stack.
    void reset(void (*entry)()) {
#ifdef X2CT_ASAN
        __asan_unpoison_memory_region(stack, kStackBytes);  // frames that were abandoned leave red zones behind
        asan_fake_stack = nullptr;
#endif
        stack_pointer = prepare_stack(stack + kStackBytes, entry);
    }
};

}  // namespace x2ct_host
