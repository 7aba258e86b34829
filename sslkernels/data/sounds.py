# SPDX-License-Identifier: Apache-2.0
"""Reads sound files with soundfile."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sslkernels.data.spectrogram import resample
from sslkernels.files import open_regular

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
# Seconds of a file that are read.
MOST_SECONDS = 60


def read_sound(reader: str, path: Path, rate: int) -> Tensor:
    """Read the first minute of a file as ``(samples,)`` at ``rate``, the mean of its channels."""
    try:
        import soundfile
    except ImportError as error:
        raise FileNotFoundError(
            f"data is {reader!r} and soundfile is missing; pip install soundfile (1.3 MB, BSD-3)."
        ) from error
    try:
        with open_regular(path) as file, soundfile.SoundFile(file) as sound:
            samples = sound.read(MOST_SECONDS * sound.samplerate, dtype="float32", always_2d=True)
            found = sound.samplerate
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{reader}: {path} is damaged or no sound that is read ({error}); accepted are {' '.join(SUFFIXES)}."
        ) from error
    if not len(samples):
        raise ValueError(f"{reader}: {path} holds no sample; remove it.")
    waveform = torch.from_numpy(samples).mean(1).nan_to_num(0, 0, 0)
    return resample(waveform, rate / found)
