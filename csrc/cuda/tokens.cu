// SPDX-License-Identifier: Apache-2.0
// Moves tokens by index, and computes errors where a mask says so. This is device code.
//
//   gather    out[m B + b, P + k] = x[b, P + i] or fill, + pos             i = index[m, b, k]
//   collect   out[b, P + s] = sum of x[m B + b, P + k] over the (m, k) with index[m, b, k] = s; fill if there is none
//   sums      out[part, s] = the same sum over all samples of a part of the batch; the parts are added up afterwards
//   total     out[part] = sum of the rows of index 0 in a part of all rows, which is what sums is for a single s
//   ranks     rank of a key = how many are smaller, or equal and before it
//   errors    mean over a row of (p - (t - mean) / deviation)^2 or smooth L1, times its weight, and its gradient
//
// Cost: gather, collect and patches read and write every row once, 16 bytes at a time where all addresses allow it, and
// four times 16 bytes of a row before the first are used. Each block of collect and sums also reads the indices of its
// samples, and keeps in shared memory which of them belong to its own rows. ranks compares L^2 keys per sample. errors
// reads a row once, and its target once more from the cache for each of its two moments; it writes a row of the
// gradient where that is wanted. No sum goes through an atomic. Sums are fp32 (fp64 for fp64, and over a batch), run in
// the order of the entries, and are rounded once.

#include "numbers.cuh"

template <class W, class X, int V> __device__ inline void add(Pack<W, V> &values, const Pack<X, V> &others) {
    for (int v = 0; v < V; ++v) values.at[v] += others.at[v];
}
template <class W, int V> __device__ inline Pack<W, V> all(W value) {
    Pack<W, V> values;
    for (int v = 0; v < V; ++v) values.at[v] = value;
    return values;
}
template <class W> __device__ inline W not_a_number() { return W(nanf("")); }

// Reads an index, which is int32 or int64 as `bytes` says.
__device__ inline int64 entry(const void *index, int64 bytes, int64 at) {
    return bytes == 8 ? static_cast<const int64 *>(index)[at] : static_cast<const int *>(index)[at];
}
__device__ inline bool within(int64 i, int64 length) { return i >= 0 && i < length; }

// Divides numbers that nearly always fit 32 bits; a division of 64 bits takes some hundred instructions.
__device__ inline int64 quotient(int64 a, int64 b) { return (a | b) >> 32 ? a / b : int64(unsigned(a) / unsigned(b)); }

// A block has blockDim.y rows of one sample, and every sample has `tiles` blocks. Threads along x share a row.
struct Place {
    unsigned sample;
    int64 row;
};
__device__ inline Place place(int64 tiles) {
    const unsigned count = unsigned(tiles);
    return {blockIdx.x / count, int64(blockIdx.x % count) * blockDim.y + threadIdx.y};
}

// A thread asks for this many vectors of up to 16 bytes before it uses the first.
constexpr int LOADS = 4;

// Copies a row, plus another where `added` is one. The threads along x share it.
template <int V, class X, class W, class Out>
__device__ inline void copy_row(Out *out, const X *from, const W *added, int64 channels) {
    constexpr int VECTORS = V * sizeof(X) > 16 ? LOADS * 16 / (V * sizeof(X)) : LOADS;
    const int64 step = int64(blockDim.x) * V;
#pragma unroll 1
    for (int64 first = int64(threadIdx.x) * V; first < channels; first += VECTORS * step) {
        Pack<X, V> read[VECTORS];
#pragma unroll
        for (int u = 0; u < VECTORS; ++u)
            if (first + u * step < channels) read[u] = *packs<V>(from + first + u * step);
#pragma unroll
        for (int u = 0; u < VECTORS; ++u) {
            const int64 c = first + u * step;
            if (c >= channels) break;
            auto values = widened(read[u]);
            if (added) add(values, load<V>(added + c));
            store(out + c, values);
        }
    }
}

template <int V, class W, class Out> __device__ inline void fill_row(Out *out, W value, int64 channels) {
#pragma unroll 1
    for (int64 c = int64(threadIdx.x) * V; c < channels; c += int64(blockDim.x) * V) store(out + c, all<W, V>(value));
}

// --- gather ---------------------------------------------------------------------------------------------------------

