// SPDX-License-Identifier: Apache-2.0
// The policy that multiplies bfloat16 pairs on the matrix unit (AMX). A step multiplies 16 rows x 16 pairs by 16 pairs
// x 16 lanes into fp32 tiles. A register tile is 16 x 48 and takes seven tiles of the unit: three sums, one for the
// left side and three for the right. Weights by owner are transposed, because the unit takes pairs along the rows of
// its left side. With SSLK_EMULATE_AMX the policy runs on arrays, so that its layout can be tested on any AVX512-BF16
// processor.
#pragma once
#include "tiles.h"

#if defined(__AMX_BF16__) || defined(SSLK_EMULATE_AMX)
#define SSLK_MATRIX 1

namespace {

// GCC does not know that tile loads read memory. This makes it write what stands at p before they run.
inline void written(const void *p) { asm volatile("" : : "r"(p) : "memory"); }

#if defined(SSLK_EMULATE_AMX)

struct EmulatedTile {
    uint32_t row[16][16];
};
thread_local EmulatedTile emulated[8];

inline void emulated_load(EmulatedTile &t, const void *from, int64_t stride) {
    for (int i = 0; i < 16; ++i) memcpy(t.row[i], static_cast<const char *>(from) + i * stride, 64);
}
inline void emulated_store(const EmulatedTile &t, void *to, int64_t stride) {
    for (int i = 0; i < 16; ++i) memcpy(static_cast<char *>(to) + i * stride, t.row[i], 64);
}
inline void emulated_multiply(EmulatedTile &c, const EmulatedTile &a, const EmulatedTile &b) {
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 16; ++n)
                c.row[m][n] =
                    to_bits(from_bits(c.row[m][n]) + from_bits(a.row[m][k] << 16) * from_bits(b.row[k][n] << 16) +
                            from_bits(a.row[m][k] & 0xffff0000u) * from_bits(b.row[k][n] & 0xffff0000u));
}
#define SSLK_TILE_ZERO(t) memset(&emulated[t], 0, sizeof emulated[t])
#define SSLK_TILE_LOAD(t, from, stride) emulated_load(emulated[t], from, stride)
#define SSLK_TILE_STORE(t, to, stride) emulated_store(emulated[t], to, stride)
#define SSLK_TILE_MULTIPLY(c, a, b) emulated_multiply(emulated[c], emulated[a], emulated[b])

struct TileSession {};

#else

#define SSLK_TILE_ZERO(t) _tile_zero(t)
#define SSLK_TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define SSLK_TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define SSLK_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

struct TileSession { // eight tiles of 16 rows x 64 bytes
    TileSession() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        static_assert(sizeof shape == 64, "the layout LDTILECFG reads");
        written(&shape);
        _tile_loadconfig(&shape);
    }
    ~TileSession() { _tile_release(); }
};

#endif

struct Matrix : Pairs {
    static constexpr int kAlign = 16;
    static constexpr bool kOwnerRows = true;
    static constexpr int MR = 16;
    using Session = TileSession;

