# SPDX-License-Identifier: Apache-2.0
"""Speaks words with eSpeak NG, whose library and voices come with espeakng-loader."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split, split_by_group
from sslkernels.data.espeak import spoken
from sslkernels.data.installed import Package
from sslkernels.data.spectrogram import log_mel, placed, trimmed

MODALITY = "audio"
PACKAGE = Package("espeakng-loader", "10 MB", "GPL-3", module="espeakng_loader")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "yes", "no", "up", "down",
         "left", "right", "on", "off", "stop", "go")  # fmt: skip
# Words a minute of the two readings of each word.
SPEEDS = (150, 210)
SECONDS, LOUDNESS = 1.28, 0.5
HELD_OUT = 4  # every so many-th voice or word


def load_words(*, voices: int = 40, split_by: Literal["voice", "sample"] = "voice") -> Dataset:
    """20 English words by synthetic voices at two speeds, as log-mel spectrograms (eSpeak NG, GPL-3).

    Each clip stands at a random place over faint noise. ``extra`` has the ``voice`` and the ``speed``. A quarter of the
    voices are held out, so that no voice is on both sides.
    """
    _, inputs, voice, speed, word = _read("words", voices)
    known = {"voice": voice, "speed": speed}
    if split_by == "sample":
        return split("words", MODALITY, WORDS, inputs, word, **known)
    return split_by_group("words", MODALITY, WORDS, inputs, word, "voice", _every_fourth(voices), **known)


def load_voices(*, voices: int = 40) -> Dataset:
    """The same clips as in ``words``, by voice: who said one of 20 English words (eSpeak NG, GPL-3).

    ``extra`` has the ``word`` and the ``speed``. A quarter of the words are held out, so that voices are told by words
    that nobody has heard of them.
    """
    names, inputs, voice, speed, word = _read("voices", voices)
    held_out = _every_fourth(len(WORDS))
    return split_by_group("voices", MODALITY, names, inputs, voice, "word", held_out, word=word, speed=speed)


def _every_fourth(count: int) -> list[int]:
    return list(range(HELD_OUT - 1, count, HELD_OUT))


def _read(data: str, voices: int) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor, Tensor]:
    """Give the voices' names, and the spectrogram, the voice, the speed and the word of each clip."""
    files = sorted(PACKAGE.path(data, "espeak-ng-data", "voices", "!v").iterdir())
    # The library reads memory that it never set when a voice breathes: such a voice is not the same every time.
    names = [file.name for file in files if b"\nbreath" not in file.read_bytes()]
    if not 8 <= voices <= len(names):
        raise ValueError(f"{data}: voices is {voices}; pass a whole number from 8 to {len(names)}.")
    chosen = tuple(names[place * len(names) // voices] for place in range(voices))
    library, voices_at = PACKAGE.path(data, "libespeak-ng.so"), PACKAGE.path(data, "espeak-ng-data").parent
    clips: list[bytes] = []
    for name in chosen:
        said, rate = spoken(library, voices_at, f"en-us+{name}", SPEEDS, WORDS)
        clips += said
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.empty(len(clips), round(SECONDS * rate))
    for row, clip in zip(waveforms, clips, strict=True):
        samples = trimmed(torch.from_numpy(np.frombuffer(clip, np.int16).astype(np.float32)))
        row.copy_(placed(LOUDNESS * samples / samples.abs().max().clamp(min=1), len(row), generator))
    inputs = torch.cat([log_mel(part, rate) for part in waveforms.split(256)])
    voice, speed, word = (each.flatten() for each in torch.meshgrid(
        torch.arange(voices), torch.tensor(SPEEDS), torch.arange(len(WORDS)), indexing="ij"
    ))  # fmt: skip
    return chosen, inputs, voice, speed, word
