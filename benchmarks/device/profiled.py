# SPDX-License-Identifier: Apache-2.0
"""Launches the kernels that ncu looks into, once to warm up and once profiled: `python -m device.profiled TEXT...`."""

from __future__ import annotations

import sys

import torch

from device.plan import PROFILED, chosen
from device.rehearsal import device, dtype, workload
from sslkernels.bench.gate import differentiable, slopes
from sslkernels.bench.providers import Ours, chosen_backend


def main(texts: list[str]) -> int:
    here = device()
    for item in chosen(PROFILED, texts):
        made, kind = workload(item), getattr(torch, dtype(item))
        inputs = made.inputs(kind, here)
        step, wanted = Ours(chosen_backend(made, here, kind)).step(made, inputs), list(differentiable(inputs).values())
        slopes(step(), wanted)
        if here.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        slopes(step(), wanted)
        if here.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
