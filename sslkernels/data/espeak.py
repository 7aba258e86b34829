# SPDX-License-Identifier: Apache-2.0
"""Speaks words with the library of eSpeak NG, each voice in a process of its own.

The library draws its noise from a state that each call changes and that no call resets: only a process that has spoken
nothing yet says the same every time. This file is run as a script, and imports nothing but Python's own modules.
"""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The library's own numbers: samples come through a function of ours before the call returns, speed, and bytes as text.
_SYNCHRONOUS, _SPEED, _CHARACTERS = 2, 1, 1
LIMIT = 120.0


def spoken(
    library: Path, data: Path, voice: str, speeds: Sequence[int], words: Sequence[str]
) -> tuple[list[bytes], int]:
    """Speak every word at every speed, in this order: 16-bit samples of each, and how many make a second.

    Raises:
        ValueError: the library fails; one sentence.
    """
    asked = json.dumps([str(library), str(data), voice, list(speeds), list(words)])
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], input=asked.encode(), capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"words: eSpeak NG was not done after {LIMIT:.0f} seconds; install espeakng-loader anew."
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ValueError(f"words: eSpeak NG failed ({said[0]}); install espeakng-loader anew.")
    (rate,) = struct.unpack_from("<I", done.stdout)
    clips, at = [], 4
    while at < len(done.stdout):
        (size,) = struct.unpack_from("<I", done.stdout, at)
        clips.append(done.stdout[at + 4 : at + 4 + size])
        at += 4 + size
    return clips, rate


def _main() -> None:
    library, data, voice, speeds, words = json.load(sys.stdin)
    speech = ctypes.CDLL(library)
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def receive(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    rate = speech.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
    if rate <= 0:
        sys.exit(f"it does not find its data in {data}")
    speech.espeak_SetSynthCallback(receive)
    out = sys.stdout.buffer
    out.write(struct.pack("<I", rate))
    if speech.espeak_SetVoiceByName(voice.encode()):
        sys.exit(f"it has no voice {voice}")
    for speed in speeds:
        speech.espeak_SetParameter(_SPEED, speed, 0)
        for word in words:
            pieces.clear()
            text = word.encode()
            speech.espeak_Synth(text, len(text) + 1, 0, 0, 0, _CHARACTERS, None, None)
            clip = b"".join(pieces)
            out.write(struct.pack("<I", len(clip)) + clip)


if __name__ == "__main__":
    _main()
