// The scheduler of the host build; the rules are in host.h.
#include "host.h"
#include "fiber.h"
#include "common.h"
#include "wgmma.h"

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

namespace x2ct_host {

__thread Current current __attribute__((tls_model("initial-exec")));

namespace {

struct Failure {};  // thrown by fail(); the text is already in the launch's message

enum class Wait : uint8_t { None, Threads, Grid, Warp, Mbarrier };

struct AsyncCopy {
    void* destination;
    const void* source;
    uint32_t bytes, source_bytes;
};

// Asynchronous work of a thread in order, and the end of each committed group.
template <class T>
struct GroupedQueue {
    std::vector<T> items;
    std::vector<size_t> groups;

    void commit() { groups.push_back(items.size()); }
    void clear() {
        items.clear();
        groups.clear();
    }
    // Runs what is older than the newest `pending` groups.
    template <class F>
    void wait(uint32_t pending, F run) {
        if (groups.size() <= pending) return;
        const size_t done_groups = groups.size() - pending, done = groups[done_groups - 1];
        for (size_t i = 0; i < done; ++i) run(items[i]);
        items.erase(items.begin(), items.begin() + std::ptrdiff_t(done));
        groups.erase(groups.begin(), groups.begin() + std::ptrdiff_t(done_groups));
        for (size_t& end : groups) end -= done;
    }
};

struct BulkCopy {
    void* destination;
    const void* source;
    uint32_t bytes;
    Mbarrier* barrier;
};

// What an Mbarrier holds on the host.
struct BarrierState {
    uint16_t expected, missing;        // arrivals of a phase, and those that have not come
    uint32_t phase : 1, announced : 31;  // parity; bytes that have been announced and have not landed
};
static_assert(sizeof(BarrierState) == sizeof(Mbarrier), "it lies in shared memory");

struct Thread {
    Fiber* fiber = nullptr;
    Wait wait = Wait::None;
    bool ended = false;
    const char* file = nullptr;
    int line = 0;
    // warp collective
    uint32_t mask = 0;
    const char* kind = nullptr;
    void* operand = nullptr;
    Exchange exchange = nullptr;
    GroupedQueue<AsyncCopy> copies;
    GroupedQueue<WgmmaProduct> products;
    // what it waits for
    Mbarrier* barrier = nullptr;
    uint32_t parity = 0;
};

struct Block {
    Dim3 index{};
    void* shared = nullptr;
    uint32_t live = 0, at_barrier = 0;
    std::vector<BulkCopy> bulk_copies;  // that have not landed
};

constexpr size_t kCanaryBytes = 64;
constexpr unsigned char kCanary = 0xa5;

// Shared memory of one block: exactly `bytes` long, so that AddressSanitizer sees an access past the end; without it the
// canary behind the bytes is looked at after the block.
struct SharedBytes {
    void* bytes = nullptr;
    size_t size;
    explicit SharedBytes(size_t n) : size(n) {
        if (posix_memalign(&bytes, 128, n + canary())) abort();
    }
    ~SharedBytes() { free(bytes); }
    SharedBytes(const SharedBytes&) = delete;
    void poison() {
        memset(bytes, 0xff, size);  // NaN as f32, as bf16 and as f64
        memset(static_cast<char*>(bytes) + size, kCanary, canary());
    }
    bool overrun() const {
        const auto* end = static_cast<const unsigned char*>(bytes) + size;
        for (size_t i = 0; i < canary(); ++i)
            if (end[i] != kCanary) return true;
        return false;
    }
    static constexpr size_t canary() {
#ifdef X2CT_ASAN
        return 0;
#else
        return kCanaryBytes;
#endif
    }
};

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Runs the threads of the resident blocks (one, or the whole grid of a cooperative launch) to their ends.
struct Scheduler {
    const Launch* launch;
    const char* name;
    Body body;
    uint32_t block_threads = 0;
    std::vector<Thread> threads;
    std::vector<Block> blocks;
    std::vector<uint32_t> start_order;  // threads that have not started, in order
    size_t started = 0;
    std::vector<uint32_t> ready;  // threads that may go on, in order
    size_t resumed = 0;
    std::vector<uint32_t> at_mbarriers;  // threads that wait at one
    uint32_t live = 0, at_grid_barrier = 0, at_warp = 0;
    uint64_t phase = 0;
    bool failed = false;
    std::vector<std::unique_ptr<Fiber>> pool;
    std::vector<Fiber*> idle;
    Fiber* running = nullptr;
    void* main_stack_pointer = nullptr;
    void* main_fake_stack = nullptr;
    const void* main_stack = nullptr;
    size_t main_stack_bytes = 0;
    std::vector<Fiber*> used;

