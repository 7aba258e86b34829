# SPDX-License-Identifier: Apache-2.0
"""PAL against its paper's losses of a dense graph."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from sslkernels.methods import PAL, SimCLR
from sslkernels.models import ResNet

# Samples 1, 4 and 5 share a label, and so do 0 and 3. Nobody knows that of 5 and of 0.
LABELS, INDEX = torch.tensor([0, 2, 1, 0, 2, 2]), torch.tensor([7, 3, 0, 4, 9, 1])
KNOWN = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.tensor([3, 9, 4, 8]), True)
PAIRED = {(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 4), (4, 1)}


def dense() -> torch.Tensor:
    """The graph of 12 rows, without each row itself."""
    rows = range(12)
    graph = [[float(i != j and (i % 6, j % 6) in PAIRED) for j in rows] for i in rows]
    return torch.tensor(graph, dtype=torch.float64)


def simclr(z: torch.Tensor) -> torch.Tensor:
    graph = dense() / dense().sum(1, keepdim=True)
    unit = F.normalize(z, dim=1)
    logits = unit @ unit.T / 0.3
    below = logits.masked_fill(torch.eye(12).bool(), -torch.inf).logsumexp(1)
    return (graph * (below[:, None] - logits)).sum() / 12


def vicreg(z: torch.Tensor) -> torch.Tensor:
    return (z @ z.T - dense() - torch.eye(12)).square().sum() / 12


def barlow(z: torch.Tensor) -> torch.Tensor:
    graph, centred = dense() / dense().sum(1, keepdim=True), z - z.mean(0)
    unit = centred / centred.norm(dim=0)
    return (unit.T @ graph @ unit - torch.eye(z.shape[1])).square().sum()


FORMULAS = {"simclr": simclr, "vicreg": vicreg, "barlow": barlow}


def pal(**options) -> PAL:
    return PAL(ResNet(1, (6,), (1,)), feature_dim=6, samples=12, projection_dim=4, temperature=0.3, **options).double()


def drawn() -> list[torch.Tensor]:
    return [torch.rand(6, 1, 8, 8, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("base", FORMULAS)
def test_loss_and_gradients_are_those_of_the_dense_graph(base, backend):
    method, views = pal(base=base, backend=backend), drawn()
    method.known.copy_(KNOWN)
    exact = FORMULAS[base](torch.cat([method.projector(method.backbone(view)) for view in views]))
    loss = method(views, index=INDEX, label=LABELS)["loss"]
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight is not method.projector[-1].bias or base != "barlow"]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_without_labels_it_is_simclr():
    method, views = pal(share=0.0), drawn()
    other = SimCLR(copy.deepcopy(method.backbone), feature_dim=6, projection_dim=4, temperature=0.3).double()
    other.projector.load_state_dict(method.projector.state_dict())
    torch.testing.assert_close(method(views, index=INDEX, label=LABELS)["loss"], other(views)["loss"])


def test_the_same_share_of_the_labels_is_known_whatever_the_seed():
    torch.manual_seed(1)
    first = pal(share=0.25).known
    torch.manual_seed(2)
    assert first.sum() == 3 and torch.equal(pal(share=0.25).known, first) and "known" in pal().state_dict()
