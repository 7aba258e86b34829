# SPDX-License-Identifier: Apache-2.0
"""Losses of two views as in lightly: DCLLoss, DCLWLoss, DirectCLRLoss, MACLLoss and HypersphereLoss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslkernels.arguments import (
    as_number,
    came,
    check_callable,
    check_device,
    check_number,
    check_pair,
    check_size,
    check_temperature,
    check_tensor,
)
from sslkernels.distributed import GroupLike, check_gathered
from sslkernels.functional.cosine import negative_cosine_similarity
from sslkernels.functional.negatives import dcl, dclw
from sslkernels.functional.similarity import inverse, nt_xent, sharded
from sslkernels.functional.sphere import alignment, uniformity
from sslkernels.losses.similarity import NTXentLoss
from sslkernels.modules import Module
from sslkernels.ops.rows import row_dot, unit_rows


class DCLLoss(Module):
    """`sslkernels.functional.dcl` with lightly's arguments: ``from sslkernels.losses import DCLLoss``.

    Args:
        temperature: as in `sslkernels.functional.dcl`.
        weight_fn: takes the unit rows of an anchor's view and of the other, ``(N, D)`` each, and returns the weights of
            the positives ``(N,)``, or one for all. Gradients flow through them as far as the function lets them.
        gather_distributed: take the rows of every rank as negatives.

    ``forward(out0, out1)`` with ``(N, D)`` each, two pairs or more in all, gives a 0-dim loss. With weights w it is the
    mean over 2N anchors of ``lse_i - w_i * p_i``, with the names of `sslkernels.functional.dcl`.

    >>> import torch
    >>> from sslkernels.losses import DCLLoss
    >>> DCLLoss(temperature=0.5)(torch.eye(4), torch.eye(4))
    tensor(-0.2082)
    >>> DCLLoss(temperature=0.5, weight_fn=lambda x, y: 2 - (x * y).sum(1))(torch.eye(4), torch.eye(4))
    tensor(-0.2082)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        function = type(self).__name__
        self.temperature = check_temperature(function, temperature)
        self.weight_fn = None if weight_fn is None else check_callable(function, "weight_fn", weight_fn)
        self.gather_distributed = check_gathered(function, gather_distributed)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        check_pair("DCLLoss", {"out0": out0, "out1": out1}, self.gather_distributed)
        group: GroupLike = "world" if self.gather_distributed else None
        if self.weight_fn is None:
            return dcl(out0, out1, temperature=self.temperature, group=group)
        rows = unit_rows(out0, out1)
        x, y = rows[: len(out0)], rows[len(out0) :]
        logits = row_dot(x, y) * inverse(self.temperature, x)
        # A pair's logit is the positive of two anchors. dcl takes it off with the weight 1.
        lacking = ((2 - self._weights(x, y) - self._weights(y, x)) * logits).sum()
        shard = sharded(group, "DCLLoss", rows, weighted=True)
        share = shard.ranks / shard.total(len(rows))
        return dcl(x, y, temperature=self.temperature, normalize=False, group=group) + share * lacking

    def _weights(self, x: Tensor, y: Tensor) -> Tensor | float:
        assert self.weight_fn is not None
        weights: object = self.weight_fn(x, y)
        if (number := as_number(weights)) is not None:
            return number
        expected = f"({len(x)},), one weight for each pair"
        found = check_tensor("DCLLoss", "the result of weight_fn", weights, expected)
        if found.dim() > 1 or found.numel() not in (1, len(x)):
            raise ValueError(f"DCLLoss: weight_fn returned {came(found)}; expected shape {expected}.")
        check_device("DCLLoss", "the result of weight_fn", found, "out0", x)
        return found


class DCLWLoss(DCLLoss):
    """`sslkernels.functional.dclw` with lightly's arguments: ``from sslkernels.losses import DCLWLoss``.

    Args:
        temperature, gather_distributed: as in `DCLLoss`.
        sigma: how far apart counts as far, a positive number.

    With ``gather_distributed`` the softmax of the weights runs over the pairs of every rank, so that the loss is that
    of the concatenated batch. lightly's runs over the pairs of each rank alone; in one process both are the same.

    >>> import torch
    >>> from sslkernels.losses import DCLWLoss
    >>> DCLWLoss(temperature=0.5)(torch.eye(4), torch.eye(4))
    tensor(-0.2082)
    """

    def __init__(self, temperature: float = 0.1, sigma: float = 0.5, gather_distributed: bool = False) -> None:
        super().__init__(temperature, None, gather_distributed)
        self.sigma = check_number("DCLWLoss", "sigma", sigma, above=0.0)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        check_pair("DCLWLoss", {"out0": out0, "out1": out1}, self.gather_distributed)
        group: GroupLike = "world" if self.gather_distributed else None
        return dclw(out0, out1, temperature=self.temperature, sigma=self.sigma, group=group)