template <class In, class Out> struct Gather {
    const In *x;
    int64 x_sample, x_row; // strides count numbers
    const void *index;     // (M, B, K)
    int64 index_bytes;
    const sum_t<Out> *fill, *pos; // null for none
    Out *out;
    int64 batch, prefix, length, kept, channels, by_place, tiles;
};

template <class In, class Out, int V> __device__ inline void gather(const Gather<In, Out> &a) {
    using W = sum_t<Out>;
    const auto [sample, row] = place(a.tiles);
    if (row >= a.prefix + a.kept) return;
    const bool front = row < a.prefix;
    const int64 i = front ? row - a.prefix : entry(a.index, a.index_bytes, sample * a.kept + row - a.prefix);
    const bool inside = front || within(i, a.length);
    const In *source = inside ? a.x + sample % unsigned(a.batch) * a.x_sample + (a.prefix + i) * a.x_row : nullptr;
    const W *beyond = i >= a.length ? a.fill : nullptr;
    const W *added = nullptr;
    if (a.pos && a.by_place)
        added = a.pos + row * a.channels;
    else if (a.pos && !front && inside)
        added = a.pos + i * a.channels;
    Out *out = a.out + (sample * (a.prefix + a.kept) + row) * a.channels;
    if (source)
        copy_row<V>(out, source, added, a.channels);
    else if (beyond)
        copy_row<V>(out, beyond, added, a.channels);
    else
        fill_row<V>(out, not_a_number<W>(), a.channels);
}

// --- arrivals -------------------------------------------------------------------------------------------------------

// Entry e of an index (sets, ., kept) is the row k = e % kept of the sample first + e / kept * apart.
struct Entries {
    const void *index;
    int64 index_bytes, first, apart;
    unsigned kept, count;

    struct Row {
        int64 sample;
        unsigned k;
    };
    __device__ Row row(unsigned e) const {
        const unsigned set = e / kept;
        return {first + set * apart, e - set * kept};
    }
    __device__ int64 operator[](unsigned e) const {
        const auto [sample, k] = row(e);
        return entry(index, index_bytes, sample * kept + k);
    }
};

// Samples of rows that may lie at any distance from each other.
template <class X> struct Strided {
    const X *x;
    int64 sample, row;

    __device__ const X *at(const Entries::Row &of) const { return x + of.sample * sample + of.k * row; }
    __device__ Strided from(int64 channel) const { return {x + channel, sample, row}; }
};

// Tells which entries arrive at the rows of a block. Their order is that of the index, whatever the order in which
// threads find them. Of a row at which more than HELD arrive only their number is known, and they are searched.
constexpr int ROWS = 256, HELD = 8;
struct Arrivals {
    unsigned count[ROWS], held[HELD][ROWS];

    // Takes rows begin to begin + rows of the output's `length`, which may begin before 0. Returns whether an index is
    // outside of it. All threads of the block meet here.
    __device__ bool find(const Entries &entries, int64 begin, int64 rows, int64 length) {
        const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
        bool outside = false;
        __syncthreads(); // others may still read what was found before
        for (unsigned row = thread; row < rows; row += threads) count[row] = 0;
        __syncthreads();
        for (unsigned first = thread; first < entries.count; first += LOADS * threads) {
            int64 index[LOADS];
#pragma unroll
            for (int u = 0; u < LOADS; ++u)
                index[u] = first + u * threads < entries.count ? entries[first + u * threads] : 0;
#pragma unroll
            for (int u = 0; u < LOADS; ++u) {
                const unsigned e = first + u * threads;
                if (e >= entries.count) continue;
                const int64 row = index[u] - begin;
                if (!within(index[u], length))
                    outside = true;
                else if (within(row, rows)) {
                    const unsigned place = atomicAdd(&count[row], 1u);
                    if (place < HELD) held[place][row] = e;
                }
            }
        }
        outside = __syncthreads_or(outside);
        for (unsigned row = thread; row < rows; row += threads) sort(row);
        __syncthreads();
        return outside;
    }

    __device__ void sort(unsigned row) {
        if (count[row] > HELD) return;
        for (unsigned n = 1; n < count[row]; ++n) {
            const unsigned e = held[n][row];
            unsigned place = n;
            for (; place > 0 && held[place - 1][row] > e; --place) held[place][row] = held[place - 1][row];
            held[place][row] = e;
        }
    }

