// SPDX-License-Identifier: Apache-2.0
#include "launcher.h"
#include <dlfcn.h>
#include <stdexcept>
#include <type_traits>
#include <unordered_map>

namespace sslkernels::cuda {

// This is the part of cuda.h that is used here. Handles are opaque pointers.
using Result = int;
using Handle = void *;

struct Driver {
    Result (*cuDriverGetVersion)(int *) = nullptr;
    Result (*cuInit)(unsigned) = nullptr;
    Result (*cuGetErrorName)(Result, const char **) = nullptr;
    Result (*cuGetErrorString)(Result, const char **) = nullptr;
    Result (*cuDeviceGet)(int *, int) = nullptr;
    Result (*cuDevicePrimaryCtxRetain)(Handle *, int) = nullptr;
    Result (*cuCtxGetCurrent)(Handle *) = nullptr;
    Result (*cuCtxPushCurrent_v2)(Handle) = nullptr;
    Result (*cuCtxPopCurrent_v2)(Handle *) = nullptr;
    Result (*cuLibraryLoadData)(Handle *, const void *, int *, void **, unsigned, int *, void **, unsigned) = nullptr;
    Result (*cuLibraryGetKernel)(Handle *, Handle, const char *) = nullptr;
    // CUDA 12.4 brought this; where it is missing, fields are not counted.
    Result (*cuKernelGetParamInfo)(Handle, size_t, size_t *, size_t *) = nullptr;
    Result (*cuLaunchKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle,
                             void **, void **) = nullptr;
    bool present = false;

    Driver() {
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library) return;
        const auto find = [library](auto &function, const char *name) {
            function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
            return function != nullptr;
        };
#define FIND(name) find(name, #name)
        present = FIND(cuDriverGetVersion) && FIND(cuInit) && FIND(cuGetErrorName) && FIND(cuGetErrorString) &&
                  FIND(cuDeviceGet) && FIND(cuDevicePrimaryCtxRetain) && FIND(cuCtxGetCurrent) &&
                  FIND(cuCtxPushCurrent_v2) && FIND(cuCtxPopCurrent_v2) && FIND(cuLibraryLoadData) &&
                  FIND(cuLibraryGetKernel) && FIND(cuLaunchKernel);
        FIND(cuKernelGetParamInfo);
#undef FIND
    }

    void check(Result result, const std::string &doing) const {
        if (result == 0) return;
        const char *name = nullptr, *text = nullptr;
        cuGetErrorName(result, &name);
        cuGetErrorString(result, &text);
        throw std::runtime_error("the CUDA driver could not " + doing + ": " + (text ? text : "unknown error") + " (" +
                                 (name ? name : std::to_string(result)) + ").");
    }
};

static const Driver &driver() {
    static const Driver found;
    if (!found.present)
        throw std::runtime_error("libcuda.so.1 was not found or is older than CUDA 12; install NVIDIA's driver.");
    return found;
}

// Returns the context of a device that torch uses.
static Handle primary_context(int device) {
    constexpr int kDevices = 64;
    static std::array<Handle, kDevices> known{}; // every thread finds the same context, and holds the GIL here
    if (device < 0 || device >= kDevices) throw std::runtime_error("there is no CUDA device " + std::to_string(device));
    if (!known[device]) {
        int handle = 0;
        driver().check(driver().cuDeviceGet(&handle, device), "find device " + std::to_string(device));
        driver().check(driver().cuDevicePrimaryCtxRetain(&known[device], handle), "open its context");
    }
    return known[device];
}

int driver_version() {
    int version = 0;
    try {
        driver().cuDriverGetVersion(&version);
    } catch (const std::runtime_error &) {
    }
    return version;
}

void *load(const std::string &image) {
    driver().check(driver().cuInit(0), "start");
    Handle library = nullptr;
    driver().check(driver().cuLibraryLoadData(&library, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
                   "load the compiled kernels");
    return library;
}

void *kernel(void *library, const std::string &name) {
    Handle found = nullptr;
    driver().check(driver().cuLibraryGetKernel(&found, library, name.c_str()), "find kernel " + name);
    return found;
}

// Refuses fields that are not as many as those of the kernel's struct: the driver would read on behind them.
static void check_fields(Handle kernel, size_t count) {
    static std::unordered_map<Handle, size_t> sizes; // every thread holds the GIL here
    auto known = sizes.find(kernel);
    if (known == sizes.end()) {
        size_t offset = 0, size = 0;
        if (!driver().cuKernelGetParamInfo || driver().cuKernelGetParamInfo(kernel, 0, &offset, &size) != 0) size = 0;
        known = sizes.emplace(kernel, size).first;
    }
    const size_t wanted = known->second / sizeof(uint64_t);
    if (wanted && wanted != count)
        throw std::runtime_error("a kernel's struct has " + std::to_string(wanted) + " fields and the launch has " +
                                 std::to_string(count) + "; the compiled kernels are of another version than " +
                                 "sslkernels, so install it anew.");
}

void launch(void *kernel, int device, void *stream, std::array<unsigned, 2> blocks, std::array<unsigned, 2> threads,
            std::vector<uint64_t> fields) {
    check_fields(kernel, fields.size());
    // A thread of autograd may have no context yet, and the default stream belongs to the current context.
    const Handle context = primary_context(device);
    Handle current = nullptr;
    driver().check(driver().cuCtxGetCurrent(&current), "tell its context");
    if (current != context) driver().check(driver().cuCtxPushCurrent_v2(context), "enter the context of the tensors");
    void *arguments[] = {fields.data()};
    const Result result = driver().cuLaunchKernel(kernel, blocks[0], blocks[1], 1, threads[0], threads[1], 1, 0, stream,
                                                  arguments, nullptr);
    if (current != context) driver().cuCtxPopCurrent_v2(&current);
    driver().check(result,
                   "launch a kernel of " + std::to_string(blocks[0]) + " x " + std::to_string(blocks[1]) + " blocks");
}

} // namespace sslkernels::cuda
