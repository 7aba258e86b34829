# SPDX-License-Identifier: Apache-2.0
"""Sums and gradients of all pairs in float64, from the whole matrix, with an error bound for each number of a 16- or
32-bit kernel. It shares no code with the library.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 2.0**-23
# The relative error of rounding a weight or a result to the dtype, and the smallest step of its subnormals.
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
STEP = {torch.float32: 0.0, torch.float16: 2.0**-24, torch.bfloat16: 0.0}


class Oracle:
    """Sums and gradients of S = scale*X*Y^T over the pairs that are kept, and the error that float32 may have."""

    def __init__(self, x: Tensor, y: Tensor | None, scale: float, exclude: Tensor | None, epsilon: float = EPS) -> None:
        """``epsilon`` is that of the arithmetic that sums a logit, 2^-10 for TF32."""
        self.x, self.itself, self.scale, self.dtype = x.double(), y is None, scale, x.dtype
        self.y = self.x if y is None else y.double()
        self.s = scale * self.x @ self.y.T
        self.kept = torch.ones_like(self.s, dtype=torch.bool)
        if exclude is not None:
            i, e = (exclude >= 0).nonzero(as_tuple=True)
            self.kept[i, exclude[i, e]] = False
        self.rows, self.columns = self.sums(1), self.sums(0)
        longest = self.x.norm(dim=1).max() * self.y.norm(dim=1).max()
        self.logit_error = 8 * epsilon * (1 + abs(scale) * float(longest))

    def sums(self, dim: int) -> Tensor:
        return torch.logsumexp(self.s.masked_fill(~self.kept, -torch.inf), dim)

    def shares(self, lse: Tensor, dim: int) -> Tensor:
        shares = torch.exp(self.s - lse.unsqueeze(dim))
        return torch.where(self.kept & (lse.unsqueeze(dim) > -torch.inf), shares, 0.0)

    def weights(self, rows_grad: Tensor | None, columns_grad: Tensor | None) -> Tensor:
        """dL/dS for L = sum(rows_grad*rows) + sum(columns_grad*columns)."""
        weights = torch.zeros_like(self.s)
        if rows_grad is not None:
            weights += rows_grad.double()[:, None] * self.shares(self.rows, 1)
        if columns_grad is not None:
            weights += columns_grad.double()[None, :] * self.shares(self.columns, 0)
        return weights

    def check_gradients(
        self,
        dx: Tensor | None,
        dy: Tensor | None,
        dscale: Tensor | None,
        rows_grad: Tensor | None,
        columns_grad: Tensor | None,
    ) -> None:
        weights = self.weights(rows_grad, columns_grad)
        size = self.weights(
            None if rows_grad is None else rows_grad.abs(), None if columns_grad is None else columns_grad.abs()
        )
        relative = 2 * self.logit_error + ROUNDING[self.dtype]
        want_x, error_x = self.scale * weights @ self.y, abs(self.scale) * (size @ self.y.abs()) * relative
        want_y, error_y = self.scale * weights.T @ self.x, abs(self.scale) * (size.T @ self.x.abs()) * relative
        if self.itself:
            want_x, error_x = want_x + want_y, error_x + error_y
        for got, want, error in ((dx, want_x, error_x), (dy, want_y, error_y)):
            if got is not None:
                assert got.dtype == self.dtype and got.shape == want.shape
                rounding = max(ROUNDING[self.dtype], EPS) * want.abs() + STEP[self.dtype]
                off = (got.double() - want).abs() - (error + rounding + 1e-30)
                assert (off <= 0).all(), f"gradient off by {off.max():.1e} more than its bound"
        if dscale is not None:
            want = (weights * (self.x @ self.y.T)).sum()
            error = (self.x.abs() * (size @ self.y.abs())).sum() * relative
            assert abs(float(dscale) - float(want)) <= error + 1e-30

    def check_sums(self, got: Tensor, want: Tensor) -> None:
        assert got.dtype == torch.float32
        empty = want == -torch.inf
        assert (got[empty] == -torch.inf).all()
        assert ((got.double() - want)[~empty].abs() <= self.logit_error + EPS * want[~empty].abs()).all()
