# SPDX-License-Identifier: Apache-2.0
"""Writes evaluation.html: every measure with its meaning, and pictures, in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sslkernels.data import Dataset
from sslkernels.evaluation.measures import MEASURES, QUESTIONS
from sslkernels.html import image, page, section, table
from sslkernels.inspection.pictures import layer_curves, spectrum_curves
from sslkernels.inspection.subject import Subject
from sslkernels.training.pictures import embedding, neighbours

STYLE = """
td { vertical-align: top } .measures { table-layout: fixed }
.measures th:not(:first-child) { width: 80px }
.meaning { display: block; color: #616e7c; font-size: .85rem; line-height: 1.4 }
td.text { font-size: .9rem }
"""


def write_page(
    found: Mapping[str, Any], subject: Subject, features: Mapping[str, tuple[Tensor, Tensor]], title: str
) -> str:
    """Write the page for what evaluation.json holds.

    ``features`` are those of the training and of the test samples, of the encoder first and then of the untrained one,
    if there is one.
    """
    (_, test_features), *_ = features.values()
    dataset = subject.dataset
    content = [
        f'<p class="muted">{escape(subject.words)} {escape(_samples(found))}</p>',
        *(_measures(question, found) for question in QUESTIONS),
        _spectrum({name: rows for name, (rows, _) in features.items()}),
        *_layers(found),
        _embedding(test_features, dataset),
        *_neighbours(subject, features),
        *_not_taken(found),
        section("Settings", "", table([], _settings(found), text=True)),
    ]
    return page(title, filter(None, content), STYLE)


def _varies(rows: Tensor) -> bool:
    """Tell if there is anything to draw: a collapse may leave nothing."""
    return bool((rows != rows[0]).any())


def _spectrum(features: Mapping[str, Tensor]) -> str:
    words = (
        "The share of the variance of centred training features along each of their directions, on logarithmic axes. "
        "A straight line is a power law; a cliff means that the directions behind it are hardly used."
    )
    drawn = {name: rows for name, rows in features.items() if _varies(rows)}
    return section("Spectrum", words, image(spectrum_curves(drawn), "Spectrum")) if drawn else ""


def _embedding(test_features: Tensor, dataset: Dataset) -> str:
    if test_features.shape[1] < 2 or not _varies(F.normalize(test_features, dim=1)):
        return section("Embedding", "Not drawn: the features of held-out samples are one number, or all alike.", "")
    colours = " Colours are the labels." if len(dataset.classes) > 1 else ""
    words = f"Features of held-out samples in two dimensions.{colours}"
    return section(
        "Embedding", words, image(embedding(test_features, dataset.test_labels, dataset.classes), "Embedding")
    )


def _samples(found: Mapping[str, Any]) -> str:
    subject = found["subject"]
    classes = f" of {subject['classes']} classes" if subject["classes"] else " without labels"
    return (
        f"{subject['samples']} training and {subject['test_samples']} test {subject['modality']}{classes}, "
        f"{subject['feature_dim']} features each."
    )


def _measures(question: str, found: Mapping[str, Any]) -> str:
    """A section for the measures of a question; empty if none was taken."""
    taken = {name: each for name, each in found["measures"].items() if MEASURES[name].question == question}
    if not taken:
        return ""
    compared = any("untrained" in each for each in taken.values())
    rows = [
        [
            f'{escape(name)}<span class="meaning">{escape(each["meaning"])}{escape(_beside(each))}</span>',
            shown(each["value"]),
            *([shown(each.get("untrained"))] if compared else []),
            each["better"],
        ]
        for name, each in taken.items()
    ]
    head = ["", "value", *(["untrained"] if compared else []), "better"]
    return section(question, "", table(head, rows).replace("<table>", '<table class="measures">', 1))


def _beside(each: Mapping[str, Any]) -> str:
    """The further numbers of a measure, in words; lists are for evaluation.json alone."""
    numbers = {name: value for name, value in each["more"].items() if isinstance(value, (int, float))}
    listed = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in numbers.items())
    return f" Beside it: {listed}." if listed else ""


def shown(value: float | None) -> str:
    """A number in a few digits; a dash where there is none."""
    if value is None:
        return "–"
    return (
        f"{value:.3f}"
        if 1e-3 <= abs(value) < 100 or value == 0
        else f"{value:.3g}"
        if abs(value) < 1
        else f"{value:,.1f}"
    )


def _layers(found: Mapping[str, Any]) -> list[str]:
    each = found["measures"].get("per_layer")
    if each is None or len(each["more"].get("layers", ())) < 2:
        return []
    curves = {"this encoder": each["more"]["accuracies"]}
    if "untrained_more" in each:
        curves["untrained"] = each["untrained_more"]["accuracies"]
    words = "Accuracy of a linear probe on the output of each layer, the input's end first."
    return [section("Layer by layer", words, image(layer_curves(each["more"]["layers"], curves), "Layers"))]


def _neighbours(subject: Subject, features: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    if subject.draw is None:
        return []
    rows, test_rows = next(iter(features.values()))
    dataset = subject.dataset
    words = f"Held-out {dataset.modality} and the training samples nearest to them" + (
        "; green frames share the label, red do not." if len(dataset.classes) > 1 else "."
    )
    return [section("Neighbours", words, image(neighbours(dataset, rows, test_rows, subject.draw), "Neighbours"))]


def _not_taken(found: Mapping[str, Any]) -> list[str]:
    rows = [[escape(name), escape(why)] for name, why in found["left_out"].items()]
    rows += [[escape(name), f"It failed: {escape(why)}"] for name, why in found["failed"].items()]
    return [section("Not measured", "", table([], rows, text=True))] if rows else []


def _settings(found: Mapping[str, Any]) -> list[list[str]]:
    settings = {**found["subject"], "device": found["device"], "threads": found["threads"], **found["versions"]}
    return [[escape(name.replace("_", " ")), escape(str(value))] for name, value in settings.items()]
