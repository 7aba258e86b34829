# SPDX-License-Identifier: Apache-2.0
"""Short training moves the measures the way their papers say, on real images."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("kornia")

from sslkernels.evaluation import (  # noqa: E402
    alignment,
    augmentation_covariance,
    calibrate_batchnorm,
    encode,
    lidar,
    mutual_information_bound,
    rank_me,
)
from sslkernels.training.config import TrainConfig  # noqa: E402
from sslkernels.training.run import prepare  # noqa: E402


def measures(backbone: nn.Module, images: torch.Tensor, views: list[torch.Tensor]) -> dict[str, float]:
    backbone = copy.deepcopy(backbone)
    calibrate_batchnorm(backbone, images)
    rows = [F.normalize(encode(backbone, view), dim=1) for view in views]
    together = torch.stack(rows, 1)
    return {
        "rank": rank_me(encode(backbone, images)),
        "lidar": lidar(together),
        "alignment": float(alignment(rows[0], rows[1])),
        "ratio": augmentation_covariance(together).ratio,
        "bound": mutual_information_bound(rows[0], rows[1]),
    }


@pytest.mark.slow
def test_simclr_on_digits_aligns_views_and_uses_more_directions():
    """In seeds 0 to 2 all five moved this way, and the rank by a factor of RANKS or more."""
    prepared = prepare(TrainConfig.from_options("simclr", {"data": "digits", "seed": 0, "threads": 1}), ())
    learner, draw, images = prepared.learner, prepared.views, prepared.dataset.inputs[:]
    tested = prepared.dataset.test_inputs[:]
    with torch.no_grad():
        views = [view for _ in range(4) for view in draw(tested)]
    before = measures(learner.backbone, tested, views)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(len(images)).split(256)[:-1]:
            loss = learner(draw(images[batch]))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = measures(learner.backbone, tested, views)
    print(before, after)
    assert after["alignment"] < before["alignment"]
    assert all(after[name] > before[name] for name in ("rank", "lidar", "ratio", "bound"))
