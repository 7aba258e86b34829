# SPDX-License-Identifier: Apache-2.0
"""Measures where the two sides of the correlation family cross: their time over N/D, forward and backward.

    python benchmarks/crossover.py results/crossover

writes results/crossover.jsonl and results/crossover.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sslkernels.bench import runner, timing
from sslkernels.bench.cases import correlation
from sslkernels.bench.records import write
from sslkernels.files import write_atomically

FEATURES = (512, 2048)
RATIOS = (0.25, 0.5, 0.71, 0.85, 1.0, 1.18, 1.41, 2.0, 4.0)
LOSSES = {case.op: case.ours for case in correlation.CASES}
SIDES = ("samples", "features")
SECONDS = 1.0


def measured() -> list[dict[str, Any]]:
    shared = runner.environment(torch.device("cpu"))
    records = []
    for dtype in (torch.float32, torch.bfloat16):
        for d in FEATURES:
            for ratio in RATIOS:
                n = round(ratio * d)
                z0 = torch.randn(n, d).to(dtype).requires_grad_()
                z1 = (z0.detach() + torch.randn(n, d)).to(dtype).requires_grad_()
                inputs = {"z0": z0, "z1": z1}
                for name, loss in LOSSES.items():
                    steps = {side: (lambda s=side, f=loss: f(**inputs, side=s, backend=None), inputs) for side in SIDES}  # noqa: B023
                    timings = timing.interleaved(steps, SECONDS)
                    for side, found in timings.items():
                        seconds = found.summary()["fwd+bwd"]["median"]
                        record = {"loss": name, "side": side, "n": n, "d": d, "dtype": str(dtype)[6:]}
                        records.append({**shared, **record, "seconds": seconds, "disturbed": found.disturbed})
                        print(f"{name} {n}x{d} {record['dtype']} {side}: {seconds * 1e3:.2f} ms", flush=True)
    return records


def draw(records: list[dict[str, Any]], file: BinaryIO) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    dtypes = list(dict.fromkeys(record["dtype"] for record in records))
    figure, axes = plt.subplots(1, len(dtypes), figsize=(10, 4.4), dpi=160, sharey=True, layout="constrained")
    colours = dict(zip(FEATURES, ("#1f5fa8", "#d9791a"), strict=True))
    for axis, dtype in zip(axes, dtypes, strict=True):
        for d in FEATURES:
            for loss, dash in zip(LOSSES, ("-", "--"), strict=True):
                chosen = [r for r in records if (r["dtype"], r["d"], r["loss"]) == (dtype, d, loss)]
                time = {side: {r["n"]: r["seconds"] for r in chosen if r["side"] == side} for side in SIDES}
                rows = sorted(time["samples"])
                axis.plot(
                    [n / d for n in rows],
                    [time["features"][n] / time["samples"][n] for n in rows],
                    dash, color=colours[d], marker="o", ms=4, label=f"{loss}, D = {d}",
                )  # fmt: skip
        axis.axhline(1, color="#333333", lw=1)
        axis.axvline(1, color="#333333", lw=1, ls=":")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_title(dtype, loc="left", fontweight="bold")
        axis.set_xlabel("N / D")
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axis.set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axis.grid(color="#e3e5e8")
    axes[0].set_ylabel("time of the D x D side / time of the N x N side")
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(
        "Which side is faster, forward + backward: above 1 the N x N side is", fontweight="bold", x=0.02, ha="left"
    )
    figure.savefig(file, format="png")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/crossover.py NAME, which writes NAME.jsonl and NAME.png")
    name = Path(sys.argv[1])
    records = measured()
    write(records, name.with_suffix(".jsonl"))
    write_atomically(name.with_suffix(".png"), lambda file: draw(records, file))


if __name__ == "__main__":
    main()
