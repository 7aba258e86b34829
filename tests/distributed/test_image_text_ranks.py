# SPDX-License-Identifier: Apache-2.0
"""A model of images and texts in DDP, on two and three gloo processes, gets the gradient of one process.

The model does what those of transformers do: its forward multiplies the rows of its own batch by the scale, and the
loss reads scale and bias outside.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from worlds import WorldsOf, caught

from sslkernels.losses.transformers import image_text_loss

ROWS = {2: (5, 2), 3: (1, 4, 3)}


class Towers(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.2))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0)) if bias else None

    def forward(self, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        image, text = F.normalize(self.image(pixels), dim=1), F.normalize(self.text(ids), dim=1)
        logits = image @ text.T * self.logit_scale.exp() + (0 if self.logit_bias is None else self.logit_bias)
        return {"logits_per_image": logits, "image_embeds": image, "text_embeds": text}


def run(bias: bool, sizes: tuple[int, ...], rank: int | None, unused: bool = False) -> dict[str, Tensor]:
    """Compute value and gradients for one rank's rows in DDP, or for all without it (None)."""
    model = Towers(bias).double()
    generator = torch.Generator().manual_seed(7)
    batch = [torch.randn(sum(sizes), width, generator=generator, dtype=torch.float64) for width in (6, 5)]
    if rank is None:
        loss = image_text_loss(model, model(*batch))
    else:
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        ddp = DistributedDataParallel(model, find_unused_parameters=unused)
        loss = image_text_loss(ddp, ddp(*(x[own] for x in batch)), group="world")
    loss.backward()
    return {"value": loss.detach(), **{name: x.grad for name, x in model.named_parameters()}}


CASES = [(bias, unused) for bias in (False, True) for unused in (False, True)]


def job(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {str(case): caught(run, case[0], ROWS[world], rank, case[1]) for case in CASES}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", ROWS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_together_equal_one_process(worlds: WorldsOf, world: int, case: tuple[bool, bool]) -> None:
    ranks = [results[str(case)] for results in worlds(world)]
    assert all(isinstance(found, dict) for found in ranks), ranks
    for name, exact in run(case[0], ROWS[world], None).items():
        together = torch.stack([found[name] for found in ranks]).mean(0)  # DDP has averaged gradients already
        torch.testing.assert_close(together, exact, rtol=1e-9, atol=1e-11, msg=lambda m: f"{name}: {m}")  # noqa: B023
