# SPDX-License-Identifier: Apache-2.0
"""DirectPred: a linear predictor that is computed from its inputs, not learned."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_number, check_rows, check_widths, shape_of
from sslkernels.distributed import GroupLike, check_group, shard_of, summed
from sslkernels.modules import Module

# The official code has this floor too, so that no direction is shut for good.
LEAST = 1e-4


class DirectPred(Module):
    """Understanding Self-Supervised Learning Dynamics without Contrastive Pairs. Tian, Chen and Ganguli, ICML 2021.

    It takes the place of BYOL's predictor: call it on each view, step the optimizer, call `after_step`.
    ``F <- momentum F + (1 - momentum) E[f f^T]`` follows the correlation of its inputs f, and the predictor is
    ``W = U diag(p) U^T`` with the eigenvectors U of F and ``p = max(sqrt(l / max l) + eps, 1e-4)`` of its eigenvalues
    l >= 0 (equations 18 and 19). W gets no gradient and starts as the identity.

    Args:
        dim: features of the rows.
        momentum: momentum of F; the official example has 0.3.
        eps: number added to every p; the official example has 0.01.
        group: ranks whose rows count in F; see `sslkernels.functional.nt_xent`. Without one, inside
            DistributedDataParallel, the first rank's rows count, because it sends its buffers to the others at every
            forward.

    ``correlation`` is F, ``weight`` is W; both are saved with the model. F starts at zero, which scales the later F but
    does not change W. E is the mean over all rows that came in training mode since the last `after_step`, so that two
    views, or the micro-batches of an accumulation, weigh the same. If one of these rows is not finite, as under a
    GradScaler that still looks for its scale, none of them counts. Sums and eigenvectors are float32, or float64 in a
    module of float64.

    >>> import torch
    >>> from sslkernels.models import DirectPred
    >>> predictor = DirectPred(2)
    >>> rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> torch.equal(predictor(rows), rows)
    True
    >>> predictor.after_step()
    >>> predictor.weight
    tensor([[1.0100, 0.0000],
            [0.0000, 0.5100]])
    """

    correlation: Tensor
    weight: Tensor
    products: Tensor
    rows: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.3, eps: float = 0.01, group: GroupLike = None) -> None:
        super().__init__()
        (dim,) = check_widths("DirectPred", dim=dim)
        momentum = check_number("DirectPred", "momentum", momentum, least=0)
        if momentum >= 1:
            raise ValueError(f"DirectPred: momentum is {momentum}; pass a number of at least 0 and below 1.")
        self.momentum = momentum
        self.eps = check_number("DirectPred", "eps", eps)
        self.group = check_group(group)
        self.register_buffer("correlation", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.eye(dim))
        # The sum of f f^T over the rows since the last after_step, and their number.
        self.register_buffer("products", torch.zeros(dim, dim))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Map rows ``(N, dim)`` to ``x W^T`` in their dtype."""
        dim = len(self.weight)
        if check_rows("DirectPred", "x", x).shape[1] != dim:
            raise ValueError(f"DirectPred: x has shape {shape_of(x)}; expected (N, {dim}).")
        if self.training:
            self._collect(x.detach())
        return F.linear(x, self.weight.to(x.dtype))

    def _apply(self, function: Any, recurse: bool = True) -> DirectPred:
        exact = dict(self._buffers)
        super()._apply(function, recurse)
        for name, buffer in self._buffers.items():  # in a 16-bit model sums and eigenvectors stay float32
            if buffer is not None and buffer.dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = exact[name].to(buffer.device)  # type: ignore[union-attr]
        return self

    @torch.no_grad()
    def _collect(self, x: Tensor) -> None:
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(_precise(self.products.dtype))
            shard = shard_of(self.group, "DirectPred", x, momentum=self.momentum, eps=self.eps)
            self.products += summed(x.T @ x, shard)
            self.rows += shard.total(len(x))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move F by the rows that came since the last call, and compute W anew. Call it after the optimizer's step."""
        mean = self.products / self.rows
        self.products.zero_()
        self.rows.zero_()
        if not mean.isfinite().all():  # the mean of no rows is not finite either
            return
        self.correlation.lerp_(mean, 1 - self.momentum)
        values, vectors = torch.linalg.eigh(self.correlation.to(_precise(self.correlation.dtype)))
        values = values.clamp(min=0)
        largest = values[-1].clamp(min=torch.finfo(values.dtype).tiny)  # if all are zero
        scales = ((values / largest).sqrt() + self.eps).clamp(min=LEAST)
        self.weight.copy_(vectors * scales @ vectors.T)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
