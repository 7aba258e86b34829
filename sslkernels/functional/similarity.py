# SPDX-License-Identifier: Apache-2.0
"""Compute contrastive losses from `logsumexp_similarity`.

A cross-entropy whose positive is one of its own logits is softplus(lse of the others - positive). We leave the positive
out of the sum and do not subtract it from the whole; so well-aligned pairs keep their gradient.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_alike,
    check_choice,
    check_flag,
    check_number,
    check_pair,
    check_rows,
    check_scalar,
    check_temperature,
)
from sslkernels.distributed import GroupLike, Shard, named, shard_of
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.similarity.contrast import contrast
from sslkernels.ops.similarity.schema import Anchors


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Push paired views together and all others apart (NT-Xent of SimCLR, Chen et al. 2020, eq. 1).

    The mean over 2N anchors of ``loss_i = softplus(lse_i - p_i)``: p_i is the logit of the positive, lse_i the
    log-sum-exp of the logits of all negatives.

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 1``; row i of one is the positive of row i of the other.
        temperature: non-zero number (negative is legal) or one-element tensor, which receives its gradient.
        normalize: divide rows by ``max(norm, 1e-12)``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(2N,)``, z0's anchors first.
        group: ranks whose rows are negatives too; the mean over ranks of the returned loss is the loss of the
            concatenated batch. ``None`` never communicates; ``"world"`` is every rank. Ranks may hold different N, and
            must multiply a "mean" or a "sum" by the same number: gradients of keys are exchanged in the forward.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(2N,)``.

    Cost: ``3*(2N)^2*D`` operations for value and gradient, half of what a dense matrix takes, while the triangle of
    pairs fits the workspace (256 MiB, or what ``SSLKERNELS_WORKSPACE_MIB`` says; C++ kernels keep the memory for the
    next call until `sslkernels.release_workspace`); above it ``4*(2N)^2*D``, and ``O(N*D)`` memory besides. The
    gradient comes with the value: a forward with gradients that no backward follows costs up to three times the value
    alone (four above the workspace). ``torch.compile(fullgraph=True)`` works for ``group=None``.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.nt_xent(torch.eye(4), torch.eye(4), temperature=0.5)
    tensor(0.5944)
    """
    check_pair("nt_xent", {"z0": z0, "z1": z1}, gathered=group is not None)
    temperature = check_temperature("nt_xent", temperature)
    normalize = check_flag("nt_xent", "normalize", normalize)
    check_choice("nt_xent", "reduction", reduction, REDUCTIONS)
    z0, z1 = promoted(z0, z1) if normalize else computed(z0, z1)
    scale, dtype = inverse(temperature, z0), compute_dtype(z0)
    settings = {"temperature": temperature, "normalize": normalize, "reduction": reduction}
    shard = sharded(group, "nt_xent", z0, z1, scale, dtype=named(dtype), **settings)
    return contrast(Anchors(z0, z1, None, scale, "itself", normalize, False, dtype), reduction, shard, backend)


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    symmetric: bool = False,
    margin: float = 0.0,
    reduction: str = "mean",
    group: GroupLike = None,
    ring: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Find the key of each query among others (InfoNCE, van den Oord et al. 2018); query i matches key i.

    Args:
        query, key: ``(N, D)``, ``N >= 1``.
        negatives: a queue ``(M, D)``, as in MoCo (He et al. 2020). With it, only its rows are negatives, as given
            (never normalised again, never gathered). Frozen negatives are not saved, so that the queue may be
            overwritten before the backward. Without it, the other keys are the negatives.
        temperature, normalize, reduction, backend: as in `nt_xent`; ``"none"`` gives ``(N,)``.
        symmetric: average both directions (MoCo v3, CLIP); this is not possible with ``negatives``.
        margin: subtracted from the logit of every positive, 0 or more (additive margin; Chen et al. 2021 take 0.001).
        group: as in `nt_xent`; keys of other ranks are negatives.
        ring: let rows travel round a ring of the group's ranks in place of gathering them. Value and gradients are
            the same but for rounding, and memory does not grow with the number of ranks. Without a group, and with
            ``negatives``, it changes nothing.

    Cost: ``6*N*M*D`` operations for value and gradient while the pairs fit the workspace (see `nt_xent`), ``8*N*M*D``
    above it or with a margin, ``4*N*M*D`` where the keys are frozen; ``O((N + M)*D)`` memory besides. The gradient
    comes with the value: a forward with gradients that no backward follows costs up to three times the value alone
    (four above). With a group M counts the keys of all ranks W. By default a rank holds all of them; with ``ring`` it
    holds a few blocks of N, in one trip of ``W / 2`` rounds for frozen keys and in two otherwise. Gathering is faster
    among few ranks, where one collective takes less time than many rounds.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.info_nce(torch.eye(3), torch.eye(3), temperature=1.0)
    tensor(0.5514)
    """
    check_pair("info_nce", {"query": query, "key": key}, gathered=group is not None)
    temperature = check_temperature("info_nce", temperature)
    normalize = check_flag("info_nce", "normalize", normalize)
    symmetric = check_flag("info_nce", "symmetric", symmetric)
    ring = check_flag("info_nce", "ring", ring)
    margin = check_number("info_nce", "margin", margin, least=0)
    check_choice("info_nce", "reduction", reduction, REDUCTIONS)
    if negatives is not None:
        if symmetric:
            raise ValueError(
                "info_nce: symmetric=True came with negatives, and a queue has no opposite direction; drop one."
            )
        check_alike("info_nce", "negatives", check_rows("info_nce", "negatives", negatives), "query", query, rows=False)
    # Conversions under no_grad drop this. The value is summed in the same order there, so that it has the same bits.
    frozen = not (key if negatives is None else negatives).requires_grad
    query, key = promoted(query, key) if normalize else computed(query, key)
    scale, dtype = inverse(temperature, query), compute_dtype(query)
    against = "both" if symmetric else "rows"
    if negatives is not None:
        against, negatives = "queue", negatives.to(dtype)
    settings = {"temperature": temperature, "normalize": normalize, "symmetric": symmetric, "reduction": reduction}
    settings |= {"margin": margin, "ring": ring, "queued": negatives is not None, "dtype": named(dtype)}
    shard = sharded(group, "info_nce", query, key, scale, **settings)
    anchors = Anchors(query, key, negatives, scale, against, normalize, frozen, dtype)
    return contrast(anchors, reduction, shard, backend, margin, ring)


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    margin: float = 0.0,
    reduction: str = "mean",
    group: GroupLike = None,
    ring: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Match images with their texts, both already normalised: CLIP's symmetric cross-entropy (Radford et al. 2021).

    Args:
        image, text: ``(N, D)``, ``N >= 1``, used as given.
        logit_scale: the factor itself (already exponentiated); number or one-element tensor of any shape.
        logit_bias: accepted but without effect, since a constant added to every logit cancels; its gradient is zero.
        margin: as in `info_nce`; with ``logit_scale=1.0`` this is the loss of MCN (Chen et al. 2021).
        reduction: ``"none"`` gives ``(N,)``, the mean of both directions of each pair.
        group, backend: as in `nt_xent`.
        ring: as in `info_nce`.

    Cost: ``6*N^2*D`` operations for value and gradient while the pairs fit the workspace (see `nt_xent`), ``8*N^2*D``
    above it or with a margin; ``O(N*D)`` memory besides. The gradient comes with the value: a forward with gradients
    that no backward follows costs up to three times the value alone (four above). With a group of W ranks a rank holds
    the rows of all, and spends ``12*N^2*D*W`` operations; with ``ring`` it holds a few blocks of rows, and spends
    ``10*N^2*D*W``.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.clip_loss(torch.eye(3), torch.eye(3), 1.0)
    tensor(0.5514)
    """
    check_pair("clip_loss", {"image": image, "text": text}, gathered=group is not None)
    logit_scale = check_scalar("clip_loss", "logit_scale", logit_scale)
    if logit_bias is not None:
        logit_bias = check_scalar("clip_loss", "logit_bias", logit_bias)
    margin = check_number("clip_loss", "margin", margin, least=0)
    check_choice("clip_loss", "reduction", reduction, REDUCTIONS)
    ring = check_flag("clip_loss", "ring", ring)
    image, text = computed(image, text)
    scale = scale_tensor(logit_scale, image)
    settings = {"logit_scale": logit_scale, "margin": margin, "reduction": reduction, "ring": ring}
    shard = sharded(group, "clip_loss", image, text, scale, **settings)
    anchors = Anchors(image, text, None, scale, "both", False, False, image.dtype)
    loss = contrast(anchors, reduction, shard, backend, margin, ring)
    if isinstance(logit_bias, Tensor):
        loss = loss + 0 * logit_bias.sum()
    return loss


def computed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors to the dtype in which a product of them runs."""
    tensors = promoted(*tensors)
    dtype = compute_dtype(tensors[0])
    return tensors if dtype == tensors[0].dtype else tuple(tensor.to(dtype) for tensor in tensors)


def inverse(temperature: float | Tensor, like: Tensor) -> Tensor:
    """Compute 1 / temperature in the dtype of the sums, whatever dtype the temperature has."""
    if isinstance(temperature, Tensor):
        return scale_tensor(temperature, like).reciprocal()
    return scale_tensor(1 / temperature, like)


def sharded(group: GroupLike, function: str, x: Tensor, /, *others: Tensor, **settings: object) -> Shard:
    """Call `shard_of`, and check that some rank holds a row, since a loss needs one."""
    shard = shard_of(group, function, x, *others, **settings)
    if shard.total(x.shape[0]) == 0:
        raise ValueError(f"{function}: no rank holds a row; a loss needs at least one row.")
    return shard
