// SPDX-License-Identifier: Apache-2.0
// Memory in which a call's forward leaves its exponentials for the gradient. For each tile it holds e^(t - top), or the
// logits t where the tile shared no maximum; its top is NaN then. This saves the gradient a product of all pairs and
// their exponentials, and costs one write and one read of every pair.
// Each pair of blocks has a slot. A triangle, x with itself, has slots below its diagonal alone. Which of two blocks
// was the owner there depends on the number of threads, so a gradient with other threads does not read it.
#pragma once
#include "../integers.h"
#include "../vector.h"

namespace {

struct Layout { // of owners and others in blocks of at most so many rows
    int64_t owners, owner_side, others, other_side;
    bool triangle;
};

template <class P> struct Kept {
    using Acc = typename P::Acc;
    static constexpr int64_t kTile = P::MR * P::NR;
    Layout of{};
    Acc *tops = nullptr, *tiles = nullptr;
    int64_t *threads = nullptr; // of the forward

    Kept() = default;
    Kept(void *memory, Layout layout) : of(layout) {
        if (!memory) return;
        threads = static_cast<int64_t *>(memory);
        tops = reinterpret_cast<Acc *>(static_cast<char *>(memory) + 64);
        tiles = tops + round_up(count(of), kLanes<Acc>);
    }
    static int64_t parts(int64_t rows, int64_t side) { return (rows + side - 1) / side; }
    static int64_t count(const Layout &of) {
        const int64_t owners = parts(of.owners, of.owner_side), others = parts(of.others, of.other_side);
        const int64_t slots = of.triangle ? owners * (owners + 1) / 2 : owners * others;
        return slots * parts(of.other_side, P::MR) * parts(of.owner_side, P::NR);
    }
    static int64_t bytes(const Layout &of) {
        return 64 + (round_up(count(of), kLanes<Acc>) + count(of) * kTile) * int64_t(sizeof(Acc));
    }
    // The index of the tile of owners from o0 + n0 and others from i0 + m0, where o0 and i0 begin a block.
    int64_t place(int64_t o0, int64_t i0, int64_t n0, int64_t m0) const {
        const int64_t a = o0 / of.owner_side, b = i0 / of.other_side, high = a > b ? a : b, low = a > b ? b : a;
        const int64_t slot = of.triangle ? high * (high + 1) / 2 + low : b * parts(of.owners, of.owner_side) + a;
        return (slot * parts(of.other_side, P::MR) + m0 / P::MR) * parts(of.owner_side, P::NR) + n0 / P::NR;
    }
};

} // namespace
