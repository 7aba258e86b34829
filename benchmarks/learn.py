# SPDX-License-Identifier: Apache-2.0
"""Train methods and recipes on the default data of each modality, and write docs/methods.md from what they learned.

    python benchmarks/learn.py                 # all that results/learning.json lacks
    python benchmarks/learn.py simclr@series   # one again; NAME@MODALITY, or NAME on its own data
    python benchmarks/learn.py --write         # only the page

Each run is `sslkernels train` with small numbers and seed 0; results/learning.json keeps its accuracies beside those of
the untrained encoder and of raw features, and the method's own figures. The page has the training steps that
`sslkernels bench train all --out benchmarks/results/recipes/train.jsonl` timed, too. tests/bench/test_learn.py fails
where somebody forgot to write the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from sslkernels.bench.records import CONTROL, Record, read, training_of
from sslkernels.files import write_atomically
from sslkernels.listing import AFTER_ABSTRACT, Row, rows
from sslkernels.recipes import MODALITIES, RECIPES, all_recipes

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "methods.md", ROOT / "benchmarks" / "results"
RECORD, TRAININGS = RESULTS / "learning.json", RESULTS / "recipes" / "train.jsonl"
# Methods that show what a modality's encoder and views can do; the page of images has all of them.
SHOWN = ("simclr", "byol", "vicreg")
# Second stages, which begin with what the first has learned from the same data.
FIRST = {"dlg_lc": "ca_dino"}
PROBES = ("few_shot", "linear", "knn")
KEPT = [probe + of for probe in PROBES for of in ("", "_untrained", "_raw")] + ["data", "split", "scores"]

INTRODUCTION = """\
# Methods and recipes

A method is a class of its own because its objective is; a recipe is a method with the data, views, numbers, a term or a
known part of another paper ([why](design/recipes.md)). `sslkernels train NAME` trains either, `--data SPEC` takes other
data. A method runs on every modality that has its kind of backbone, and a pretext task on samples that it can change.
`sslkernels methods NAME` shows the settings that `--set` takes.

| name | paper | ops | needs | modalities |
|---|---|---|---|---|"""
MARKED = f"""
{AFTER_ABSTRACT} follows its paper's abstract, and its numbers are ours; the docstring of the method, the term or the
transform says which part of the formula is. Data has to know of each sample what a method needs besides."""
SERVED = """
## Papers

The library sets out to serve 126 papers on self-supervised learning: methods, and studies of them. These are their
numbers in that list; numbers that are not here are not served yet.

| number | paper | names |
|--:|---|---|"""
STEPS = """
## A training step

`sslkernels bench train all` trains each twice from the same seed over the same batches and views, with the loss on the
`reference` backend and on ours, and times a step of both in turn, views to update. Curves agree if ours stays as near
to the other as moving the first weights by a rounding lets any. The share of a step that is the loss bounds what can be
gained. [What was measured](../benchmarks/RESULTS.md) has the other sides and sizes.

| name | data | batch | samples/s, `reference` | ours | ratio | loss of a step, `reference` | ours | curves agree |
|---|---|--:|--:|--:|--:|--:|--:|---|"""
LEARNED = """
## What they learn here

