# SPDX-License-Identifier: Apache-2.0
"""Writes report.html: all that a run found, in one file that needs no other."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from torch import Tensor

from sslkernels.data import Dataset
from sslkernels.html import image, page, section, table
from sslkernels.training.pictures import embedding, loss_curve, neighbours, spread


def write_report(
    metrics: dict[str, Any],
    dataset: Dataset,
    features: Tensor,
    test_features: Tensor,
    draw: Callable[[Any, Any], None] | None,
    picture: bytes | None = None,
) -> str:
    """Write the page for ``metrics`` and the trained features of ``dataset``'s training and test samples.

    ``draw`` draws a sample, None if samples cannot be seen. ``picture`` is what the method makes of some, as PNG; None
    if it makes nothing to look at.
    """
    title = f"{metrics['method']} on {metrics['data']}"
    settings = {**metrics["config"], **metrics["versions"]}
    return page(
        title,
        (
            f'<p class="muted">{escape(_setting(metrics, dataset))}</p>',
            section(_cost_title(metrics), _cost_words(metrics), _costs(metrics)),
            _worth(metrics, dataset),
            *_scores(metrics, dataset),
            *_painting(picture),
            section(
                "Loss",
                "Every optimizer step, and its running mean.",
                image(loss_curve(metrics["loss"]), "Loss curve"),
            ),
            section(
                "Spread of the features",
                "At the end of each epoch, on views of training samples. The standard deviation is 1 where features "
                "spread evenly over the sphere and 0 where all are alike; the effective rank counts the directions "
                "that they fill, their common mean being one.",
                _spread(metrics),
            ),
            section(
                "Embedding",
                "Features of held-out samples in two dimensions." + _colours(metrics, dataset),
                image(embedding(test_features, dataset.test_labels, dataset.classes), "Embedding"),
            ),
            *_neighbours(dataset, features, test_features, draw),
            section("Settings", "", table([], [[escape(k), escape(str(v))] for k, v in settings.items()], text=True)),
        ),
    )


def _labelled(dataset: Dataset) -> bool:
    """Whether there are classes to compare."""
    return len(dataset.classes) > 1


def _worth(metrics: dict[str, Any], dataset: Dataset) -> str:
    title = "What the features are worth"
    if not _labelled(dataset):
        return section(title, "Not measured: the probes compare classes, and the data has no labels, or one class.", "")
    words = (
        f"Accuracy on held-out {dataset.modality}{_split_words(dataset)}. The untrained encoder has the same "
        "architecture and the random weights of this seed; statistics of BatchNorm, where it has any, were set by "
        "passes over the training samples. "
        + ("The started one has the weights that this run began with. " if _started(metrics) else "")
        + "Raw features are those that nobody had to learn: the floor."
    )
    return section(title, words, _accuracies(metrics))


def _scores(metrics: dict[str, Any], dataset: Dataset) -> list[str]:
    """The method's own figures, if it has any."""
    if not metrics["scores"]:
        return []
    rows = [[escape(name.replace("_", " ")), f"{value:.3f}"] for name, value in metrics["scores"].items()]
    return [section("The method's own figures", f"On held-out {dataset.modality}.", table(["", ""], rows))]


def _colours(metrics: dict[str, Any], dataset: Dataset) -> str:
    if not _labelled(dataset):
        return ""
    return " Colours are the labels" + ("." if "label" in metrics["needs"] else ", which training never saw.")


def _split_words(dataset: Dataset) -> str:
    return f", with no {dataset.group} on both sides of the split" if dataset.group else ""


def _painting(picture: bytes | None) -> list[str]:
    if picture is None:
        return []
    words = (
        "Held-out images, the patches that the encoder saw, and the hidden ones painted from them. The method predicts "
        "a patch in units of its own mean and deviation; for the picture these two are taken from the original."
    )
    return [section("Reconstructions", words, image(picture, "Reconstructions"))]


def _neighbours(
    dataset: Dataset, features: Tensor, test_features: Tensor, draw: Callable[[Any, Any], None] | None
) -> list[str]:
    if draw is None:
        return []
    words = f"Held-out {dataset.modality} and the training samples nearest to them" + (
        "; green frames share the label, red do not." if _labelled(dataset) else "."
    )
    return [section("Neighbours", words, image(neighbours(dataset, features, test_features, draw), "Neighbours"))]


