# SPDX-License-Identifier: Apache-2.0
"""Times the weighted nearest-neighbour probe and SAS beside the lines that are usually written for them.

    python benchmarks/evaluation.py results/evaluation.jsonl [rows]

N rows of 512 features in ten classes, 50,000 unless told otherwise: a fiftieth as many test rows find their 20 nearest,
and SAS keeps 80 % of each class. A record has the median of three calls that take turns, and the peak of memory above
the inputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.bench import runner
from sslkernels.bench.records import write
from sslkernels.evaluation import sas_subset, weighted_knn
from sslkernels.peak_memory import peak_memory

ROWS, FEATURES, CLASSES, SHARE, CALLS = 50000, 512, 10, 0.8, 3
CPU = torch.device("cpu")


def plain_knn(features: Tensor, labels: Tensor, queries: Tensor, tested: Tensor, chunk: int) -> float:
    """The probe of DINO's repository, ``chunk`` queries at a time."""
    keys, correct = F.normalize(features, dim=1), 0
    for rows, answers in zip(queries.split(chunk), tested.split(chunk), strict=True):
        values, found = (F.normalize(rows, dim=1) @ keys.T).topk(20)
        votes = F.one_hot(labels[found], CLASSES) * (values / 0.07).exp()[:, :, None]
        correct += int((votes.sum(1).argmax(1) == answers).sum())
    return correct / len(queries)


def plain_sas(z: Tensor, classes: Tensor) -> Tensor:
    """The matrix of similarities of each class, one of whose rows is taken from all gains at every pick."""
    chosen = []
    for each in range(CLASSES):
        members = (classes == each).nonzero()[:, 0]
        x = F.normalize(z[members], dim=1)
        similarity = x @ x.T
        gains = similarity.sum(1)
        for _ in range(round(SHARE * len(members))):
            best = int(gains.argmax())
            chosen.append(int(members[best]))
            gains -= similarity[best]
            gains[best] = -torch.inf
    return torch.tensor(chosen).sort().values


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python benchmarks/evaluation.py NAME.jsonl [rows]")
    rows = int(sys.argv[2]) if len(sys.argv) == 3 else ROWS
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, FEATURES)
    labels, tested = torch.arange(rows) % CLASSES, torch.arange(rows // 50) % CLASSES
    z, queries = (centres[each] + 2 * torch.randn(len(each), FEATURES) for each in (labels, tested))
    steps: dict[str, dict[str, Callable[[], object]]] = {
        "weighted_knn": {
            "ours": lambda: weighted_knn(z, labels, queries, tested),
            "256 at a time": lambda: plain_knn(z, labels, queries, tested, 256),
            "at once": lambda: plain_knn(z, labels, queries, tested, len(queries)),
        },
        "sas_subset": {
            "ours": lambda: sas_subset(z, labels, SHARE),
            "matrix": lambda: plain_sas(z, labels),
        },
    }
    records = []
    for op, sides in steps.items():
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        memory = {side: peak_memory(call, CPU) for side, call in sides.items()}
        for _ in range(CALLS):
            for side, call in sides.items():
                start = time.perf_counter()
                call()
                seconds[side].append(time.perf_counter() - start)
        for side, taken in seconds.items():
            found = {"op": op, "side": side, "n": rows, "d": FEATURES, "seconds": median(taken), "bytes": memory[side]}
            records.append({**runner.environment(CPU), **found})
            print(f"{op} {rows}x{FEATURES} {side}: {found['seconds']:.2f} s, {(memory[side] or 0) / 2**20:.0f} MiB")
    write(records, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