    Thread& self() { return threads[running->thread]; }
    Block& block_of(uint32_t thread) { return blocks[thread / block_threads]; }

    void arrange(std::vector<uint32_t>& list) {
        ++phase;
        if (launch->order == 1) {
            for (size_t i = 0, j = list.size(); i + 1 < j; ++i) { --j; std::swap(list[i], list[j]); }
        } else if (launch->order == 2) {
            for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[mix(launch->seed + phase * 0x9e3779b97f4a7c15ull + i) % i]);
        }
    }

    void enter(uint32_t thread) {
        running->thread = thread;
        const uint32_t local = thread % block_threads;
        const Block& block = block_of(thread);
        current.thread = {local, 0, 0};
        current.lane = local % 32;
        current.warp = local / 32;
        current.block = block.index;
        current.shared = block.shared;
    }

    Fiber* fresh_fiber();
    void switch_to(Fiber* next, bool abandon);
    void go_on();
    void wait(Wait what, const char* file, int line);
    void release_threads(uint32_t block);
    void release_grid();
    bool release_mbarriers();
    bool phase_ended(Thread& t, Block& block);
    bool complete_warp(uint32_t thread);
    void end_thread();
    void run_resident();
    void describe_deadlock();
    void report(const char* format, ...) __attribute__((format(printf, 2, 3)));
};

__thread Scheduler* scheduler __attribute__((tls_model("initial-exec")));

void Scheduler::report(const char* format, ...) {
    if (failed) return;  // the first cause is the one worth reading
    failed = true;
    char text[320];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const Dim3& b = current.block;
    snprintf(launch->message, launch->message_bytes, "block (%u,%u,%u): %s", b.x, b.y, b.z, text);
}

// Returns to the scheduler's own stack, for good: what is left on the fibers is abandoned.
void leave() {
    scheduler->switch_to(nullptr, true);
    __builtin_unreachable();
}

void fiber_main() {
    Scheduler& s = *scheduler;
#ifdef X2CT_ASAN
    const void* old_stack;
    size_t old_bytes;
    __sanitizer_finish_switch_fiber(nullptr, &old_stack, &old_bytes);
    if (!s.main_stack) { s.main_stack = old_stack; s.main_stack_bytes = old_bytes; }
#endif
    while (s.started < s.start_order.size()) {
        s.enter(s.start_order[s.started++]);
        bool threw = false;
        try {
            s.body(s.launch->params);
            s.end_thread();
        } catch (const Failure&) {
            threw = true;
        } catch (const std::exception& e) {
            s.report("thread %u: the kernel threw: %s", current.thread.x, e.what());
            threw = true;
        } catch (...) {
            s.report("thread %u: the kernel threw", current.thread.x);
            threw = true;
        }
        if (threw) leave();
    }
    s.idle.push_back(s.running);
    s.go_on();
    __builtin_unreachable();
}

Fiber* Scheduler::fresh_fiber() {
    if (idle.empty()) {
        pool.push_back(std::make_unique<Fiber>());
        idle.push_back(pool.back().get());
    }
    Fiber* fiber = idle.back();
    idle.pop_back();
    fiber->reset(fiber_main);
    return fiber;
}

void Scheduler::switch_to(Fiber* next, bool abandon) {
    Fiber* from = running;
    running = next;
    void* to = next ? next->stack_pointer : main_stack_pointer;
    void** save = from ? &from->stack_pointer : &main_stack_pointer;
#ifdef X2CT_ASAN
    void** fake = from ? &from->asan_fake_stack : &main_fake_stack;
    __sanitizer_start_switch_fiber(abandon ? nullptr : fake, next ? next->stack : main_stack, next ? kStackBytes : main_stack_bytes);
#else
    (void)abandon;
#endif
    x2ct_switch(save, to);
#ifdef X2CT_ASAN
    const void* old_stack;
    size_t old_bytes;
    __sanitizer_finish_switch_fiber(from ? from->asan_fake_stack : main_fake_stack, &old_stack, &old_bytes);
#endif
}

// Picks what runs next: a thread that has not started, then one that may resume, else the launch is over or stuck.
void Scheduler::go_on() {
    Fiber* from = running;
    const bool from_idle = !idle.empty() && idle.back() == from;
    if (started < start_order.size()) {
        switch_to(fresh_fiber(), false);
    } else if (resumed < ready.size() || release_mbarriers()) {
        const uint32_t thread = ready[resumed++];
        if (resumed == ready.size()) { ready.clear(); resumed = 0; }
        Fiber* next = threads[thread].fiber;
        if (next != from) switch_to(next, from_idle);
    } else {
        if (live) describe_deadlock();
        switch_to(nullptr, true);
    }
    enter(running->thread);
}

void Scheduler::wait(Wait what, const char* file, int line) {
    Thread& t = self();
    t.wait = what;
    t.file = file;
    t.line = line;
    t.fiber = running;
    go_on();
}

// A barrier is complete when every live thread of the block stands at it, at the same place in the source.
void Scheduler::release_threads(uint32_t block) {
    Block& b = blocks[block];
    if (!b.at_barrier || b.at_barrier != b.live) return;
    const uint32_t first = block * block_threads;
    const Thread* reference = nullptr;
    std::vector<uint32_t> released;
    for (uint32_t i = first; i < first + block_threads; ++i) {
        Thread& t = threads[i];
        if (t.ended) continue;
        if (!reference) reference = &t;
        if (t.line != reference->line || (t.file != reference->file && strcmp(t.file, reference->file))) {
            report("barrier in divergent code: thread %u waits at %s:%d while thread %u waits at %s:%d", uint32_t(reference - &threads[first]),
                   reference->file, reference->line, i - first, t.file, t.line);
            return;
        }
        t.wait = Wait::None;
        released.push_back(i);
    }
    b.at_barrier = 0;
    arrange(released);
    ready.insert(ready.end(), released.begin(), released.end());
}

void Scheduler::release_grid() {
    if (!at_grid_barrier || at_grid_barrier != live) return;
    std::vector<uint32_t> released;
    for (uint32_t i = 0; i < threads.size(); ++i) {
        if (threads[i].ended) continue;
        threads[i].wait = Wait::None;
        released.push_back(i);
    }
    at_grid_barrier = 0;
    arrange(released);
    ready.insert(ready.end(), released.begin(), released.end());
}

void land(const BulkCopy& copy) {
    memcpy(copy.destination, copy.source, copy.bytes);
    BarrierState state;
    memcpy(&state, copy.barrier, sizeof state);
    state.announced -= copy.bytes;
    if (!state.missing && !state.announced) {
        state.phase ^= 1;
        state.missing = state.expected;
    }
    memcpy(copy.barrier, &state, sizeof state);
}

// Whether the phase that `t` waits for is over; lands the copies that nothing else keeps it from ending.
bool Scheduler::phase_ended(Thread& t, Block& block) {
    BarrierState state;
    memcpy(&state, t.barrier, sizeof state);
    if (state.phase == t.parity && !state.missing) {
        std::vector<BulkCopy> others;
        for (const BulkCopy& copy : block.bulk_copies)
            if (copy.barrier == t.barrier)
                land(copy);
            else
                others.push_back(copy);
        block.bulk_copies.swap(others);
        memcpy(&state, t.barrier, sizeof state);
    }
    return state.phase != t.parity;
}

// Asked when no other thread can go on: lets those go on whose phase is over.
bool Scheduler::release_mbarriers() {
    std::vector<uint32_t> released, waiting;
    for (uint32_t i : at_mbarriers) {
        Thread& t = threads[i];
        const bool ended = phase_ended(t, block_of(i));
        if (ended) t.wait = Wait::None;
        (ended ? released : waiting).push_back(i);
    }
    at_mbarriers.swap(waiting);
    arrange(released);
    ready.insert(ready.end(), released.begin(), released.end());
    return !released.empty();
}

// Runs the collective that `thread` waits at once every live lane of its mask waits at it too, and releases the lanes
// (the running one without queueing it).
bool Scheduler::complete_warp(uint32_t thread) {
    const Thread& reference = threads[thread];
    const uint32_t base = thread - thread % block_threads % 32, mask = reference.mask;
    const Exchange exchange = reference.exchange;
    void* operands[32] = {};
    for (uint32_t lane = 32; lane-- > 0;) {  // the last first: in order, it is the one that has not come
        if (!(mask >> lane & 1)) continue;
        const Thread& t = threads[base + lane];
        if (t.ended) continue;  // CUDA asks for the lanes of the mask that have not exited
        if (t.wait != Wait::Warp || t.mask != mask || t.exchange != exchange) return false;
        operands[lane] = t.operand;
    }
    exchange(operands, mask);
    for (uint32_t lane = 0; lane < 32; ++lane) {
        if (!operands[lane]) continue;
        threads[base + lane].wait = Wait::None;
        --at_warp;
        if (base + lane != running->thread) ready.push_back(base + lane);
    }
    return true;
}

void Scheduler::end_thread() {
    Thread& t = self();
    t.ended = true;
    t.copies.clear();
    t.products.clear();
    --live;
    const uint32_t block = running->thread / block_threads;
    --blocks[block].live;
    release_threads(block);
    release_grid();
    const uint32_t thread = running->thread, base = thread - current.lane;
    for (uint32_t lane = 0; at_warp && lane < 32; ++lane)  // lanes that waited for this one need not any more
        if (!threads[base + lane].ended && threads[base + lane].wait == Wait::Warp) complete_warp(base + lane);
    if (failed) leave();
}

void Scheduler::describe_deadlock() {
    static const char* const names[] = {"nothing", "a block barrier", "a grid barrier", "a warp operation", "an mbarrier"};
    for (uint32_t i = 0; i < threads.size(); ++i) {
        const Thread& t = threads[i];
        if (t.ended) continue;
        current.block = block_of(i).index;
        if (t.wait == Wait::Warp)
            report("thread %u waits for ever at %s of mask %08x: another lane of the mask waits elsewhere", i % block_threads, t.kind, t.mask);
        else if (t.wait == Wait::Mbarrier)
            report("thread %u waits for ever at an mbarrier for a phase of parity %u: nobody arrives", i % block_threads, t.parity);
        else
            report("thread %u waits for ever at %s (%s:%d): the other threads wait elsewhere", i % block_threads, names[int(t.wait)], t.file, t.line);
        return;
    }
}

void Scheduler::run_resident() {
    phase = blocks[0].index.x + 1000003ull * blocks[0].index.y;
    started = resumed = 0;
    ready.clear();
    at_grid_barrier = at_warp = 0;
    live = uint32_t(threads.size());
    for (Thread& t : threads) { t.ended = false; t.wait = Wait::None; t.fiber = nullptr; t.copies.clear(); t.products.clear(); }
    for (Block& b : blocks) { b.live = block_threads; b.at_barrier = 0; b.bulk_copies.clear(); }
    at_mbarriers.clear();
    start_order.resize(threads.size());
    for (uint32_t i = 0; i < threads.size(); ++i) start_order[i] = i;
    arrange(start_order);
    running = nullptr;
    switch_to(fresh_fiber(), false);
    idle.clear();
    for (auto& fiber : pool) idle.push_back(fiber.get());
}

}  // namespace

