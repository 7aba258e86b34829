# SPDX-License-Identifier: Apache-2.0
"""Ask which measures without labels rank encoders as a probe with labels does, and write it into docs/evaluation.md.

    python benchmarks/measures.py                # the runs that results/measures.json lacks
    python benchmarks/measures.py simclr byol    # these again, and no others
    python benchmarks/measures.py --write        # only the page

Each run trains a method on the digits on one thread, a short or a longer while, and measures its encoder. The page has
Spearman's rank correlation over all runs between each measure that reads no label and the accuracy of probes, good or
bad. tests/evaluation/test_measures_page.py fails where somebody forgot to write it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from sslkernels.evaluation import MEASURES
from sslkernels.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PAGE, RECORD = ROOT / "docs" / "evaluation.md", ROOT / "benchmarks" / "results" / "measures.json"
METHODS = ("simclr", "byol", "simsiam", "barlow_twins", "vicreg", "moco_v3", "swav", "dino")
SEEDS, EPOCHS, DATA = (0, 1), (2, 8), "digits"
# A measure should rank encoders as these do.
PROBES = ("linear_probe", "linear_10", "knn")
BEGIN, END = "<!-- written by benchmarks/measures.py -->\n", "<!-- end -->\n"


def run(method: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train once, and take the measures."""
    import torch
    from lightning.pytorch import Trainer

    from sslkernels.evaluation import calibrate_batchnorm, report
    from sslkernels.training import LitMethod, TrainConfig
    from sslkernels.training.loader import Batches
    from sslkernels.training.progress import hush
    from sslkernels.training.run import prepare

    torch.set_num_threads(1)
    begun = time.perf_counter()
    given = {"data": DATA, "seed": seed, "epochs": epochs}
    prepared = prepare(TrainConfig.from_options(method, given), given)
    config, dataset = prepared.config, prepared.dataset
    with warnings.catch_warnings():
        hush()
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        module = LitMethod(prepared.learner, views=prepared.views, lr=config.lr)
        trainer.fit(module, Batches(dataset, config.batch_size, seed, prepared.learner.needs))
    trained, backbone = time.perf_counter() - begun, prepared.learner.backbone
    calibrate_batchnorm(backbone, dataset.inputs)
    views = config.recipe.build_own_views(dataset, config.method_options, max(2, config.recipe.count))
    names = [name for name, each in MEASURES.items() if name in PROBES or "labels" not in each.needs]
    found = report(backbone, dataset, views, only=names)
    values = {name: each["value"] for name, each in found["measures"].items()}
    return {"method": method, "seed": seed, "epochs": epochs, "seconds": round(trained, 1), "values": values,
            "left_out": found["left_out"] | found["failed"], "torch": torch.__version__,
            "machine": platform.machine()}  # fmt: skip


def correlations(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each measure without labels with each probe, positive where it ranks as it says."""
    found: dict[str, dict[str, float]] = {}
    for name, measure in MEASURES.items():
        known = [each["values"] for each in runs if name in each["values"]]
        if "labels" in measure.needs or len(known) < len(runs):
            continue
        # The distance of alpha from 1 should be low.
        values = [abs(each[name] - 1) if measure.better == "neither" else each[name] for each in known]
        sign = 1 if measure.better == "higher" else -1
        found[name] = {
            probe: round(sign * float(spearmanr(values, [each[probe] for each in known])[0]), 3) for probe in PROBES
        }
    return found


def table(record: dict[str, Any]) -> str:
    """Write what the page says between its two marks."""
    runs, rows = record["runs"], record["correlations"]
    chance = 1.96 / (len(runs) - 1) ** 0.5
    lows = {probe: [each["values"][probe] for each in runs] for probe in PROBES}
    reached = ", ".join(f"`{probe}` {100 * min(v):.1f} to {100 * max(v):.1f} %" for probe, v in lows.items())
    ranked = sorted(rows.items(), key=lambda entry: -entry[1][PROBES[0]])
    methods = ", ".join(dict.fromkeys(f"`{each['method']}`" for each in runs))
    seeds = len({each["seed"] for each in runs})
    lengths = " and ".join(f"{count} of {epochs}" for epochs, count in Counter(each["epochs"] for each in runs).items())
    lines = [
        f"Spearman's rank correlation over {len(runs)} runs: {methods} on the digits, with {seeds} seeds;",
        f"{lengths} epochs. 1 means that the measure ranks the encoders as the probe does, in the direction that it",
        "calls better; of `alpha_req` the distance from 1 counts.",
        f"Numbers within {chance:.2f} of 0 are what chance gives, and are in brackets. Accuracies:",
        f"{reached}.",
        "",
        f"| measure | {' | '.join(f'`{probe}`' for probe in PROBES)} |",
        f"|---|{'--:|' * len(PROBES)}",
    ]
    for name, values in ranked:
        cells = (f"({each:.2f})" if abs(each) < chance else f"{each:.2f}" for each in values.values())
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def written(page: str, record: dict[str, Any]) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{table(record)}{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--write", action="store_true", help="write the page from the record, and train nothing")
    arguments = parser.parse_args()
    runs = json.loads(RECORD.read_text())["runs"] if RECORD.exists() else []
    runs = [each for each in runs if each["method"] not in arguments.methods]
    have = {(each["method"], each["seed"], each["epochs"]) for each in runs}
    wanted = [(method, seed, epochs) for epochs in EPOCHS for seed in SEEDS for method in METHODS]
    for each in [] if arguments.write else wanted:
        if each not in have and (not arguments.methods or each[0] in arguments.methods):
            runs.append(run(*each))
            print(
                *each,
                runs[-1]["seconds"],
                "s",
                *(f"{name} {runs[-1]['values'][name]:.3f}" for name in PROBES),
                flush=True,
            )
            write_atomically(RECORD, json.dumps({"runs": runs, "correlations": {}}, indent=1) + "\n")
    runs.sort(key=lambda each: wanted.index((each["method"], each["seed"], each["epochs"])))
    record = {"runs": runs, "correlations": correlations(runs)}
    write_atomically(RECORD, json.dumps(record, indent=1) + "\n")
    write_atomically(PAGE, written(PAGE.read_text(), record))


if __name__ == "__main__":
    main()
