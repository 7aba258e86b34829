# SPDX-License-Identifier: Apache-2.0
"""The smoke gate: every op and loss once, and a line of smoke.jsonl for each backend that can run it.

value   loss and gradients against float64, as the benchmark's own gate takes them
stream  the same on a stream beside the default one
sync    the same where a wait for the device is an error
graph   captured, the results poisoned, replayed: the same bits

`python -m device.smoke K N FIRST TEXT...` takes the K-th of N parts of the items whose names have a TEXT, from its
FIRST on. Where a kernel breaks the device, a new process goes on with the next.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from device import files, losses
from device.plan import SMOKE, Item, chosen
from device.rehearsal import device, distinct, dtype, lost, workload
from sslkernels.bench import device_timing
from sslkernels.bench.gate import Truth, differentiable, slopes
from sslkernels.bench.providers import Ours, has_backends
from sslkernels.terminal import printable

OK = "ok"


def main(part: int, parts: int, first: int, texts: list[str]) -> int:
    here, failed = device(), 0
    if part == first == 0 and not texts:
        failed += _line({"op": "torch.addmm", "checks": {"out_dtype": _addmm(here)}})
    todo = [
        partial(_checked, item, backend, here)
        for item in distinct(chosen(SMOKE, texts))[part::parts]
        for backend in has_backends(workload(item))
        if backend != "reference" and Ours(backend).why_not(workload(item), here, getattr(torch, dtype(item))) is None
    ]
    todo += [partial(_loss, name, here) for name in losses.names(here, texts)[part::parts]]
    for place, check in enumerate(todo[first:], first + 1):
        failed += _line(check())
        if lost():
            command = [sys.executable, "-m", "device.smoke", str(part), str(parts), str(place), *texts]
            return subprocess.run(command).returncode or 1
    return 1 if failed else 0


def _line(found: dict[str, Any]) -> bool:
    """Write the line, and say whether a check failed."""
    found["ok"] = all(said == OK or said.startswith("absent") for said in found["checks"].values())
    files.append_json(files.out() / "smoke.jsonl", found)
    return not found["ok"]


def _checked(item: Item, backend: str, here: torch.device) -> dict[str, Any]:
    begun, made = time.monotonic(), workload(item)
    checks: dict[str, str] = {}
    torch.set_float32_matmul_precision(item.precision)
    try:
        inputs = made.inputs(getattr(torch, dtype(item)), here)
        truth = Truth.of(made, inputs)
        step = Ours(backend).step(made, inputs)
        run = _Run(step, inputs)
        checks["value"] = truth.gate(step, inputs).complaint or OK
        checks["stream"] = _told(lambda: truth.gate(lambda: _beside(step), inputs).complaint or OK)
        if made.case.not_recorded is None:  # others wait for the device's numbers
            checks |= run.checks()
    except Exception as error:  # a broken op is a line, and the others are still checked
        checks.setdefault("value", _sentence(error))
    return {
        "item": str(item), "op": item.op, "dtype": item.dtype, "precision": item.precision, "backend": backend,
        "workload": str(made), "checks": checks, "seconds": round(time.monotonic() - begun, 3),
    }  # fmt: skip


def _loss(name: str, here: torch.device) -> dict[str, Any]:
    """A public loss at a small size, whether it has a benchmark or not."""
    begun = time.monotonic()
    checks: dict[str, str] = {}
    torch.set_float32_matmul_precision("highest")
    try:
        step, inputs, right = losses.prepared(name, here)
        checks["value"] = _told(right)
        checks |= _Run(step, inputs).checks()
    except Exception as error:
        checks.setdefault("value", _sentence(error))
    return {
        "loss": name, "op": name, "dtype": "float32", "backend": losses.BACKEND, "checks": checks,
        "seconds": round(time.monotonic() - begun, 3),
    }  # fmt: skip


class _Run:
    """A step whose results can be compared bit for bit. An update begins from the same targets each time."""

    def __init__(self, step: Callable[[], Any], inputs: Any) -> None:
        self.step, self.inputs, self.wanted = step, inputs, list(differentiable(inputs).values())
        self.start = [target.clone() for target in inputs.get("targets", ())]

    def checks(self) -> dict[str, str]:
        return {"sync": _told(self.without_waiting), "graph": _told(self.replayed)}

    def once(self) -> list[Tensor]:
        """Loss and gradients, or the targets after an update."""
        result = self.step()
        return list(self.inputs["targets"]) if self.start else [result, *slopes(result, self.wanted)]

    @torch.no_grad()
    def restore(self) -> None:
        for target, start in zip(self.inputs.get("targets", ()), self.start, strict=True):
            target.copy_(start)

    def copied(self) -> list[Tensor]:
        self.restore()
        return [x.detach().clone() for x in self.once()]

    def without_waiting(self) -> str:
        device_timing.cuda.synchronize()
        device_timing.cuda.set_sync_debug_mode("error")
        try:
            self.once()
        finally:
            device_timing.cuda.set_sync_debug_mode("default")
        return OK

    def replayed(self) -> str:
        right = self.copied()
        graph, static = device_timing.captured(self.once)
        if not self.start:
            for x in static:
                x.detach().fill_(torch.nan)
        self.restore()
        graph.replay()
        device_timing.cuda.synchronize()
        for place, (x, wanted) in enumerate(zip(static, right, strict=True)):
            if not torch.equal(x.detach(), wanted):
                off = float((x.detach().double() - wanted.double()).abs().max())
                return f"result {place} of the replay differs by {off:.1e}"
        return OK


def _beside(step: Callable[[], Any]) -> Any:
    """Run a step on another stream. Its gradient follows there by itself."""
    cuda = device_timing.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        result = step()
    cuda.current_stream().wait_stream(side)
    return result


def _addmm(here: torch.device) -> str:
    """Losses add products of bfloat16 into float32, which torch has for CUDA from 2.11 on."""
    if here.type != "cuda":
        return "absent: torch has it on CUDA alone"
    return _told(lambda: _addmm_sentence(here))


def _addmm_sentence(here: torch.device) -> str:
    sums, x, y = torch.randn(64, 32, device=here), *(torch.randn(64, 64, device=here).bfloat16() for _ in range(2))
    y = y[:, :32].contiguous()
    found = torch.addmm(sums, x, y, out_dtype=torch.float32)
    right = sums.double() + x.double() @ y.double()
    off = float((found.double() - right).abs().max())
    return OK if found.dtype == torch.float32 and off < 1e-3 else f"it is {found.dtype} and off by {off:.1e}"


def _told(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return _sentence(error)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(next(iter(str(error).splitlines()), ''))[:500]}"


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:4]), sys.argv[4:]))
