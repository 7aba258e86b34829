# SPDX-License-Identifier: Apache-2.0
"""Move tokens of masked methods: gather, scatter and restore them, and read only the patches that are kept.

A row is moved once, whatever else is done to it on the way, and a backward writes each row of a gradient once. Index
sets need not be permutations: rows that are read twice add up in the order of the index, with the same bits each time.
``x`` may be a tensor, a CuPy array or anything else that speaks DLPack; it is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import (
    as_tensor,
    came,
    check_fits,
    check_flag,
    check_floating,
    check_index,
    check_list,
    check_number,
    check_rows,
    check_size,
    check_tensor,
    check_tokens,
    is_whole,
    shape_of,
)
from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens import TOKENS, Collect, Gather, Patches
from sslkernels.ops.tokens.bounds import check_bounds


def gather_tokens(x: Tensor, index: Tensor, *, pos: Tensor | None = None, backend: str | None = None) -> Tensor:
    """Keep the tokens that an index names: ``out[b, k] = x[b, index[b, k]]``, plus ``pos[index[b, k]]`` if given.

    Args:
        x: tokens ``(B, L, C)``; float32, float64, bfloat16 or float16. Only the last dimension need be contiguous.
            Whole numbers and booleans (word ids, labels) are taken too; PyTorch moves them, whatever the backend.
        index: int64 or int32 ``(B, K)``, from 0 to L - 1; duplicates are allowed, and their gradients add up. On a CPU
            another number is an IndexError; on a GPU its row of the output is NaN, so that the host need not wait.
        pos: ``(L, C)`` or ``(1, L, C)``: position embeddings, added in float32 (float64) and rounded once.
        backend: see `logsumexp_similarity`.

    Returns:
        ``(B, K, C)`` in the dtype of ``x``, or in that of ``x + pos``.

    Cost: the K rows are read once and written once; the backward reads K and writes L.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    >>> SF.gather_tokens(x, torch.tensor([[2, 0]]))
    tensor([[[5., 6.],
             [1., 2.]]])
    """
    x = check_tokens("gather_tokens", "x", x, whole=True)
    index = check_index("gather_tokens", "index", index, x.shape[0], x.device)
    return _gather("gather_tokens", x, index[None], None, pos, 0, False, backend)


def scatter_tokens(
    x: Tensor, index: Tensor, length: int, *, fill: float | Tensor = 0.0, backend: str | None = None
) -> Tensor:
    """Put tokens back in their places, ``x[b, k]`` at ``index[b, k]``, with ``fill`` elsewhere.

    This is the adjoint of `gather_tokens`.

    Args:
        x: tokens ``(B, K, C)``.
        index: int64 or int32 ``(B, K)``, from 0 to ``length`` - 1; tokens with the same one add up. On a CPU another
            number is an IndexError; on a GPU the sample's output is NaN.
        length: tokens of the output.
        fill: a number, or ``(C,)``, which receives its gradient.
        backend: see `logsumexp_similarity`.

    Returns:
        ``(B, length, C)`` in the dtype of ``x``. Cost: K rows are read and ``length`` written; the backward gathers K.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.scatter_tokens(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[2, 0]]), 4, fill=-1.0).flatten()
    tensor([ 2., -1.,  1., -1.])
    """
    x = check_tokens("scatter_tokens", "x", x, "(B, K, C)")
    index = check_index("scatter_tokens", "index", index, x.shape[0], x.device)
    _check_kept("scatter_tokens", "index", index, x, 0)
    length = check_size("scatter_tokens", "length", length, least=0)
    check_fits("scatter_tokens", "length", length, length * x.shape[0] * x.shape[2], x.element_size())
    if isinstance(fill, Tensor):
        value: Tensor | None = _row("scatter_tokens", "fill", fill, x)
    else:
        fill = check_number("scatter_tokens", "fill", fill)
        value = None if fill == 0 else x.new_full((x.shape[2],), fill, dtype=wide(x.dtype))
    return Collect.apply(x, index[None], length, value, TOKENS.choose(x.device, x.dtype, backend))


def restore_tokens(
    visible: Tensor,
    ids_restore: Tensor,
    mask_token: Tensor,
    *,
    pos: Tensor | None = None,
    prefix: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Make MAE's decoder input (He et al. 2022) in one pass: put visible tokens back, and the mask token elsewhere.

    ``out[b, P + l] = (r < K ? visible[b, P + r] : mask_token) + pos[P + l]`` with ``r = ids_restore[b, l]``.

    Args:
        visible: ``(B, P + K, C)``.
        ids_restore: int64 or int32 ``(B, L)``, the rank of each token as `random_masking` gives it; every rank from K
            on stands for the mask token.
        mask_token: C elements in any shape; it receives its gradient.
        pos: ``(P + L, C)`` or ``(1, P + L, C)``, added in float32 (float64) and rounded once.
        prefix: P, tokens at the front (a class token) that pass through.
        backend: see `logsumexp_similarity`.

    Returns:
        ``(B, P + L, C)`` in the dtype of ``visible``, or in that of ``visible + pos``.

    Cost: P + K rows are read and P + L written, and the other way round in the backward. PyTorch's composition of cat,
    gather and add moves them three times.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> visible = torch.tensor([[[1.0], [2.0]]])
    >>> SF.restore_tokens(visible, torch.tensor([[3, 1, 0, 2]]), torch.tensor([9.0])).flatten()
    tensor([9., 2., 1., 9.])
    """
    visible = check_tokens("restore_tokens", "visible", visible, "(B, P + K, C)")
    ids_restore = check_index("restore_tokens", "ids_restore", ids_restore, visible.shape[0], visible.device)
    if not is_whole(prefix, 0) or prefix > visible.shape[1]:
        raise ValueError(
            f"restore_tokens: prefix is {came(prefix)} and visible has shape {shape_of(visible)}; "
            "pass how many of its tokens stand in front of the others."
        )
    token = _row("restore_tokens", "mask_token", mask_token, visible)
    return _gather("restore_tokens", visible, ids_restore[None], token, pos, prefix, True, backend)


