# SPDX-License-Identifier: Apache-2.0
"""How long a launch should take: modelled from its work and its machine code, not measured.

    products     operations / rate of the matrix instruction
    arithmetic   the longest of exponentials, float32 operations, and instructions / the rate that they are issued at
    memory       bytes / bandwidth, or the bytes that all blocks ask for / the bandwidth of L2
    launch       the longest of products, arithmetic and memory; products + arithmetic where a multiprocessor holds only
                 one block, which waits for its product before it goes on
                 + a gap until the next kernel has begun

Blocks are spread over the multiprocessors, and the one with the most of them decides. docs/design/gpu.md says more.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sslkernels.device import compiled
from sslkernels.device.launches import Launch
from sslkernels.device.sass import Region
from sslkernels.device.targets import Target
from sslkernels.ops.launch import dot_precision
from sslkernels.ops.work import Count, Work, counted_in, size_of

_WARP = 32
PRODUCTS = ("matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
# cuBLAS multiplies tiles of this size; where these are fewer than multiprocessors it cuts K, or
# the tiles, into parts: we let parts be this long at least.
_TILE, _PART = (128, 256), 128
_CUBLAS_FP32 = 0.88  # of the rate of multiply-adds: 52 of 59 TFLOP/s on an H200, as large products of others reach


@dataclass(frozen=True)
class Prediction:
    """The time of a launch in seconds, by what takes it."""

    products: float
    arithmetic: float
    memory: float
    together: bool
    """True where several blocks share a multiprocessor, so that products and arithmetic go on side by side."""
    gap: float
    floor: float
    """The least that the work takes on the whole device: no instruction but products and exponentials, no gap."""

    @property
    def seconds(self) -> float:
        return max(self._computing, self.memory) + self.gap

    @property
    def bound(self) -> str:
        """Name the part that takes most of the time."""
        largest = max(self._computing, self.memory, self.gap)
        if largest == self.gap:
            return "launch"
        if largest == self.memory:
            return "memory"
        return "products" if self.products > self.arithmetic else "arithmetic"

    @property
    def _computing(self) -> float:
        return max(self.products, self.arithmetic) if self.together else self.products + self.arithmetic


def work_of(launch: Launch) -> Work | None:
    """Count its work; None where nobody has written that down."""
    if launch.kind in ("aten", "copy"):
        return _aten_work(launch)
    if launch.kind == "cuda":
        package = f"sslkernels.ops.{launch.arguments['family']}"
    else:
        package = launch.kernel.__module__.rpartition(".")[0]
    module = counted_in(package, launch.kind)
    # Kernels of csrc/cuda exist once for each combination of dtypes, with the dtypes behind their name.
    name = launch.name if launch.kind == "triton" else launch.name.split("_")[0]
    count: Count | None = None if module is None else module.WORK.get(name)
    return None if count is None else count(launch.arguments)


def predict(launch: Launch, work: Work, used: compiled.Compiled | None, target: Target) -> Prediction:
    """Model the time of ``work``. ``used`` is the compiled kernel, None for kernels of others."""
    if used is not None:
        share = _busiest(launch.blocks, target)
        efficiency, width = _matrix_rate(used, target)
        issued = instructions(used, work, launch.blocks) / target.issue_rate
        together = compiled.blocks_per_multiprocessor(used, target) > 1
        fp32 = work.fp32_ops / target.fp32_rate
        readers = min(launch.blocks, target.multiprocessors)
    else:
        share, efficiency, width = _cublas_share(launch, target)
        issued, together, fp32 = 0.0, True, work.fp32_ops / (target.fp32_rate * _CUBLAS_FP32)
        readers = target.multiprocessors
    rate = target.tensor_rate_each(width)
    special = work.exponentials / target.special_rate
    bandwidth = min(target.bandwidth, readers * target.l1_bytes * target.clock)
    count = target.multiprocessors
    least = (work.tensor_ops / rate, special, work.fp32_ops / target.fp32_rate)
    return Prediction(
        products=share * work.tensor_ops / (rate * efficiency),
        arithmetic=share * max(special, fp32, issued),
        memory=max(work.bytes / bandwidth, work.bytes_asked / target.l2_bandwidth),
        together=together,
        gap=target.gap,
        floor=max(max(least) / count, work.bytes / target.bandwidth),
    )


def instructions(used: compiled.Compiled, work: Work, blocks: int) -> float:
    """The instructions that all warps issue.

    The trips through a loop follow from the work: all products over those of one trip; where a loop has none, all
    exponentials over those of one trip, or else float32 operations, or bytes.
    """
    loops = _measured(used, work)
    total: dict[str, float] = defaultdict(float)
    for measure, each, _ in loops:
        total[measure] += each
    whole = {"products": work.tensor_ops, "exponentials": work.exponentials, "fp32": work.fp32_ops, "bytes": work.bytes}
    looped = sum(loop.instructions * whole[measure] / total[measure] for measure, _, loop in loops)
    return used.code.once.instructions * blocks * used.warps + looped


def _measured(used: compiled.Compiled, work: Work) -> list[tuple[str, float, Region]]:
    """By which measure to count the trips of each loop, and how much of it one warp does on one trip."""
    found = []
    for loop in used.code.loops:
        products = sum(count * _operations(name, used) for name, count in loop.matrix.items())
        if products and work.tensor_ops:
            found.append(("products", products, loop))
        elif loop.exponentials and work.exponentials:
            found.append(("exponentials", float(_WARP * loop.exponentials), loop))
        elif loop.fp32 and work.fp32_ops:
            found.append(("fp32", float(_WARP * loop.fp32), loop))
        elif loop.bytes and work.bytes:
            found.append(("bytes", float(_WARP * loop.bytes), loop))
    return found


def _operations(name: str, used: compiled.Compiled) -> float:
    """Operations of a matrix instruction, for one of the warps that it is shared by."""
    if name.startswith("UTC"):  # one warp starts it for the block
        return used.async_product[1] / used.warps
    if wide := re.search(r"\.64x(\d+)x(\d+)", name):  # four warps together
        return 2 * 64 * int(wide[1]) * int(wide[2]) / 4
    small = re.search(r"\.16(8)(\d+)", name)
    assert small is not None, name
    return 2 * 16 * 8 * int(small[2])


def _matrix_rate(used: compiled.Compiled, target: Target) -> tuple[float, int]:
    """The share of the rate that the matrix instructions of the loops reach, and the bytes of a factor."""
    names = Counter[str]()
    for region in (*used.code.loops, used.code.once):
        names.update(region.matrix)
    if not names:
        return target.own_share, 2
    whole = sum(count * _operations(name, used) for name, count in names.items())
    slowed = sum(count * _operations(name, used) / _share(name, used, target) for name, count in names.items())
    return target.own_share * whole / slowed, 4 if any("TF32" in name for name in names) else 2


def _share(name: str, used: compiled.Compiled, target: Target) -> float:
    if name.startswith("UTC"):
        return 0.5 if used.async_product[0] == 64 else 1.0
    if wide := re.search(r"\.64x(\d+)x", name):
        # N/2 clocks of products, while shared memory gives 128 bytes a clock: 2 KiB of the left factor, if it is there,
        # and 32 bytes for each of the N columns.
        n = int(wide[1])
        return min(1.0, (n / 2) / ((0 if name.endswith("registers") else 16) + n / 4))
    return target.legacy_share


def _busiest(blocks: int, target: Target) -> float:
    """The share of the work that the multiprocessor with the most blocks has."""
    return -(-blocks // target.multiprocessors) / blocks


def _cublas_share(launch: Launch, target: Target) -> tuple[float, float, int]:
    """The share of a product on the busiest multiprocessor, its efficiency, and the bytes of a factor."""
    if launch.name not in PRODUCTS:
        return 1 / target.multiprocessors, 1.0, 2
    left, right = _factors(launch)
    m, k, n = (left.shape[-2] if left.dim() > 1 else 1), left.shape[-1], (right.shape[-1] if right.dim() > 1 else 1)
    tiles = min(-(-m // a) * -(-n // b) for a, b in (_TILE, _TILE[::-1])) * (left.shape[0] if left.dim() == 3 else 1)
    parts = max(1, min(target.multiprocessors // tiles, k // _PART))
    return _busiest(tiles * parts, target), 1.0, left.element_size()


def _factors(launch: Launch) -> tuple[Tensor, Tensor]:
    tensors = [value for name, value in launch.arguments.items() if name != "out" and isinstance(value, Tensor)]
    left, right = tensors[-2:]
    return left, right


def _aten_work(launch: Launch) -> Work:
    """Bytes of what it reads and writes, and operations where it multiplies matrices."""
    out = [each for each in tree_leaves(launch.arguments["out"]) if isinstance(each, Tensor)]
    given = [value for name, value in launch.arguments.items() if name != "out"]
    read = [each for each in tree_leaves(given) if isinstance(each, Tensor) and not any(each is one for one in out)]
    operations = 0
    if launch.name in PRODUCTS:
        left, right = _factors(launch)
        operations = 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
        exact = left.dtype == torch.float64 or (left.dtype == torch.float32 and dot_precision() == "ieee")
        if exact:
            return Work(fp32_ops=operations, bytes_read=size_of(*read), bytes_written=size_of(*out))
    return Work(tensor_ops=operations, bytes_read=size_of(*read), bytes_written=size_of(*out))
