// SPDX-License-Identifier: Apache-2.0
#include "table.h"
#include "../dtypes.h"
#include "kernels.h"
#include <algorithm>
#include <vector>

namespace py = pybind11;

namespace sslkernels {
namespace {

// This is the part of dlpack.h, version 1, that is used here.
struct Tensor {
    char *data;
    int32_t device_type, device;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    const int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct Exchange {
    uint32_t major, minor;
    const void *previous;
    void *allocate, *take, *give;
    int (*read)(void *object, Tensor *out); // borrows: `out` points to memory of the tensor
};

const Exchange &exchange_of(const py::type &tensor) {
    static const Exchange *found = nullptr;
    if (!found) {
        const auto capsule = tensor.attr("__dlpack_c_exchange_api__").cast<py::capsule>();
        const auto *exchange =
            static_cast<const Exchange *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (!exchange) throw py::error_already_set();
        if (exchange->major != 1)
            throw py::import_error("torch speaks DLPack " + std::to_string(exchange->major) +
                                   " and this build version 1; install an older torch or a newer sslkernels.");
        found = exchange;
    }
    return *found;
}

int dtype_of(const Tensor &t) { // -1 if it is none of ours
    constexpr int kFloat = 2, kBrain = 4;
    if (t.lanes != 1) return -1;
    if (t.code == kBrain) return t.bits == 16 ? kBFloat16 : -1;
    if (t.code != kFloat) return -1;
    return t.bits == 32 ? kFloat32 : t.bits == 64 ? kFloat64 : t.bits == 16 ? kFloat16 : -1;
}

int64_t elements_of(const Tensor &t) {
    int64_t count = 1;
    for (int k = 0; k < t.dimensions; ++k) count *= t.shape[k];
    return count;
}

// Says whether the elements fill their memory, so that some order of the dimensions makes the tensor contiguous.
bool is_dense(const Tensor &t) {
    int64_t next = 1;
    for (int done = 0; done < t.dimensions; ++done) {
        int64_t size = 1;
        for (int k = t.dimensions - 1; k >= 0; --k)
            if (t.shape[k] != 1 && t.strides[k] == next) {
                size = t.shape[k];
                break;
            }
        if (size == 1) break;
        next *= size;
    }
    return next == elements_of(t);
}

bool is_alike(const Tensor &a, const Tensor &b) {
    if (a.dimensions != b.dimensions || a.device_type != b.device_type || a.device != b.device) return false;
    for (int k = 0; k < a.dimensions; ++k)
        if (a.shape[k] != b.shape[k] || (a.shape[k] != 1 && a.strides[k] != b.strides[k])) return false;
    return true;
}

uintptr_t address_of(const Tensor &t) { return reinterpret_cast<uintptr_t>(t.data + t.byte_offset); }

int64_t bytes_of(int64_t count, int dtype) { return count * (dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2); }

// Keeps one of equal pairs. Returns false where other targets share memory, or a target and the source of another pair
// do.
bool leave_each_once(std::vector<EmaPair> &pairs) {
    const auto before = [](const EmaPair &a, const EmaPair &b) { return a.target < b.target; };
    std::vector<EmaPair> sorted;
    const std::vector<EmaPair> *in_order = &pairs;
    if (!std::is_sorted(pairs.begin(), pairs.end(), before)) {
        sorted = pairs;
        std::stable_sort(sorted.begin(), sorted.end(), before);
        in_order = &sorted;
    }
    std::vector<EmaPair> once;
    for (const EmaPair &pair : *in_order) {
        if (!once.empty() &&
            pair.target < once.back().target + bytes_of(once.back().count, once.back().target_dtype())) {
            if (!(pair == once.back())) return false;
            continue;
        }
        once.push_back(pair);
    }
    for (const EmaPair &pair : once) { // finds the last target that begins before the source ends
        const auto ends = [](const EmaPair &a, uintptr_t end) { return a.target < end; };
        auto last =
            std::lower_bound(once.begin(), once.end(), pair.source + bytes_of(pair.count, pair.source_dtype()), ends);
        if (last == once.begin()) continue;
        --last;
        const bool meets = last->target + bytes_of(last->count, last->target_dtype()) > pair.source;
        if (meets && !(last->target == pair.target && pair.target == pair.source)) return false;
    }
    if (once.size() != pairs.size()) pairs = std::move(once);
    return true;
}

// Keeps the tables of the last few lists, because a training passes the same tensors at every step. A table is found by
// the pairs before equal ones are left out, so it saves the sorting, and writing a table anew.
// Nothing else is kept: what describes a tensor is read anew at each call, since anybody may replace its memory without
// a trace. The interpreter's lock guards the tables, and no Python code runs in here.
struct Kept {
    std::vector<EmaPair> pairs;
    py::object table;
};
constexpr size_t kTables = 8;

py::object table_of(const std::vector<EmaPair> &pairs) {
    static auto &kept = *new std::vector<Kept>; // it is never destroyed, because the interpreter may end first
    const auto is_same = [&](const Kept &each) { return each.pairs == pairs; };
    auto found = std::find_if(kept.begin(), kept.end(), is_same);
    if (found == kept.end()) {
        std::vector<EmaPair> once = pairs;
        if (!leave_each_once(once)) return py::none();
        py::bytes table(reinterpret_cast<const char *>(once.data()), once.size() * sizeof(EmaPair));
        if (kept.size() == kTables) kept.pop_back();
        found = kept.insert(kept.end(), {pairs, std::move(table)});
    }
    std::rotate(kept.begin(), found, found + 1); // the one used last comes first
    return kept.front().table;
}

} // namespace

py::object ema_table(const py::sequence &targets, const py::sequence &sources, const py::sequence &masters,
                     const py::type &tensor, const py::type &parameter) {
    const Exchange &exchange = exchange_of(tensor);
    const auto read = [&](PyObject *object, Tensor &out) {
        const auto *type = reinterpret_cast<PyObject *>(Py_TYPE(object));
        if (type != tensor.ptr() && type != parameter.ptr()) return false;
        if (exchange.read(object, &out) == 0) return true;
        PyErr_Clear(); // DLPack cannot describe some layouts and dtypes
        return false;
    };
    const auto items = [](const py::sequence &list) {
        return py::reinterpret_steal<py::object>(PySequence_Fast(list.ptr(), "expected a sequence of tensors"));
    };
    const py::object t = items(targets), s = items(sources), m = items(masters);
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(t.ptr()), with_masters = PySequence_Fast_GET_SIZE(m.ptr());
    if (PySequence_Fast_GET_SIZE(s.ptr()) != count || (with_masters && with_masters != count)) return py::none();

    static thread_local std::vector<EmaPair> pairs; // with memory of its own for each call, an update took 10 us longer
    pairs.clear();
    int32_t device_type = 0, device = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
        Tensor target, source, master{};
        if (!read(PySequence_Fast_GET_ITEM(t.ptr(), i), target) || !read(PySequence_Fast_GET_ITEM(s.ptr(), i), source))
            return py::none();
        const int target_dtype = dtype_of(target), source_dtype = dtype_of(source);
        if (target_dtype < 0 || source_dtype < 0 || !is_alike(target, source)) return py::none();
        if (i == 0) device_type = target.device_type, device = target.device;
        if (target.device_type != device_type || target.device != device) return py::none();
        const int64_t elements = elements_of(target);
        if (elements > 0 && !is_dense(target)) return py::none();
        uintptr_t master_address = 0;
        if (with_masters) {
            if (!read(PySequence_Fast_GET_ITEM(m.ptr(), i), master)) return py::none();
            if (elements_of(master) > 0) {
                if (dtype_of(master) != kFloat32 || target.bits != 16 || !is_alike(target, master)) return py::none();
                master_address = address_of(master);
            }
        }
        if (elements == 0) continue;
        pairs.push_back(
            {address_of(target), address_of(source), master_address, elements, target_dtype | source_dtype << 8});
    }
    return table_of(pairs);
}

} // namespace sslkernels