void run(const Launch& launch, const KernelConfig& config, const char* name, Body body) {
    static thread_local Scheduler s;  // keeps its fibers between launches
    scheduler = &s;
    s.launch = &launch;
    s.name = name;
    s.body = body;
    s.failed = false;
    s.block_threads = config.threads;
    const uint64_t count = launch.block_end - launch.block_begin;
    const size_t resident = config.cooperative ? size_t(count) : 1;
    s.threads.resize(resident * config.threads);
    s.blocks.resize(resident);
    std::vector<std::unique_ptr<SharedBytes>> shared;
    for (Block& block : s.blocks) {
        block.shared = nullptr;
        if (!config.shared_bytes) continue;
        shared.push_back(std::make_unique<SharedBytes>(config.shared_bytes));
        block.shared = shared.back()->bytes;
    }
    current.dim = {config.threads, 1, 1};
    current.grid = launch.grid;
    current.shared_bytes = config.shared_bytes;
    for (uint64_t first = launch.block_begin; first < launch.block_end && !s.failed; first += resident) {
        for (size_t i = 0; i < resident; ++i) {
            const uint64_t linear = first + i;
            s.blocks[i].index = {uint32_t(linear % launch.grid.x), uint32_t(linear / launch.grid.x % launch.grid.y),
                                 uint32_t(linear / launch.grid.x / launch.grid.y)};
        }
        for (auto& bytes : shared) bytes->poison();
        s.run_resident();
        for (const Block& block : s.blocks)
            if (!block.bulk_copies.empty()) s.report("a block ended while a bulk copy into its shared memory was under way: nobody waited for it");
        for (auto& bytes : shared)
            if (bytes->overrun()) s.report("a store ran past the end of the %u bytes of shared memory", config.shared_bytes);
    }
}

