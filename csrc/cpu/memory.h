// SPDX-License-Identifier: Apache-2.0
// Scratch memory for one call of a kernel.
#pragma once
#include "integers.h"
#include "workspace.h"

namespace {

struct Memory { // one block, cut into 64-byte aligned pieces
    sslkernels::WorkspaceBlock block;
    char *data, *next;
    explicit Memory(int64_t needed) : block(sslkernels::take_workspace(round_up(needed + 64, 64))) {
        data = next = block.data;
    }
    ~Memory() { sslkernels::give_back_workspace(block); }
    Memory(const Memory &) = delete;
    char *take(int64_t size) {
        char *at = next;
        next += round_up(size, 64);
        return at;
    }
};

} // namespace