Accuracy on held-out samples with 5 labels a class (nearest neighbour), 10 labels a class (linear) and all labels (20
nearest), in percent: **trained** / untrained encoder / raw features. These are runs of a minute or two on two cores,
with seed 0, and no reproduction of a paper: where raw features are as good, the data is easy or the encoder small.
`dlg_lc` begins with the backbone of `ca_dino`. This page is written by `benchmarks/learn.py` from
`benchmarks/results/learning.json`."""


def wanted() -> Iterator[tuple[str, str]]:
    """The runs on the page: each name with a modality."""
    for modality in MODALITIES:
        for row in rows(modality=modality):
            if modality == "images" or row.name in RECIPES or row.name in SHOWN:
                yield row.name, modality


def run(name: str, modality: str) -> dict[str, Any]:
    from sslkernels.training import train

    data = RECIPES[name].data if name in RECIPES else MODALITIES[modality].data
    begun = time.perf_counter()

    def say(line: str) -> None:
        print(f"{name}@{modality}: {line}")

    with tempfile.TemporaryDirectory() as folder:
        out, first = Path(folder) / "run", None
        if name in FIRST:
            first = str(Path(folder) / "first")
            train(FIRST[name], first, data=data, say=say)
        metrics = train(name, out, data=data, start=first, say=say)
    kept = {key: metrics[key] for key in KEPT}
    return {
        **kept,
        "epochs": metrics["config"]["epochs"],
        "seconds": round(time.perf_counter() - begun, 1),
        "machine": platform.machine(),
        "torch": metrics["versions"]["torch"],
    }


def trainings() -> list[Record]:
    """The records of `sslkernels bench train`; empty if there are none yet."""
    return read(TRAININGS) if TRAININGS.exists() else []


def page(record: dict[str, Any], trainings: Iterable[Record]) -> str:
    """The text of docs/methods.md."""
    parts = [INTRODUCTION, *map(_line, rows()), MARKED, LEARNED]
    for modality in MODALITIES:
        entries = [(name, record.get(f"{name}@{modality}")) for name, of in wanted() if of == modality]
        found = [(name, each) for name, each in entries if each is not None]
        if not found:
            continue
        parts += [
            "",
            f"### {modality.capitalize()}",
            "",
            "| name | data | held out by | epochs | 5 labels | 10 labels | all labels |",
            "|---|---|---|--:|--:|--:|--:|",
        ]
        parts += [
            f"| `{name}` | `{each['data']}` | {each['split']} | {each['epochs']} | "
            + " | ".join(_accuracy(each, probe) for probe in PROBES)
            + " |"
            for name, each in found
        ]
        figures = [f"- `{name}`: {_figures(each['scores'])}" for name, each in found if each.get("scores")]
        parts += ["", "The methods' own figures, on held-out samples:", "", *figures] if figures else []
    timed = list(_timed(trainings))
    parts += [STEPS, *timed] if timed else []
    return "\n".join([*parts, SERVED, *_served()]) + "\n"


def _line(row: Row) -> str:
    kinds = "all" if len(row.modalities) == len(MODALITIES) > 1 else ", ".join(row.modalities)
    needs = ", ".join(row.needs) or "–"
    paper = row.marked_paper.replace(row.paper, f"[{row.paper}](https://arxiv.org/abs/{row.arxiv})")
    return f"| `{row.name}` | {paper} | {row.family} | {needs} | {kinds} |"


def _accuracy(each: dict[str, Any], probe: str) -> str:
    values = [each[probe + of] for of in ("", "_untrained", "_raw")]
    trained, *others = ("–" if value is None else f"{100 * value:.1f}" for value in values)
    return f"**{trained}** / {' / '.join(others)}"


def _figures(scores: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in scores.items())


def _timed(trainings: Iterable[Record]) -> Iterator[str]:
    """A line for each method and recipe, ours against `reference`; the latest record stands. Then where it ran."""
    sides: dict[str, dict[str, Record]] = {}
    for each in sorted((each for each in trainings if each.get("kind") == "train"), key=itemgetter("date")):
        name, *how = training_of(each)
        if how == ["small", "reference"] and each["backend"] != CONTROL:
            sides.setdefault(name, {})["reference" if each["backend"] == "reference" else "ours"] = each
    shown = [sides[row.name] for row in rows() if len(sides.get(row.name, ())) == 2]
    for theirs, mine in (itemgetter("reference", "ours")(pair) for pair in shown):
        speeds = theirs["images_per_second"], mine["images_per_second"]
        ratio = f"{speeds[1] / speeds[0]:.2f}"
        cells = [
            f"`{mine['method']}`",
            f"`{mine['data']}`",
            *(f"{number:,.0f}" for number in (mine["batch_size"], *speeds)),
            ratio if float(ratio) >= 1 else f"**{ratio}**",
            *(f"{side['loss_share']:.0%}" for side in (theirs, mine)),
            "yes" if mine["agrees"] else "**no**",
        ]
        yield f"| {' | '.join(cells)} |"
    if shown:
        places = dict.fromkeys(
            f"{ours['device']['name']}, {ours['threads']} threads, torch {ours['versions']['torch']}"
            for ours in map(itemgetter("ours"), shown)
        )
        yield f"\nMeasured on {'; '.join(places)}. Ratios below 1 are bold."


def _served() -> Iterator[str]:
    """A line for each number in the list of papers, with all names that follow the paper."""
    recipes = list(all_recipes())
    for number, first in sorted(((number, each) for each in recipes for number in each.seeds), key=itemgetter(0)):
        names = ", ".join(f"`{each.name}`" for each in recipes if each is first or each.arxiv == first.arxiv)
        yield f"| {number} | [{first.paper}](https://arxiv.org/abs/{first.arxiv}) | {names} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME[@MODALITY]")
    parser.add_argument("--write", action="store_true", help="write the page from the record, and train nothing")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    names = arguments.names or [f"{name}@{of}" for name, of in wanted() if f"{name}@{of}" not in record]
    for each in [] if arguments.write else names:
        name, _, modality = each.partition("@")
        modality = modality or (RECIPES[name].modality.name if name in RECIPES else "images")
        try:
            record[f"{name}@{modality}"] = run(name, modality)
        except FileNotFoundError as error:  # the data is not installed
            print(f"{name}@{modality} is left out: {error}")
            continue
        write_atomically(RECORD, json.dumps(dict(sorted(record.items())), indent=1) + "\n")
    write_atomically(PAGE, page(record, trainings()))


if __name__ == "__main__":
    main()
