// SPDX-License-Identifier: Apache-2.0
// Updates teachers and queues. This is device code.
//
//   update    t <- m t + (1 - m) s for every tensor of a model in one launch. Where a 16-bit target has a master M
//             in fp32, M moves and t is M rounded. If t is not the rounding of M, somebody wrote t, and M starts again
//             from t. m is a number, or is read from the device.
//   enqueue   queue[(position + offset + i) mod size] <- keys[i]; position is read from the device
//
// update has one block for each chunk of at most CHUNK elements of a pair, and a table says where the chunks are.
// Blocks do not loop over chunks, for two reasons. The hardware hands out the next chunk when a block ends, which evens
// out tensors of a few elements and of millions. And a new block waits, first for its row of the table and then for its
// first numbers, while other blocks of its multiprocessor load theirs.
//
// Cost: one read of target and source and one write of the target, 12 bytes per fp32 parameter (14 per bf16 one with a
// master, which is read and written too), and 40 bytes of the table per chunk, which is 0.04 % of that. A chunk must be
// large enough to fill its block's loads, and the last wave of blocks idles for half a chunk's time. With 8192 elements
// and 25 million fp32 parameters that is about 3 % on an H200.
//
// In flight: a thread asks for four vectors of each tensor before it uses the first. That is 128 bytes for fp32 or
// bf16, and 80 to 128 for mixtures and beside masters. 768 threads fit at up to 85 registers (64 spill on sm_100 and
// 120), so a multiprocessor has 60 to 96 KiB in flight. At 4.8 TB/s, two thirds of which are reads, and a latency of
// 0.8 us, each of the 132 multiprocessors of an H200 needs 20 KiB, three times less. The scalar path, for tensors that
// vectors cannot read, has 48 KiB for fp32 and 24 KiB for bf16. These are estimates; nothing here has run on a GPU.
// Arithmetic takes about 25 instructions per number. Memory moves one number in the time of 36 (bf16) or 72 (fp32)
// instructions.

#include "numbers.cuh"

constexpr int THREADS = 256;

// Calls f with a number of each of two dtypes; `codes` is the code of the first + 256 times that of the second.
template <class F> __device__ inline void with_dtype(int64 code, F f) {
    switch (code) {
    case 0: return f(f32());
    case 1: return f(f64());
    case 2: return f(bf16());
    default: return f(f16());
    }
}
template <class F> __device__ inline void with_dtypes(int64 codes, F f) {
    with_dtype(codes & 255, [&](auto first) { with_dtype(codes >> 8, [&](auto second) { f(first, second); }); });
}

template <class A, class B> using wider_t = decltype(sum_t<A>() + sum_t<B>());
// As many numbers of each of two types are moved together as 16 bytes hold of the wider one.
template <class A, class B> constexpr int VECTOR = 16 / (sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

// --- update ---------------------------------------------------------------------------------------------------------

__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }

// Computes m t + (1 - m) s to little more than half a bit of max(|t|, |s|). It starts from t or s, whichever has the
// larger weight, adds the smaller weight times their difference, and then what rounding lost of the weight, the
// difference and the sum. Many GPUs compute one double in the time of 32 or 64 floats, so this is cheaper than double
// arithmetic. Where the difference is not finite it adds both products: an infinite teacher or student gives an
// infinity and not NaN, and numbers near the largest do not overflow.
template <class W> struct Step {
    W keep, take, weight, weight_rest;
    bool copies, near;
    __device__ explicit Step(double m) : keep(W(m)), take(W(1 - m)), copies(m == 0), near(m >= 0.5) {
        weight = near ? take : -keep;
        weight_rest = W((near ? 1 - m : -m) - weight);
    }
    __device__ W operator()(W t, W s) const {
        const W gap = s - t, start = near ? t : s;
        const W back = s - gap, gap_rest = (s - (gap + back)) + (back - t); // s - t = gap + gap_rest exactly
        const W between = fused(weight, gap, start), rest = fused(weight, gap, start - between);
        const W exact = between + (rest + fused(weight, gap_rest, weight_rest * gap));
        return copies ? s : gap - gap == W(0) ? exact : fused(keep, t, take * s);
    }
};

struct Chunk {
    void *target, *source, *master; // master is fp32, or null
    int64 count, dtypes;
};
struct Update {
    const Chunk *chunks;
    const double *at; // where the momentum is read, or null
    double momentum;
};

// Tells the compiler that an address from a table is in global memory. Otherwise it allows for any kind of memory.
template <class T> __device__ inline T *global(void *address) {
#ifdef __CUDACC__
    __builtin_assume(__isGlobal(address));
#endif
    return static_cast<T *>(address);
}

// Returns the number that an update starts from: the master, or the target if it is not the rounding of the master,
// because somebody wrote it since.
template <class Kept, class T> __device__ inline Kept newer(Kept kept, T rounded) {
    if constexpr (sizeof(T) < sizeof(Kept)) {
        T of_master;
        narrow(kept, of_master);
        if (widen(of_master) != widen(rounded)) return widen(rounded);
    }
    return kept;
}

