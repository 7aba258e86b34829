# SPDX-License-Identifier: Apache-2.0
"""Logs a run, in a table and for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sslkernels.files import naming

FOLDERS = TABLES, EVENTS = "logs", "tensorboard"
COLUMNS = ("effective_rank", "epoch", "feature_std", "loss", "step")


class RunLog(Logger):
    """Writes ``logs/version_N/metrics.csv`` and ``tensorboard/version_N``, with a new N for every start in ``folder``.

    Both only grow, by whole rows that reach their file at once. We do not use TensorBoard's own writer: its thread may
    sleep for two minutes when the process wants to end, and prints a traceback if the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        found = (path.name.removeprefix("version_") for name in FOLDERS for path in folder.glob(f"{name}/version_*"))
        self._version = f"version_{max((int(number) for number in found if number.isdecimal()), default=-1) + 1}"
        self._table = folder / TABLES / self._version / "metrics.csv"
        stamp = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._events = folder / EVENTS / self._version / f"events.out.tfevents.{stamp}"
        self._begun = False

    @property
    def name(self) -> str:
        return TABLES

    @property
    def version(self) -> str:
        return self._version

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *arguments: Any, **keywords: Any) -> None:
        """Log nothing: the checkpoint and metrics.json hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self._begun:
            self._begun = True
            self._add_row(dict(zip(COLUMNS, COLUMNS, strict=True)))
            self._add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._add_row({"step": step, **metrics})
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _add_row(self, row: dict[str, Any]) -> None:
        text = io.StringIO(newline="")
        csv.DictWriter(text, COLUMNS, extrasaction="ignore").writerow(row)
        _append(self._table, text.getvalue().encode())

    def _add_event(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        _append(self._events, record.getvalue())


def _append(path: Path, content: bytes) -> None:
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(content)