def _spread(metrics: dict[str, Any]) -> str:
    values = metrics["feature_std"], metrics["effective_rank"]
    if values[0][-1] is None:
        return "<p>Not measured: the run is from an earlier version.</p>"
    warned = "".join(f'<p class="warning">{escape(sentence)}</p>' for sentence in metrics["warnings"])
    return warned + image(spread(*values), "Spread of the features")


def _setting(metrics: dict[str, Any], dataset: Dataset) -> str:
    return (
        f"{len(dataset.inputs)} training and {len(dataset.test_inputs)} test {dataset.modality}, "
        f"{metrics['config']['epochs']} epochs of batch {metrics['config']['batch_size']}, seed {metrics['seed']}, "
        f"backend {metrics['backend']}, threads: {metrics['threads']} on {metrics['device']}"
    )


def _cost_title(metrics: dict[str, Any]) -> str:
    return f"The loss{'' if metrics['update_milliseconds'] is None else ' and the update'} in a training step"


def _cost_words(metrics: dict[str, Any]) -> str:
    if metrics["backend"] == "reference":
        return "The run used the reference backend, so there is nothing to compare it with."
    ratio = metrics["loss_milliseconds_reference"] / metrics["loss_milliseconds"]
    return (
        f"Forward and backward of the loss take {metrics['loss_milliseconds']:.2f} ms on backend "
        f"{metrics['backend']}, {metrics['loss_milliseconds_reference']:.2f} ms on reference, a ratio of {ratio:.1f}. "
        f"{_update_words(metrics)}"
        f"{_parts(metrics)} of a step on reference, and samples per second can gain no "
        "more than that: the network and the views are the rest."
    )


def _update_words(metrics: dict[str, Any]) -> str:
    """The result is empty if the method moves neither teacher nor queue after a step."""
    if metrics["update_milliseconds"] is None:
        return ""
    ratio = metrics["update_milliseconds_reference"] / metrics["update_milliseconds"]
    return (
        f"The update after a step takes {metrics['update_milliseconds']:.2f} ms against "
        f"{metrics['update_milliseconds_reference']:.2f} ms, a ratio of {ratio:.1f}. "
    )


def _parts(metrics: dict[str, Any]) -> str:
    loss, update = metrics["loss_share_reference"], metrics["update_share_reference"]
    return f"The loss is {loss:.1%}" if update is None else f"Both are {loss + update:.1%}"


def _costs(metrics: dict[str, Any]) -> str:
    lines = (
        ("loss, forward and backward (ms)", "loss_milliseconds", "{:.2f}", 1.0),
        ("its share of the step", "loss_share", "{:.1%}", 1.0),
        ("update of teacher or queue (ms)", "update_milliseconds", "{:.2f}", 1.0),
        ("its share of the step", "update_share", "{:.1%}", 1.0),
        ("samples per second, whole step", "images_per_second", "{:,.0f}", 1.0),
        ("peak memory of the step (MiB)", "peak_memory_bytes", "{:,.1f}", 2.0**-20),
    )
    columns = {metrics["backend"]: "", "reference": "_reference"}
    rows = [
        [name, *(_number(metrics[key + suffix], form, factor) for suffix in columns.values())]
        for name, key, form, factor in lines
        if metrics[key] is not None or not key.startswith("update_")
    ]
    return table(["medians of interleaved steps", *map(escape, columns)], rows)


def _accuracies(metrics: dict[str, Any]) -> str:
    columns = {"trained": "", "untrained": "_untrained"}
    columns |= ({"started": "_started"} if _started(metrics) else {}) | {"raw": "_raw"}
    rows = []
    for name, key in (
        ("5-shot nearest neighbour", "few_shot"),
        ("10-shot linear probe", "linear"),
        ("k nearest neighbours", "knn"),
    ):
        values = (metrics[key + suffix] for suffix in columns.values())
        rows.append([name, *(_number(value, "{:.1%}", 1.0) for value in values)])
    return table(["", *columns], rows)


def _started(metrics: dict[str, Any]) -> bool:
    """Tell whether the run began with the weights of another one."""
    return "few_shot_started" in metrics


def _number(value: float | None, form: str, factor: float) -> str:
    return "not measured" if value is None else form.format(value * factor)