void fail(const char* format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    scheduler->report("thread %u: %s", current.thread.x, text);
    throw Failure{};
}

void sync_threads(const char* file, int line) {
    Scheduler& s = *scheduler;
    const uint32_t block = s.running->thread / s.block_threads;
    Thread& t = s.self();
    t.file = file;
    t.line = line;
    ++s.blocks[block].at_barrier;
    s.release_threads(block);
    if (s.failed) throw Failure{};
    // Released already when this thread was the last to arrive: it still goes through the queue, in the launch's order.
    s.wait(t.wait, file, line);
}

void sync_grid(const char* file, int line) {
    Scheduler& s = *scheduler;
    if (s.threads.size() != size_t(s.launch->grid.x) * s.launch->grid.y * s.launch->grid.z * s.block_threads)
        fail("grid_sync() in a kernel that is not cooperative (%s:%d)", file, line);
    ++s.at_grid_barrier;
    s.release_grid();
    s.wait(Wait::Grid, file, line);
}

void warp_collective(uint32_t mask, const char* kind, void* operand, Exchange exchange) {
    Scheduler& s = *scheduler;
    if (!(mask >> current.lane & 1)) fail("%s: lane %u calls with mask %08x, which leaves it out", kind, current.lane, mask);
    Thread& mine = s.self();
    mine.mask = mask;
    mine.kind = kind;
    mine.operand = operand;
    mine.exchange = exchange;
    mine.wait = Wait::Warp;
    ++s.at_warp;
    if (s.complete_warp(s.running->thread)) return;  // the last to arrive goes on; the others follow when it waits
    s.wait(Wait::Warp, "", 0);
}