def apply_masks(
    x: Tensor, masks: Sequence[Tensor], *, concat: bool = True, backend: str | None = None
) -> Tensor | list[Tensor]:
    """Gather the tokens of every index set, one set after another along the batch (I-JEPA, Assran et al. 2023).

    Args:
        x: tokens ``(B, L, C)``.
        masks: M index sets ``(B, K)``, all of the same K; see `gather_tokens`.
        concat: return ``(M * B, K, C)``; else a list of M views ``(B, K, C)`` of it.
        backend: see `logsumexp_similarity`.

    Cost: one launch for all sets, forward and backward.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> x = torch.arange(8.0).view(2, 4, 1)
    >>> SF.apply_masks(x, [torch.tensor([[0], [1]]), torch.tensor([[2], [3]])]).flatten()
    tensor([0., 5., 2., 7.])
    """
    x = check_tokens("apply_masks", "x", x, whole=True)
    concat = check_flag("apply_masks", "concat", concat)
    masks = check_list("apply_masks", "masks", masks, "a list of index tensors, [index, ...] with (B, K) each")
    if not masks:
        raise ValueError("apply_masks: masks has length 0; pass a list of index tensors, (B, K) each.")
    sets = [check_index("apply_masks", f"masks[{m}]", mask, x.shape[0], x.device) for m, mask in enumerate(masks)]
    for m, mask in enumerate(sets):
        if mask.shape != sets[0].shape or mask.dtype != sets[0].dtype:
            raise ValueError(
                f"apply_masks: masks[0] has shape {shape_of(sets[0])} and dtype {sets[0].dtype}, masks[{m}] "
                f"{shape_of(mask)} and {mask.dtype}; all need the same. Cut them to the shortest."
            )
    out = _gather("apply_masks", x, torch.stack(sets), None, None, 0, False, backend)
    return out if concat else list(out.chunk(len(sets)))


