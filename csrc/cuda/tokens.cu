// SPDX-License-Identifier: Apache-2.0
// Moves tokens by index, and computes errors where a mask says so. This is device code.
//
//   gather    out[m B + b, P + k] = x[b, P + i] or fill, + pos             i = index[m, b, k]
//   invert    first[b, s] = the least e = m K + k with index[m, b, k] = s
//   chain     next[b, e] = the next e of the same s
//   collect   out[b, P + s] = sum of x[m B + b, P + k] over the chain that first[b, s] begins; fill where it is empty
//   sums      out[part, s] = the same sum over all samples of a part of the batch; the parts are added up afterwards
//   ranks     rank of a key = how many are smaller, or equal and before it
//   errors    mean over a row of (p - (t - mean) / deviation)^2 or smooth L1, times its weight, and its gradient
//
// Cost: gather, collect and patches read and write every row once, 16 bytes at a time where all addresses allow
// it. invert is one atomic minimum per index. chain reads the indices after each one, but only in samples where an
// index appears twice. ranks compares L^2 keys per sample. errors reads a row once, and its target once more from the
// cache for each of its two moments; it writes a row of the gradient where that is wanted. No sum goes through an
// atomic. Sums are fp32 (fp64 for fp64, and over a batch), run in the order of the entries, and are rounded once.

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

// A block has blockDim.y rows of one sample, and every sample has `tiles` blocks. Threads along x share a row.
struct Place {
    int64 sample, row;
};
__device__ inline Place place(int64 tiles) {
    const unsigned count = unsigned(tiles);
    return {blockIdx.x / count, int64(blockIdx.x % count) * blockDim.y + threadIdx.y};
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
    const In *source = inside ? a.x + sample % a.batch * a.x_sample + (a.prefix + i) * a.x_row : nullptr;
    const W *beyond = i >= a.length ? a.fill : nullptr;
    const W *added = nullptr;
    if (a.pos && a.by_place)
        added = a.pos + row * a.channels;
    else if (a.pos && !front && inside)
        added = a.pos + i * a.channels;
    Out *out = a.out + (sample * (a.prefix + a.kept) + row) * a.channels;
    for (int64 c = threadIdx.x * V; c < a.channels; c += blockDim.x * V) {
        auto values = source ? load<V>(source + c) : beyond ? load<V>(beyond + c) : all<W, V>(not_a_number<W>());
        if (added) add(values, load<V>(added + c));
        store(out + c, values);
    }
}

// --- collect --------------------------------------------------------------------------------------------------------

// No entry arrives where `first` is EMPTY. After its L places a sample has two more: the first entry that repeats the
// index of an earlier one, and the first whose index is out of range.
constexpr unsigned EMPTY = 0xffffffff;

struct Invert {
    const void *index; // (M, B, K)
    int64 index_bytes;
    unsigned *first, *next; // (B, L + 2), all EMPTY at first; (B, M K)
    int64 batch, sets, kept, length, tiles;
};

__device__ inline int64 indexed(const Invert &a, int64 sample, int64 e) {
    return entry(a.index, a.index_bytes, (e / a.kept * a.batch + sample) * a.kept + e % a.kept);
}

extern "C" __global__ void invert(Invert a) {
    const auto [sample, e] = place(a.tiles);
    if (e >= a.sets * a.kept) return;
    unsigned *first = a.first + sample * (a.length + 2), *repeated = first + a.length, *outside = repeated + 1;
    const int64 i = indexed(a, sample, e);
    if (!within(i, a.length)) {
        atomicMin(outside, unsigned(e));
        return;
    }
    // In whatever order the entries of an index come, each but the first is the later one of exactly one such pair.
    const unsigned other = atomicMin(first + i, unsigned(e));
    if (other != EMPTY) atomicMin(repeated, other < e ? unsigned(e) : other);
}