int mma_step() {
    static const char* const text = getenv("X2CT_MMA_STEP");
    static const int step = !text || !*text ? 8 : !strcmp(text, "4") ? 4 : !strcmp(text, "8") ? 8 : !strcmp(text, "16") ? 16 : 0;
    if (!step) fail("X2CT_MMA_STEP is %s; tensor cores add 4, 8 or 16 products at once", text);
    return step;
}

void async_copy(void* destination, const void* source, uint32_t bytes, uint32_t source_bytes) {
    scheduler->self().copies.items.push_back({destination, source, bytes, source_bytes});
}

void async_commit() { scheduler->self().copies.commit(); }

void async_wait(uint32_t pending_groups) {
    scheduler->self().copies.wait(pending_groups, [](const AsyncCopy& c) {
        if (c.source_bytes) memcpy(c.destination, c.source, c.source_bytes);
        memset(static_cast<char*>(c.destination) + c.source_bytes, 0, c.bytes - c.source_bytes);
    });
}

void barrier_init(Mbarrier* barrier, uint32_t arrivals) {
    const BarrierState state{uint16_t(arrivals), uint16_t(arrivals), 0, 0};
    memcpy(barrier, &state, sizeof state);
}

void barrier_arrive(Mbarrier* barrier, uint32_t bytes) {
    BarrierState state;
    memcpy(&state, barrier, sizeof state);
    if (state.missing > state.expected || !state.expected || state.expected == 0xffff) fail("an mbarrier is used before it is initialised");
    if (!state.missing) fail("an mbarrier has all %u arrivals of its phase and gets another before its bytes have landed: a wait is missing", state.expected);
    state.announced += bytes;
    if (!--state.missing && !state.announced) {
        state.phase ^= 1;
        state.missing = state.expected;
    }
    memcpy(barrier, &state, sizeof state);
}

void barrier_wait(Mbarrier* barrier, uint32_t parity) {
    Scheduler& s = *scheduler;
    Thread& t = s.self();
    BarrierState state;
    memcpy(&state, barrier, sizeof state);
    if (state.expected == 0xffff) fail("an mbarrier is used before it is initialised");
    if (state.phase != parity) return;
    t.barrier = barrier;
    t.parity = parity;
    s.at_mbarriers.push_back(s.running->thread);
    s.wait(Wait::Mbarrier, "", 0);
}

void bulk_copy(void* destination, const void* source, uint32_t bytes, Mbarrier* barrier) {
    Scheduler& s = *scheduler;
    const BulkCopy copy{destination, source, bytes, barrier};
    const bool at_once = s.launch->order == 1 || (s.launch->order == 2 && mix(s.launch->seed + ++s.phase) & 1);
    if (at_once)
        land(copy);
    else
        s.block_of(s.running->thread).bulk_copies.push_back(copy);
}

void wgmma_issue(WgmmaProduct product) {
    auto& items = scheduler->self().products.items;
    bool first = true;
    for (const WgmmaProduct& earlier : items) first = first && earlier.d != product.d;
    product.saved_first = first;
    if (first) {
        memcpy(product.saved, product.d, size_t(product.n) / 2 * 4);
        memset(product.d, 0xff, size_t(product.n) / 2 * 4);
    }
    items.push_back(product);
}

void wgmma_commit() { scheduler->self().products.commit(); }

void wgmma_wait(uint32_t pending_groups) {
    scheduler->self().products.wait(pending_groups, [](WgmmaProduct& product) { warp_collective(0xffffffffu, "wgmma", &product, wgmma_warp); });
}

}  // namespace x2ct_host
