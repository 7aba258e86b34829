# SPDX-License-Identifier: Apache-2.0
"""`sslkernels explain`: which backend and path would run an op, why, what it costs, and how near the floor it comes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from sslkernels import _C, backends
from sslkernels.arguments import LARGEST_WHOLE, MEMORY, came
from sslkernels.terminal import printable

if TYPE_CHECKING:
    from sslkernels.bench.workloads import Workload

_DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_ACCEPTED_DTYPES = (*_DTYPES, *(str(dtype).removeprefix("torch.") for dtype in _DTYPES.values()))
_EXAMPLE = """\
shapes: nt_xent N,D (N per view) · info_nce N,M,D (a frozen queue of M) · clip_loss N,D · logsumexp_similarity N,M,D
  byol_loss N,D (a frozen target) · barlow_twins, vicreg N,D (N per view) · apply_masks B,L,M,K,C
  gather_tokens, restore_tokens, masked_mse B,L,K,C
  ema_update T,P (T float32 tensors of P numbers in all, --dtype is the sources': 161,25557032 are a ResNet-50,
  152,86567656 a ViT-B; other sizes are split evenly)

example:
  sslkernels explain nt_xent --shape 4096,128 --dtype bf16 --device cpu --measure"""
_SECONDS = 1.0
_ASSUMED_CAPABILITY = (9, 0)

# What the C++ kernels do with each op, as csrc/cpu/similarity describes it.
_CPU_PATHS = {
    "nt_xent": "x with itself, triangular: groups of row blocks meet as in a round-robin tournament, so that each pair "
    "of rows is computed once and serves both, and no two threads write one row; too few rows for that sweep the "
    "square.",
    "info_nce": "frozen keys: one flash pass keeps a running maximum and the softmax times the queue; the gradient is "
    "ready when the forward ends and the queue is not kept.",
    "clip_loss": "both sides: threads walk the diagonals of a Latin square of blocks; a tile serves rows and columns.",
    "logsumexp_similarity": "rows forward, one side: each thread keeps its rows; with gradients for x and y the "
    "backward walks the diagonals of a Latin square of blocks.",
}
_TOKEN_PATHS = {
    "gather_tokens": "rows moved once; the backward sorts the index into lists per row, so that every row of the "
    "gradient is written once and rows that repeat are summed in the order of the index.",
    "restore_tokens": "visible rows back in their places, the mask token elsewhere, the position added as they are "
    "written; the backward reads each row of the gradient once.",
    "apply_masks": "every index set in one launch, forward and backward; gradients of a row that several sets "
    "read add up.",
    "masked_mse": "masked rows alone are read; the target is standardised as it is read, not stored.",
}
_EMA_PATHS = {
    "reference": "tensor by tensor, each in float64 and rounded once.",
    "cpu": "all tensors are one piece of work, divided evenly among the threads; sources are widened as they are read.",
    "triton": "one launch for each mixture of dtypes, from a table of addresses.",
    "cuda": "one launch for all tensors, from a table of addresses.",
}
_COSINE_PATH = (
    "both rows are read once for their product and norms; the backward reads them once more, and keeps no rows."
)
_CPU_ARITHMETIC = {
    torch.float32: "float32 multiply-adds",
    torch.float64: "float64 multiply-adds",
    torch.bfloat16: "float32 multiply-adds on widened rows",
    torch.float16: "float32 multiply-adds on widened rows",
}
_BF16_ARITHMETIC = {
    "avx512bf16": "bfloat16 pair products, summed in float32",
    "amx": "bfloat16 tiles, summed in float32",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``sslkernels explain``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLE
    parser.add_argument(
        "op",
        metavar="OP",
        help="nt_xent, info_nce, clip_loss, logsumexp_similarity, byol_loss, barlow_twins, vicreg, gather_tokens, "
        "restore_tokens, apply_masks, masked_mse or ema_update",
    )
    parser.add_argument("--shape", required=True, help="sizes, such as 4096,128 or 4096x128")
    parser.add_argument("--dtype", default="fp32", help="fp32 (default), bf16, fp16 or fp64")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda; it need not be here")
    parser.add_argument("--backend", help="explain this backend rather than the one chosen")
    parser.add_argument("--measure", action="store_true", help="check, then time it on random rows")


def run(args: argparse.Namespace) -> int:
    """Print the explanation. A wrong argument is a ValueError of one sentence."""
    workload, dtype = _workload(args.op, args.shape), _dtype(args.dtype)
    device = parse_device("explain: ", args.device)
    for line in explain(workload, dtype, device, args.backend, args.measure):
        print(printable(line), flush=True)  # what is known stands there before anything is measured
    return 0


def explain(
    workload: Workload, dtype: torch.dtype, device: torch.device, backend: str | None, measured: bool
) -> Iterator[str]:
    """Lines of ``name: words``.

    >>> import torch
    >>> from sslkernels.bench.workloads import Workload
    >>> lines = explain(Workload("clip_loss", (256, 64)), torch.float64, torch.device("cpu"), "reference", False)
    >>> list(lines)[1]
    'backend      reference, because --backend asks for it'
    """
    from sslkernels.bench.architectures import network
    from sslkernels.bench.providers import has_backends
    from sslkernels.bench.workloads import DIMENSIONS

    here = device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()
    if measured and not here:
        raise ValueError(f"explain: --measure came with --device {device}, and torch finds no such device here.")
    has = has_backends(workload)
    name = backends.choose(device, dtype, backend, has)
    cost = workload.cost(dtype)
    if measured and cost.bytes > _memory(device):
        raise ValueError(
            f"explain: --measure came with tensors of {_bytes(cost.bytes)}, and {device} has "
            f"{_bytes(_memory(device))}; pass a smaller --shape."
        )
    sizes = ", ".join(f"{k}={v}" for k, v in zip(DIMENSIONS[workload.op], workload.shape, strict=True))
    if workload.family == "ema":
        sizes += f" ({network(*workload.shape)}), float32 targets"
    elif workload.op in ("nt_xent", "barlow_twins", "vicreg"):
        sizes = sizes.replace(",", " per view,")
    backward = f" forward, {_count(cost.backward)} backward where nothing is repeated"
    moved = "; targets and sources are read and targets written"
    if workload.family != "ema":
        what = {"similarity": "logits", "correlation": "matrix of columns", "tokens": "tokens"}[workload.family]
        what = "unit rows" if workload.op == "byol_loss" else what
        moved = f"; a dense path stores {_bytes(workload.pairs * dtype.itemsize)} for its {what} alone"
    yield from (
        _line(
            "op", f"{workload.op}, {sizes}, {_name(dtype)}{' sources' if workload.family == 'ema' else ''} on {device}"
        ),
        _line("backend", f"{name}, {_why(name, device, backend)}"),
        *(_line("", f"not {other}: {reason}") for other, reason in _absent(device, dtype, has)),
        _line("path", _path(name, workload, dtype, device, here)),
        *([_line("workspace", _kept(workload, dtype))] if name == "cpu" and _keeps(workload) else []),
        _line("operations", f"{_count(cost.forward)}{' and no backward' if workload.family == 'ema' else backward}"),
        _line("bytes", f"{_bytes(cost.bytes)} at least{moved}"),
    )
    if here:
        yield from _floor(workload, dtype, device, name, measured)
    else:
        yield _line("floor", "unknown, since the device is not here to be measured")


def _floor(workload: Workload, dtype: torch.dtype, device: torch.device, name: str, measured: bool) -> list[str]:
    from sslkernels.bench import measure
    from sslkernels.bench.providers import Ours

    cost, source = workload.cost(dtype), "torch.mm"
    peak, bandwidth = measure.matmul_peak(dtype, device), measure.copy_bandwidth(device)
    found = []
    if measured:
        inputs = workload.inputs(dtype, device)
        step = Ours(name).step(workload, inputs)
        complaint = measure.Truth.of(workload, inputs).gate(step, inputs).complaint
        if complaint:
            raise ValueError(f"explain: {name} is wrong on these rows and was not timed: {complaint}.")
        memory = measure.step_memory(step, inputs)
        timing = measure.interleaved({name: (step, inputs)}, _SECONDS)[name]
        seconds = timing.summary()["fwd+bwd"]["median"]
        reached = cost.operations / seconds
        if reached > peak:
            peak, source = reached, "reached here, above torch.mm"
        share = measure.floor(cost, peak, bandwidth).seconds / seconds
        calls = f"median of {len(timing.forward)} calls" + (", beside another busy process" if timing.disturbed else "")
        what = "an update" if workload.family == "ema" else "forward and backward"
        cached = " (faster than memory: the tensors fit the cache)" if share > 1 else ""
        found = [
            _line("measured", f"{seconds * 1e3:.3g} ms {what}, {calls}: {share:.0%} of the floor's speed{cached}"),
            _line("memory", "unknown on this system" if memory is None else f"{_bytes(memory)} above the inputs"),
        ]
    floor = measure.floor(cost, peak, bandwidth)
    rates = f"{_count(peak)}/s ({source}), copy {bandwidth / 1e9:.3g} GB/s; exponentials not counted"
    return [_line("floor", f"{floor.seconds * 1e3:.3g} ms, bound by {floor.bound}: {rates}"), *found]


def _why(name: str, device: torch.device, backend: str | None) -> str:
    if backend is not None:
        return "because --backend asks for it"
    if os.environ.get("SSLKERNELS_BACKEND") == name:
        return "because SSLKERNELS_BACKEND asks for it"
    return f"the fastest that can run on {device.type}"


def _absent(device: torch.device, dtype: torch.dtype, has: tuple[str, ...]) -> list[tuple[str, str]]:
    reasons = ((name, backends.why_not(name, device, dtype)) for name in backends.NAMES if name in has)
    return [(name, reason) for name, reason in reasons if reason is not None]


def _path(name: str, workload: Workload, dtype: torch.dtype, device: torch.device, here: bool) -> str:
    if workload.family == "tokens":
        return _TOKEN_PATHS[workload.op]
    if workload.family == "ema":
        return _EMA_PATHS[name]
    if workload.family == "correlation":
        return _correlation_path(name, workload, dtype)
    if workload.op == "byol_loss" and name != "reference":
        return _COSINE_PATH
    if workload.op == "byol_loss":
        return "row by row in PyTorch; the unit rows of both sides are stored."
    if name == "reference":
        return "dense: the whole matrix of logits is stored, in float32 at least."
    if name == "triton":
        return _triton_path(workload, dtype, device, here)
    return f"{_CPU_PATHS[workload.op]} {_tiles_of(dtype)}"


def _correlation_path(name: str, workload: Workload, dtype: torch.dtype) -> str:
    from sslkernels.ops.correlation import choose_side

    n, d = workload.shape
    side = choose_side(n, d)
    size, why = (n, f"N = {n} < D = {d}") if side == "samples" else (d, f"D = {d} <= N = {n}")
    matrices = "one" if side == "features" and workload.op == "barlow_twins" else "two"
    path = f"side of {side}, since {why}: {matrices} of {size} x {size}, kept for the backward"
    return f"{path}. {_tiles_of(dtype)}" if name == "cpu" else f"{path}."


def _tiles_of(dtype: torch.dtype) -> str:
    isa = _C.isa()
    arithmetic = _BF16_ARITHMETIC.get(isa) if dtype == torch.bfloat16 else None
    return f"Tiles in {isa}: {arithmetic or _CPU_ARITHMETIC[dtype]}."


def _keeps(workload: Workload) -> bool:
    return workload.family == "similarity" and workload.op not in ("info_nce", "byol_loss")


def _kept(workload: Workload, dtype: torch.dtype) -> str:
    """Whether the forward leaves its exponentials, by the very rule that the op asks."""
    from sslkernels.ops.similarity.autograd import kept_bytes, kept_limit

    itself = workload.op == "nt_xent"
    n = 2 * workload.shape[0] if itself else workload.shape[0]
    m = workload.shape[1] if workload.op == "logsumexp_similarity" else n
    needed, most = kept_bytes(n, m, dtype, itself), kept_limit(workload.shape[-1])
    limit = f"the {most >> 20} MiB that pay" if most < backends.WORKSPACE else f"{backends.WORKSPACE_VARIABLE}"
    if needed <= most:
        return f"the forward leaves its exponentials for the backward, {_bytes(needed)} of {limit}"
    return f"exponentials of {_bytes(needed)} exceed {limit}: the backward multiplies all pairs once more"


def _triton_path(workload: Workload, dtype: torch.dtype, device: torch.device, here: bool) -> str:
    from sslkernels.ops.similarity.triton import plan

    on_gpu = here and device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if on_gpu else _ASSUMED_CAPABILITY
    n, d = workload.shape[0], workload.shape[-1]
    n, m = {"nt_xent": (2 * n, 2 * n), "clip_loss": (n, n)}.get(workload.op, (n, workload.shape[1]))
    excluded = {"nt_xent": 2, "clip_loss": 1}.get(workload.op, 0)
    assumed = "" if on_gpu else " (for compute capability {}.{}, assumed)".format(*capability)
    return plan(n, m, d, dtype, capability, excluded).reason + assumed


def _workload(op: str, shape: str) -> Workload:
    from sslkernels.bench.workloads import DIMENSIONS, Workload

    if op not in DIMENSIONS:
        raise ValueError(f"explain: OP is {op!r}; accepted are {', '.join(DIMENSIONS)}.")
    parts = re.split(r"[,x×]", shape.strip("() "))
    dimensions = DIMENSIONS[op]
    if len(parts) != len(dimensions) or not all(map(_is_size, parts)):
        raise ValueError(
            f"explain: --shape is {came(shape)}; {op} takes {len(dimensions)} positive whole numbers "
            f"{','.join(dimensions)}, such as {','.join(('64', '196', '4', '49', '1024')[-len(dimensions) :])}."
        )
    sizes = dict(zip(dimensions, map(int, parts), strict=True))
    for part, whole in (("K", "L"), ("T", "P")):
        if part in sizes and sizes[part] > sizes[whole]:
            raise ValueError(
                f"explain: --shape is {shape!r}, {part}={sizes[part]} of {whole}={sizes[whole]}; "
                f"{part} is at most {whole}, in the order {','.join(dimensions)}."
            )
    return Workload(op, tuple(sizes.values()))


def _is_size(text: str) -> bool:
    """A whole number that a tensor's side can be."""
    return re.fullmatch(r"\s*[0-9]{1,19}\s*", text) is not None and 0 < int(text) <= LARGEST_WHOLE


def _memory(device: torch.device) -> int:
    return MEMORY if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory


def _dtype(name: str) -> torch.dtype:
    if name not in _ACCEPTED_DTYPES:
        raise ValueError(f"explain: --dtype is {name!r}; accepted are {', '.join(_ACCEPTED_DTYPES)}.")
    return _DTYPES.get(name) or getattr(torch, name)


def parse_device(command: str, name: str) -> torch.device:
    """``command`` opens the sentence that a wrong ``name`` gets. PyTorch counts devices in seven bits."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", name):
        raise ValueError(f"{command}--device is {name!r}; accepted are cpu and cuda.")
    return torch.device(name)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _line(name: str, words: str) -> str:
    return f"{name:<12} {words}"


def _count(operations: float) -> str:
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if operations >= size:
            return f"{operations / size:.3g} {unit}"
    return f"{operations:.0f} FLOP"


def _bytes(count: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
