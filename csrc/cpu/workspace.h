// SPDX-License-Identifier: Apache-2.0
// Memory that outlives a call of a kernel: blocks wait here for the next call, because fresh pages cost more than the
// arithmetic of a small problem.
#pragma once
#include <stdint.h>

namespace sslkernels {

// The memory of a block begins at a multiple of 64 bytes. `data` is null where there was no memory.
struct WorkspaceBlock {
    char *data;
    int64_t bytes;
};

WorkspaceBlock take_workspace(int64_t bytes); // at least so many
void give_back_workspace(WorkspaceBlock block);
void limit_workspace(int64_t bytes); // waiting blocks have at most so many together
int64_t workspace_bytes();           // what waits now
void release_workspace();

} // namespace sslkernels
