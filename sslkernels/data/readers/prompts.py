# SPDX-License-Identifier: Apache-2.0
"""Reads recorded speech of Debian's packages: a telephone's prompts, and spoken letters and syllables."""

from __future__ import annotations

from pathlib import Path

import torch

from sslkernels.data.dataset import Dataset, split_by_group
from sslkernels.data.installed import Package
from sslkernels.data.sounds import read_sound
from sslkernels.data.spectrogram import log_mel, placed, trimmed

MODALITY = "audio"
LANGUAGES = ("en", "es", "fr", "it", "ru")
PROMPTS = {
    language: Package(
        f"asterisk-core-sounds-{language}-wav", "20 MB", "CC BY-SA 3.0", folder=f"/usr/share/asterisk/sounds/{language}"
    )
    for language in LANGUAGES
}
LETTERS = Package("klettres-data", "38 MB", "GPL-2+", folder="/usr/share/klettres")
RATE, SECONDS, LOUDNESS = 8000, 1.28, 0.5
HELD_OUT = 5  # every so many-th name of a file
HEADER = 100  # bytes of a file that holds no sound; the Russian prompts have one


def load_prompts() -> Dataset:
    """A telephone's prompts in five languages as log-mel spectrograms, by language (Asterisk, CC BY-SA, of Debian).

    One speaker reads each language, so language and speaker are one label. The same ``prompt`` in all languages stands
    on one side of the split.
    """
    files = {language: _sounds(package.path("prompts"), "*.wav") for language, package in PROMPTS.items()}
    return _by_name("prompts", files)


def load_letters() -> Dataset:
    """Spoken letters and syllables in 20 languages as log-mel spectrograms, by language (KLettres, GPL-2+, of Debian).

    The same name of a file in all languages stands on one side of the split.
    """
    folders = sorted(path for path in LETTERS.path("letters").iterdir() if (path / "alpha").is_dir())
    files = {folder.name: _sounds(folder, "*/*.ogg") for folder in folders}
    return _by_name("letters", {name: found for name, found in files.items() if len(found) >= 2 * HELD_OUT})


def _sounds(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.stat().st_size > HEADER)


def _by_name(data: str, files: dict[str, list[Path]]) -> Dataset:
    """Read the files of each class, and hold out every fifth name."""
    names = sorted({path.stem for found in files.values() for path in found})
    places = {name: place for place, name in enumerate(names)}
    generator = torch.Generator().manual_seed(0)
    rows, labels, groups = [], [], []
    for label, found in enumerate(files.values()):
        for path in found:
            clip = trimmed(read_sound(data, path, RATE))
            rows.append(placed(LOUDNESS * clip / clip.abs().max().clamp(min=1e-6), round(SECONDS * RATE), generator))
            labels.append(label)
            groups.append(places[path.stem])
    inputs = torch.cat([log_mel(part, RATE) for part in torch.stack(rows).split(256)])
    prompt = torch.tensor(groups)
    held_out = list(range(HELD_OUT - 1, len(names), HELD_OUT))
    classes = tuple(files)
    return split_by_group(data, MODALITY, classes, inputs, torch.tensor(labels), "prompt", held_out, prompt=prompt)
