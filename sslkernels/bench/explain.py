# SPDX-License-Identifier: Apache-2.0
"""`sslkernels explain` says which backend and path would run an op and why, what it costs, and where the floor is."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Iterator

import torch

from sslkernels import backends
from sslkernels.arguments import LARGEST_WHOLE, MEMORY, came
from sslkernels.bench import timing
from sslkernels.bench.cases import CASES
from sslkernels.bench.cases.case import bytes_in_words
from sslkernels.bench.gate import Truth
from sslkernels.bench.providers import Ours, has_backends
from sslkernels.bench.workloads import Workload
from sslkernels.device import report
from sslkernels.device.targets import TARGETS, Target
from sslkernels.terminal import printable

_DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_ACCEPTED_DTYPES = (*_DTYPES, *(str(dtype).removeprefix("torch.") for dtype in _DTYPES.values()))
_EXAMPLE = """

examples:
  sslkernels explain nt_xent --shape 4096,128 --dtype bf16 --device cpu --measure
  sslkernels explain nt_xent --shape 4096,128 --dtype bf16 --device sm_90"""
_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sslkernels explain``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shapes = (
        f"{case.op} {','.join(case.dimensions)}{case.shape_note and f' ({case.shape_note})'}" for case in CASES.values()
    )
    parser.epilog = textwrap.fill(f"shapes: {' · '.join(shapes)}", 118, subsequent_indent="  ") + _EXAMPLE
    *most, last = CASES
    parser.add_argument("op", metavar="OP", help=f"{', '.join(most)} or {last}")
    parser.add_argument("--shape", required=True, help="sizes, such as 4096,128 or 4096x128")
    parser.add_argument("--dtype", default="fp32", help="fp32 (default), bf16, fp16 or fp64")
    parser.add_argument(
        "--device",
        default="cpu",
        help=f"cpu (default) or cuda, which need not be here; {', '.join(TARGETS)} compile the kernels and model them",
    )
    parser.add_argument("--backend", help="explain this backend rather than the one chosen")
    parser.add_argument("--measure", action="store_true", help="check, then time it on random rows")


def run(args: argparse.Namespace) -> int:
    """Print the explanation. A wrong argument is a ValueError of one sentence."""
    workload, dtype = _workload(args.op, args.shape), _dtype(args.dtype)
    if args.device in TARGETS:
        lines = predict(workload, dtype, TARGETS[args.device], args.backend, args.measure)
    else:
        device = parse_device("explain: ", args.device, *TARGETS)
        lines = explain(workload, dtype, device, args.backend, args.measure)
    for line in lines:
        print(printable(line), flush=True)  # all that is known is printed before anything is measured
    return 0


def explain(
    workload: Workload, dtype: torch.dtype, device: torch.device, backend: str | None, measured: bool
) -> Iterator[str]:
    """Yield the lines, each a name and its words.

    >>> import torch
    >>> from sslkernels.bench.workloads import Workload
    >>> lines = explain(Workload("clip_loss", (256, 64)), torch.float64, torch.device("cpu"), "reference", False)
    >>> list(lines)[1]
    'backend      reference, because --backend asks for it'
    """
    here = device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()
    if measured and not here:
        raise ValueError(f"explain: --measure came with --device {device}, and torch finds no such device here.")
    has = has_backends(workload)
    if not here and device.index is None:
        device = torch.device(device.type, 0)  # a device of another machine is always named by its number
    name = backends.choose(device, dtype, backend, has)
    cost = workload.cost(dtype)
    if measured and cost.bytes > _memory(device):
        raise ValueError(
            f"explain: --measure came with tensors of {bytes_in_words(cost.bytes)}, and {device} has "
            f"{bytes_in_words(_memory(device))}; pass a smaller --shape."
        )
    case, shape = workload.case, workload.shape
    back = f" forward, {_count(cost.backward)} backward where nothing is repeated"
    beside = "targets and sources are read and targets written"
    if case.stored:
        beside = f"a dense path stores {bytes_in_words(workload.pairs * dtype.itemsize)} for its {case.stored} alone"
    yield from (
        _line("op", f"{case.op}, {case.described(shape, _name(dtype))} on {device}"),
        _line("backend", f"{name}, {_why(name, device, backend)}"),
        *(_line("", f"not {other}: {reason}") for other, reason in _absent(device, dtype, has)),
        _line("path", case.path(name, shape, dtype, device)),
        *([_line("workspace", case.workspace(shape, dtype))] if name == "cpu" and case.workspace else []),
        _line("operations", f"{_count(cost.forward)}{back if 'bwd' in case.phases else ' and no backward'}"),
        _line("bytes", f"{bytes_in_words(cost.bytes)} at least; {beside}"),
    )
    if here:
        yield from _floor(workload, dtype, device, name, measured)
    else:
        yield _line("floor", "unknown, since the device is not here to be measured")


def predict(
    workload: Workload, dtype: torch.dtype, target: Target, backend: str | None, measured: bool
) -> Iterator[str]:
    """Yield the lines for a GPU that is not here: its kernels as compiled for it, and the times that a model gives."""
    if measured:
        raise ValueError(f"explain: --measure came with --device {target.name}, which is modelled; pass --device cuda.")
    why_not = report.why_not()
    if why_not is not None:
        raise ValueError(f"explain: --device {target.name} compiles kernels, and {why_not}")
    name = report.chosen(workload, dtype, target, backend)
    case, shape = workload.case, workload.shape
    for label, words in (
        ("op", f"{case.op}, {case.described(shape, _name(dtype))}"),
        ("device", f"{target.name}: {target.device}, {target.multiprocessors} multiprocessors, which need not be here"),
        ("backend", f"{name}, {_why(name, torch.device('cuda'), backend)}"),
        ("path", report.path(workload, dtype, target, name)),
    ):
        first, *more = textwrap.wrap(words, 67)
        yield from (_line(label, first), *(_line("", each) for each in more))
    yield ""
    yield from report.lines(report.make(workload, dtype, target, name))


def _floor(workload: Workload, dtype: torch.dtype, device: torch.device, name: str, measured: bool) -> list[str]:
    cost, source = workload.cost(dtype), "torch.mm"
    peak, bandwidth = timing.matmul_peak(dtype, device), timing.copy_bandwidth(device)
    found = []
    if measured:
        inputs = workload.inputs(dtype, device)
        step = Ours(name).step(workload, inputs)
        complaint = Truth.of(workload, inputs).gate(step, inputs).complaint
        if complaint:
            raise ValueError(f"explain: {name} is wrong on these rows and was not timed: {complaint}.")
        memory = timing.step_memory(step, inputs)
        calls = timing.interleaved({name: (step, inputs)}, _SECONDS)[name]
        seconds = calls.summary()["fwd+bwd"]["median"]
        reached = cost.operations / seconds
        if reached > peak:
            peak, source = reached, "reached here, above torch.mm"
        share = timing.floor(cost, peak, bandwidth).seconds / seconds
        count = f"median of {len(calls.forward)} calls" + (", beside another busy process" if calls.disturbed else "")
        what = "an update" if workload.case.update else "a search" if workload.case.search else "forward and backward"
        cached = " (faster than memory: the tensors fit the cache)" if share > 1 else ""
        above = "unknown on this system" if memory is None else f"{bytes_in_words(memory)} above the inputs"
        found = [
            _line("measured", f"{seconds * 1e3:.3g} ms {what}, {count}: {share:.0%} of the floor's speed{cached}"),
            _line("memory", above),
        ]
    floor = timing.floor(cost, peak, bandwidth)
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


def _workload(op: str, shape: str) -> Workload:
    if op not in CASES:
        raise ValueError(f"explain: OP is {op!r}; accepted are {', '.join(CASES)}.")
    parts = re.split(r"[,x×]", shape.strip("() "))
    dimensions = CASES[op].dimensions
    if len(parts) != len(dimensions) or not all(map(_is_size, parts)):
        raise ValueError(
            f"explain: --shape is {came(shape)}; {op} takes {len(dimensions)} positive whole numbers "
            f"{','.join(dimensions)}, such as {','.join(('64', '196', '4', '49', '1024')[-len(dimensions) :])}."
        )
    sizes = dict(zip(dimensions, map(int, parts), strict=True))
    for part, whole in CASES[op].within:
        if sizes[part] > sizes[whole]:
            raise ValueError(
                f"explain: --shape is {shape!r}, {part}={sizes[part]} of {whole}={sizes[whole]}; "
                f"{part} is at most {whole}, in the order {','.join(dimensions)}."
            )
    return Workload(op, tuple(sizes.values()))


def _is_size(text: str) -> bool:
    """True for a whole number that can be a side of a tensor."""
    return re.fullmatch(r"\s*[0-9]{1,19}\s*", text) is not None and 0 < int(text) <= LARGEST_WHOLE


def _memory(device: torch.device) -> int:
    return MEMORY if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory


def _dtype(name: str) -> torch.dtype:
    if name not in _ACCEPTED_DTYPES:
        raise ValueError(f"explain: --dtype is {name!r}; accepted are {', '.join(_ACCEPTED_DTYPES)}.")
    return _DTYPES.get(name) or getattr(torch, name)


def parse_device(command: str, name: str, *others: str) -> torch.device:
    """Parse --device. ``command`` opens the sentence for a wrong ``name``; ``others`` are accepted too.

    PyTorch counts devices in seven bits.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", name):
        *most, last = ("cpu", "cuda", *others)
        raise ValueError(f"{command}--device is {name!r}; accepted are {', '.join(most)} and {last}.")
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
