# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the ema family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import triton.language as tl

from sslkernels.ops.ema import triton as launcher
from sslkernels.ops.ema import triton_kernels as kernels

INTEGERS = {"first", "offset", "size", "count", "channels", "queue_stride", "keys_stride", "column_blocks"}
POINTERS = {"chunks": "i64", "at": "fp64"}
FLOATS = {"keep", "take", "rest"}
INDIVISIBLE: set[str] = set()
TYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
# Usual teachers and students have these dtypes.
USUAL = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    for target, source in product(TYPES, TYPES) if everything else USUAL:
        yield from updates(target, source, everything)
        yield from enqueues(target, source, (16, 256) if everything else (256,))


def updates(target: str, source: str, everything: bool) -> Iterator[Any]:
    """Yield updates with the momentum as a number or a tensor, at addresses that are multiples of 16 bytes or not."""
    for master in (False, True) if target != "fp32" else (False,):
        for aligned, tensor in product((True, False), repeat=2) if everything else ((True, False), (True, True)):
            constants = {
                "TARGET": TYPES[target], "SOURCE": TYPES[source], "MASTER": master, "ALIGNED": aligned,
                "BLOCK": launcher.UPDATE.numbers, **({} if tensor else {"at": None}),
            }  # fmt: skip
            yield (
                f"update {target} {source} master={master} aligned={aligned} tensor={tensor}", kernels.update_kernel,
                {}, constants, {"num_warps": launcher.UPDATE.warps, "maxnreg": launcher.REGISTERS[master]},
            )  # fmt: skip


def enqueues(queue: str, keys: str, widths: tuple[int, ...]) -> Iterator[Any]:
    for width, position in product(widths, ("i64", None)):
        constants = {
            "BLOCK_T": launcher.ENQUEUE.numbers // width, "BLOCK_C": width,
            **({"position": None} if position is None else {}),
        }  # fmt: skip
        yield (
            f"enqueue {queue} {keys} C={width} position={position}", kernels.enqueue_kernel,
            {"queue": queue, "keys": keys, "position": "i64"}, constants, {"num_warps": launcher.ENQUEUE.warps},
        )  # fmt: skip
