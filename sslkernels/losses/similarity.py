# SPDX-License-Identifier: Apache-2.0
"""NTXentLoss as in lightly, ClipLoss as in open_clip, and InfoNCELoss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_rows, check_scalar, check_temperature, is_whole
from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.ops.similarity import unit_rows
from sslkernels.state import MemoryQueue


class NTXentLoss(nn.Module):
    """NT-Xent with lightly's arguments: ``from sslkernels.losses import NTXentLoss`` is the whole change.

    Args:
        temperature: as in `sslkernels.functional.nt_xent`; lightly's default is 0.5.
        memory_bank_size: 0 for none, or ``(size, dim)``: then out0 are queries, out1 their keys, and the bank holds the
            negatives. An integer, as older versions take, creates the bank at the first call and warns.
        gather_distributed: take the rows of every rank as negatives.

    ``forward(out0, out1)`` with ``(N, D)`` each gives a 0-dim loss. The bank is read before it is written, written only
    if ``out0.requires_grad``, drops no key at its end, and is part of ``state_dict()``.

    >>> import torch
    >>> from sslkernels.losses import NTXentLoss
    >>> NTXentLoss(temperature=0.5)(torch.eye(4), torch.eye(4))
    tensor(0.5944)
    """

    memory_bank: MemoryQueue | None

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        check_scalar("NTXentLoss", "temperature", temperature)
        if abs(temperature) < 1e-8:
            raise ValueError(f"NTXentLoss: temperature is {temperature}; pass a number of at least 1e-8 in size.")
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.memory_bank = None
        self._lazy_size = 0
        if isinstance(memory_bank_size, int) and is_whole(memory_bank_size, 0):
            self._lazy_size = memory_bank_size
            if memory_bank_size:
                warnings.warn(
                    f"memory_bank_size={memory_bank_size} creates the bank at the first call; "
                    f"pass ({memory_bank_size}, dim) so that it is there when a checkpoint is loaded.",
                    stacklevel=2,
                )
        elif isinstance(memory_bank_size, Sequence) and [is_whole(n, 1) for n in memory_bank_size] == [True, True]:
            self.memory_bank = MemoryQueue(*memory_bank_size)
        else:
            raise ValueError(
                f"NTXentLoss: memory_bank_size is {memory_bank_size!r}; "
                "pass 0 for none, or (size, dim) with whole numbers of at least 1."
            )

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        if self.memory_bank is None and self._lazy_size:
            dim = check_rows("NTXentLoss", "out0", out0).shape[1]
            self.memory_bank = MemoryQueue(self._lazy_size, dim).to(out0.device)
        group = "world" if self.gather_distributed else None
        if self.memory_bank is None:
            return nt_xent(out0, out1, temperature=self.temperature, group=group)
        negatives = self.memory_bank.keys.to(out0.dtype)
        loss = info_nce(out0, out1, negatives=negatives, temperature=self.temperature)
        if out0.requires_grad:
            self.memory_bank.enqueue(unit_rows(out1.detach()))
        return loss

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        keys, position = f"{prefix}memory_bank.keys", f"{prefix}memory_bank.position"
        if self.memory_bank is None and self._lazy_size and keys in state_dict:
            self.memory_bank = MemoryQueue(*state_dict[keys].shape)
        elif self.memory_bank is not None and keys not in state_dict:
            warnings.warn("the checkpoint holds no memory bank (lightly saves none): it starts random.", stacklevel=2)
            state_dict[keys] = self.memory_bank.keys  # type: ignore[index]
            state_dict[position] = self.memory_bank.position  # type: ignore[index]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class InfoNCELoss(nn.Module):
    """`sslkernels.functional.info_nce` as a module: ``forward(query, key, negatives=None)``.

    >>> import torch
    >>> from sslkernels.losses import InfoNCELoss
    >>> InfoNCELoss(temperature=1.0)(torch.eye(3), torch.eye(3))
    tensor(0.5514)
    """

    def __init__(self, temperature: float = 0.1, symmetric: bool = False, gather_distributed: bool = False) -> None:
        super().__init__()
        check_temperature("InfoNCELoss", temperature)
        self.temperature, self.symmetric, self.gather_distributed = temperature, symmetric, gather_distributed

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor | None = None) -> Tensor:
        return info_nce(
            query,
            key,
            negatives=negatives,
            temperature=self.temperature,
            symmetric=self.symmetric,
            group="world" if self.gather_distributed else None,
        )


class ClipLoss(nn.Module):
    """open_clip's ClipLoss: same arguments, same call, the exact gradient.

    With ``world_size > 1`` the features of all ranks are gathered and every parameter's gradient, averaged by DDP, is
    that of the whole batch; open_clip's default (no ``gather_with_grad``) gives ``1 / world_size`` of it. The arguments
    ``local_loss``, ``gather_with_grad``, ``cache_labels`` and ``rank`` are accepted and change nothing.

    >>> import torch
    >>> from sslkernels.losses import ClipLoss
    >>> ClipLoss()(torch.eye(3), torch.eye(3), logit_scale=1.0)
    tensor(0.5514)
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        if self.world_size > 1 and not torch.distributed.is_initialized():
            raise ValueError(
                f"ClipLoss: world_size is {self.world_size} and no process group is initialised; "
                "call torch.distributed.init_process_group first, or pass world_size=1."
            )
        group = "world" if self.world_size > 1 else None
        loss = clip_loss(image_features, text_features, logit_scale, logit_bias, group=group)
        return {"contrastive_loss": loss} if output_dict else loss
