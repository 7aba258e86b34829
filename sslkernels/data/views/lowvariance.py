# SPDX-License-Identifier: Apache-2.0
"""Changes images in what hardly tells them apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_rows, shape_of
from sslkernels.data.views.images import IMAGES

# Images that the components are computed from; more of them change little, and a covariance costs their number squared.
MOST = 4096


class LowVariancePerturb(nn.Module):
    """Perturb images ``(N, C, H, W)`` in [0, 1] along the dimensions of a code in which images differ least.

    ``x' = μ + V (z + strength m σ n)``, ``z = Vᵀ (x - μ)``, where n is standard normal, σ holds each dimension's
    deviation over ``images``, and m is 1 for the ``share`` of dimensions with the lowest and 0 for the others. The
    result is clamped to [0, 1].

    The idea is that of Wang et al. 2024 (arXiv 2407.14676), after the abstract: features of low variance fail to
    separate the data, so they are perturbed, a decoder turns features back into images, and such pairs teach an encoder
    what is discriminative. Three parts are ours: a linear encoder and decoder, the principal components of ``images``;
    noise in units of a dimension's own deviation; variance as the only criterion, where the paper also asks Grad-CAM.

    Args:
        images: training images ``(M, C, H, W)``; the components are those of up to 4,096 of them, evenly spaced.
        share: share of dimensions that are perturbed.
        strength: deviation of the noise, in units of each dimension's own.

    Buffers hold ``mean (CHW,)``, ``components (K, CHW)`` and ``deviations (K,)``, highest first, K ≤ min(M - 1, CHW).
    What the components cannot hold of an image is lost.

    >>> import torch
    >>> from sslkernels.data import LowVariancePerturb
    >>> images = torch.rand(40, 1, 4, 4)
    >>> LowVariancePerturb(images)(images[:8]).shape
    torch.Size([8, 1, 4, 4])
    """

    mean: Tensor
    components: Tensor
    deviations: Tensor

    def __init__(self, images: Tensor, share: float = 0.5, strength: float = 1.0) -> None:
        super().__init__()
        check_rows("LowVariancePerturb", "images", images, "(M, C, H, W), numbers in [0, 1]", dims=4)
        if len(images) < 2:
            raise ValueError(f"LowVariancePerturb: images has shape {shape_of(images)}; pass two images or more.")
        self.share = check_number("LowVariancePerturb", "share", share, least=0, most=1)
        self.strength = check_number("LowVariancePerturb", "strength", strength, least=0)
        self.shape = images.shape[1:]
        sample = images[:: -(-len(images) // MOST)]
        for name, value in zip(("mean", "components", "deviations"), principal_components(sample), strict=True):
            self.register_buffer(name, value.to(images))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_rows("LowVariancePerturb", "images", images, IMAGES, dims=4)
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"LowVariancePerturb: images has shape {shape_of(images)} and the components are those of images of "
                f"shape {tuple(self.shape)}; pass images of that shape."
            )
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would blur what is not perturbed
            return self.perturbed(images.flatten(1)).clamp(0, 1).view_as(images)

    def perturbed(self, rows: Tensor) -> Tensor:
        """Perturb flat images ``(N, CHW)``."""
        code = (rows - self.mean) @ self.components.T
        low = round(self.share * code.shape[1])
        kept = code.shape[1] - low
        code[:, kept:] += self.strength * self.deviations[kept:] * torch.randn_like(code[:, kept:])
        return self.mean + code @ self.components


def principal_components(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(D,)``, components ``(K, D)`` and deviations ``(K,)``, highest first, of all that vary."""
    rows = images.flatten(1).double()
    mean = rows.mean(0)
    rows = (rows - mean) / (len(rows) - 1) ** 0.5
    # The covariance XᵀX and the matrix XXᵀ have the same eigenvalues above 0; the smaller one is decomposed.
    few = len(rows) < rows.shape[1]
    variances, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    varying = variances > variances.amax() * len(variances) * torch.finfo(rows.dtype).eps
    deviations, vectors = variances[varying].sqrt().flip(0), vectors[:, varying].flip(1)
    return mean, (rows.T @ vectors / deviations if few else vectors).T, deviations