class DirectCLRLoss(NTXentLoss):
    """NT-Xent of the first features alone, with lightly's arguments (DirectCLR, Jing et al. 2022).

    ``from sslkernels.losses import DirectCLRLoss`` is the whole change. Rows come from the encoder, without a
    projection head.

    Args:
        loss_dim: how many features count, the first ones.
        temperature, gather_distributed: as in `NTXentLoss`.
        memory_bank_size: as in `NTXentLoss`; ``dim`` is ``loss_dim``, or all features where there are fewer.

    ``forward(out0, out1)`` with ``(N, ...)`` each gives a 0-dim loss; all dimensions but the first are flattened.

    >>> import torch
    >>> from sslkernels.losses import DirectCLRLoss
    >>> DirectCLRLoss(loss_dim=4)(torch.eye(4, 9), torch.eye(4, 9))
    tensor(0.5944)
    """

    def __init__(
        self,
        loss_dim: int = 64,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(temperature, memory_bank_size, gather_distributed)
        self.loss_dim = check_size("DirectCLRLoss", "loss_dim", loss_dim)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        return super().forward(self._first("out0", out0), self._first("out1", out1))

    def _first(self, name: str, out: Tensor) -> Tensor:
        expected = "(N, D), or more dimensions, which are flattened"
        if check_tensor("DirectCLRLoss", name, out, expected).dim() < 2:
            raise ValueError(f"DirectCLRLoss: {name} has shape {tuple(out.shape)}; expected {expected}.")
        return out.flatten(1)[:, : self.loss_dim]


class MACLLoss(Module):
    """NT-Xent whose temperature follows the alignment of pairs (MACL, Huang et al. 2023), with lightly's arguments.

    ``from sslkernels.losses import MACLLoss`` is the whole change. With A the mean cosine of pairs, and P the share of
    an anchor's positive in its softmax at temperature t,

        t = temperature * (1 + alpha * (A - A_0)),    loss = mean over 2N anchors of -log(P) / (1 - P + 1e-8)

    Neither t nor the denominator has a gradient.

    Args:
        temperature: at least 1e-8.
        alpha: how much the temperature changes, from 0 to 1.
        A_0: the alignment at which it does not, from 0 to 1.

    ``forward(z0, z1)`` with ``(N, D)`` each gives a 0-dim loss. Where P is close to 1, lightly computes 1 - P as a
    difference, of which float32 leaves nothing; ours comes from the loss and keeps its digits.

    >>> import torch
    >>> from sslkernels.losses import MACLLoss
    >>> MACLLoss()(torch.eye(4), torch.eye(4))
    tensor(1.0038)
    """

    def __init__(self, temperature: float = 0.1, alpha: float = 0.5, A_0: float = 0.0) -> None:
        super().__init__()
        self.eps = 1e-8
        self.temperature = check_number("MACLLoss", "temperature", temperature, least=self.eps)
        self.alpha = check_number("MACLLoss", "alpha", alpha, least=0.0, most=1.0)
        self.A_0 = check_number("MACLLoss", "A_0", A_0, least=0.0, most=1.0)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        check_pair("MACLLoss", {"z0": z0, "z1": z1})
        alignment = -negative_cosine_similarity(z0.detach(), z1.detach(), eps=1e-12)
        temperature = self.temperature * (1 + self.alpha * (alignment - self.A_0))
        losses = nt_xent(z0, z1, temperature=temperature, reduction="none")
        weights = 1 / (self.eps - torch.expm1(-losses.detach()))
        return (weights * losses).mean()


class HypersphereLoss(Module):
    """Alignment and uniformity (Wang and Isola 2020), with lightly's arguments.

    ``from sslkernels.losses import HypersphereLoss`` is the whole change. Rows are divided by their norms, and

        loss = alignment(z_a, z_b, alpha) + lam * (uniformity(z_a, t) + uniformity(z_b, t)) / 2

    Args:
        t: how fast a pair's part of the uniformity falls with its distance, a positive number.
        lam: the weight of the uniformity.
        alpha: the power of distances in the alignment, a positive number.

    ``forward(z_a, z_b)`` with ``(N, D)`` each, ``N >= 2``, gives a 0-dim loss.

    >>> import torch
    >>> from sslkernels.losses import HypersphereLoss
    >>> HypersphereLoss()(torch.eye(3), torch.eye(3)).round(decimals=4)
    tensor(-2.)
    """

    def __init__(self, t: float = 1.0, lam: float = 1.0, alpha: float = 2.0) -> None:
        super().__init__()
        self.t = check_number("HypersphereLoss", "t", t, above=0.0)
        self.lam = check_number("HypersphereLoss", "lam", lam)
        self.alpha = check_number("HypersphereLoss", "alpha", alpha, above=0.0)

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        check_pair("HypersphereLoss", {"z_a": z_a, "z_b": z_b}, least=2)
        x, y = unit_rows(z_a, z_b).chunk(2)
        return alignment(x, y, self.alpha) + self.lam * (uniformity(x, self.t) + uniformity(y, self.t)) / 2