    // Adds up a vector of each source that arrives at a row, which is that of index s. AHEAD of them are asked for
    // before the first is used.
    template <class W, int V, int AHEAD, class X>
    __device__ Pack<W, V> sum(const Entries &entries, int64 row, int64 s, const Strided<X> &x) const {
        const unsigned arrive = count[row];
        auto values = all<W, V>(W(0));
        if (arrive > HELD) {
#pragma unroll 1
            for (unsigned e = 0, n = 0; n < arrive; ++e)
                if (entries[e] == s) add(values, load<V>(x.at(entries.row(e)))), ++n;
            return values;
        }
#pragma unroll 1
        for (unsigned first = 0; first < arrive; first += AHEAD) {
            Pack<X, V> read[AHEAD];
#pragma unroll
            for (int u = 0; u < AHEAD; ++u)
                if (first + u < arrive) read[u] = *packs<V>(x.at(entries.row(held[first + u][row])));
#pragma unroll
            for (int u = 0; u < AHEAD; ++u)
                if (first + u < arrive) add(values, widened(read[u]));
        }
        return values;
    }
};

// --- collect --------------------------------------------------------------------------------------------------------

template <class In, class Out> struct Collect {
    const In *x; // (M B, P + K, C)
    int64 x_sample, x_row;
    const void *index; // (M, B, K)
    int64 index_bytes;
    const sum_t<Out> *fill; // null for zero
    Out *out;
    int64 batch, sets, prefix, length, kept, channels, strict, tiles, rows; // rows of a block
};

template <class In, class Out, int V> __device__ inline void collect(const Collect<In, Out> &a) {
    using W = sum_t<Out>;
    __shared__ Arrivals arrivals;
    const W *none = nullptr;
    const unsigned tiles = unsigned(a.tiles), sample = blockIdx.x / tiles;
    const int64 begin = blockIdx.x % tiles * a.rows, length = a.prefix + a.length;
    const int64 end = begin + a.rows < length ? begin + a.rows : length;
    const Entries entries{a.index, a.index_bytes, sample, a.batch, unsigned(a.kept), unsigned(a.sets * a.kept)};
    const bool bad = arrivals.find(entries, begin - a.prefix, end - begin, a.length) && a.strict;
    for (int64 row = begin + threadIdx.y; row < end; row += blockDim.y) {
        Out *out = a.out + (sample * length + row) * a.channels;
        const int64 c0 = int64(threadIdx.x) * V, step = int64(blockDim.x) * V;
        if (row < a.prefix) {
#pragma unroll 1
            for (int64 c = c0; c < a.channels; c += step) {
                auto values = all<W, V>(W(0));
                const In *x = a.x + sample * a.x_sample + row * a.x_row + c;
#pragma unroll 1
                for (int64 m = 0; m < a.sets; ++m) add(values, load<V>(x + m * a.batch * a.x_sample));
                store(out + c, values);
            }
            continue;
        }
        const Strided<In> x{a.x + a.prefix * a.x_row, a.x_sample, a.x_row};
        const unsigned arrive = arrivals.count[row - begin];
        if (bad)
            fill_row<V>(out, not_a_number<W>(), a.channels);
        else if (arrive == 1)
            copy_row<V>(out, x.at(entries.row(arrivals.held[0][row - begin])), none, a.channels);
        else if (arrive == 0 && a.fill)
            copy_row<V>(out, a.fill, none, a.channels);
        else
#pragma unroll 1
            for (int64 c = c0; c < a.channels; c += step)
                store(out + c, arrivals.sum<W, V, 2>(entries, row - begin, row - a.prefix, x.from(c)));
    }
}

// --- sums -----------------------------------------------------------------------------------------------------------

template <class In> struct Sums {
    const In *x; // (samples, K, C)
    int64 x_sample, x_row;
    const void *index; // (samples, K)
    int64 index_bytes;
    double *out; // (parts, L, C)
    int64 samples, per_part, length, kept, channels, tiles;
};

// The arrivals of this many samples are found at a time.
constexpr int SAMPLES = 4;

