// SPDX-License-Identifier: Apache-2.0
// Teachers and queues. Device code only.
//
//   update    t <- m t + (1 - m) s for every tensor of a model in one launch; with a master M in fp32 beside a
//             16-bit target, M moves and t is M rounded; an M whose rounding t is not begins anew from t. m is a
//             number, or is read from the device.
//   enqueue   queue[(position + offset + i) mod size] <- keys[i]; position is read from the device
//
// update has one block for each chunk of at most CHUNK elements of a pair, and a table that says where they are. A
// chunk for a block, and not a loop of blocks over chunks: the hardware hands out the next one when a block ends, which
// evens out tensors of a few elements and of millions; and the wait of a new block, first for its row of the table and
// then for its first numbers, passes under the loads of the others of its multiprocessor.
//
// Cost: a read of target and source and a write of the target, 12 bytes per fp32 parameter (14 per bf16 one with a
// master, which is read and written too), and 40 bytes of the table per chunk, 0.04 % of that. The smallest chunk worth
// a block is one that fills its loads, and the last wave of blocks idles for half a chunk's time: of 25 million fp32
// parameters on an H200 about 3 % at 8192 elements.
//
// In flight: a thread asks for four vectors of each tensor before it uses the first, 128 bytes for fp32 or bf16, 80 to
// 128 for mixtures and beside masters; 768 threads fit at up to 85 registers (64 spill on sm_100 and 120), 60 to 96 KiB
// for each multiprocessor. At 4.8 TB/s, two thirds of them reads, and a latency of 0.8 us an H200's 132 must have 20
// KiB in flight each: three times less. The scalar path, for what no vector can be read of, has 48 KiB for fp32 and 24
// for bf16. These are estimates; nothing here has run on a GPU. Arithmetic is some 25 instructions per number of 36
// (bf16) or 72 (fp32) that pass while memory moves one.

#include "numbers.cuh"

constexpr int THREADS = 256;

// Calls f with a number of each of the two dtypes: the first one's code + 256 times the second's.
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
// Numbers of each of two types that are moved together: 16 bytes of the wider one.
template <class A, class B> constexpr int VECTOR = 16 / (sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

// --- update ---------------------------------------------------------------------------------------------------------

__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }

// m t + (1 - m) s to half a bit of max(|t|, |s|) and little more: from the nearer of the two by the smaller weight of
// their difference, and then by what rounding left of the weight, the difference and the sum. Many GPUs have one double
// for 32 or 64 floats, so that this is cheaper than double arithmetic. Where the difference is not finite, the sum of
// both products: an infinite teacher or student gives an infinity and not NaN, and numbers near the largest do not
// overflow.
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
    void *target, *source, *master; // master: fp32, or null
    int64 count, dtypes;
};
struct Update {
    const Chunk *chunks;
    const double *at; // null: momentum is the number
    double momentum;
};

// Addresses that come out of a table: without a word the compiler takes them for any kind of memory.
template <class T> __device__ inline T *global(void *address) {
#ifdef __CUDACC__
    __builtin_assume(__isGlobal(address));
#endif
    return static_cast<T *>(address);
}

template <int V, class T> __device__ inline const Pack<T, V> *packs(const T *from) {
    return reinterpret_cast<const Pack<T, V> *>(from);
}

// Where an update begins: at the master, or at what is not the master's rounding, because somebody wrote it since.
template <class Kept, class T> __device__ inline Kept newer(Kept kept, T rounded) {
    if constexpr (sizeof(T) < sizeof(Kept)) {
        T of_master;
        narrow(kept, of_master);
        if (widen(of_master) != widen(rounded)) return widen(rounded);
    }
    return kept;
}

// kept <- moved towards source, and to rounded where that is of another type.
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
            Pack<T, V> r[UNROLL]; // read beside a master only
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

// Three blocks to a multiprocessor, or more.
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
    int64 queue_row, size; // strides are in numbers
    const void *keys;
    int64 keys_row, count, d, dtypes, vector;
    const unsigned char *position; // null: none; an integer of so many bytes
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
// Of one dtype as it is, whatever the bits of a NaN say.
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
