# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of sound files as log-mel spectrograms; each sub-folder is a class."""

from __future__ import annotations

from pathlib import Path

import torch

from sslkernels.data.dataset import Dataset, check_memory, split
from sslkernels.data.sounds import SUFFIXES, read_sound
from sslkernels.data.spectrogram import log_mel, placed

MODALITY = "audio"


def load_audiofolder(path: Path, *, rate: int = 16000, seconds: float = 1.0) -> Dataset:
    """A folder of sound files, one folder per class, cut or padded to ``seconds`` at ``rate``."""
    if not path.is_dir():
        raise NotADirectoryError(f"audiofolder: {path} is a file; pass a folder with one sub-folder per class.")
    if not (1000 <= rate <= 192000 and 0.1 <= seconds <= 60):
        raise ValueError(
            f"audiofolder: rate is {rate} and seconds {seconds}; pass 1000 to 192000 samples and 0.1 to 60 seconds."
        )
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    files = {each.name: sounds for each in folders if (sounds := _sounds(each))}
    if not files:
        files = {"": _sounds(path)}
    count = sum(map(len, files.values()))
    if count < 5:
        raise ValueError(
            f"audiofolder: {path} holds {count} sounds; it needs at least 5, ending in {' '.join(SUFFIXES)}."
        )
    samples = round(seconds * rate)
    check_memory(f"audiofolder: sounds of {path}", (count, samples), 8, "pass fewer seconds or a lower rate")
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.empty(count, samples)
    labels: list[int] = []
    for label, found in enumerate(files.values()):
        for file in found:
            waveforms[len(labels)] = placed(read_sound("audiofolder", file, rate), samples, generator, noise=0.0)
            labels.append(label)
    inputs = torch.cat([log_mel(part, rate) for part in waveforms.split(256)])
    if len(files) < 2:
        return split(str(path), MODALITY, (), inputs, None)
    return split(str(path), MODALITY, tuple(files), inputs, torch.tensor(labels))


def _sounds(folder: Path) -> list[Path]:
    return sorted(
        each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES and not each.name.startswith(".")
    )
