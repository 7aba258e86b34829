# SPDX-License-Identifier: Apache-2.0
"""The model's arithmetic, against numbers that are written out by hand for a GPU of round numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch

from sslkernels.device import model
from sslkernels.device.compiled import Compiled, blocks_per_multiprocessor
from sslkernels.device.launches import Launch
from sslkernels.device.sass import Code, Region
from sslkernels.device.targets import H200, TARGETS, Target
from sslkernels.ops.work import Work

# 10 multiprocessors at 1 GHz: each takes 4e9 instructions, 16e9 exponentials and 256e9 fp32 operations a second.
GPU = Target("sm_90", "round", 9, 0, 10, 1e9, 1e13, 1.0, 0.5, 128, 5e11, gap=1e-6)
WIDE = "HGMMA.64x128x16.F32.BF16"  # 2 * 64 * 128 * 16 operations of four warps: 65536 of each


def kernel(*loops: Region, once: Region | None = None, registers: int = 128, warps: int = 8, **fields: Any) -> Compiled:
    used = {"spills": 0, "shared": 0, "product": "none", "copies_ahead": 0, "async_product": (0, 0), **fields}
    return Compiled(registers=registers, warps=warps, code=Code(once or Region(0), loops), **used)


def launch(blocks: int) -> Launch:
    return Launch("some_kernel", "triton", "forward", {}, (blocks,))


def predict(work: Work, used: Compiled, blocks: int = 10, target: Target = GPU) -> model.Prediction:
    return model.predict(launch(blocks), work, used, target)


def test_memory_takes_bytes_over_bandwidth_and_a_gap() -> None:
    found = predict(Work(bytes_read=4 * 10**8, bytes_written=6 * 10**8), kernel(), blocks=1000)
    assert found.memory == pytest.approx(2e-3) and found.seconds == pytest.approx(2.001e-3)
    assert found.floor == pytest.approx(2e-3) and found.bound == "memory"


def test_few_blocks_cannot_use_the_whole_bandwidth() -> None:
    # 64 bytes a clock: 64 GB/s for each of two multiprocessors
    assert predict(Work(bytes_read=128 * 10**6), kernel(), blocks=2).memory == pytest.approx(1e-3)


def test_products_take_operations_over_the_rate() -> None:
    used = kernel(Region(0, Counter({WIDE: 1})), registers=64)
    found = predict(Work(tensor_ops=10**10), used, blocks=40)
    assert found.products == found.floor == pytest.approx(1e-3) and found.bound == "products"


def test_products_of_our_kernels_reach_a_share_of_the_rate() -> None:
    used = kernel(Region(0, Counter({WIDE: 1})))
    found = predict(Work(tensor_ops=10**10), used, target=dataclasses.replace(GPU, own_share=0.8))
    assert found.products == pytest.approx(1e-3 / 0.8) and found.floor == pytest.approx(1e-3)


def test_blocks_that_do_not_fill_a_wave_cost_one() -> None:
    """12 blocks on 10 multiprocessors: the busiest has 2 of 12."""
    used = kernel(Region(0, Counter({WIDE: 1})))
    assert predict(Work(tensor_ops=10**10), used, blocks=12).products == pytest.approx(10**10 * 2 / 12 / 1e12)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("HGMMA.64x128x16.F32.BF16", 1.0),  # 64 clocks of products, 16 + 32 of loads
        ("HGMMA.64x64x16.F32.BF16", 1.0),  # 32 clocks of products, 16 + 16 of loads
        ("HGMMA.64x32x16.F32.BF16", 2 / 3),  # 16 clocks of products, 16 + 8 of loads
        ("HGMMA.64x16x16.F32.BF16", 0.4),  # 8 clocks of products, 16 + 4 of loads
        ("HGMMA.64x16x16.F32.BF16 A in registers", 1.0),
        ("HMMA.16816.F32.BF16", 0.5),  # legacy_share
        ("HGMMA.64x128x8.F32.TF32", 0.5),  # TF32 runs at half the rate of 16 bits
    ],
)
def test_narrow_and_legacy_products_are_slower(name: str, share: float) -> None:
    used = kernel(Region(0, Counter({name: 1})))
    assert predict(Work(tensor_ops=10**10), used).products == pytest.approx(1e-3 / share)


def test_products_of_64_rows_run_at_half_rate_on_sm_100() -> None:
    used = kernel(Region(0, Counter({"UTCHMMA": 1})), async_product=(64, 2 * 64 * 128 * 16))
    assert predict(Work(tensor_ops=10**10), used).products == pytest.approx(2e-3)


def test_instructions_follow_from_the_products_of_a_trip() -> None:
    # A trip of a warp has 2 * 65536 operations, so 2**27 of them are 1024 trips of 500 instructions; 80 warps once 100.
    used = kernel(Region(500, Counter({WIDE: 2})), once=Region(100))
    work = Work(tensor_ops=2**27)
    assert model.instructions(used, work, blocks=10) == 1024 * 500 + 10 * 8 * 100
    found = predict(work, used)
    assert found.arithmetic == pytest.approx((1024 * 500 + 8000) / 10 / 4e9)


def test_two_loops_with_products_share_them_by_what_a_trip_does() -> None:
    used = kernel(Region(100, Counter({WIDE: 1})), Region(10, Counter({WIDE: 3})))
    assert model.instructions(used, Work(tensor_ops=4 * 65536 * 7), blocks=1) == 7 * (100 + 10)


@pytest.mark.parametrize(
    ("loop", "work", "trips"),
    [
        (Region(50, exponentials=4), Work(exponentials=32 * 4 * 9), 9),
        (Region(50, fp32=8), Work(fp32_ops=32 * 8 * 9), 9),
        (Region(50, bytes=16), Work(bytes_read=32 * 16 * 5, bytes_written=32 * 16 * 4), 9),
        (Region(50, exponentials=4, bytes=16), Work(exponentials=32 * 4 * 9, bytes_read=1), 9),
        (Region(50), Work(bytes_read=10**9), 0),
    ],
)
def test_loops_without_products_are_counted_by_what_they_do(loop: Region, work: Work, trips: int) -> None:
    assert model.instructions(kernel(loop), work, blocks=3) == 50 * trips


def test_exponentials_have_units_of_their_own() -> None:
    found = predict(Work(exponentials=16 * 10**7), kernel(registers=64))
    assert found.arithmetic == found.floor == pytest.approx(1e-3) and found.bound == "arithmetic"


def test_a_block_alone_waits_for_its_products_and_two_hide_them() -> None:
    work = Work(tensor_ops=10**10, exponentials=16 * 10**7)
    alone, both = (kernel(Region(0, Counter({WIDE: 1})), registers=registers) for registers in (255, 128))
    assert predict(work, alone).seconds == pytest.approx(2.001e-3)
    assert predict(work, both).seconds == pytest.approx(1.001e-3)


def test_blocks_of_a_multiprocessor_are_limited_by_what_runs_out_first() -> None:
    # 65536 registers are 2 blocks of 256 threads with 128; 228 KiB of shared memory 3 with 73 KiB and 1 KiB more each
    assert blocks_per_multiprocessor(kernel(registers=128), H200) == 2
    assert blocks_per_multiprocessor(kernel(registers=129), H200) == 1
    assert blocks_per_multiprocessor(kernel(registers=32, shared=75 * 1024), H200) == 3
    assert blocks_per_multiprocessor(kernel(registers=32, warps=4), H200) == 16
    assert blocks_per_multiprocessor(kernel(registers=16, warps=1), H200) == 32


def matmul(name: str, m: int, k: int, n: int, dtype: torch.dtype) -> Launch:
    left, right, out = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((m, k), (k, n), (m, n)))
    return Launch(name, "aten", "forward", {"self": left, "mat2": right, "out": out})


@pytest.mark.parametrize("name", ("mm", "matmul"))  # inference mode does not take matmul apart
def test_cublas_multiplies_tiles_of_128_by_256(name: str) -> None:
    found = matmul(name, 1280, 1000, 512, torch.bfloat16)  # 20 tiles: two for each multiprocessor
    work = model.work_of(found)
    assert work == Work(2 * 1280 * 1000 * 512, 0, 0, 2 * (1280 * 1000 + 1000 * 512), 2 * 1280 * 512)
    assert model.predict(found, work, None, GPU).products == pytest.approx(work.tensor_ops / 1e13)
    found = matmul(name, 1408, 1000, 512, torch.bfloat16)  # 22 tiles: the busiest has three
    work = model.work_of(found)
    assert model.predict(found, work, None, GPU).products == pytest.approx(work.tensor_ops / 1e12 * 3 / 22)


def test_cublas_cuts_few_tiles_into_parts() -> None:
    found = matmul("mm", 128, 1280, 256, torch.bfloat16)  # one tile, in 10 parts of K = 128
    assert model.predict(found, model.work_of(found), None, GPU).products == pytest.approx(2 * 128 * 1280 * 256 / 1e13)


def test_float32_products_run_on_the_cuda_cores_unless_tf32_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = matmul("mm", 128, 128, 256, torch.float32)
    assert model.work_of(found)[:2] == (0, 2 * 128 * 128 * 256)
    monkeypatch.setattr(model, "dot_precision", lambda: "tf32")
    assert model.work_of(found)[:2] == (2 * 128 * 128 * 256, 0)


def test_kernels_of_pytorch_read_each_argument_once_and_an_expanded_one_as_it_lies() -> None:
    x, y = torch.empty(100, 8, device="meta"), torch.empty(8, device="meta").expand(100, 8)
    found = Launch("add", "aten", "forward", {"self": x, "other": y, "out": torch.empty(100, 8, device="meta")})
    assert model.work_of(found) == Work(bytes_read=3200 + 32, bytes_written=3200)
    assert model.work_of(Launch("copy_", "aten", "forward", {"self": x, "src": y, "out": x})) == Work(0, 0, 0, 32, 3200)


def test_every_target_says_what_a_datasheet_says() -> None:
    """The rates stay below the datasheet's peaks: dense 16-bit TFLOP/s, fp32 TFLOP/s, and TB/s."""
    peaks = {"sm_80": (312, 19.5, 2.04), "sm_90": (989, 67, 4.8), "sm_100": (2250, 80, 8.0)}
    for name, (products, fp32, bandwidth) in peaks.items():
        target = TARGETS[name]
        assert 0.7 < target.tensor_rate / (products * 1e12) < 0.9
        assert 0.8 < target.fp32_rate * target.multiprocessors / (fp32 * 1e12) < 1.03
        assert 0.8 < target.bandwidth / (bandwidth * 1e12) < 0.95