    static void keep(const float *g, int64_t m, int64_t n, uint32_t *by_other, uint32_t *by_owner) {
        uint16_t *rows = reinterpret_cast<uint16_t *>(by_other) + m * kBlock + n;
        for (int v = 0; v < NR; v += 16) {
            __m512i pairs[8];
            for (int p = 0; p < 8; ++p)
                pairs[p] = round_pair(g, 2 * p, v, rows + 2 * p * kBlock, rows + (2 * p + 1) * kBlock);
            transpose(pairs, by_owner + (n + v) * (kBlock / 2) + m / 2);
        }
    }
    // pairs[p] holds lanes n = 0..15; to[n] receives pairs 0..7.
    static SSLK_INLINE void transpose(const __m512i (&pairs)[8], uint32_t *to) {
        __m512i quads[8]; // quads[4h + j]: pairs 4h..4h+3 of lanes j, 4 + j, 8 + j, 12 + j
        for (int h = 0; h < 2; ++h) {
            const __m512i *p = pairs + 4 * h;
            const __m512i a = _mm512_unpacklo_epi32(p[0], p[1]), b = _mm512_unpackhi_epi32(p[0], p[1]);
            const __m512i c = _mm512_unpacklo_epi32(p[2], p[3]), e = _mm512_unpackhi_epi32(p[2], p[3]);
            quads[4 * h] = _mm512_unpacklo_epi64(a, c);
            quads[4 * h + 1] = _mm512_unpackhi_epi64(a, c);
            quads[4 * h + 2] = _mm512_unpacklo_epi64(b, e);
            quads[4 * h + 3] = _mm512_unpackhi_epi64(b, e);
        }
        const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        for (int j = 0; j < 4; ++j) {
            const __m512i low = _mm512_permutex2var_epi64(quads[j], first, quads[4 + j]);
            const __m512i high = _mm512_permutex2var_epi64(quads[j], second, quads[4 + j]);
            const __m256i lane[4] = {_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1),
                                     _mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1)};
            for (int q = 0; q < 4; ++q) memcpy(to + (4 * q + j) * (kBlock / 2), &lane[q], 32);
        }
    }
    // The unit reads whole steps, so weights past the last strip are set to zero: an earlier block may have left
    // others.
    static void clear_tails(uint32_t *by_other, uint32_t *by_owner, int64_t others, int64_t owners) {
        const int64_t strips = (others + MR - 1) / MR * (MR / 2), lanes = (owners + NR - 1) / NR * (NR / 2);
        const int64_t pairs = (others + 31) / 32 * 16, steps = (owners + 31) / 32 * 16;
        for (int64_t n = 0; pairs > strips && n < 2 * lanes; ++n)
            memset(by_owner + n * (kBlock / 2) + strips, 0, (pairs - strips) * 4);
        for (int64_t m = 0; steps > lanes && m < 2 * strips; ++m)
            memset(by_other + m * (kBlock / 2) + lanes, 0, (steps - lanes) * 4);
    }
};

template <>
inline void dot_tile<Matrix>(const uint32_t *a, int64_t panel, const uint32_t *b, int64_t steps, float *s, int) {
    constexpr int64_t kRow = Matrix::NR * 4; // bytes
    written(a);
    SSLK_TILE_ZERO(0);
    SSLK_TILE_ZERO(1);
    SSLK_TILE_ZERO(2);
    for (int64_t k = 0; k < steps; k += 16, b += 16 * Matrix::NR) {
        SSLK_TILE_LOAD(3, a + k / Matrix::NR * panel + k % Matrix::NR, kRow);
        SSLK_TILE_LOAD(4, b, kRow);
        SSLK_TILE_MULTIPLY(0, 3, 4);
        SSLK_TILE_LOAD(5, b + 16, kRow);
        SSLK_TILE_MULTIPLY(1, 3, 5);
        SSLK_TILE_LOAD(6, b + 32, kRow);
        SSLK_TILE_MULTIPLY(2, 3, 6);
    }
    SSLK_TILE_STORE(0, s, kRow);
    SSLK_TILE_STORE(1, s + 16, kRow);
    SSLK_TILE_STORE(2, s + 32, kRow);
}

template <>
inline void grad_tile<Matrix>(const uint32_t *a, int64_t am, int64_t, const uint32_t *b, int64_t steps, float *c,
                              int64_t ldc, int rows, int vectors) {
    constexpr int64_t kRow = Matrix::NR * 4;
    written(a);
    float sums[Matrix::MR * Matrix::NR];
    SSLK_TILE_ZERO(0);
    SSLK_TILE_ZERO(1);
    SSLK_TILE_ZERO(2);
    for (int64_t k = 0; k < steps; k += 16, b += 16 * Matrix::NR) {
        SSLK_TILE_LOAD(3, a + k, am * 4);
        SSLK_TILE_LOAD(4, b, kRow);
        SSLK_TILE_MULTIPLY(0, 3, 4);
        if (vectors > 1) {
            SSLK_TILE_LOAD(5, b + 16, kRow);
            SSLK_TILE_MULTIPLY(1, 3, 5);
        }
        if (vectors > 2) {
            SSLK_TILE_LOAD(6, b + 32, kRow);
            SSLK_TILE_MULTIPLY(2, 3, 6);
        }
    }
    SSLK_TILE_STORE(0, sums, kRow);
    SSLK_TILE_STORE(1, sums + 16, kRow);
    SSLK_TILE_STORE(2, sums + 32, kRow);
    for (int m = 0; m < rows; ++m)
        for (int v = 0; v < vectors; ++v) {
            float *at = c + m * ldc + v * 16;
            store(at, load(at) + load(sums + m * Matrix::NR + v * 16));
        }
}

} // namespace
#endif
