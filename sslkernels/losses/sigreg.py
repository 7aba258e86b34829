# SPDX-License-Identifier: Apache-2.0
"""SIGReg and LeJEPALoss as in lightly."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_count, check_number, check_rows
from sslkernels.distributed import check_gathered
from sslkernels.functional.sigreg import check_projections, check_rule, check_views_of_samples, lejepa, sigreg
from sslkernels.modules import Module


class SIGReg(Module):
    """SIGReg with lightly's arguments and call, and its values from the same slices.

    Args:
        knots, t_max: knots and range of the trapezoidal rule, as in `sslkernels.functional.sigreg`.
        num_vectors: number of slices drawn at each call.
        gather_distributed: take the samples of every rank; ranks may hold different numbers of them.

    ``forward(proj, slices=None)`` with ``(..., N, C)`` gives a 0-dim loss. ``slices (C, S)`` are used instead of drawn
    ones. Drawn in float32, as lightly does for float32, they are the same after the same ``torch.manual_seed``.

    >>> import torch
    >>> from sslkernels.losses import SIGReg
    >>> SIGReg()(torch.zeros(4, 8, 16))
    tensor(3.2164)
    """

    def __init__(
        self, *, knots: int = 17, t_max: float = 3.0, num_vectors: int = 1024, gather_distributed: bool = False
    ) -> None:
        super().__init__()
        knots, t_max = self.knots, self.t_max = check_rule("SIGReg", knots, t_max)
        self.num_vectors = check_count("SIGReg", "num_vectors", num_vectors, each=1)
        self.gather_distributed = check_gathered("SIGReg", gather_distributed)
        # Nothing reads these buffers. They are here so that checkpoints of lightly's module load, and ours load there.
        step = t_max / (knots - 1)
        t = torch.linspace(0, t_max, knots, dtype=torch.float32)
        phi = torch.exp(-t.square() / 2)
        rule = torch.full((knots,), 2 * step, dtype=torch.float32)
        rule[[0, -1]] = step
        self.register_buffer("t", t)
        self.register_buffer("phi", phi)
        self.register_buffer("weights", rule * phi)

    def forward(self, proj: Tensor, slices: Tensor | None = None) -> Tensor:
        check_projections("SIGReg", "proj", proj)
        if slices is not None:
            check_rows("SIGReg", "slices", slices, "(C, S), a slice per column")
        return sigreg(
            proj,
            slices,
            knots=self.knots,
            t_max=self.t_max,
            num_slices=self.num_vectors,
            group="world" if self.gather_distributed else None,
        )


class LeJEPALoss(Module):
    """LeJEPALoss with lightly's arguments and call: ``lambda_param * SIGReg + (1 - lambda_param) * invariance``.

    ``forward(local_proj=, global_proj=)`` with ``(V, N, D)`` each gives a 0-dim loss. With ``gather_distributed`` the
    mean over ranks is the loss of the samples of all ranks, even if ranks hold different numbers of them.

    >>> import torch
    >>> from sslkernels.losses import LeJEPALoss
    >>> LeJEPALoss(lambda_param=0.0)(local_proj=torch.ones(1, 4, 3), global_proj=torch.zeros(2, 4, 3))
    tensor(0.3333)
    """

    def __init__(
        self,
        lambda_param: float = 0.05,
        gather_distributed: bool = False,
        sigreg_knots: int = 17,
        sigreg_t_max: float = 3.0,
        sigreg_num_vectors: int = 1024,
    ) -> None:
        super().__init__()
        self.lambda_param = check_number("LeJEPALoss", "lambda_param", lambda_param, least=0, most=1)
        check_gathered("LeJEPALoss", gather_distributed)
        check_rule("LeJEPALoss", sigreg_knots, sigreg_t_max, names=("sigreg_knots", "sigreg_t_max"))
        check_count("LeJEPALoss", "sigreg_num_vectors", sigreg_num_vectors, each=1)
        self.sigreg = SIGReg(
            knots=sigreg_knots,
            t_max=sigreg_t_max,
            num_vectors=sigreg_num_vectors,
            gather_distributed=gather_distributed,
        )

    def forward(self, *, local_proj: Tensor, global_proj: Tensor) -> Tensor:
        check_views_of_samples("LeJEPALoss", {"local_proj": local_proj, "global_proj": global_proj})
        return lejepa(
            local_proj,
            global_proj,
            weight=self.lambda_param,
            knots=self.sigreg.knots,
            t_max=self.sigreg.t_max,
            num_slices=self.sigreg.num_vectors,
            group="world" if self.sigreg.gather_distributed else None,
        )
