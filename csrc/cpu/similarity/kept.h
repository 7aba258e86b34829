// SPDX-License-Identifier: Apache-2.0
// Memory in which a call's forward leaves its exponentials for the gradient. For each tile it holds e^(t - top), or the
// logits t where the tile shared no maximum; its top is NaN then. This saves the gradient a product of all pairs and
// their exponentials, and costs one write and one read of every pair.
//   rectangle   tiles lie on one grid whatever the blocks are, so that any schedule finds them
//   triangle    x with itself: each pair of blocks has a slot. Which of the two was the owner depends on the number of
//               threads and the size of blocks, so a gradient with others does not read it.
#pragma once
#include "../integers.h"
#include "../vector.h"

namespace {

template <class P> struct Kept {
    using Acc = typename P::Acc;
    static constexpr int64_t kTile = P::MR * P::NR;
    static constexpr int64_t kUnit = P::NR % P::MR ? 2 * P::NR : P::NR; // rows; blocks start on the grid of tiles
    struct Header {
        int64_t triangle, threads, block;
    } *header = nullptr;
    Acc *tops = nullptr, *tiles = nullptr;
    int64_t across = 0, down = 0, side = 0; // tiles in a row and in a column of the grid; rows in a slot

    Kept() = default;
    // For the forward, which notes how blocks will meet.
    Kept(void *memory, int64_t owners, int64_t others, Header meant) {
        if (!memory) return;
        *static_cast<Header *>(memory) = meant;
        *this = Kept(memory, owners, others);
    }
    // For the gradient, which reads what the forward noted.
    Kept(void *memory, int64_t owners, int64_t others) {
        if (!memory) return;
        header = static_cast<Header *>(memory);
        across = (owners + P::NR - 1) / P::NR, down = (others + P::MR - 1) / P::MR;
        side = least(header->block, round_up(owners > 0 ? owners : 1, kUnit));
        tops = reinterpret_cast<Acc *>(static_cast<char *>(memory) + 64);
        tiles = tops + round_up(count(), kLanes<Acc>);
    }
    // How many bytes all pairs take, or a triangle of them: any two blocks of at most 192 rows have a slot. Sides of
    // tiles divide 48, and each tile of at least 24 has a maximum.
    static int64_t bytes(int64_t owners, int64_t others, bool triangle) {
        const int64_t n = round_up(owners, 48), m = round_up(others, 48);
        const int64_t pairs = triangle ? (n + 192) * (n + 384) / 2 : n * m;
        return (pairs / 24 * 25 + 64) * int64_t(sizeof(Acc));
    }
    int64_t count() const {
        if (!header->triangle) return across * down;
        const int64_t blocks = (across * P::NR + side - 1) / side;
        return blocks * (blocks + 1) / 2 * (side / P::MR) * (side / P::NR);
    }
    // The index of the tile of owners from o0 + n0 and others from i0 + m0, where o0 and i0 begin a block.
    int64_t place(int64_t o0, int64_t i0, int64_t n0, int64_t m0) const {
        if (!header->triangle) return (i0 + m0) / P::MR * across + (o0 + n0) / P::NR;
        const int64_t a = o0 / side, b = i0 / side, high = a > b ? a : b, low = a > b ? b : a;
        return ((high * (high + 1) / 2 + low) * (side / P::MR) + m0 / P::MR) * (side / P::NR) + n0 / P::NR;
    }
};

} // namespace