// Moves `kept` towards `source`, and writes it to `rounded` too where that is of another type.
template <class Kept, class S, class T> struct Moved {
    static constexpr bool MASTER = sizeof(T) < sizeof(Kept);
    Kept *kept;
    const S *source;
    T *rounded;
    Step<wider_t<Kept, S>> step;

    template <int V>
    __device__ void put(int64 i, const Pack<Kept, V> &t, const Pack<S, V> &s, const Pack<T, V> &r) const {
        using W = wider_t<Kept, S>;
        Pack<Kept, V> now;
#pragma unroll
        for (int v = 0; v < V; ++v) narrow(step(W(widen(newer(t.at[v], r.at[v]))), W(widen(s.at[v]))), now.at[v]);
        *reinterpret_cast<Pack<Kept, V> *>(kept + i) = now;
        if constexpr (MASTER) store(rounded + i, now);
    }

    template <int V> __device__ void all(int count) const {
        constexpr int UNROLL = V == 1 ? 8 : 4;
        const int vectors = count / V;
        for (int first = threadIdx.x; first < vectors; first += THREADS * UNROLL) {
            Pack<Kept, V> t[UNROLL];
            Pack<S, V> s[UNROLL];
            Pack<T, V> r[UNROLL]; // read only where there is a master
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int i = first + u * THREADS;
                if (i >= vectors) continue;
                t[u] = packs<V>(kept)[i], s[u] = packs<V>(source)[i];
                if constexpr (MASTER) r[u] = packs<V>(rounded)[i];
            }
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int i = first + u * THREADS;
                if (i < vectors) put<V>(int64(i) * V, t[u], s[u], r[u]);
            }
        }
        const int i = vectors * V + threadIdx.x;
        if (V > 1 && i < count) put<1>(i, packs<1>(kept)[i], packs<1>(source)[i], packs<1>(rounded)[i]);
    }

    __device__ void operator()(int count) const {
        constexpr int V = VECTOR<Kept, S>;
        if (even<V>(kept) && even<V>(source) && (!MASTER || even<V>(rounded)))
            all<V>(count);
        else
            all<1>(count);
    }
    template <int V, class X> __device__ static bool even(const X *x) {
        return reinterpret_cast<unsigned long long>(x) % (V * sizeof(X)) == 0;
    }
};

// At least three blocks fit a multiprocessor.
extern "C" __launch_bounds__(THREADS, 3) __global__ void update(Update a) {
    const Chunk chunk = a.chunks[blockIdx.x];
    const double momentum = a.at ? *a.at : a.momentum;
    if (momentum == 1) return;
    with_dtypes(chunk.dtypes, [&](auto of_target, auto of_source) {
        using T = decltype(of_target);
        using S = decltype(of_source);
        T *target = global<T>(chunk.target);
        const S *source = global<S>(chunk.source);
        if constexpr (sizeof(T) == 2) {
            if (chunk.master) {
                const Step<wider_t<float, S>> step(momentum);
                Moved<float, S, T>{global<float>(chunk.master), source, target, step}(int(chunk.count));
                return;
            }
        }
        const Step<wider_t<T, S>> step(momentum);
        Moved<T, S, T>{target, source, target, step}(int(chunk.count));
    });
}

// --- enqueue --------------------------------------------------------------------------------------------------------

struct Enqueue {
    void *queue;
    int64 queue_row, size; // strides count numbers
    const void *keys;
    int64 keys_row, count, d, dtypes, vector;
    const unsigned char *position; // an integer of position_bytes bytes, or null for 0
    int64 position_bytes, position_signed, offset;
};

__device__ inline int64 position_of(const Enqueue &a) {
    if (!a.position) return 0;
    unsigned long long bits = 0;
    for (int64 byte = 0; byte < a.position_bytes; ++byte) bits |= (unsigned long long)(a.position[byte]) << 8 * byte;
    const int64 above = 64 - 8 * a.position_bytes;
    return a.position_signed ? int64(bits << above) >> above : int64(bits);
}

template <int V, class Q, class K> __device__ inline void copy(Q *to, const K *from) { store(to, load<V>(from)); }
// Copies bits where both dtypes are the same, so that a NaN keeps its own.
template <int V, class T> __device__ inline void copy(T *to, const T *from) {
    *reinterpret_cast<Pack<T, V> *>(to) = *reinterpret_cast<const Pack<T, V> *>(from);
}

template <class Q, class K, int V> __device__ inline void enqueue_row(const Enqueue &a, int64 i, int64 slot) {
    Q *to = static_cast<Q *>(a.queue) + slot * a.queue_row;
    const K *from = static_cast<const K *>(a.keys) + i * a.keys_row;
    for (int64 c = threadIdx.x * V; c < a.d; c += blockDim.x * V) copy<V>(to + c, from + c);
}

// A block has blockDim.y rows; threads along x share one.
extern "C" __global__ void enqueue(Enqueue a) {
    const int64 i = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (i >= a.count) return;
    const int64 past = (position_of(a) + a.offset + i) % a.size, slot = past < 0 ? past + a.size : past;
    with_dtypes(a.dtypes, [&](auto of_queue, auto of_keys) {
        using Q = decltype(of_queue);
        using K = decltype(of_keys);
        if (a.vector)
            enqueue_row<Q, K, VECTOR<Q, K>>(a, i, slot);
        else
            enqueue_row<Q, K, 1>(a, i, slot);
    });
}
