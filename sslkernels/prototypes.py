# SPDX-License-Identifier: Apache-2.0
"""The prototypes of SwAV, MSN, DINO and their kin: rows of weights, in each of the forms that papers train."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_choice, check_count, check_flag

__all__ = ["Prototypes"]

NORMED, PLAIN = ("unit", "scaled"), ("linear", "sphere")
# Names under which others save a tensor. torch.nn.utils.parametrizations.weight_norm has names of its own for what
# torch.nn.utils.weight_norm calls g and v; lightly's prototypes are the first of a list of linear layers.
RENAMED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "heads.0.weight": "weight",
    "heads.0.bias": "bias",
}


class Prototypes(nn.Module):
    """The prototypes that rows are assigned to, in SwAV, MSN, DINO and their kin: the last layer of these methods.

    `forward` computes ``logits = x @ weight.T``, plus the bias if there is one. A loss need not store them:
    ``prototype_cross_entropy(x, prototypes.weight, ...)`` takes the weight, and knows nothing of a student's bias.
    ``weight (K, dim)`` has a graph to what is trained of it.

    Args:
        dim: features of a row.
        count: number of prototypes, K.
        kind: what is trained of prototype k.
            "unit": its direction, ``w_k = v_k / |v_k|`` (DINO, iBOT: a weight norm whose g stays 1).
            "scaled": direction and length, ``w_k = g_k v_k / |v_k|`` (DINOv2: a weight norm).
            "linear": w_k as it is (DINOv3: a linear layer).
            "sphere": w_k as it is, and `normalize` puts it back to length 1 after each step of the optimizer (SwAV).
        bias: add a number of its own to each prototype's logit, 0 at first, as lightly's ``SwaVPrototypes`` do.

    The state of the first two kinds is ``weight_g (K, 1)`` and ``weight_v (K, dim)``, and takes both pairs of names
    under which torch saves a weight norm. That of the others is ``weight (K, dim)``, as in the official SwAV, and takes
    that of lightly's ``SwaVPrototypes`` with one head. A state with several, or with a bias where these have none, is
    refused with a ValueError.

    >>> import torch, sslkernels as sk
    >>> import sslkernels.functional as SF
    >>> prototypes, x = sk.Prototypes(dim=16, count=64, kind="sphere"), torch.randn(8, 16)
    >>> prototypes(x).shape, prototypes.weight.shape
    (torch.Size([8, 64]), torch.Size([64, 16]))
    >>> SF.prototype_cross_entropy(x, prototypes.weight, x.detach()).backward()
    >>> prototypes.freeze()  # before a step in which they are to stand still
    >>> prototypes.normalize()  # after each step
    """

    def __init__(
        self,
        dim: int,
        count: int,
        *,
        kind: Literal["unit", "scaled", "linear", "sphere"] = "unit",
        bias: bool = False,
    ) -> None:
        super().__init__()
        dim = check_count("Prototypes", "dim", dim, 1)
        count = check_count("Prototypes", "count", count, dim)
        self.dim, self.count = dim, count
        self.kind = check_choice("Prototypes", "kind", kind, NORMED + PLAIN)
        if kind in NORMED:
            self.weight_g = nn.Parameter(torch.empty(count, 1), requires_grad=kind == "scaled")
            self.weight_v = nn.Parameter(torch.empty(count, dim))
        else:
            self.weight = nn.Parameter(torch.empty(count, dim))
        has_bias = check_flag("Prototypes", "bias", bias)
        self.register_parameter("bias", nn.Parameter(torch.empty(count)) if has_bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new prototypes, as torch's layers do under this name; after ``to_empty`` they hold anything."""
        if self.kind == "sphere":
            self.weight.copy_(F.normalize(self.weight.normal_(), dim=1))
        else:
            nn.init.kaiming_uniform_(self.weight_v if self.kind in NORMED else self.weight, a=math.sqrt(5))
        if self.kind in NORMED:
            self.weight_g.fill_(1)
        if self.bias is not None:
            self.bias.zero_()

    def __getattr__(self, name: str) -> Any:
        # No property, because FSDP and torch.nn.utils.prune put tensors of theirs in the place of a parameter.
        if name == "weight" and self.kind in NORMED:
            return _of_lengths(self.weight_g, self.weight_v)
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        weight = _of_lengths(self.weight_g, self.weight_v) if hasattr(self, "weight_v") else self.weight
        return F.linear(x, weight, self.bias)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, count={self.count}, kind={self.kind!r}, bias={self.bias is not None}"

    def freeze(self) -> None:
        """Let the next step of the optimizer leave them as they are: drop the gradients, when backward is through.

        A RuntimeError refuses what FullyShardedDataParallel has flattened; make it with ``use_orig_params=True``.
        """
        parameters = list(self.parameters())
        if not parameters:
            raise RuntimeError(
                "Prototypes: freeze found no parameters; make FullyShardedDataParallel with use_orig_params=True."
            )
        for parameter in parameters:
            parameter.grad = None

    @torch.no_grad()
    def normalize(self) -> None:
        """Put the rows of kind "sphere" back to length 1; other kinds stay. Call it after the optimizer's step.

        A RuntimeError refuses a shard of FullyShardedDataParallel, inside whose ``summon_full_params`` they are whole.
        """
        if self.kind != "sphere":
            return
        if "weight" not in self._parameters or self.weight.dim() != 2:
            raise RuntimeError(
                "Prototypes: normalize found no whole weight among the parameters; make FullyShardedDataParallel with "
                "use_orig_params=True, and call it inside summon_full_params."
            )
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        heads = {key[len(prefix) :].split(".")[1] for key in state_dict if key.startswith(f"{prefix}heads.")}
        if len(heads) > 1:
            raise ValueError(
                f"Prototypes: the state has {len(heads)} heads and one is accepted; load each into Prototypes of its "
                'own, the first from {"weight": state["' + prefix + 'heads.0.weight"]}.'
            )
        for theirs, ours in RENAMED.items():
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        if prefix + "bias" in state_dict and self.bias is None:
            raise ValueError("Prototypes: the state has a bias and these have none; make them with bias=True.")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _of_lengths(lengths: Tensor, rows: Tensor) -> Tensor:
    return rows * (lengths / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
