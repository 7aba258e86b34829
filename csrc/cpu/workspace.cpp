// SPDX-License-Identifier: Apache-2.0
// Keeps blocks in a few slots that threads empty and fill by atomic exchange. A block belongs to one call at a time, so
// threads and calls within calls never share one. There is no lock that a fork could leave taken.
#include "workspace.h"
#include "huge_pages.h"
#include "integers.h"
#include <atomic>
#include <cstdlib>

namespace sslkernels {
namespace {

struct Slot {
    std::atomic<char *> data{nullptr};
    std::atomic<int64_t> bytes{0}; // a hint while another thread exchanges the block; its owner reads the true size
};
constexpr int kSlots = 8;
constexpr int64_t kLine = 64; // bytes; a block's size stands in the line before its memory
Slot slots[kSlots];
std::atomic<int64_t> limit{256ll << 20}, waiting{0};

int64_t &size_of(char *data) { return *reinterpret_cast<int64_t *>(data - kLine); }

char *new_block(int64_t bytes) {
    const int64_t whole = bytes + kLine, align = whole >= kFreshBytes ? kHuge : kLine;
    void *memory = std::aligned_alloc(align, round_up(whole, align));
    if (!memory) return nullptr;
    fresh(memory, round_up(whole, align));
    char *data = static_cast<char *>(memory) + kLine;
    size_of(data) = bytes;
    return data;
}

void discard(char *data) {
    if (data) std::free(data - kLine);
}

// Empties a slot and returns its block, or null if another thread was faster.
char *emptied(Slot &slot) {
    char *data = slot.data.exchange(nullptr);
    if (data) waiting -= size_of(data);
    return data;
}

// Puts a block into an empty slot. Returns false if there is none.
bool stored(char *data) {
    const int64_t bytes = size_of(data);
    for (Slot &slot : slots) {
        char *none = nullptr;
        if (slot.data.load() == nullptr && slot.data.compare_exchange_strong(none, data)) {
            slot.bytes = bytes;
            return true;
        }
    }
    return false;
}

Slot *smallest() {
    Slot *found = nullptr;
    for (Slot &slot : slots)
        if (slot.data.load() && (!found || slot.bytes < found->bytes)) found = &slot;
    return found;
}

} // namespace

WorkspaceBlock take_workspace(int64_t bytes) {
    Slot *best = nullptr;
    for (Slot &slot : slots)
        if (slot.data.load() && slot.bytes >= bytes && (!best || slot.bytes < best->bytes)) best = &slot;
    if (best)
        if (char *data = emptied(*best)) {
            if (size_of(data) >= bytes) return {data, size_of(data)};
            discard(data);
        }
    char *data = new_block(bytes);
    return {data, data ? bytes : 0};
}

void give_back_workspace(WorkspaceBlock block) {
    if (!block.data) return;
    if (block.bytes > limit) return discard(block.data);
    waiting += block.bytes; // before it waits, so that threads together never keep more than the limit
    while (waiting > limit || !stored(block.data)) {
        // Larger blocks serve smaller calls too, so the small ones make room.
        Slot *least = smallest();
        char *data = least && least->bytes < block.bytes ? emptied(*least) : nullptr;
        if (!data) {
            waiting -= block.bytes;
            return discard(block.data);
        }
        discard(data);
    }
}

void limit_workspace(int64_t bytes) { limit = bytes; }
int64_t workspace_bytes() { return waiting; }

void release_workspace() {
    for (Slot &slot : slots) discard(emptied(slot));
}

} // namespace sslkernels
