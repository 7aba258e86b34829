# SPDX-License-Identifier: Apache-2.0
"""Turns sounds into log-mel spectrograms, and brings clips to one rate and length."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_number, check_rows, check_size

# Frames begin every 10 milliseconds and see 64, as in BYOL-A (Niizumi et al. 2021).
HOP, WINDOW = 0.010, 0.064
LOWEST = 60.0
# The floor of the logarithm, in units of a full-scale sine's power.
FLOOR = 1e-6


def log_mel(waveforms: Tensor, rate: int, *, mels: int = 64) -> Tensor:
    """Compute log-mel spectrograms ``(N, 1, mels, frames)`` of ``waveforms (N, samples)`` in [-1, 1].

    The power of frames of 64 ms, one every 10 ms, is summed over ``mels`` overlapping triangles between 60 Hz and half
    the ``rate``, evenly spaced on the mel scale ``2595 log10(1 + f / 700)``; then comes the natural logarithm.

    >>> import torch
    >>> from sslkernels.data.spectrogram import log_mel
    >>> log_mel(torch.randn(2, 16000).clamp(-1, 1), 16000).shape
    torch.Size([2, 1, 64, 101])
    """
    check_rows("log_mel", "waveforms", waveforms, "(N, samples)")
    rate, mels = check_size("log_mel", "rate", rate, least=1000), check_size("log_mel", "mels", mels)
    hop, window = round(HOP * rate), round(WINDOW * rate)
    size = 1 << math.ceil(math.log2(window))
    taper = torch.hann_window(window, device=waveforms.device)
    padded = F.pad(waveforms, (size // 2, size // 2))
    spectrum = torch.stft(padded, size, hop, window, taper, center=False, return_complex=True)
    power = spectrum.abs().square() / (taper.sum() / 2) ** 2
    bands = mel_bands(size // 2 + 1, rate, mels).to(power)
    return (bands @ power + FLOOR).log()[:, None]


def mel_bands(bins: int, rate: int, mels: int) -> Tensor:
    """Triangles ``(mels, bins)`` on the frequencies of a spectrum, each 1 at its centre."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (min(LOWEST, rate / 8), rate / 2))
    edges = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def resample(waveform: Tensor, factor: float) -> Tensor:
    """Bring ``(samples,)`` to ``factor`` times as many samples, below the lower of both Nyquist frequencies."""
    factor = check_number("resample", "factor", factor, above=0)
    count = max(1, round(len(waveform) * factor))
    if count == len(waveform):
        return waveform
    spectrum = torch.fft.rfft(waveform.double())
    kept = torch.zeros(count // 2 + 1, dtype=spectrum.dtype)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    return (torch.fft.irfft(kept, count) * (count / len(waveform))).float()


def placed(waveform: Tensor, samples: int, generator: torch.Generator, noise: float = 0.003) -> Tensor:
    """Put a clip at a random place into ``samples`` of faint noise; what is too long is cut at random places."""
    result = noise * torch.randn(samples, generator=generator)
    spare = samples - len(waveform)
    start = int(torch.randint(abs(spare) + 1, (), generator=generator))
    if spare < 0:
        return result + waveform[start : start + samples]
    result[start : start + len(waveform)] += waveform
    return result


def trimmed(waveform: Tensor, share: float = 0.02) -> Tensor:
    """Cut the silence before and after a clip: what is quieter than ``share`` of its loudest sample."""
    loud = (waveform.abs() > share * waveform.abs().max()).nonzero()[:, 0]
    return waveform[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else waveform[:1]
