// SPDX-License-Identifier: Apache-2.0
// Computes a loss of anchors and their negatives, and its gradient, in one call: unit rows, log-sum-exps, weights, the
// gradient's products, and the way back through the norms. Everything in between lies in one block of memory.
//   kItself   rows of both views against all others      kBoth    x against y's rows, and y against x's
//   kRows     x against y's rows                          kQueue   x against given negatives
// Cost of N anchors and M keys: 2*N*M*D operations for the value alone, and 6*N*M*D with the gradient (half for x with
// itself, 4 where the keys are frozen) while the exponentials may be kept, 8 beyond.
#pragma once
#include "../rows/kernels.h"
#include "../variant.h"
#include "anchors.h"
#include "passes.h"

namespace {

using sslkernels::Contrast;
using sslkernels::ContrastOut;

template <class P, class In> struct ContrastCall {
    using Acc = typename P::Acc;
    const Contrast &c;
    const ContrastOut &out;
    const bool itself = c.against == sslkernels::kItself, both = c.against == sslkernels::kBoth;
    const bool queue = c.against == sslkernels::kQueue;
    const int64_t n = c.x.count, d = c.d, anchors = itself ? 2 * n : n;
    const int64_t keys = queue ? c.negatives.count : anchors, ld = round_up(d, kLanes<Acc>);
    const bool need_keys = (queue ? out.dnegatives : out.dy) != nullptr;
    const bool need_x = itself || out.dx || out.dscale;
    const bool needed = out.dx || out.dy || out.dnegatives || out.dscale;
    // Where no key can get a gradient, one flash pass sums the keys by their weights too.
    const bool flash = c.frozen && !itself && !both, attend = flash && need_x;

    static int64_t room(int64_t count) { return round_up(count * int64_t(sizeof(Acc)), 64); }

    bool run() {
        const int64_t size = int64_t(sizeof(In));
        const Meeting meeting = itself ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
        const Layout layout = layout_of<P>(meeting, anchors, keys, d, c.threads);
        // A gradient of the keys alone does not find them.
        int64_t exponentials = needed && need_x && !flash ? Kept<P>::bytes(layout) : 0;
        if (exponentials > c.most_kept) exponentials = 0;
        const bool staged = c.unit || itself; // y follows x in one buffer
        Memory memory((staged ? round_up(2 * n * d * size, 64) + room(2 * n) : 0) + 5 * room(anchors) +
                      (needed ? room(anchors * ld) + (need_keys && !itself ? room(keys * ld) : 0) : 0) + exponentials +
                      64);
        if (!memory.data) return false;
        Rows x = c.x, y = c.y;
        Acc *norms = nullptr;
        if (staged) {
            In *rows = reinterpret_cast<In *>(memory.take(2 * n * d * size));
            norms = reinterpret_cast<Acc *>(memory.take(2 * n * int64_t(sizeof(Acc))));
            stage(c.x, rows, norms), stage(c.y, rows + n * d, norms + n);
            x = {rows, d, anchors}, y = {itself ? rows : rows + n * d, d, anchors};
            if (!c.unit) norms = nullptr;
        }
        auto numbers = [&](int64_t count) {
            return reinterpret_cast<Acc *>(memory.take(count * int64_t(sizeof(Acc))));
        };
        Acc *rows = numbers(anchors), *columns = both ? numbers(anchors) : nullptr;
        Acc *row_weights = numbers(anchors), *column_weights = both ? numbers(anchors) : nullptr;
        Acc *pull = needed ? numbers(anchors) : nullptr, *moved_x = needed ? numbers(anchors * ld) : nullptr;
        Acc *moved_y = needed && need_keys && !itself ? numbers(keys * ld) : nullptr;
        // A row leaves out itself and its other view, or its partner. All negatives of a queue count.
        const Diagonals left_out{0, 0, n, itself ? 2 : queue ? 0 : 1};
        const Similarity s{c.compute, x,        queue ? c.negatives : y,
                           itself,    d,        c.scale,
                           nullptr,   0,        left_out,
                           nullptr,   nullptr,  nullptr,
                           true,      c.threads};
        const Kept<P> kept(exponentials ? memory.take(exponentials) : nullptr, layout);
        if (!forward_typed<P, In>(s, kept, rows, columns, flash, attend ? moved_x : nullptr, ld)) return false;
        const int64_t shift = itself ? n : 0;
        double value, pulled, of_scale = 0, unused;
        weigh_typed<In, Acc>({c.compute, x, y, d, shift, c.scale, c.threads}, rows, columns, c.share,
                             {row_weights, column_weights, pull}, &value, &pulled);
        *static_cast<Acc *>(out.value) = Acc(value);
        if (!needed) return true;
        if (attend) {
            for (int64_t i = 0; i < anchors; ++i)
                for (int64_t k = 0; k < d; ++k) moved_x[i * ld + k] *= row_weights[i];
        } else {
            const Sums sums{rows, row_weights, itself ? rows : columns, itself ? row_weights : column_weights};
            if ((need_x || moved_y) && !moved_typed<P, In>(s, kept, sums, need_x ? moved_x : nullptr, moved_y, ld))
                return false;
        }
        if (itself) // a row is pulled as an anchor, and as the partner of its partner
            for (int64_t i = 0; i < n; ++i) pull[i] = pull[i + n] = pull[i] + pull[i + n];
        if (itself) {
            const Rows first{x.data, d, n}, second{static_cast<const In *>(x.data) + n * d, d, n};
            finish(first, moved_x, second, pull, norms, out.dx, &of_scale);
            finish(second, moved_x + n * ld, first, pull, norms ? norms + n : nullptr, out.dy, &unused);
            of_scale = (of_scale + unused) / 2; // each pair counts on both sides
        } else {
            if (need_x) finish(x, moved_x, y, pull, norms, out.dx, &of_scale);
            if (queue && out.dy) { // the positive key has no part in the negatives
                memset(moved_x, 0, anchors * ld * sizeof(Acc));
                finish(y, moved_x, x, pull, norms ? norms + n : nullptr, out.dy, &unused);
            } else if (out.dy) {
                finish(y, moved_y, x, pull, norms ? norms + n : nullptr, out.dy, &unused);
            }
            if (out.dnegatives) finish(c.negatives, moved_y, {}, nullptr, nullptr, out.dnegatives, &unused);
        }
        if (out.dscale) *static_cast<Acc *>(out.dscale) = Acc(of_scale - pulled);
        return true;
    }
    void stage(const Rows &given, In *rows, Acc *norms) const {
        if (c.unit) {
            const auto &kernels = sslkernels::kernels_for<sslkernels::RowKernels, sslkernels::SSLK_VARIANT>();
            kernels.unit_forward(c.dtype, given, d, c.compute, rows, norms, c.threads);
        } else { // they are in the dtype in which they are multiplied
            for (int64_t i = 0; i < n; ++i) memcpy(rows + i * d, row<In>(given, i), d * sizeof(In));
        }
    }
    void finish(const Rows &x, const Acc *moved, const Rows &partners, const Acc *pull, const Acc *norms, void *to,
                double *of_scale) const {
        finish_typed<In, Acc>({c.compute, x, moved, ld, d, partners, pull, norms, c.scale, c.threads}, to, of_scale);
    }
};

} // namespace
