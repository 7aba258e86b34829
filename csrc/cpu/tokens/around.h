// SPDX-License-Identifier: Apache-2.0
// Writes results that are too large for the caches around them. ../huge_pages.h says which ones are.
#pragma once
#include "../huge_pages.h"
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t kLine = 64;
inline void put_line(char *to, const char *from) {
    _mm512_stream_si512(reinterpret_cast<__m512i *>(to), _mm512_loadu_si512(from));
}
#elif defined(__AVX__)
constexpr int64_t kLine = 32;
inline void put_line(char *to, const char *from) {
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
#elif defined(__SSE2__)
constexpr int64_t kLine = 16;
inline void put_line(char *to, const char *from) {
    _mm_stream_si128(reinterpret_cast<__m128i *>(to), _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
#else
constexpr int64_t kLine = 0;
inline void put_line(char *, const char *) {}
#endif

inline bool whole_lines(const void *to, int64_t bytes) {
    constexpr int64_t line = kLine ? kLine : 1;
    return kLine && reinterpret_cast<uintptr_t>(to) % line == 0 && bytes % line == 0;
}
// Copies as memcpy does, but around the caches where `around` says so and lines are whole and aligned.
inline void put(void *to_, const void *from_, int64_t bytes, bool around) {
    char *to = static_cast<char *>(to_);
    const char *from = static_cast<const char *>(from_);
    if (!around || !whole_lines(to, bytes)) {
        memcpy(to, from, bytes);
        return;
    }
    for (int64_t k = 0; k < bytes; k += kLine) put_line(to + k, from + k);
}
inline void put_zeros(void *to_, int64_t bytes, bool around) {
    alignas(64) static const char zeros[64] = {};
    char *to = static_cast<char *>(to_);
    if (!around || !whole_lines(to, bytes)) {
        memset(to, 0, bytes);
        return;
    }
    for (int64_t k = 0; k < bytes; k += kLine) put_line(to + k, zeros);
}
// Lets other threads see what was written around the caches.
inline void done_around() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

} // namespace