template <class In, int V> __device__ inline void sums(const Sums<In> &a) {
    __shared__ Arrivals arrivals;
    const unsigned tiles = unsigned(a.tiles), part = blockIdx.x / tiles;
    const int64 top = int64(blockIdx.x % tiles) * blockDim.y, left = a.length - top;
    const int64 row = top + threadIdx.y, width = int64(blockDim.x) * V;
    const int64 begin = part * a.per_part, end = begin + a.per_part < a.samples ? begin + a.per_part : a.samples;
    const Strided<In> x{a.x, a.x_sample, a.x_row};
    for (int64 first = blockIdx.y * width; first < a.channels; first += gridDim.y * width) {
        const int64 c = first + int64(threadIdx.x) * V;
        const bool mine = row < a.length && c < a.channels;
        auto values = all<double, V>(0.0);
        for (int64 sample = begin; sample < end; sample += SAMPLES) {
            const int64 some = end - sample < SAMPLES ? end - sample : SAMPLES;
            const Entries entries{a.index, a.index_bytes, sample, 1, unsigned(a.kept), unsigned(some * a.kept)};
            arrivals.find(entries, top, left < blockDim.y ? left : blockDim.y, a.length);
            if (mine) add(values, arrivals.sum<double, V, LOADS>(entries, threadIdx.y, row, x.from(c)));
        }
        if (mine) store(a.out + (part * a.length + row) * a.channels + c, values);
    }
}

template <class In> struct Total {
    const In *x; // (samples, K, C)
    int64 x_sample, x_row;
    const void *index; // (samples, K)
    int64 index_bytes;
    double *out; // (parts, C)
    int64 rows, per_part, kept, channels;
};

// A block has one part, and each of its threads along y every blockDim.y-th row of it.
template <class In, int V> __device__ inline void total(const Total<In> &a) {
    __shared__ Pack<double, V> shares[ROWS];
    const int64 begin = blockIdx.x * a.per_part, end = begin + a.per_part < a.rows ? begin + a.per_part : a.rows;
    const int64 width = int64(blockDim.x) * V;
    for (int64 first = blockIdx.y * width; first < a.channels; first += gridDim.y * width) {
        const int64 c = first + int64(threadIdx.x) * V;
        auto values = all<double, V>(0.0);
        for (int64 row = begin + threadIdx.y; c < a.channels && row < end; row += LOADS * blockDim.y) {
            Pack<In, V> read[LOADS];
            bool taken[LOADS];
#pragma unroll
            for (int u = 0; u < LOADS; ++u) {
                const int64 n = row + int64(u) * blockDim.y;
                taken[u] = n < end && entry(a.index, a.index_bytes, n) == 0;
            }
#pragma unroll
            for (int u = 0; u < LOADS; ++u)
                if (taken[u]) {
                    const int64 n = row + int64(u) * blockDim.y, sample = quotient(n, a.kept);
                    read[u] = *packs<V>(a.x + sample * a.x_sample + (n - sample * a.kept) * a.x_row + c);
                }
#pragma unroll
            for (int u = 0; u < LOADS; ++u)
                if (taken[u]) add(values, widened(read[u]));
        }
        shares[threadIdx.y * blockDim.x + threadIdx.x] = values;
        __syncthreads();
        if (threadIdx.y == 0 && c < a.channels) {
            for (unsigned y = 1; y < blockDim.y; ++y) add(values, shares[y * blockDim.x + threadIdx.x]);
            store(a.out + int64(blockIdx.x) * a.channels + c, values);
        }
        __syncthreads();
    }
}

// --- ranks ----------------------------------------------------------------------------------------------------------

template <class Key> struct Ranks {
    const Key *keys; // (B, L)
    int64 *ids_keep, *ids_restore;
    float *mask;
    int64 length, keep, tiles;
};

// Orders numbers with NaN last, as torch.argsort does.
template <class W> __device__ inline bool before(W a, W b) { return a < b || (b != b && a == a); }

template <class Key> __device__ inline void ranks(const Ranks<Key> &a) {
    const auto [sample, i] = place(a.tiles);
    if (i >= a.length) return;
    const Key *keys = a.keys + sample * a.length;
    const auto key = widen(keys[i]);
    int64 rank = 0;
    for (int64 j = 0; j < i; ++j) rank += !before(key, widen(keys[j]));
    for (int64 j = i + 1; j < a.length; ++j) rank += before(widen(keys[j]), key);
    if (rank < a.keep) a.ids_keep[sample * a.keep + rank] = i;
    a.ids_restore[sample * a.length + i] = rank;
    a.mask[sample * a.length + i] = rank < a.keep ? 0.0f : 1.0f;
}

