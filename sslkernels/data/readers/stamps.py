# SPDX-License-Identifier: Apache-2.0
"""Reads Tux Paint's stamps: pictures with their spoken and written names."""

from __future__ import annotations

from pathlib import Path

import torch

from sslkernels.data.dataset import Dataset, split
from sslkernels.data.installed import Package
from sslkernels.data.picture import read_picture
from sslkernels.data.sounds import read_sound
from sslkernels.data.spectrogram import log_mel, placed
from sslkernels.data.tables import padded, vocabulary

MODALITY = "images"
PACKAGE = Package("tuxpaint-stamps-default", "154 MB", "GPL-2", folder="/usr/share/tuxpaint/stamps")
RATE, SECONDS, WORDS, LONGEST = 16000, 1.28, 2000, 8
# A folder of fewer pictures is joined with the others that are small.
LEAST = 20


def load_stamps(*, size: int = 32, language: str = "fr") -> Dataset:
    """Some 700 drawn and photographed things, 16 kinds, with spoken and written names (Tux Paint, GPL-2, of Debian).

    ``extra`` has the name as ``speech``, a log-mel spectrogram in ``language``, and as ``text``, numbered words of
    English; pictures without a recording in that language are left out.
    """
    folder = PACKAGE.path("stamps")
    found = []
    for picture in sorted(folder.rglob("*.png")):
        speech, text = picture.with_name(f"{picture.stem}_desc_{language}.ogg"), picture.with_suffix(".txt")
        if language == "en":
            speech = picture.with_name(f"{picture.stem}_desc.ogg")
        if not picture.stem.endswith("_mirror") and speech.is_file() and text.is_file():
            found.append((picture, speech, text))
    if len(found) < 2 * LEAST:
        raise ValueError(
            f"stamps: language is {language!r}, in which {len(found)} pictures are named; pass another, such as fr."
        )
    kinds = [picture.relative_to(folder).parts[0] for picture, _, _ in found]
    classes = tuple(sorted({kind if kinds.count(kind) >= LEAST else "others" for kind in kinds}))
    labels = torch.tensor([classes.index(kind if kind in classes else "others") for kind in kinds])
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([read_picture(picture, size).pixels for picture, _, _ in found])
    clips = [placed(read_sound("stamps", speech, RATE), round(SECONDS * RATE), generator) for _, speech, _ in found]
    spoken = torch.cat([log_mel(part, RATE) for part in torch.stack(clips).split(256)])
    names = [_name(text) for _, _, text in found]
    known = vocabulary(names, WORDS)
    text = padded("stamps", [[known[word] for word in name] for name in names], LONGEST)
    return split("stamps", MODALITY, classes, images, labels, speech=spoken, text=text)


def _name(text: Path) -> list[str]:
    """The words of the first line, which is English."""
    first = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return [word.strip(".,!?()").lower() for word in first.split()]
