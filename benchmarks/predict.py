# SPDX-License-Identifier: Apache-2.0
"""Write the predicted times and the kernels of the benchmark's GPU workloads into docs/design/gpu.md and the README.

    python benchmarks/predict.py

No GPU is needed. Kernels are compiled for GPUs that are not here, and their times are modelled, not measured; the note
says how. It takes a few minutes. The tables replace what stands between the marks <!-- NAME --> and <!-- /NAME -->.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from sslkernels import __version__
from sslkernels.bench.workloads import WORKLOADS, Workload
from sslkernels.device import report
from sslkernels.device.report import Report, count_in_words, time_in_words
from sslkernels.device.targets import TARGETS

ROOT = Path(__file__).parents[1]
NOTE, README = ROOT / "docs" / "design" / "gpu.md", ROOT / "README.md"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# The kernels were made to reach these goals. The README shows these workloads alone.
WANTED = {
    ("clip_loss", (65536, 512), "bf16"): "34 ms",
    ("clip_loss", (65536, 768), "bf16"): "50 ms",
    ("nt_xent", (4096, 128), "bf16"): "150 us",
    ("nt_xent", (65536, 256), "bf16"): "50 ms",
    ("info_nce", (256, 65536, 128), "bf16"): "60 us",
    ("barlow_twins", (2048, 8192), "bf16"): "1.3 ms",
    ("prototype_cross_entropy", (3727, 3727, 65536, 256), "bf16"): "3 ms",
}


def workloads() -> list[Workload]:
    """The workloads of the preset for a GPU, and the largest of the families that have none there."""
    recipe = [w for w in WORKLOADS if w.preset == "recipe" or w.recipe_too]
    small = {w.op: w for w in WORKLOADS if w.preset == "small" and w.family not in {each.family for each in recipe}}
    return [*recipe, *small.values()]


def predicted(workload: Workload, dtype: str, target: str) -> Report:
    to = TARGETS[target]
    return report.make(workload, DTYPES[dtype], to, report.chosen(workload, DTYPES[dtype], to, None))


def times() -> Iterator[str]:
    yield "| workload | dtype | wanted | H200 | floor | launches | host | memory | B200 | A100 |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for workload in workloads():
        for dtype in DTYPES:
            made = {name: predicted(workload, dtype, name) for name in TARGETS}
            h200 = made["sm_90"]
            for name in sorted({row.name for each in made.values() for row in each.rows if not row.modelled}):
                print(f"{workload} runs {name}, whose work is not written down: its time is missing", file=sys.stderr)
            cells = (
                f"`{workload.op}` {' x '.join(map(str, workload.shape))}",
                dtype,
                WANTED.get((workload.op, workload.shape, dtype), ""),
                f"**{time_in_words(h200.seconds)}**",
                time_in_words(h200.floor),
                str(len(h200.recording.launches)),
                time_in_words(h200.host_seconds),
                f"{count_in_words(h200.recording.peak_bytes)}B",
                time_in_words(made["sm_100"].seconds),
                time_in_words(made["sm_80"].seconds),
            )
            yield f"| {' | '.join(cells)} |"


def goals() -> Iterator[str]:
    yield "| workload, bf16 | wanted | predicted on an H200 | launches | memory beside the inputs |"
    yield "|---|--:|--:|--:|--:|"
    for (op, shape, dtype), wanted in WANTED.items():
        made = predicted(Workload(op, shape), dtype, "sm_90")
        recording = made.recording
        cells = (
            f"`{op}` {'×'.join(map(str, shape))}",
            wanted,
            time_in_words(made.seconds),
            str(len(recording.launches)),
            f"{count_in_words(recording.peak_bytes)}B",
        )
        yield f"| {' | '.join(cells)} |"


def kernels() -> Iterator[str]:
    """Every kernel of ours that the workloads run in bfloat16 on an H200, at the first shape that runs it."""
    yield "| kernel | at | registers | shared | per SM | product | H200 | bound by | B200 product |"
    yield "|---|---|--:|--:|--:|---|--:|---|---|"
    seen = set[tuple[str, ...]]()
    for workload in workloads():
        other = {row.name: row for row in predicted(workload, "bf16", "sm_100").rows}
        for row in predicted(workload, "bf16", "sm_90").rows:
            if row.used is None or (workload.family, row.name) in seen:
                continue
            seen.add((workload.family, row.name))
            longest = max(row.predictions, key=lambda prediction: prediction.seconds)
            newer = other[row.name].used if row.name in other else None
            cells = (
                f"`{row.name}`",
                f"{workload.op} {' x '.join(map(str, workload.shape))}",
                str(row.used.registers),
                str(row.used.shared),
                str(row.per_multiprocessor),
                row.used.product,
                time_in_words(longest.seconds),
                longest.bound,
                "" if newer is None else newer.product,
            )
            yield f"| {' | '.join(cells)} |"


def instructions() -> Iterator[str]:
    """Instructions of a thread per pair of rows, of every kernel that multiplies pairs, rounded up."""
    yield "| workload, bf16 on sm_90 | kernel | instructions per pair at most |"
    yield "|---|---|--:|"
    for workload in workloads():
        most: dict[str, float] = {}
        for row in predicted(workload, "bf16", "sm_90").rows:
            if row.used is not None and row.used.product != "none" and (counts := row.per_pair()):
                most[row.name] = max(most.get(row.name, 0.0), *counts)
        for name, count in most.items():
            shape = " x ".join(map(str, workload.shape))
            yield f"| `{workload.op}` {shape} | {name} | {count + 0.05:.1f} |"


def main() -> None:
    for file, name, lines in (
        (README, "gpu", goals()),
        (NOTE, "times", times()),
        (NOTE, "kernels", kernels()),
        (NOTE, "instructions", instructions()),
    ):
        table = "\n".join(lines)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{table}\n\g<2>", file.read_text(), flags=re.DOTALL
        )
        file.write_text(text)
        print(f"{name} written, by sslkernels {__version__}", flush=True)


if __name__ == "__main__":
    main()