// --- patches --------------------------------------------------------------------------------------------------------

template <class T> struct Patches {
    const T *images;   // (B, channels, H, W)
    const void *index; // (B, K)
    int64 index_bytes;
    T *out; // (B, K, channels p p)
    int64 kept, channels, height, width, patch, tiles;
};

template <class T, int V> __device__ inline void patches(const Patches<T> &a) {
    using W = sum_t<T>;
    const auto [sample, row] = place(a.tiles);
    if (row >= a.kept) return;
    const int64 p = a.patch, across = a.width / p, i = entry(a.index, a.index_bytes, sample * a.kept + row);
    const bool inside = within(i, a.height / p * across);
    const T *corner =
        inside ? a.images + sample * a.channels * a.height * a.width + i / across * p * a.width + i % across * p
               : nullptr;
    const int64 size = a.channels * p * p;
    T *out = a.out + (sample * a.kept + row) * size;
    for (int64 c = threadIdx.x * V; c < size; c += blockDim.x * V) {
        const unsigned line = unsigned(c) / unsigned(p), x = unsigned(c) % unsigned(p);
        const unsigned channel = line / unsigned(p), y = line % unsigned(p);
        store(out + c,
              inside ? load<V>(corner + (channel * a.height + y) * a.width + x) : all<W, V>(not_a_number<W>()));
    }
}

// --- errors ---------------------------------------------------------------------------------------------------------

// These say how the rows of the target are standardised; 2 stands for LayerNorm.
constexpr int64 NO_NORM = 0, MAE_NORM = 1;

template <class P, class T> struct Errors {
    const P *pred;
    int64 pred_sample, pred_row;
    const T *target;
    int64 target_sample, target_row;
    const sum_t<P> *weights, *total; // (R,), and their sum
    const sum_t<P> *grad;            // one number that multiplies the gradient; null for 1
    sum_t<P> *errors;                // (R,), each times its share of the weights
    P *dpred;                        // (R, C), or null
    int64 rows, tokens, channels, norm;
    double beta;
};

template <class W> __device__ inline W warp_sum(W value) {
    for (int apart = 16; apart; apart /= 2) value += __shfl_xor_sync(0xffffffff, value, apart);
    return value;
}
template <class W> __device__ inline W warp_max(W value) {
    for (int apart = 16; apart; apart /= 2) {
        const W other = __shfl_xor_sync(0xffffffff, value, apart);
        value = other > value ? other : value;
    }
    return value;
}

