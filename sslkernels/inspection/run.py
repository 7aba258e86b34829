# SPDX-License-Identifier: Apache-2.0
"""Evaluates one thing from options to page: finds it, takes its measures, writes what was found."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sslkernels.evaluation.given import Given
from sslkernels.evaluation.measures import MEASURES
from sslkernels.evaluation.report import FAILED, LEFT_OUT, MEASURED, chosen, outcomes
from sslkernels.files import write_atomically
from sslkernels.inspection.page import shown, write_page
from sslkernels.inspection.subject import Subject, subject_of, texts
from sslkernels.training.run import versions
from sslkernels.training.signals import stopping

# The format of evaluation.json.
FORMAT = 1
JSON, PAGE = "evaluation.json", "evaluation.html"
BESIDE = "untrained"


def evaluate(
    what: str,
    labels: str | None = None,
    *,
    data: str | None = None,
    backbone: str | None = None,
    settings: Sequence[str] = (),
    only: Iterable[str] | None = None,
    out: Path | None = None,
    say: Callable[[str], Any] = print,
) -> tuple[dict[str, Any], Path]:
    """Take the measures of ``what`` and write ``evaluation.json`` and ``evaluation.html``.

    Args:
        what: the folder of a run, a method or recipe (its untrained encoder), a file of weights, or
            ``features:FILE.npy``.
        labels: ``labels:FILE.npy`` of features, or None.
        data: spec of other data than the usual.
        backbone: the network that a file of weights is for.
        settings: ``NAME=VALUE`` arguments of the network, or of the recipe.
        only: names of measures; None takes all but those that train networks.
        out: the folder to write into: by default that of the run, or a new one in ``runs``.
        say: called with a line when a new part of the work begins or a measure is taken.

    Returns:
        What evaluation.json holds, and the folder.

    Raises:
        ValueError, TypeError, OSError: something is wrong with what came, or a file cannot be written.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came; no file is half written.
    """
    names = chosen("evaluate", only)
    with stopping():
        subject = subject_of(what, labels, data, backbone, texts(settings), lambda line: say(f"warning: {line}"))
        folder = out or subject.folder or Path("runs") / f"evaluate-{_stem(subject)}-{datetime.now():%Y%m%d-%H%M%S}"
        _check_writable(folder)
        say(f"{subject.title}, into {folder}: {subject.words}")
        given = Given(subject.encoder, subject.dataset, subject.views)
        found = _measured(given, names, say)
        features = {"this encoder": (given.features, given.test_features)}
        if subject.untrained is not None:
            say("the untrained encoder, to compare with")
            other = Given(subject.untrained, subject.dataset, subject.views)
            _compare(found, other)
            features[BESIDE] = other.features, other.test_features
        whole = {"format": FORMAT, "subject": _described(subject, given), **found, **_place()}
        say("drawing the page")
        page = write_page(whole, subject, features, subject.title)
        _make(folder)
        write_atomically(folder / JSON, json.dumps(whole, indent=1, allow_nan=False) + "\n")
        write_atomically(folder / PAGE, page)
    return whole, folder


def _stem(subject: Subject) -> str:
    """The subject's name in the name of a folder."""
    name = Path(subject.name.rpartition(":")[2]).stem
    return "".join(each if each.isalnum() or each in "_-" else "_" for each in name)[:60]


def _measured(given: Given, only: Sequence[str] | None, say: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """Take the measures; a bar shows how far the work is on a terminal, lines elsewhere."""
    found: dict[str, dict[str, Any]] = {MEASURED: {}, LEFT_OUT: {}, FAILED: {}}
    names = [name for name in MEASURES if only is None or name in only]
    console = Console()
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)
    shows: AbstractContextManager[Any] = bar if console.is_terminal else nullcontext()
    with shows:
        task = bar.add_task("computing features", total=len(names))
        for after, outcome in zip([*names[1:], ""], outcomes(given, only), strict=True):
            name, content = outcome.measure.name, outcome.content
            found[outcome.kind][name] = content
            bar.update(task, advance=1, description=after)
            if not console.is_terminal and outcome.kind == MEASURED:
                say(f"{name} {shown(content['value'])}, {content['seconds']:.1f} s")
    return found


def _compare(found: dict[str, dict[str, Any]], other: Given) -> None:
    """Put what another encoder has beside what was measured."""
    for outcome in outcomes(other, list(found[MEASURED])):
        if outcome.kind == MEASURED:
            found[MEASURED][outcome.measure.name] |= {
                BESIDE: outcome.content["value"],
                f"{BESIDE}_more": outcome.content["more"],
            }


def _described(subject: Subject, given: Given) -> dict[str, Any]:
    dataset = subject.dataset
    return {
        "kind": subject.kind,
        "name": subject.name,
        "data": subject.data,
        "modality": dataset.modality,
        "samples": len(dataset.inputs),
        "test_samples": len(dataset.test_inputs),
        "classes": len(dataset.classes),
        "feature_dim": given.features.shape[1],
    }


def _place() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is measured."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(f"evaluate: --out is {folder}, and {there} is no folder that can be written; pass another.")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"evaluate: --out is {folder}, which cannot be created ({error.strerror}); pass another."
        ) from error
