# SPDX-License-Identifier: Apache-2.0
"""The power spherical likelihood is a density on the sphere, and holds in wide rows and at the edges."""

from __future__ import annotations

import math

import pytest
import torch

from sslkernels.methods.vi_simsiam import power_spherical_nll


def test_the_density_on_the_circle_adds_up_to_one():
    angles = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)[:-1]
    x = torch.stack([angles.cos(), angles.sin()], 1)
    for kappa in (0.0, 0.3, 5.0, 80.0):
        nll = power_spherical_nll(
            x, torch.tensor([[3.0, 4.0]]).double().expand_as(x), torch.full_like(angles, kappa), reduction="none"
        )
        # Directions all but opposite count as 1 + cos = 1e-6, which adds a little.
        assert float(torch.exp(-nll).mean()) * 2 * math.pi == pytest.approx(1, abs=1e-5)


def test_the_density_on_the_sphere_adds_up_to_one():
    """Archimedes: on the sphere in three dimensions, cos is spread evenly."""
    cosines = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 50_000 - 1
    x = torch.stack([(1 - cosines.square()).sqrt(), torch.zeros_like(cosines), cosines], 1)
    mean = torch.tensor([[0.0, 0.0, 2.0]]).double().expand_as(x)
    for kappa in (0.0, 2.5, 40.0):
        nll = power_spherical_nll(x, mean, torch.full_like(cosines, kappa), reduction="none")
        assert float(torch.exp(-nll).mean()) * 4 * math.pi == pytest.approx(1, abs=1e-5)


def test_wide_rows_keep_their_digits(backend):
    x, mean = torch.randn(6, 2048), torch.randn(6, 2048)
    kappa = torch.tensor([0.0, 1e-3, 1.0, 30.0, 1e3, 1e5])
    exact = power_spherical_nll(x.double(), mean.double(), kappa.double(), reduction="none", backend="reference")
    found = power_spherical_nll(x, mean, kappa, reduction="none", backend=backend)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=1e-5)


def test_reductions_and_edges():
    x = torch.randn(5, 4, requires_grad=True)
    kappa = torch.rand(5, requires_grad=True)
    mean = torch.cat([torch.randn(4, 4), -x.detach()[4:]])
    rows = power_spherical_nll(x, mean, kappa, reduction="none")
    torch.testing.assert_close(power_spherical_nll(x, mean, kappa), rows.mean())
    torch.testing.assert_close(power_spherical_nll(x, mean, kappa, reduction="sum"), rows.sum())
    rows.sum().backward()
    assert x.grad.isfinite().all() and kappa.grad.isfinite().all()
    for wrong in (torch.rand(4), torch.rand(5, 1)):
        with pytest.raises(ValueError, match="power_spherical_nll: x has shape"):
            power_spherical_nll(x, mean, wrong)
    with pytest.raises(ValueError, match="at least two features"):
        power_spherical_nll(torch.rand(5, 1), torch.rand(5, 1), kappa)
