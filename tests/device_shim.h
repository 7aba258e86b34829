// SPDX-License-Identifier: Apache-2.0
// CUDA device code on a processor: threads of a block run one after another, and meet where they exchange values.
//
//     g++ -shared -include device_shim.h -x c++ kernels.cu
//
// Every thread of a block is a fiber. It yields at an exchange until all 32 of its warp have come, and at a barrier
// until all of the block have. Meeting there when another thread has returned would hang a GPU, and ends the process
// here. Warps run in an order of their own in every block, as their order is nobody's to choose. Shared memory keeps
// what the last block left.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

namespace shim {

struct Dimensions {
    unsigned x = 1, y = 1, z = 1;
};

constexpr int WARP = 32, THREADS = 1024, STACK = 1 << 16;
// The state of a thread: it runs, or waits for its warp, or for its block, or has returned.
enum State { RUNS, IN_WARP, IN_BLOCK, DONE };

struct Fiber {
    ucontext_t context;
    State state;
    int exchanges;
    Dimensions thread;
    void *fake_stack;
    alignas(16) char stack[STACK];
};

inline Fiber fibers[THREADS];
inline ucontext_t scheduler;
inline void *scheduler_fake_stack;
inline const void *scheduler_stack;
inline size_t scheduler_stack_size;
inline int now; // the thread that runs
// Two of each, for a thread may already bring its next value while others still read this one.
inline uint64_t brought[2][THREADS];
inline bool coming, any; // what threads bring to a barrier, and what they take from it

#ifdef __SANITIZE_ADDRESS__
constexpr auto before_switch = __sanitizer_start_switch_fiber;
constexpr auto after_switch = __sanitizer_finish_switch_fiber;
#else
inline void before_switch(void **, const void *, size_t) {}
inline void after_switch(void *, const void **, size_t *) {}
#endif

inline void yield(State state) {
    Fiber &fiber = fibers[now];
    fiber.state = state;
    before_switch(state == DONE ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_size);
    swapcontext(&fiber.context, &scheduler);
    after_switch(fiber.fake_stack, &scheduler_stack, &scheduler_stack_size);
}

// A kernel's struct, which is larger than what calls pass in registers: its own size is read of this one's copy.
struct Fields {
    int64_t at[24];
};
inline void (*kernel)(Fields);
inline Fields fields;

inline void start() {
    after_switch(nullptr, &scheduler_stack, &scheduler_stack_size);
    kernel(fields);
    yield(DONE);
}

inline void resume(int of) {
    now = of;
    fibers[of].state = RUNS;
    before_switch(&scheduler_fake_stack, fibers[of].stack, STACK);
    swapcontext(&scheduler, &fibers[of].context);
    after_switch(scheduler_fake_stack, nullptr, nullptr);
}

} // namespace shim

#define threadIdx (shim::fibers[shim::now].thread)
inline shim::Dimensions blockIdx, blockDim, gridDim;

template <class T> T __shfl_xor_sync(unsigned mask, T value, int other) {
    const int thread = shim::now;
    const int turn = shim::fibers[thread].exchanges++ % 2;
    if (mask != 0xffffffff) std::abort();
    std::memcpy(&shim::brought[turn][thread], &value, sizeof value);
    shim::yield(shim::IN_WARP);
    std::memcpy(&value, &shim::brought[turn][thread ^ other], sizeof value);
    return value;
}

// Says if any thread of the block brings a true one.
inline int __syncthreads_or(int mine) {
    shim::coming |= mine != 0;
    shim::yield(shim::IN_BLOCK);
    return shim::any;
}
inline void __syncthreads() { __syncthreads_or(0); }

inline unsigned atomicAdd(unsigned *address, unsigned value) {
    const unsigned old = *address;
    *address = old + value;
    return old;
}

inline unsigned float_bits(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float float_of(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline float half_value(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned short half_bits(float value) {
    const auto rounded = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return bits;
}

namespace shim {

// Runs the threads of a warp until none of them waits for the others.
inline void run_warp(int first, int lanes) {
    for (int waiting = lanes; waiting;) {
        int finished = 0;
        waiting = 0;
        for (int thread = first; thread < first + lanes; ++thread) {
            if (fibers[thread].state == RUNS || fibers[thread].state == IN_WARP) resume(thread);
            waiting += fibers[thread].state == IN_WARP;
            finished += fibers[thread].state != IN_WARP;
        }
        if (waiting && (finished || lanes < WARP)) {
            std::fprintf(stderr, "%d of %d threads of a warp wait for others that returned.\n", waiting, WARP);
            std::abort();
        }
    }
}

inline void run_block(int size, int turn) {
    const int warps = (size + WARP - 1) / WARP;
    for (int thread = 0; thread < size; ++thread) {
        Fiber &fiber = fibers[thread];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.state = RUNS;
        fiber.exchanges = 0;
        fiber.thread = {thread % blockDim.x, thread / blockDim.x};
        makecontext(&fiber.context, start, 0);
    }
    coming = false;
    for (int finished = 0; finished < size;) {
        for (int w = 0; w < warps; ++w) {
            const int first = (turn % 2 ? warps - 1 - w : (w + turn / 2) % warps) * WARP;
            run_warp(first, size - first < WARP ? size - first : WARP);
        }
        finished = 0;
        for (int thread = 0; thread < size; ++thread) finished += fibers[thread].state == DONE;
        if (finished && finished < size) {
            std::fprintf(stderr, "%d of %d threads of a block wait for others that returned.\n", size - finished, size);
            std::abort();
        }
        for (int thread = 0; thread < size; ++thread)
            if (fibers[thread].state == IN_BLOCK) fibers[thread].state = RUNS;
        any = coming, coming = false;
    }
}

} // namespace shim

extern "C" __global__ void run(void *kernel, const unsigned *blocks, const unsigned *threads, const int64_t *values,
                               int count) {
    using namespace shim;
    shim::kernel = reinterpret_cast<void (*)(Fields)>(kernel);
    fields = {};
    std::memcpy(fields.at, values, count * sizeof *values);
    gridDim = {blocks[0], blocks[1]};
    blockDim = {threads[0], threads[1]};
    int turn = 0;
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) run_block(blockDim.x * blockDim.y, turn++);
}
