# SPDX-License-Identifier: Apache-2.0
"""Reads recorded instruments from the sound font that comes with pretty_midi."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split_by_group
from sslkernels.data.installed import Package
from sslkernels.data.spectrogram import log_mel, placed, resample

MODALITY = "audio"
PACKAGE = Package("pretty_midi", "6 MB", "MIT; its sound font is GPL-2", module="pretty_midi")
RATE, SECONDS = 16000, 1.28
# Semitones by which each recording is moved: several clips of one recording, which stays on one side of the split.
PITCHES = (-4, -1, 2, 5)
# The first of these words in a recording's name gives its family; others are left out.
FAMILIES = {
    "drums": ("snare", "kick", "hat", "drum", "tom", "cymb", "bongo", "timbale", "tumba", "conga", "quinto"),
    "guitar": ("gtr", "guitar", "strat", "banjo"),
    "bass": ("slap bass", "fretless", "pick bass", "fingered bass", "acoustic bass"),
    "keys": ("piano", "dx ep", "ep1", "cp70", "clavinet", "harpsichord"),
    "organ": ("org", "reed wave", "accordion", "harmonica", "b3lo"),
    "brass": ("trump", "trombone", "tuba", "frenchhorn", "french horn", "frhorn", "brass", "harmon mute"),
    "reeds": ("oboe", "clar", "bassoon", "english horn", "alto", "tenor", "bari", "sop", "shenai"),
    "flutes": ("flute", "piccolo", "recorder", "ocarina", "shakuhachi"),
    "voices": ("aahs", "doo", "choir", "vox"),
    "strings": ("violin", "cello", "contra bass", "strings", "str1c"),
    "mallets": ("xylophone", "marimba", "vibes", "glocken", "celesta", "kalimba", "tubebell"),
}
LEAST, LOUDNESS = 0.25, 0.5
HELD_OUT = 4  # every so many-th recording of a family


class Recording(NamedTuple):
    """A recording of the sound font: its name and its samples at ``rate``."""

    name: str
    samples: Tensor
    rate: int


def load_instruments() -> Dataset:
    """Recordings of instruments at four pitches as log-mel spectrograms, 11 families (TimGM6mb, pretty_midi, GPL-2).

    ``extra`` has the ``recording``; none is on both sides of the split.
    """
    found = [(each, family) for each in recordings(PACKAGE) if (family := family_of(each.name)) is not None]
    generator = torch.Generator().manual_seed(0)
    clips, labels, groups = [], [], []
    for number, (each, family) in enumerate(found):
        whole = each.samples.repeat(max(1, -(-round(LEAST * each.rate) // len(each.samples))))
        for pitch in PITCHES:
            clip = resample(whole[: each.rate * 2], RATE / each.rate / 2 ** (pitch / 12))
            loud = clip.abs().max().clamp(min=1e-6)
            clips.append(placed(LOUDNESS * clip / loud, round(SECONDS * RATE), generator))
            labels.append(family)
            groups.append(number)
    inputs = torch.cat([log_mel(part, RATE) for part in torch.stack(clips).split(256)])
    label, recording = torch.tensor(labels), torch.tensor(groups)
    held_out = [int(number) for family in label.unique() for number in recording[label == family].unique()[1::HELD_OUT]]
    return split_by_group(
        "instruments", MODALITY, tuple(FAMILIES), inputs, label, "recording", held_out, recording=recording
    )


def family_of(name: str) -> int | None:
    """The number of the family in `FAMILIES` that a recording's name belongs to."""
    lowered = name.lower()
    for number, words in enumerate(FAMILIES.values()):
        if any(word in lowered for word in words):
            return number
    return None


def recordings(package: Package) -> list[Recording]:
    """Read the sound font: its chunk ``smpl`` has 16-bit samples, ``shdr`` a record of 46 bytes for each recording."""
    path = package.path("instruments", "TimGM6mb.sf2")
    content = path.read_bytes()
    chunks = {}
    for name in (b"smpl", b"shdr"):
        at = content.find(name)
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if at < 0 or at + 8 + size > len(content):
            raise ValueError(
                f"instruments: {path} is damaged, its chunk {name.decode()} is not whole; {package.command}."
            )
        chunks[name] = content[at + 8 : at + 8 + size]
    samples = torch.from_numpy(np.frombuffer(chunks[b"smpl"], "<i2").astype(np.float32)) / 32768
    found = []
    for record in struct.iter_unpack("<20sIIIIIBbHH", chunks[b"shdr"]):
        name, start, end, rate = record[0].split(b"\0")[0].decode("latin1"), record[1], record[2], record[5]
        if start < end <= len(samples) and rate:
            found.append(Recording(name, samples[start:end], rate))
    return found