def patchify_gather(images: Tensor, index: Tensor, patch: int, *, backend: str | None = None) -> Tensor:
    """Cut the patches that are kept out of images, ``(B, K, channels * patch * patch)``; other pixels are not read.

    ``F.linear(patchify_gather(images, ids_keep, p), conv.weight.flatten(1), conv.bias)`` is the patch embedding of the
    kept tokens, if ``conv`` is the usual convolution of stride and size ``patch``.

    Args:
        images: ``(B, channels, H, W)``, contiguous, H and W multiples of ``patch``.
        index: int64 or int32 ``(B, K)``, patches counted row by row; see `gather_tokens`.
        patch: side of a patch in pixels.
        backend: see `logsumexp_similarity`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.patchify_gather(torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([[3]]), 2)
    tensor([[[10., 11., 14., 15.]]])
    """
    images = check_rows("patchify_gather", "images", as_tensor(images), "(B, channels, H, W)", dims=4)
    patch = check_size("patchify_gather", "patch", patch)
    if images.shape[2] % patch or images.shape[3] % patch:
        raise ValueError(
            f"patchify_gather: images has shape {shape_of(images)} and patch is {patch}; it must divide H and W."
        )
    index = check_index("patchify_gather", "index", index, images.shape[0], images.device)
    return Patches.apply(images.contiguous(), index, patch, TOKENS.choose(images.device, images.dtype, backend))


def _gather(
    function: str,
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    backend: str | None,
) -> Tensor:
    dtype = x.dtype
    if not x.is_floating_point():
        if pos is not None:
            raise TypeError(f"{function}: pos came with x of dtype {dtype}; only floating-point tokens have positions.")
        return _gather_whole(x, index, backend)
    if pos is not None:
        rows = prefix + index.shape[2] if by_place else x.shape[1]
        pos = check_tensor(function, "pos", as_tensor(pos), "(L, C), a row for each token")
        check_floating(function, "pos", pos)
        if pos.shape not in ((rows, x.shape[2]), (1, rows, x.shape[2])):
            raise ValueError(f"{function}: pos has shape {shape_of(pos)}; expected ({rows}, {x.shape[2]}).")
        if pos.device != x.device:
            raise ValueError(
                f"{function}: pos is on {pos.device} and the tokens on {x.device}; move both to one device."
            )
        dtype = torch.promote_types(x.dtype, pos.dtype)
        x = x.to(dtype) if dtype == torch.float64 else x
        pos = pos.reshape(rows, x.shape[2]).to(wide(dtype))
    fill = None if fill is None else fill.to(wide(dtype))
    return Gather.apply(x, index, fill, pos, prefix, by_place, dtype, TOKENS.choose(x.device, dtype, backend))


def _gather_whole(x: Tensor, index: Tensor, backend: str | None) -> Tensor:
    """Gather whole numbers, which no kernel moves: ``x (B, L, C)`` at ``index (M, B, K)`` gives ``(M B, K, C)``."""
    TOKENS.choose(x.device, torch.float32, backend)  # raises if no backend has this name
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        check_bounds(index, x.shape[1])
    where = index.flatten(0, 1).long()[..., None].expand(-1, -1, x.shape[2])
    return x.repeat(index.shape[0], 1, 1).gather(1, where)


def _row(function: str, name: str, value: object, x: Tensor) -> Tensor:
    row = check_tensor(function, name, as_tensor(value), "(C,)")
    check_floating(function, name, row)
    if row.numel() != x.shape[2]:
        raise ValueError(f"{function}: {name} has shape {shape_of(row)}; expected {x.shape[2]} elements.")
    if row.device != x.device:
        raise ValueError(
            f"{function}: {name} is on {row.device} and the tokens on {x.device}; move both to one device."
        )
    return row.reshape(-1).to(wide(x.dtype))


def _check_kept(function: str, name: str, index: Tensor, x: Tensor, prefix: int) -> None:
    if index.shape[1] != x.shape[1] - prefix:
        raise ValueError(
            f"{function}: {name} has shape {shape_of(index)} and x {shape_of(x)}; every token needs one index."
        )
