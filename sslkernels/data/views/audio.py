# SPDX-License-Identifier: Apache-2.0
"""Random views of log-mel spectrograms, and the changes that they are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sslkernels.arguments import LARGEST, check_number, check_range, check_rows, check_size, shape_of
from sslkernels.data.views.drawn import Drawn, interpolated, ramp, resampled, uniform
from sslkernels.modules import Remembering

SOUNDS = "(N, 1, mels, frames), log-mel"
MELS, FRAMES = 2, 3


class AudioViews(Drawn):
    """Map log-mel spectrograms ``(N, 1, mels, frames)`` to ``count`` views of the same shape.

    Each is mixed, in the domain of powers, with up to 0.4 of another one of the batch; then 0.6 to all of its time and
    of its frequencies are stretched to the whole, as in BYOL-A (Niizumi et al. 2021), and its loudness moves by up to
    0.5 in units of the logarithm. BYOL-A mixes with a memory of 2,048 past sounds instead, as `LogMixupExp` does.

    >>> import torch
    >>> from sslkernels.data import AudioViews
    >>> first, second = AudioViews()(torch.randn(4, 1, 64, 96))
    >>> first.shape
    torch.Size([4, 1, 64, 96])
    """

    def draw(self, batch: Tensor) -> Tensor:
        check_sounds("AudioViews", batch)
        count = len(batch)
        share = uniform(0, 0.4, count, 1, 1, 1, like=batch)
        view = mixed(batch, batch[torch.randperm(count, device=batch.device)], share)
        for axis in (MELS, FRAMES):
            rows = rows_along(view, axis)
            rows = resampled(rows, uniform(0.6, 1, count, like=batch), uniform(0, 1, count, like=batch))
            view = sounds_along(rows, axis)
        return view.contiguous() + uniform(-0.5, 0.5, count, 1, 1, 1, like=batch)


class LogMixupExp(Remembering):
    """Mix each log-mel spectrogram ``(N, 1, mels, frames)`` with a sound of the past, in the domain of powers.

    ``log((1 - λ) exp(x) + λ exp(x_k))`` with ``λ`` drawn evenly from 0 to ``ratio``, and ``x_k`` from the memory: the
    last ``memory`` sounds that came, as they came (BYOL-A, Niizumi et al. 2021, arXiv 2103.06695, section III-B). The
    first batch finds the memory empty and stays as it is.

    Args:
        ratio: largest share of the other sound.
        memory: number of sounds that are remembered. All have one shape, which the first batch fixes.

    The memory ``sounds (memory, 1, mels, frames)`` and the number ``seen`` of sounds so far are saved, loaded and moved
    as buffers are; each rank has its own. Of several views, the second finds this batch's sounds in the memory, as in
    BYOL-A's code.

    >>> import torch
    >>> from sslkernels.data import LogMixupExp
    >>> mixup = LogMixupExp(ratio=0.4, memory=8)
    >>> quiet, loud = torch.full((2, 1, 4, 5), -9.0), torch.zeros(2, 1, 4, 5)
    >>> torch.equal(mixup(quiet), quiet), bool((mixup(loud) < loud).all())
    (True, True)
    """

    sounds: Tensor | None
    seen: Tensor
    remembered = ("sounds", "seen")

    def __init__(self, ratio: float = 0.4, memory: int = 2048) -> None:
        super().__init__()
        self.ratio = check_number("LogMixupExp", "ratio", ratio, least=0, most=1)
        self.memory = check_size("LogMixupExp", "memory", memory)
        self.sounds, self.seen = None, torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_sounds("LogMixupExp", batch)
        if self.sounds is None:
            self.sounds, self.seen = batch.new_zeros(self.memory, *batch.shape[1:]), self.seen.to(batch.device)
        elif self.sounds.shape[1:] != batch.shape[1:]:
            raise ValueError(
                f"LogMixupExp: batch has shape {shape_of(batch)} and the memory {shape_of(self.sounds)}; "
                "pass sounds of one shape, or make another LogMixupExp."
            )
        count = len(batch)
        share = uniform(0, self.ratio, count, 1, 1, 1, like=batch)
        # The memory may have room left; indexing by its filled part needs no word from the device.
        other = self.sounds[(torch.rand(count, device=batch.device) * self.seen.clamp(max=self.memory)).long()]
        view = torch.where(self.seen > 0, mixed(batch, other.to(batch), share), batch)
        latest = batch[-self.memory :]
        places = (self.seen + count - len(latest) + torch.arange(len(latest), device=batch.device)) % self.memory
        self.sounds[places] = latest.to(self.sounds)
        self.seen += count
        return view

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        saved = state_dict.get(f"{prefix}sounds")
        self.sounds = None if saved is None else torch.empty_like(saved, device=self.seen.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class RandomResizeCrop(nn.Module):
    """Stretch a random part of the time and of the frequencies of log-mel spectrograms ``(N, 1, mels, frames)`` to the
    whole, which approximates changes of speed and pitch (BYOL-A, Niizumi et al. 2021, section III-C).

    Sizes ``s_f`` and ``s_t`` are drawn evenly from ``scale``, and the place evenly from all within a virtual area
    around the sound, ``area`` times as long as it is, and as high; a size beyond the area's is the area's. The area has
    the sound's quietest value; BYOL-A's sounds are standardised, and there it has 0. Values between bands and frames
    are interpolated linearly, where BYOL-A rounds sizes and interpolates by cubics.

    Args:
        scale: range of the sizes, as shares of all frames and of all bands.
        area: size of the virtual area, as a share of all frames.

    >>> import torch
    >>> from sslkernels.data import RandomResizeCrop
    >>> RandomResizeCrop()(torch.randn(4, 1, 64, 96)).shape
    torch.Size([4, 1, 64, 96])
    """

    def __init__(self, scale: tuple[float, float] = (0.6, 1.5), area: float = 1.5) -> None:
        super().__init__()
        self.scale = check_range("RandomResizeCrop", "scale", scale)
        self.area = check_number("RandomResizeCrop", "area", area, least=1)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_sounds("RandomResizeCrop", batch)
        quietest = batch.amin((1, 2, 3))
        for axis, area in ((MELS, 1.0), (FRAMES, self.area)):
            rows = rows_along(batch, axis)
            size = uniform(*self.scale, len(batch), 1, like=batch).clamp(max=area)
            start = (area - size) * uniform(0, 1, len(batch), 1, like=batch) - (area - 1) / 2
            places = (start + size * ramp(rows)) * (rows.shape[2] - 1)
            batch = sounds_along(read_at(rows, places, quietest), axis)
        return batch.contiguous()


class Noise(nn.Module):
    """Add white noise to log-mel spectrograms ``(N, 1, mels, frames)`` in the domain of powers.

    ``log(exp(x) + e P 10^(-r/10))``, where P is the sound's mean power, r the ratio of signal to noise in decibels,
    drawn evenly from ``ratio`` for each sound, and e the power of a Gaussian's Fourier coefficient: exponential with
    mean 1, another number for each band and frame. The noise of Klapsas et al. 2022 (arXiv 2204.03421), after the
    abstract: features of a voice should not depend on the noise around it.

    Args:
        ratio: range of the ratio of signal to noise, in decibels.

    >>> import torch
    >>> from sslkernels.data import Noise
    >>> sounds = torch.randn(4, 1, 64, 96)
    >>> bool((Noise()(sounds) >= sounds).all())
    True
    """

    def __init__(self, ratio: tuple[float, float] = (5.0, 25.0)) -> None:
        super().__init__()
        self.ratio = check_range("Noise", "ratio", ratio, above=-LARGEST)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_sounds("Noise", batch)
        power = batch.logsumexp((1, 2, 3), keepdim=True) - math.log(math.prod(batch.shape[1:]))
        level = power - math.log(10) / 10 * uniform(*self.ratio, len(batch), 1, 1, 1, like=batch)
        return torch.logaddexp(batch, level + torch.empty_like(batch).exponential_().log())


class Speed(nn.Module):
    """Let log-mel spectrograms ``(N, 1, mels, frames)`` run faster or slower, about their middle.

    ``x(c + f (t - c))`` by linear interpolation between frames, ``c = (frames - 1) / 2``; f is drawn from ``factors``,
    evenly on the scale of its logarithm. So 1.25 squeezes a sound to 0.8 of its time, with its quietest value before
    and behind it, and 0.8 cuts its ends off. Speed is part of a voice's prosody, which its identity does not depend on
    (after Klapsas et al. 2022, arXiv 2204.03421).

    Args:
        factors: range of the factor.

    >>> import torch
    >>> from sslkernels.data import Speed
    >>> Speed()(torch.randn(4, 1, 64, 96)).shape
    torch.Size([4, 1, 64, 96])
    """

    def __init__(self, factors: tuple[float, float] = (0.8, 1.25)) -> None:
        super().__init__()
        self.factors = check_range("Speed", "factors", factors)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_sounds("Speed", batch)
        slow, fast = map(math.log, self.factors)
        factor = uniform(slow, fast, len(batch), 1, like=batch).exp()
        rows, half = rows_along(batch, FRAMES), (batch.shape[FRAMES] - 1) / 2
        places = half + factor * half * (2 * ramp(rows) - 1)
        return sounds_along(read_at(rows, places, batch.amin((1, 2, 3))), FRAMES)


class Pitch(nn.Module):
    """Shift log-mel spectrograms ``(N, 1, mels, frames)`` up or down along their bands.

    ``x(m - b)`` by linear interpolation between bands, b drawn evenly from ``-bands`` to ``bands`` for each sound. A
    band that comes from outside has the sound's quietest value. Steps of the mel scale are steps of pitch as it is
    heard; with pitch moves the rest of the voice. Pitch is part of prosody (after Klapsas et al. 2022,
    arXiv 2204.03421).

    Args:
        bands: largest shift, in bands.

    >>> import torch
    >>> from sslkernels.data import Pitch
    >>> Pitch()(torch.randn(4, 1, 64, 96)).shape
    torch.Size([4, 1, 64, 96])
    """

    def __init__(self, bands: float = 4.0) -> None:
        super().__init__()
        self.bands = check_number("Pitch", "bands", bands, least=0)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_sounds("Pitch", batch)
        shift = uniform(-self.bands, self.bands, len(batch), 1, like=batch)
        rows = rows_along(batch, MELS)
        places = torch.arange(rows.shape[2], device=batch.device, dtype=batch.dtype) - shift
        return sounds_along(read_at(rows, places, batch.amin((1, 2, 3))), MELS).contiguous()


def check_sounds(function: str, batch: Tensor) -> None:
    check_rows(function, "batch", batch, SOUNDS, dims=4)
    if batch.shape[1] != 1:
        raise ValueError(f"{function}: batch has shape {shape_of(batch)}; pass {SOUNDS}: sounds have one channel.")


def mixed(sounds: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Mix the powers of spectrograms, ``share`` of the others'."""
    return torch.logaddexp(sounds + (1 - share).log(), others + share.clamp(min=1e-9).log())


def rows_along(sounds: Tensor, axis: int) -> Tensor:
    """Turn ``(N, 1, mels, frames)`` into rows that run along ``axis``: ``(N, mels, frames)`` or the reverse."""
    return sounds.transpose(FRAMES, axis).flatten(1, 2)


def sounds_along(rows: Tensor, axis: int) -> Tensor:
    """Undo `rows_along`."""
    return rows[:, None].transpose(FRAMES, axis)


def read_at(rows: Tensor, places: Tensor, outside: Tensor) -> Tensor:
    """Read rows ``(N, C, T)`` at any ``places (N, L)``; before and behind a row all is ``outside (N,)``."""
    edge = outside[:, None, None].expand(-1, rows.shape[1], 1)
    return interpolated(torch.cat([edge, rows, edge], 2), places.clamp(-1, rows.shape[2]) + 1)
