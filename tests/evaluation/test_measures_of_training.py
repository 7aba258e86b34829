# SPDX-License-Identifier: Apache-2.0
"""Short training moves the measures as it should, on real images."""

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
def test_simclr_on_digits_brings_views_together_and_tells_samples_apart():
    """The untrained encoder keeps whatever pixels have, and has the higher rank: 81 where SimCLR has 41."""
    prepared = prepare(TrainConfig.from_options("simclr", {"data": "digits", "seed": 0, "threads": 1}), ())
    learner, draw, images = prepared.learner, prepared.views, prepared.dataset.inputs[:]
    tested = prepared.dataset.test_inputs[:]
    with torch.no_grad():
        views = [view for _ in range(4) for view in draw(tested)]
    untrained = measures(learner.backbone, tested, views)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(256)[:-1]:
            loss = learner(draw(images[batch]))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    simclr = measures(learner.backbone, tested, views)
    print(untrained, simclr, sep="\n")
    assert simclr["alignment"] < 0.7 * untrained["alignment"]
    assert simclr["ratio"] > 2 * untrained["ratio"] and simclr["bound"] > 2 * untrained["bound"]
    for rank in ("rank", "lidar"):
        assert 10 < simclr[rank] < 0.8 * untrained[rank]
