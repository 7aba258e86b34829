# SPDX-License-Identifier: Apache-2.0
"""report.html: what a run found, in one file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from torch import Tensor

from sslkernels.data import Dataset
from sslkernels.evaluation import collapse_warning
from sslkernels.training.pictures import embedding, loss_curve, neighbours, paintings, spread

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0 }
main { max-width: 760px; margin: 0 auto; padding: 40px 20px 64px }
h1 { font-size: 1.7rem; margin: 0 0 4px } h2 { font-size: 1.15rem; margin: 0 0 4px }
p { margin: 0 0 14px } .muted { color: #616e7c } .warning { color: #b91c1c; font-weight: 600 }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 22px 26px; margin-top: 20px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: right; font-weight: 600; color: #616e7c; font-size: .85rem } th:first-child { text-align: left }
td { text-align: right; border-top: 1px solid #e4e7eb } td:first-child { text-align: left }
th, td { padding: 7px 0 7px 16px } th:first-child, td:first-child { padding-left: 0 }
td.text { text-align: left; padding-left: 24px; overflow-wrap: anywhere }
img { display: block; max-width: 100%; margin: 8px auto 0 }
"""


def write_report(
    metrics: dict[str, Any],
    dataset: Dataset,
    features: Tensor,
    test_features: Tensor,
    painting: tuple[Tensor, Tensor, Tensor] | None = None,
) -> str:
    """The page for ``metrics`` and the trained features of ``dataset``'s training and test images.

    ``painting``: images, which pixels of each were visible, and what was painted, where the method paints.
    """
    title = f"{metrics['method']} on {metrics['data']}"
    settings = {**metrics["config"], **metrics["versions"]}
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>',
            f"<h1>{escape(title)}</h1>",
            f'<p class="muted">{escape(_setting(metrics, dataset))}</p>',
            _section(_cost_title(metrics), _cost_words(metrics), _costs(metrics)),
            _section(
                "What the features are worth",
                "Accuracy on held-out images. The untrained encoder has the same architecture and first weights; "
                "statistics of BatchNorm, where it has any, were set by passes over the training images.",
                _accuracies(metrics),
            ),
            *_painting(painting),
            _section(
                "Loss",
                "Every optimizer step, and its running mean.",
                _image(loss_curve(metrics["loss"]), "Loss curve"),
            ),
            _section(
                "Spread of the features",
                "At the end of each epoch, on views of training images. The standard deviation is 1 where features "
                "spread evenly over the sphere and 0 where all are alike; the effective rank counts the directions "
                "that they fill, their common mean being one.",
                _spread(metrics),
            ),
            _section(
                "Embedding",
                "Features of held-out images in two dimensions. Colours are the labels, which training never saw.",
                _image(embedding(test_features, dataset.test_labels, dataset.classes), "Embedding"),
            ),
            _section(
                "Neighbours",
                "Held-out images and the training images nearest to them; green frames share the label, red do not.",
                _image(neighbours(dataset, features, test_features), "Neighbours"),
            ),
            _section("Settings", "", _table([], [[escape(k), escape(str(v))] for k, v in settings.items()], text=True)),
            "</main></body></html>\n",
        )
    )


def _painting(painting: tuple[Tensor, Tensor, Tensor] | None) -> list[str]:
    if painting is None:
        return []
    words = (
        "Held-out images, the patches that the encoder saw, and the hidden ones painted from them. The method predicts "
        "a patch in units of its own mean and deviation; for the picture these two are taken from the original."
    )
    return [_section("Reconstructions", words, _image(paintings(*painting), "Reconstructions"))]


def _spread(metrics: dict[str, Any]) -> str:
    values = metrics["feature_std"], metrics["effective_rank"]
    if values[0][-1] is None:
        return "<p>Not measured: the run is from an earlier version.</p>"
    warning = collapse_warning(*values)
    warned = f'<p class="warning">{escape(warning)}</p>' if warning else ""
    return warned + _image(spread(*values), "Spread of the features")


def _setting(metrics: dict[str, Any], dataset: Dataset) -> str:
    return (
        f"{len(dataset.train_images)} training and {len(dataset.test_images)} test images, "
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
        f"{_parts(metrics)} of a step on reference, and images per second can gain no "
        "more than that: the network and the views are the rest."
    )


def _update_words(metrics: dict[str, Any]) -> str:
    """Nothing where the method moves neither teacher nor queue after a step."""
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
        ("images per second, whole step", "images_per_second", "{:,.0f}", 1.0),
        ("peak memory of the step (MiB)", "peak_memory_bytes", "{:,.1f}", 2.0**-20),
    )
    columns = {metrics["backend"]: "", "reference": "_reference"}
    rows = [
        [name, *(_number(metrics[key + suffix], form, factor) for suffix in columns.values())]
        for name, key, form, factor in lines
        if metrics[key] is not None or not key.startswith("update_")
    ]
    return _table(["medians of interleaved steps", *map(escape, columns)], rows)


def _accuracies(metrics: dict[str, Any]) -> str:
    rows = []
    for name, key in (
        ("5-shot nearest neighbour", "few_shot"),
        ("10-shot linear probe", "linear"),
        ("k nearest neighbours", "knn"),
    ):
        values = (metrics[key + suffix] for suffix in ("", "_untrained", "_pixels"))
        rows.append([name, *(_number(value, "{:.1%}", 1.0) for value in values)])
    return _table(["", "trained", "untrained", "pixels"], rows)


def _number(value: float | None, form: str, factor: float) -> str:
    return "not measured" if value is None else form.format(value * factor)


def _section(title: str, words: str, content: str) -> str:
    described = f'<p class="muted">{escape(words)}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{described}{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    cell = '<td class="text">' if text else "<td>"
    top = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    body = "".join(f"<tr><td>{row[0]}</td>{''.join(f'{cell}{value}</td>' for value in row[1:])}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _image(png: bytes, name: str) -> str:
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