extern "C" __global__ void chain(Invert a) {
    const auto [sample, e] = place(a.tiles);
    const int64 entries = a.sets * a.kept;
    if (e >= entries) return;
    const unsigned repeated = a.first[sample * (a.length + 2) + a.length];
    if (repeated == EMPTY) return;
    const int64 i = indexed(a, sample, e);
    int64 later = e < repeated ? repeated : e + 1;
    while (later < entries && indexed(a, sample, later) != i) ++later;
    a.next[sample * entries + e] = later < entries ? unsigned(later) : EMPTY;
}

template <class In, class Out> struct Collect {
    const In *x; // (M B, P + K, C)
    int64 x_sample, x_row;
    const unsigned *first, *next;
    const sum_t<Out> *fill; // null for zero
    Out *out;
    int64 batch, sets, prefix, length, kept, channels, strict, tiles;
};

template <class In, class Out, int V> __device__ inline void collect(const Collect<In, Out> &a) {
    using W = sum_t<Out>;
    const auto [sample, row] = place(a.tiles);
    if (row >= a.prefix + a.length) return;
    const In *x = a.x + sample * a.x_sample;
    const unsigned *first = a.first + sample * (a.length + 2), *next = a.next + sample * a.sets * a.kept;
    const bool front = row < a.prefix, repeats = first[a.length] != EMPTY;
    const bool bad = !front && a.strict && first[a.length + 1] != EMPTY;
    const unsigned arrived = front ? EMPTY : first[row - a.prefix];
    Out *out = a.out + (sample * (a.prefix + a.length) + row) * a.channels;
    for (int64 c = threadIdx.x * V; c < a.channels; c += blockDim.x * V) {
        auto values = all<W, V>(bad ? not_a_number<W>() : W(0));
        if (front) {
            for (int64 m = 0; m < a.sets; ++m) add(values, load<V>(x + m * a.batch * a.x_sample + row * a.x_row + c));
        } else if (!bad && arrived == EMPTY && a.fill) {
            values = load<V>(a.fill + c);
        } else if (!bad) {
            for (unsigned e = arrived; e != EMPTY; e = repeats ? next[e] : EMPTY) {
                const int64 m = e / a.kept, k = e % a.kept;
                add(values, load<V>(x + m * a.batch * a.x_sample + (a.prefix + k) * a.x_row + c));
            }
        }
        store(out + c, values);
    }
}

template <class In> struct Sums {
    const In *x; // (samples, K, C)
    int64 x_sample, x_row;
    const unsigned *first, *next;
    double *out; // (parts, L, C)
    int64 samples, per_part, length, kept, channels, tiles;
};

template <class In, int V> __device__ inline void sums(const Sums<In> &a) {
    const auto [part, row] = place(a.tiles);
    if (row >= a.length) return;
    const int64 begin = part * a.per_part, end = begin + a.per_part < a.samples ? begin + a.per_part : a.samples;
    double *out = a.out + (part * a.length + row) * a.channels;
    for (int64 c = (int64(blockIdx.y) * blockDim.x + threadIdx.x) * V; c < a.channels;
         c += gridDim.y * blockDim.x * V) {
        auto values = all<double, V>(0.0);
        for (int64 sample = begin; sample < end; ++sample) {
            const unsigned *first = a.first + sample * (a.length + 2), *next = a.next + sample * a.kept;
            const bool repeats = first[a.length] != EMPTY;
            for (unsigned e = first[row]; e != EMPTY; e = repeats ? next[e] : EMPTY)
                add(values, load<V>(a.x + sample * a.x_sample + e * a.x_row + c));
        }
        store(out + c, values);
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

// How the rows of the target are standardised; 2 stands for LayerNorm.
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
    const P *pred = a.pred + row / a.tokens * a.pred_sample + row % a.tokens * a.pred_row;
    const T *target = a.target + row / a.tokens * a.target_sample + row % a.tokens * a.target_row;
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
EACH(patches, Patches)
extern "C" __global__ void ranks_f32(Ranks<f32> a) { ranks(a); }
extern "C" __global__ void ranks_bf16(Ranks<bf16> a) { ranks(a); }
extern "C" __global__ void ranks_f16(Ranks<f16> a) { ranks(a); }
extern "C" __global__ void ranks_f64(Ranks<f64> a) { ranks(a); }
