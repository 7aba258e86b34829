// SPDX-License-Identifier: Apache-2.0
// Defines numbers of four dtypes, and loads and stores them. This is device code that includes no header: nvcc finds
// this text beside the kernels that include it, NVRTC is given it, and the tests compile it for a processor.
#pragma once

using int64 = long long;
using f32 = float;
using f64 = double;
struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

// The type in which numbers of type T are added up.
template <class T> struct Sum {
    using type = float;
};
template <> struct Sum<double> {
    using type = double;
};
template <class T> using sum_t = typename Sum<T>::type;

#ifdef __CUDACC__
__device__ inline float half_value(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ inline unsigned float_bits(float value) { return __float_as_uint(value); }
__device__ inline float float_of(unsigned bits) { return __uint_as_float(bits); }
#endif

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(f16 x) { return half_value(x.bits); }
__device__ inline float widen(bf16 x) { return float_of(unsigned(x.bits) << 16); }

__device__ inline void narrow(float x, float &to) { to = x; }
__device__ inline void narrow(double x, double &to) { to = x; }
__device__ inline void narrow(float x, f16 &to) { to.bits = half_bits(x); }
__device__ inline void narrow(float x, bf16 &to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    const unsigned bits = float_bits(x);
    to.bits = x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}
__device__ inline void narrow(float x, double &to) { to = x; }
template <class T> __device__ inline void narrow(double x, T &to) { narrow(float(x), to); } // as PyTorch does

// V numbers that lie side by side. They are read and written 16 bytes at a time, or all at once where they have fewer.
template <class T, int V> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
    T at[V];
};
template <int V, class T> __device__ inline const Pack<T, V> *packs(const T *from) {
    return reinterpret_cast<const Pack<T, V> *>(from);
}
template <class T, int V> __device__ inline Pack<sum_t<T>, V> widened(const Pack<T, V> &read) {
    Pack<sum_t<T>, V> values;
    for (int v = 0; v < V; ++v) values.at[v] = widen(read.at[v]);
    return values;
}
template <int V, class T> __device__ inline Pack<sum_t<T>, V> load(const T *from) {
    const Pack<T, V> read = *packs<V>(from); // one access; numbers by themselves would be several
    return widened(read);
}
// Writes to global memory. nvcc may divide the assignment of a struct into its numbers, so 16 bytes are written by
// hand.
template <class T, int V> __device__ inline void put(T *to, const Pack<T, V> &values) {
#ifdef __CUDACC__
    if constexpr (sizeof values % 16 == 0) {
        const uint4 *part = reinterpret_cast<const uint4 *>(&values);
        for (unsigned i = 0; i < sizeof values / 16; ++i)
            asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to) + 16 * i),
                         "r"(part[i].x), "r"(part[i].y), "r"(part[i].z), "r"(part[i].w)
                         : "memory");
        return;
    }
#endif
    *reinterpret_cast<Pack<T, V> *>(to) = values;
}
template <class T, class W, int V> __device__ inline void store(T *to, const Pack<W, V> &values) {
    Pack<T, V> written;
    for (int v = 0; v < V; ++v) narrow(values.at[v], written.at[v]);
    put(to, written);
}