// A warp has one row. Its threads meet in every sum, and each gets the result.
template <class P, class T, int V> __device__ inline void errors(const Errors<P, T> &a) {
    using W = sum_t<P>;
    const int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y, step = 32 * V;
    if (row >= a.rows) return;
    const int64 sample = quotient(row, a.tokens), token = row - sample * a.tokens;
    const P *pred = a.pred + sample * a.pred_sample + token * a.pred_row;
    const T *target = a.target + sample * a.target_sample + token * a.target_row;
    const bool counts = a.weights[row] != 0;
    const W all_weights = *a.total < 1 ? W(1) : *a.total, part = a.weights[row] / all_weights;
    const W scale = (a.grad ? *a.grad : W(1)) * part / W(a.channels);
    const int64 begin = counts ? threadIdx.x * V : a.channels; // a row without a weight is not read
    W mean = 0, inverse = 1, error = 0, peak = 1;
    if (counts && a.norm != NO_NORM) {
        for (int64 c = begin; c < a.channels; c += step) {
            const auto t = load<V>(target + c);
            for (int v = 0; v < V; ++v) {
                const W size = t.at[v] < 0 ? -t.at[v] : t.at[v];
                mean += t.at[v], peak = size > peak ? size : peak;
            }
        }
        mean = warp_sum(mean) / W(a.channels);
        peak = warp_max(peak);
        W squares = 0;
        for (int64 c = begin; c < a.channels; c += step) {
            const auto t = load<V>(target + c);
            for (int v = 0; v < V; ++v) {
                const W away = (t.at[v] - mean) / peak; // squares of large numbers would leave the range
                squares += away * away;
            }
        }
        const bool mae = a.norm == MAE_NORM;
        const W variance = warp_sum(squares) / W(mae ? a.channels - 1 : a.channels);
        inverse = 1 / sqrt(variance + W(mae ? 1e-6 : 1e-5) / peak / peak) / peak;
    }
    const W beta = W(a.beta), bend = beta == 0 ? W(1) : W(0.5) / beta;
    const W share = W(1) / W(a.channels); // every error is divided, because a sum of large ones may leave the range
    for (int64 c = begin; c < a.channels; c += step) {
        const auto p = load<V>(pred + c);
        const auto t = load<V>(target + c);
        Pack<W, V> slopes;
        for (int v = 0; v < V; ++v) {
            const W difference = p.at[v] - (t.at[v] - mean) * inverse, size = difference < 0 ? -difference : difference;
            error += (beta == 0 || size < beta ? difference * difference * bend : size - W(0.5) * beta) * share;
            const W slope = beta == 0 ? 2 * difference : difference / beta;
            // comparisons keep NaN, where min and max would lose it
            slopes.at[v] = scale * (beta == 0 ? slope : slope > 1 ? W(1) : slope < -1 ? W(-1) : slope);
        }
        if (a.dpred && scale != 0) store(a.dpred + row * a.channels + c, slopes);
    }
    if (a.dpred && !(counts && scale != 0))
        for (int64 c = threadIdx.x * V; c < a.channels; c += step)
            store(a.dpred + row * a.channels + c, all<W, V>(W(0)));
    error = warp_sum(error);
    if (threadIdx.x == 0) a.errors[row] = counts ? error * part : W(0);
}

// --- kernels --------------------------------------------------------------------------------------------------------

template <class A, class B> constexpr int VECTOR = 16 / (sizeof(A) < sizeof(B) ? sizeof(A) : sizeof(B));

#define PAIR(BODY, ARGUMENTS, A, B)                                                                                    \
    extern "C" __global__ void BODY##_##A##_##B##_scalar(ARGUMENTS<A, B> a) { BODY<A, B, 1>(a); }                      \
    extern "C" __global__ void BODY##_##A##_##B##_vector(ARGUMENTS<A, B> a) { BODY<A, B, VECTOR<A, B>>(a); }
#define PAIRS(BODY, ARGUMENTS)                                                                                         \
    PAIR(BODY, ARGUMENTS, f32, f32)                                                                                    \
    PAIR(BODY, ARGUMENTS, f32, bf16)                                                                                   \
    PAIR(BODY, ARGUMENTS, f32, f16)                                                                                    \
    PAIR(BODY, ARGUMENTS, bf16, f32)                                                                                   \
    PAIR(BODY, ARGUMENTS, bf16, bf16)                                                                                  \
    PAIR(BODY, ARGUMENTS, f16, f32)                                                                                    \
    PAIR(BODY, ARGUMENTS, f16, f16)                                                                                    \
    PAIR(BODY, ARGUMENTS, f64, f64)
#define ONE(BODY, ARGUMENTS, A)                                                                                        \
    extern "C" __global__ void BODY##_##A##_scalar(ARGUMENTS<A> a) { BODY<A, 1>(a); }                                  \
    extern "C" __global__ void BODY##_##A##_vector(ARGUMENTS<A> a) { BODY<A, VECTOR<A, A>>(a); }
#define EACH(BODY, ARGUMENTS)                                                                                          \
    ONE(BODY, ARGUMENTS, f32) ONE(BODY, ARGUMENTS, bf16) ONE(BODY, ARGUMENTS, f16) ONE(BODY, ARGUMENTS, f64)

PAIRS(gather, Gather)
PAIRS(collect, Collect)
PAIRS(errors, Errors)
EACH(sums, Sums)
EACH(total, Total)
EACH(patches, Patches)
extern "C" __global__ void ranks_f32(Ranks<f32> a) { ranks(a); }
extern "C" __global__ void ranks_bf16(Ranks<bf16> a) { ranks(a); }
extern "C" __global__ void ranks_f16(Ranks<f16> a) { ranks(a); }
extern "C" __global__ void ranks_f64(Ranks<f64> a) { ranks(a); }
