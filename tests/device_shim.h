// SPDX-License-Identifier: Apache-2.0
// CUDA device code on a processor: a block's threads run one after another, a warp's meet where they exchange values.
//
//     g++ -shared -include device_shim.h -x c++ kernels.cu
//
// Every thread of a warp is a fiber, which yields at an exchange until all 32 have come. Meeting there when another
// thread of the warp has returned would hang a GPU, and ends the process here.
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
#define __launch_bounds__(...)

namespace shim {

struct Dimensions {
    unsigned x = 1, y = 1, z = 1;
};

constexpr int WARP = 32, STACK = 1 << 16;

struct Fiber {
    ucontext_t context;
    bool done;
    int exchanges;
    Dimensions thread;
    void *fake_stack;
    alignas(16) char stack[STACK];
};

inline Fiber fibers[WARP];
inline ucontext_t scheduler;
inline void *scheduler_fake_stack;
inline const void *scheduler_stack;
inline size_t scheduler_stack_size;
inline int lane;
// Two of each, for a thread may already bring its next value while others still read this one.
inline uint64_t brought[2][WARP];

#ifdef __SANITIZE_ADDRESS__
constexpr auto before_switch = __sanitizer_start_switch_fiber;
constexpr auto after_switch = __sanitizer_finish_switch_fiber;
#else
inline void before_switch(void **, const void *, size_t) {}
inline void after_switch(void *, const void **, size_t *) {}
#endif

inline void yield() {
    Fiber &fiber = fibers[lane];
    before_switch(fiber.done ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_size);
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
    fibers[lane].done = true;
    yield();
}

inline void resume(int of) {
    lane = of;
    before_switch(&scheduler_fake_stack, fibers[of].stack, STACK);
    swapcontext(&scheduler, &fibers[of].context);
    after_switch(scheduler_fake_stack, nullptr, nullptr);
}

} // namespace shim

#define threadIdx (shim::fibers[shim::lane].thread)
inline shim::Dimensions blockIdx, blockDim, gridDim;

template <class T> T __shfl_xor_sync(unsigned mask, T value, int other) {
    const int lane = shim::lane;
    const int turn = shim::fibers[lane].exchanges++ % 2;
    if (mask != 0xffffffff) std::abort();
    std::memcpy(&shim::brought[turn][lane], &value, sizeof value);
    shim::yield();
    std::memcpy(&value, &shim::brought[turn][lane ^ other], sizeof value);
    return value;
}

inline unsigned atomicMin(unsigned *address, unsigned value) {
    const unsigned old = *address;
    if (value < old) *address = value;
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

extern "C" __global__ void run(void *kernel, const unsigned *blocks, const unsigned *threads, const int64_t *values,
                               int count) {
    using namespace shim;
    shim::kernel = reinterpret_cast<void (*)(Fields)>(kernel);
    fields = {};
    std::memcpy(fields.at, values, count * sizeof *values);
    gridDim = {blocks[0], blocks[1]};
    blockDim = {threads[0], threads[1]};
    const unsigned size = blockDim.x * blockDim.y;
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
            for (unsigned first = 0; first < size; first += WARP) {
                const int lanes = size - first < WARP ? size - first : WARP;
                for (int l = 0; l < lanes; ++l) {
                    Fiber &fiber = fibers[l];
                    getcontext(&fiber.context);
                    fiber.context.uc_stack.ss_sp = fiber.stack;
                    fiber.context.uc_stack.ss_size = STACK;
                    fiber.done = false;
                    fiber.exchanges = 0;
                    fiber.thread = {(first + l) % blockDim.x, (first + l) / blockDim.x};
                    makecontext(&fiber.context, start, 0);
                }
                for (int running = lanes; running;) {
                    running = 0;
                    for (int l = 0; l < lanes; ++l) {
                        resume(l);
                        running += !fibers[l].done;
                    }
                    if (running && (running < lanes || lanes < WARP)) {
                        std::fprintf(stderr, "%d of %d threads of a warp wait for others that returned.\n", running,
                                     WARP);
                        std::abort();
                    }
                }
            }
}
