# SPDX-License-Identifier: Apache-2.0
"""The GPUs that the model knows. Every constant says where it is from; docs/design/gpu.md says what they are for.

None was measured by us. The practical rates are what large products and copies of other people reach on the device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A GPU, by the compute capability that kernels are compiled for."""

    name: str
    device: str
    major: int
    minor: int
    multiprocessors: int
    clock: float  # Hz, under load
    tensor_rate: float  # operations per second on 16-bit products, dense, as large products reach it
    own_share: float  # of that rate, for kernels of ours: Triton copies by cp.async and waits, where cuBLAS does not
    legacy_share: float  # of our rate, for mma.sync, the instruction of sm_80
    fp32_lanes: int  # float32 multiply-adds per clock and multiprocessor
    bandwidth: float  # bytes per second of device memory, as a copy reaches it
    registers: int = 65536  # per multiprocessor
    shared: int = 233472  # bytes per multiprocessor
    warps: int = 64  # per multiprocessor
    blocks: int = 32  # per multiprocessor
    special_lanes: int = 16  # exponentials per clock and multiprocessor
    issue_slots: int = 4  # warp instructions per clock and multiprocessor
    l1_bytes: int = 64  # from L2, per clock and multiprocessor
    l2_bandwidth: float = 7e12  # bytes per second from L2 to all multiprocessors
    gap: float = 2e-6  # s on the device from the last work of a kernel to the first of the next; assumed
    host: float = 7e-6  # s on the host for one launch from Python; assumed

    @property
    def architecture(self) -> int:
        return 10 * self.major + self.minor

    def tensor_rate_each(self, width: int) -> float:
        """Operations per second of one multiprocessor on products of numbers of ``width`` bytes; 4 is TF32."""
        return self.tensor_rate / self.multiprocessors / (2 if width == 4 else 1)

    @property
    def issue_rate(self) -> float:
        """Warp instructions per second of one multiprocessor."""
        return self.issue_slots * self.clock

    @property
    def special_rate(self) -> float:
        """Exponentials per second of one multiprocessor."""
        return self.special_lanes * self.clock

    @property
    def fp32_rate(self) -> float:
        """Float32 operations per second of one multiprocessor, two for a multiply-add."""
        return 2 * self.fp32_lanes * self.clock


# Lanes, slots, registers, shared memory, warps and blocks per multiprocessor: CUDA C++ Programming Guide 13.0, tables
# "Throughput of Native Arithmetic Instructions" and "Technical Specifications per Compute Capability". 16 exponentials
# and 4 issued instructions per clock hold for all three.
# Bandwidth of L2: Chips and Cheese measure 5.5 TB/s on an H100 PCIe at 1.7 GHz; we take 7 for the SXM's clock and
# multiprocessors. That of an A100 is 3.9 on the same chart, and a B200's is assumed.
A100 = Target(
    "sm_80",
    "A100 SXM 80 GB",
    8,
    0,
    multiprocessors=108,  # NVIDIA A100 datasheet and whitepaper
    clock=1.41e9,  # boost clock, same whitepaper
    tensor_rate=250e12,  # 80 % of the datasheet's 312
    own_share=0.9,  # assumed: here cuBLAS copies by cp.async too
    legacy_share=1.0,  # mma.sync is its own instruction
    fp32_lanes=64,
    bandwidth=1.83e12,  # 90 % of the datasheet's 2.04
    l2_bandwidth=3.9e12,
    shared=167936,
)
H200 = Target(
    "sm_90",
    "H200 SXM",
    9,
    0,
    multiprocessors=132,  # NVIDIA H100/H200 datasheets; asked of a device
    clock=1.755e9,  # under load, below the boost clock of 1.98
    tensor_rate=790e12,  # 80 % of the datasheet's 989
    own_share=0.75,  # assumed, after Triton's matmul of large matrices beside cuBLAS
    legacy_share=0.62,  # Luo et al. 2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture"
    fp32_lanes=128,
    bandwidth=4.3e12,  # 90 % of the datasheet's 4.8
)
B200 = Target(
    "sm_100",
    "B200",
    10,
    0,
    multiprocessors=148,  # NVIDIA Blackwell datasheet
    clock=1.85e9,  # under load, assumed
    tensor_rate=1700e12,  # 75 % of the datasheet's 2250
    own_share=0.6,  # assumed: a product waits for the one before it
    legacy_share=0.25,  # assumed: mma.sync was not widened with tcgen05
    fp32_lanes=128,
    bandwidth=7.0e12,  # 88 % of the datasheet's 8
    l2_bandwidth=10e12,
)
TARGETS = {target.name: target for target in (A100, H200, B200)}
