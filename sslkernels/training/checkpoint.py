# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a run: it is written whole or not at all, and read only if nothing in it has changed since."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from sslkernels.arguments import came
from sslkernels.data import Graphs
from sslkernels.evaluation.collapse import Spread
from sslkernels.files import write_atomically

FORMAT = 1
NAME = "last.ckpt"
PARTS = ("method", "config", "data", "epoch", "state_dict", "optimizer_states", "lr_schedulers", "loops",
         "random_states", "loss")  # fmt: skip
# The part that holds the digest of every other part.
DIGESTS = "digests"
CHUNK = 1 << 20


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoint whole, with ``stamp`` (format, method, config, data) and digests in it."""

    def __init__(self, stamp: dict[str, Any]) -> None:
        super().__init__()
        self.stamp = stamp

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        whole = {**checkpoint, **self.stamp}
        whole[DIGESTS] = {part: digest(value) for part, value in whole.items() if part != DIGESTS}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), partial(torch.save, whole))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class SaveLast(Checkpoint):
    """Saves ``last.ckpt`` after each epoch of finite losses. As a `Checkpoint` it runs after the module's epoch end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / NAME

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.should_stop:
            trainer.save_checkpoint(self.path)


def read_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """Read the checkpoint at ``path`` to resume ``method``. Unless it is a whole one of it, a ValueError says so."""
    if not path.is_file():
        raise FileNotFoundError(
            f"train: --resume came and {path} does not exist; pass the --out of a run that has an epoch behind it, or "
            "leave --resume out to start anew."
        )
    checkpoint = _whole("train", path, "start anew with another --out", "resume")
    if type(checkpoint.get("method")) is not str or checkpoint["method"] != method:
        raise ValueError(
            f"train: {path} is a checkpoint of method {came(checkpoint.get('method'))}, not {method!r}; "
            "train that method, or start anew with another --out."
        )
    _check_parts("train", path, checkpoint, "start anew with another --out")
    return checkpoint


def checkpoint_of(function: str, path: Path, remedy: str = "train the run anew") -> dict[str, Any]:
    """Read the checkpoint of a run of any method; errors begin with ``function`` and end with ``remedy``."""
    checkpoint = _whole(function, path, remedy, "read")
    _check_parts(function, path, checkpoint, remedy)
    return checkpoint


def _whole(function: str, path: Path, remedy: str, verb: str) -> dict[str, Any]:
    """Read a checkpoint of this format, whose archive is whole; its parts are not compared with their digests yet."""
    _check_entries(function, path, remedy)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{function}: {path} is truncated or not a checkpoint; {remedy}.") from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise ValueError(f"{function}: {path} is not a checkpoint of sslkernels train; {remedy}.")
    if type(checkpoint["format"]) is not int or checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{function}: {path} has format {came(checkpoint['format'])} and this version reads format {FORMAT}; "
            f"{verb} it with the version that wrote it."
        )
    return checkpoint


def _check_entries(function: str, path: Path, remedy: str) -> None:
    """Compare every entry of the archive with its checksum; torch.load does not do so."""
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename
                if entry.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing, so that no entry can swell
                    raise zipfile.BadZipFile
                with archive.open(entry) as file:
                    while file.read(CHUNK):
                        pass
    except Exception as error:  # a damaged archive can fail in any way
        if not name:
            raise ValueError(f"{function}: {path} is truncated or not a checkpoint; {remedy}.") from error
        raise ValueError(
            f"{function}: {path} is damaged, its entry {came(name)} is not what was written; "
            f"put back a copy of the file, or {remedy}."
        ) from error


def _check_parts(function: str, path: Path, checkpoint: dict[Any, Any], remedy: str) -> None:
    """Compare every part with its digest, so that later code can rely on the parts as a run wrote them."""
    missing = [part for part in (*PARTS, DIGESTS) if part not in checkpoint]
    if missing:
        raise ValueError(f"{function}: {path} lacks {', '.join(missing)}; {remedy}.")
    kept = checkpoint[DIGESTS]
    parts = {part: value for part, value in checkpoint.items() if part != DIGESTS}
    for part in sorted({*parts, *kept} if isinstance(kept, Mapping) else {DIGESTS}, key=str):
        try:
            same = digest(parts[part]) == kept[part]
        except Exception:  # the part may hold anything
            same = False
        if not same:
            raise ValueError(
                f"{function}: {path} was changed after it was written, in its {came(part)}; "
                f"put back a copy of the file, or {remedy}."
            )


def digest(value: object) -> str:
    """Compute the sha256 of numbers, strings and tensors in any nesting of lists, tuples and dictionaries."""
    state = hashlib.sha256()
    for piece in _pieces(value):
        state.update(piece)
    return state.hexdigest()


def _pieces(value: object) -> Iterator[bytes | memoryview]:
    """Turn ``value`` into bytes that no other value gives. The order of a dictionary counts."""
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}:".encode()
        yield memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        yield f"dict {len(value)}:".encode()
        for key, each in value.items():
            yield from _pieces(key)
            yield from _pieces(each)
    elif isinstance(value, (list, tuple)):
        yield f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}:".encode()
        for each in value:
            yield from _pieces(each)
    elif isinstance(value, Graphs):
        yield from _pieces([value.x, value.edge_index, value.batch, value.count])
    elif value is None or type(value) in (bool, int, float, str, bytes):
        yield f"{value!r};".encode(errors="surrogatepass")
    else:
        raise TypeError(f"a checkpoint holds a {type(value).__name__}; it takes numbers, strings and tensors.")


def saved_spread(checkpoint: dict[str, Any]) -> dict[str, list[float | None]]:
    """``feature_std`` and ``effective_rank`` of every epoch; None if the checkpoint is from before they were there."""
    unknown = [None] * (checkpoint["epoch"] + 1)
    return {name: list(checkpoint.get(name, unknown)) for name in Spread._fields}


def saved_figures(checkpoint: dict[str, Any]) -> list[dict[str, float]]:
    """What the method watched in every epoch; nothing if the checkpoint is from before it was kept."""
    return list(checkpoint.get("figures", [{}] * (checkpoint["epoch"] + 1)))


def random_state() -> dict[str, Any]:
    """The state of torch's, NumPy's and Python's generators, in types that load without unpickling code."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),  # type: ignore[union-attr]
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
