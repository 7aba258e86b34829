# SPDX-License-Identifier: Apache-2.0
"""DINO's head against its formula written out, and the states that other repositories save of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sslkernels.models import DINOHead

SIZES: dict[str, Any] = {"hidden_dim": 7, "bottleneck_dim": 4}


class Official(nn.Module):
    """The head as the repositories write it, with the weight norm of torch."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 7), nn.GELU(), nn.Linear(7, 4))
        self.last_layer = norm(nn.Linear(4, 9, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


NORMS = {"scaled": nn.utils.weight_norm, "unit": parametrizations.weight_norm, "linear": nn.Identity()}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("last", NORMS)
def test_states_of_other_repositories_give_their_logits_and_gradients(last: Any) -> None:
    official = Official(NORMS[last]).double()
    for parameter in official.parameters():
        nn.init.normal_(parameter)
    head = DINOHead(5, 9, last=last, **SIZES).double()
    head.load_state_dict(official.state_dict())
    x = torch.randn(3, 5, dtype=torch.float64)
    found, expected = head(x) @ head.weight.T, official(x)
    torch.testing.assert_close(found, expected)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    ours = dict(head.named_parameters())
    assert [name for name, weight in ours.items() if not weight.requires_grad] == ["last_layer.weight_g"] * (
        last == "unit"
    )
    for name, theirs in official.named_parameters():
        for long, short in names.items():
            name = name.replace(long, short)
        if not ours[name].requires_grad:
            continue
        pair = [torch.autograd.grad(out.sin().sum(), weight, retain_graph=True)[0]
                for out, weight in ((found, ours[name]), (expected, theirs))]  # fmt: skip
        torch.testing.assert_close(*pair)


def test_its_own_state_loads_and_rows_have_length_1() -> None:
    head, other = DINOHead(5, 9, **SIZES), DINOHead(5, 9, **SIZES)
    other.load_state_dict(head.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(other(x), head(x)) and torch.equal(other.weight, head.weight)
    for rows in (head(x), head.weight):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


@pytest.mark.parametrize("last", NORMS)
def test_it_can_be_scripted(last: Any) -> None:
    head, x = DINOHead(5, 9, last=last, **SIZES), torch.randn(3, 5)
    assert torch.equal(torch.jit.script(head)(x), head(x))


def test_hidden_layers_with_batch_norm_have_the_official_names() -> None:
    mlp = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.GELU(), nn.Linear(7, 7), nn.BatchNorm1d(7), nn.GELU(),
                        nn.Linear(7, 4))  # fmt: skip
    head, x = DINOHead(5, 9, batch_norm=True, **SIZES), torch.randn(6, 5)
    state = {f"mlp.{name}": value for name, value in mlp.state_dict().items()}
    assert not head.load_state_dict(state, strict=False).unexpected_keys
    torch.testing.assert_close(head(x), F.normalize(mlp(x), dim=1))


def test_a_single_layer_is_called_mlp_as_in_the_official_head() -> None:
    head = DINOHead(5, 9, layers=1, bottleneck_dim=4)
    assert set(head.state_dict()) == {"mlp.weight", "mlp.bias", "last_layer.weight_g", "last_layer.weight_v"}
    assert head(torch.randn(3, 5)).shape == (3, 4)
