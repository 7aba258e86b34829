# SPDX-License-Identifier: Apache-2.0
"""Few launches: a loss with its gradient, as it would run on a GPU. Nothing is computed, so no GPU is needed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import sslkernels.functional as SF
from sslkernels.device.launches import Recording, record
from sslkernels.device.targets import TARGETS

H200, CUDA = TARGETS["sm_90"], torch.device("cuda", 0)


def recorded(loss: str, n: int, d: int, dtype: torch.dtype) -> Recording:
    def inputs() -> dict[str, torch.Tensor]:
        x, y = (torch.empty(n, d, dtype=dtype, device=CUDA, requires_grad=True) for _ in range(2))
        if loss == "clip_loss":
            return {"x": x, "y": y, "scale": torch.empty((), device=CUDA, requires_grad=True)}
        if loss == "queue":
            return {"x": x, "y": y.detach(), "negatives": torch.empty(16 * n, d, dtype=dtype, device=CUDA)}
        return {"x": x, "y": y}

    def step(x: torch.Tensor, y: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        if loss == "clip_loss":
            return SF.clip_loss(x, y, others["scale"], backend="triton")
        if loss == "nt_xent":
            return SF.nt_xent(x, y, backend="triton")
        return SF.info_nce(x, y, backend="triton", **others)

    return record(inputs, step, H200)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
@pytest.mark.parametrize(
    ("loss", "n", "d", "most"),
    (("nt_xent", 4096, 128, 7), ("nt_xent", 2048, 256, 8), ("clip_loss", 2048, 512, 7), ("queue", 256, 128, 7)),
)
def test_a_loss_takes_few_launches(loss: str, n: int, d: int, most: int, dtype: torch.dtype) -> None:
    """Float32 products are launches of their own, for the sums of tiles and, where they are not kept, for weights."""
    names = [launch.name for launch in recorded(loss, n, d, dtype).launches]
    assert len(names) <= most + (2 if dtype == torch.float32 else 0), names


def test_a_large_loss_holds_no_logits() -> None:
    """Its 65536 x 65536 logits would take 8 GiB in bfloat16."""
    assert recorded("clip_loss", 65536, 512, torch.bfloat16).peak_bytes < 1.2e9
