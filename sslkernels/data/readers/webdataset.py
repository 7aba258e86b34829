# SPDX-License-Identifier: Apache-2.0
"""Reads pictures from tar files in WebDataset's layout; they stay in them, and are never unpacked.

Entries whose names agree up to their first dot are one sample: a picture, and its class as a number or word in ``.cls``
or under ``label`` or ``cls`` in ``.json``.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, held_out_fifth
from sslkernels.data.pictures import Names, Pictures, Source, white_of
from sslkernels.data.readers.imagefolder import SUFFIXES
from sslkernels.data.tables import numbered
from sslkernels.files import cause_of

MODALITY = "images"
# The names of tar files that hold test samples contain one of these.
HELD_OUT = re.compile(r"(^|[^a-z])(test|val|valid|validation)([^a-z]|$)")
# A class is a word, and more than this is none.
MOST_LABEL = 4096


def load_webdataset(path: Path, *, size: int = 32, damaged: Literal["stop", "skip"] = "stop") -> Dataset:
    """Pictures in WebDataset's tar files, one or a folder of them, as squares of ``size`` pixels.

    Files with test or val in their names are held out; without one, a fifth of the samples is.
    """
    size = check_size("webdataset", "size", size, most=1 << 14)
    root, tars = (
        (path, sorted(each.name for each in path.glob("*.tar"))) if path.is_dir() else (path.parent, [path.name])
    )
    if not tars:
        raise ValueError(f"webdataset: {path} holds no file that ends in .tar; pass a folder of shards, or one shard.")
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[str | None] = []
    for number, tar in enumerate(tars):
        for name, begin, length, label in _entries(root / tar):
            names.append(name)
            places.append((number, begin, length))
            labels.append(label)
    if not names:
        raise ValueError(f"webdataset: {path} holds no picture; accepted are {' '.join(SUFFIXES)}.")
    if any(label is None for label in labels) and any(label is not None for label in labels):
        lacking = names[labels.index(None)]
        raise ValueError(f"webdataset: {lacking} of {path} has no class, and others have one; give every picture one.")
    source = Source(root, Names(names), tuple(tars), np.array(places, np.int64))
    white, _, _ = white_of(source, size)
    classes, known = numbered([label or "" for label in labels])
    labelled = len(classes) > 1
    kind = known if labelled else None
    pictures = Pictures(
        source, np.arange(len(names)), size, white, known.numpy() if labelled else None, damaged == "skip"
    )
    tested = torch.tensor([HELD_OUT.search(tars[place[0]].lower()) is not None for place in places])
    if tested.any() and not tested.all():
        kept, held_out = (~tested).nonzero()[:, 0], tested.nonzero()[:, 0]
    else:
        kept, held_out = held_out_fifth(str(path), classes if labelled else (), kind, len(names))
    of = (None, None) if kind is None else (kind[kept], kind[held_out])
    return Dataset(
        str(path), MODALITY, pictures.only(kept), of[0], pictures.only(held_out), of[1], classes if labelled else ()
    )


def _entries(tar: Path) -> list[tuple[str, int, int, str | None]]:
    """List the pictures of a tar file: name, where it begins, its bytes, and its class."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(tar, "r:") as archive:  # uncompressed: only there can one begin in the middle
            for entry in archive:
                folder, name = os.path.split(entry.name)
                key, dot, rest = name.partition(".")
                key, kind = f"{folder}/{key}", f"{dot}{rest}".lower()
                if not entry.isfile() or not key:
                    continue
                if f".{kind.rpartition('.')[2]}" in SUFFIXES:
                    pictures.setdefault(key, (entry.name, entry.offset_data, entry.size))
                elif kind in (".cls", ".json") and entry.size <= MOST_LABEL:
                    content = archive.extractfile(entry)
                    label = _label(kind, b"" if content is None else content.read())
                    if label is not None:
                        labels[key] = label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"webdataset: {tar} is damaged or no uncompressed tar file ({cause_of(error)}); write it anew with tar -cf."
        ) from error
    return [(*found, labels.get(key)) for key, found in pictures.items()]


def _label(kind: str, content: bytes) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if kind == ".cls":
        return text or None
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    found = (
        next((fields[name] for name in ("label", "cls") if name in fields), None) if isinstance(fields, dict) else None
    )
    return str(found) if isinstance(found, (int, str)) else None
