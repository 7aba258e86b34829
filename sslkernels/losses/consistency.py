# SPDX-License-Identifier: Apache-2.0
"""Let two views agree on how near all other rows are, as lightly's CO2Regularizer does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_pair
from sslkernels.losses.bank import Banked
from sslkernels.ops.attention import attend_similarity
from sslkernels.ops.dtypes import widened
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import logsumexp_similarity


class CO2Regularizer(Banked):
    """Consistent contrast (CO2, Wei et al. 2021) with lightly's arguments, to be added to a contrastive loss.

    ``from sslkernels.losses import CO2Regularizer`` is the whole change. With the rows divided by their norms,

        loss = alpha / 2 * mean_i (KL(p_i | q_i) + KL(q_i | p_i))

    where p_i is the softmax, at temperature ``t_consistency``, of row i of out0 against the rows of out1, and q_i that
    of row i of out1 against the rows of out0. With a bank both are compared with the bank, and with each other.

    Args:
        alpha: the weight.
        t_consistency: the temperature, a positive number.
        memory_bank_size: 0 for no bank, or ``(size, dim)``; see `NTXentLoss`. Each rank has a bank of its own.

    ``forward(out0, out1)`` with ``(N, D)`` each gives a 0-dim loss. Both sides get its gradient: lightly's cuts it off
    by ``torch.tensor(loss)``, so that its regularizer trains nothing. The bank takes out1 after it was read, and only
    if ``out0.requires_grad``, as in `NTXentLoss`; lightly writes it in evaluation too. Cost: ``O((N + M) * D)`` memory,
    no matrix of logits.

    >>> import torch
    >>> from sslkernels.losses import CO2Regularizer
    >>> CO2Regularizer(t_consistency=1.0)(torch.eye(3), torch.eye(3)[[0, 2, 1]].tril())
    tensor(0.0809)
    """

    def __init__(
        self, alpha: float = 1, t_consistency: float = 0.05, memory_bank_size: int | Sequence[int] = 0
    ) -> None:
        super().__init__(memory_bank_size)
        self.alpha = check_number("CO2Regularizer", "alpha", alpha)
        self.t_consistency = check_number("CO2Regularizer", "t_consistency", t_consistency, above=0.0)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        check_pair("CO2Regularizer", {"out0": out0, "out1": out1})
        rows, bank = unit_rows(out0, out1), self._bank_for(out0)
        if bank is None:
            divergence = self._within(rows)
        else:
            # The backward reads them, and the bank takes new rows before.
            divergence = self._beside(rows, self._negatives(bank, rows).clone())
            if out0.requires_grad:
                bank.enqueue(rows[len(out0) :].detach())
        return self.alpha / (2 * self.t_consistency) * divergence.mean()

    def _within(self, rows: Tensor) -> Tensor:
        """Compute both divergences of each pair, ``sum_j (p_ij - q_ij) * (<a_i, b_j> - <b_i, a_j>)``."""
        a, b = rows.chunk(2)
        values, scale = torch.cat([b, a], 1), 1 / self.t_consistency
        difference = attend_similarity(a, b, values, scale) - attend_similarity(b, a, values, scale)
        of_b, of_a = difference.chunk(2, 1)
        return (widened(a) * of_b).sum(1) - (widened(b) * of_a).sum(1)

    def _beside(self, rows: Tensor, negatives: Tensor) -> Tensor:
        """Compute both divergences beside a bank, ``<a_i - b_i, sum_j (p_ij - q_ij) * n_j>``."""
        a, b = rows.chunk(2)
        scale = 1 / self.t_consistency
        positive = scale * row_dot(a, b).repeat(2)
        share = torch.sigmoid(logsumexp_similarity(rows, negatives, scale) - positive)  # of all negatives together
        of_a, of_b = (share[:, None] * attend_similarity(rows, negatives, negatives, scale)).chunk(2)
        return ((widened(a) - widened(b)) * (of_a - of_b)).sum(1)
