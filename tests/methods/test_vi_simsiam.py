# SPDX-License-Identifier: Apache-2.0
"""VI-SimSiam's loss is the likelihood of the power spherical distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.distributions import Beta

from sslkernels.methods import VISimSiam
from sslkernels.models import ResNet


def log_density(x: torch.Tensor, mean: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
    """The density as its paper makes it: t = cos is a stretched Beta, and all directions around the mean are alike."""
    d = x.shape[1]
    t = (F.normalize(x, dim=1) * F.normalize(mean, dim=1)).sum(1)
    beta = torch.tensor((d - 1) / 2, dtype=torch.float64)
    along = Beta(beta + kappa, beta).log_prob((1 + t) / 2) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    sphere = (
        torch.log(torch.tensor(2.0, dtype=torch.float64)) + beta * torch.log(torch.tensor(torch.pi)) - beta.lgamma()
    )
    return along - sphere - (d - 3) / 2 * torch.log(1 - t.square())


def test_loss_and_gradients_are_those_of_the_likelihood():
    method = VISimSiam(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=8).double()
    views = [torch.rand(7, 1, 8, 8, dtype=torch.float64) for _ in range(2)]
    y = [method.backbone(view) for view in views]
    z = [method.projector(rows) for rows in y]
    p, kappa = [method.predictor(rows) for rows in z], [F.softplus(method.kappa(rows))[:, 0] for rows in y]
    exact = -sum(log_density(z[1 - i].detach(), p[i], kappa[i]).mean() for i in (0, 1)) / 2
    loss = method(views)["loss"]
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_concentration_grows_where_views_agree():
    torch.manual_seed(0)
    method = VISimSiam(ResNet(1, (16,), (1,)), feature_dim=16, projection_dim=64)
    view = torch.rand(32, 1, 8, 8)
    optimizer = torch.optim.AdamW(method.parameters(), 1e-2)
    before = method.concentration(method.backbone(view)).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        method([view, view])["loss"].backward()
        optimizer.step()
    assert method.concentration(method.backbone(view)).mean() > before + 1
