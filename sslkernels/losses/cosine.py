# SPDX-License-Identifier: Apache-2.0
"""NegativeCosineSimilarity and SymNegCosineSimilarityLoss as in lightly."""

from __future__ import annotations

import math

from torch import Tensor

from sslkernels.arguments import came, check_number, check_pair, check_rows, check_tensor, is_whole, shape_of
from sslkernels.functional.cosine import LEAST_EPS, negative_cosine_similarity
from sslkernels.modules import Module

# The most dimensions that a tensor has.
MOST_DIMS = 64


class NegativeCosineSimilarity(Module):
    """Minus the mean cosine, with lightly's arguments: ``from sslkernels.losses import NegativeCosineSimilarity``.

    Args:
        dim: the dimension that holds the features.
        eps: shorter norms count as this, which is at least 1e-30.

    ``forward(x0, x1)`` with two tensors of one shape, of any number of dimensions, gives a 0-dim loss: the mean over
    all positions. Features in the last dimension are read where they lie; others take a copy on the way.

    >>> import torch
    >>> from sslkernels.losses import NegativeCosineSimilarity
    >>> NegativeCosineSimilarity()(torch.eye(4), torch.eye(4))
    tensor(-1.)
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        if not is_whole(dim, -MOST_DIMS):
            raise TypeError(f"NegativeCosineSimilarity: dim is {came(dim)}; pass the whole number of one dimension.")
        self.dim = int(dim)
        self.eps = check_number("NegativeCosineSimilarity", "eps", eps, least=LEAST_EPS)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        rows0, rows1 = self._rows("x0", x0), self._rows("x1", x1)
        if x0.shape != x1.shape:
            raise ValueError(
                f"NegativeCosineSimilarity: x0 has shape {shape_of(x0)} and x1 {shape_of(x1)}; "
                "both need the same. Did one view lose a sample?"
            )
        return negative_cosine_similarity(rows0, rows1, eps=self.eps)

    def _rows(self, name: str, x: Tensor) -> Tensor:
        dims = check_tensor("NegativeCosineSimilarity", name, x, "any shape").dim()
        if not -dims <= self.dim < dims:
            raise ValueError(
                f"NegativeCosineSimilarity: {name} has shape {shape_of(x)} and dim is {self.dim}; "
                "pass the dimension that holds the features."
            )
        x = check_rows("NegativeCosineSimilarity", name, x, "any shape", dims).movedim(self.dim, -1)
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class SymNegCosineSimilarityLoss(Module):
    """SimSiam's loss of both directions, as lightly had it until 1.5 (Chen and He 2021, eq. 2).

    ``from sslkernels.losses import SymNegCosineSimilarityLoss`` is the whole change.
    ``forward((z0, p0), (z1, p1))`` with a projection and its prediction of each view, four tensors of one shape with
    the features last, gives ``-(mean cos(p0, z1) + mean cos(p1, z0)) / 2``. Projections get no gradient.

    >>> import torch
    >>> from sslkernels.losses import SymNegCosineSimilarityLoss
    >>> SymNegCosineSimilarityLoss()((torch.eye(4), torch.eye(4)), (torch.eye(4), torch.eye(4)))
    tensor(-1.)
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, out0: tuple[Tensor, Tensor], out1: tuple[Tensor, Tensor]) -> Tensor:
        z0, p0 = self._rows("out0", out0)
        z1, p1 = self._rows("out1", out1)
        for name, x in {"out0[1]": p0, "out1[0]": z1, "out1[1]": p1}.items():
            check_pair("SymNegCosineSimilarityLoss", {"out0[0]": z0, name: x})
        return (negative_cosine_similarity(p0, z1.detach()) + negative_cosine_similarity(p1, z0.detach())) / 2

    def _rows(self, name: str, out: tuple[Tensor, Tensor]) -> list[Tensor]:
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError(
                f"SymNegCosineSimilarityLoss: {name} is {came(out)}; pass a projection and its prediction, (z, p)."
            )
        rows = []
        for place, x in enumerate(out):
            part, expected = f"{name}[{place}]", "(..., D), features last"
            dims = check_tensor("SymNegCosineSimilarityLoss", part, x, expected).dim()
            check_rows("SymNegCosineSimilarityLoss", part, x, expected, max(1, dims))
            rows.append(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
        return rows
