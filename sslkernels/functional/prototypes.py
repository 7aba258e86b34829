# SPDX-License-Identifier: Apache-2.0
"""Let a student assign its rows to prototypes as its teacher does, and keep the teacher's assignments spread."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_device,
    check_floating,
    check_number,
    check_rows,
    check_size,
    check_temperature,
    check_tensor,
    shape_of,
)
from sslkernels.distributed import GroupLike, summed
from sslkernels.functional.sampled import check_batch
from sslkernels.functional.similarity import computed, inverse, sharded
from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.prototypes import Prototypes, compared, spread_bias
from sslkernels.ops.sampled import check_places
from sslkernels.ops.similarity import check_bias


def prototype_cross_entropy(
    student: Tensor,
    weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    bias: Tensor | None = None,
    row_weight: Tensor | None = None,
    teacher_index: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Assign a student's rows to prototypes as the teacher does (DINO, Caron et al. 2021), never storing rows x K.

    With ``P = softmax(teacher @ teacher_weight.T / teacher_temperature + bias)``, the mean over all pairs of a student
    row and the teacher row that it follows of

        -sum_k P_k * log softmax(student @ weight.T / temperature)_k

    The last layer of the head is inside, so pass what enters it. Rows are used as given: where a head normalises its
    bottleneck or its prototypes, normalise them before.

    Args:
        student: ``(N, D)``, ``N >= 1``; or ``(V, N, D)``, V rows for each row of the teacher, such as V crops.
        weight: the student's prototypes ``(K, D)``, ``K >= 1``.
        teacher: ``(N, E)``. It gets no gradient, nor do teacher_weight, teacher_temperature and bias.
        teacher_weight: ``(K, E)``; ``None`` stands for ``weight``, and E is D then.
        temperature: non-zero number or one-element tensor, which receives its gradient.
        teacher_temperature: as ``temperature``, but without a gradient; lower, so that targets are sharper.
        bias: ``(K,)``, added to the teacher's scaled logits: ``-center / teacher_temperature`` for DINO, or what
            `sinkhorn_bias` returns for SwAV and DINOv2. With ``-inf`` a prototype is no target, and a row to which none
            is left has no part in the loss.
        row_weight: one for each row of the student, ``(N,)`` or ``(V, N)``. The value is then the sum of weight times
            cross-entropy and no mean, as iBOT weighs masked patches. Rows of weight 0 may hold anything, such as
            padding. It gets no gradient.
        teacher_index: int64 or int32 ``(N, T)``, for a student ``(N, D)`` and any number of teacher rows: the T rows
            that each row follows; -1 stands for none. In DINO a small crop follows both large ones of its image, and a
            large one the other.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows); 0 if nobody follows anybody. Ranks have nothing to exchange: the mean
        over ranks with equally many pairs is that of all pairs.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend, no rows.
        IndexError: a teacher_index outside ``[-1, rows of the teacher)``, checked on the CPU.

    Logits are summed in float32 and never rounded to 16 bits, as a head under autocast rounds them.

    Cost: the gradient comes with the value. A CPU takes ``(8*V + 4)*N*K*D`` operations, or ``(6*V + 2)*N*K*D`` where
    logits are kept, for which there is a quarter of the workspace (``SSLKERNELS_WORKSPACE_MIB``, 256); none are kept of
    bfloat16 on AMX. Triton takes ``8*(V + 1)*N*K*D`` (three quarters with frozen prototypes), and the workspace for
    softmaxes of some rows. Both need ``O((V*N + K)*D)`` memory besides, a CPU that of the rows for each thread.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.prototype_cross_entropy(torch.eye(3), torch.eye(3), torch.eye(3), temperature=1.0, teacher_temperature=1.0)
    tensor(0.9753)
    """
    function = "prototype_cross_entropy"
    student = check_tensor(function, "student", student, "(N, D) or (V, N, D)")
    check_rows(function, "student", student, "(N, D) or (V, N, D)", dims=3 if student.dim() == 3 else 2)
    rows = student.flatten(0, 1) if student.dim() == 3 else student
    check_batch(function, "student", rows)
    _check_prototypes(function, "weight", weight, "student", rows)
    check_rows(function, "teacher", teacher)
    if teacher_weight is None:
        teacher_weight = weight
        check_alike(function, "teacher", teacher, "weight", weight, rows=False)
    else:
        _check_prototypes(function, "teacher_weight", teacher_weight, "teacher", teacher)
        if len(teacher_weight) != len(weight):
            raise ValueError(
                f"{function}: weight has shape {shape_of(weight)} and teacher_weight {shape_of(teacher_weight)}; "
                "both need the same prototypes."
            )
    check_device(function, "teacher", teacher, "student", student)
    if student.dtype != teacher.dtype and not torch.is_autocast_enabled(student.device.type):
        raise TypeError(
            f"{function}: student has dtype {student.dtype} and teacher {teacher.dtype}; convert one of them."
        )
    index = _check_followed(function, teacher_index, student, rows, teacher)
    temperature = check_temperature(function, temperature)
    teacher_temperature = check_temperature(function, teacher_temperature, "teacher_temperature")
    if bias is not None:
        bias = check_bias(function, bias, weight).detach()
    rows, weight, teacher, teacher_weight = computed(rows, weight, teacher.detach(), teacher_weight.detach())
    dtype = wide(rows.dtype)
    if row_weight is None and teacher_index is None:
        share = rows.new_full((len(rows), 1), 1 / len(rows), dtype=dtype)
    elif row_weight is None:
        followed = (index >= 0).to(dtype)
        share = followed / followed.sum().clamp_min(1)
    else:
        given = check_row_weight(function, row_weight, student.shape[:-1], rows)
        share = (index >= 0) * given.to(dtype).reshape(-1, 1)
    scale, teacher_scale = inverse(temperature, rows), inverse(teacher_temperature, rows).detach()
    bias = None if bias is None else bias.to(dtype)
    return compared(
        Prototypes(rows, weight, teacher, teacher_weight, scale, teacher_scale, bias, index, share), backend
    )


def sinkhorn_bias(
    teacher: Tensor,
    weight: Tensor,
    temperature: float | Tensor = 0.05,
    *,
    iterations: int = 3,
    row_weight: Tensor | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Find the bias of each prototype under which rows are spread over them evenly (Sinkhorn-Knopp; SwAV, DINOv2).

    Sinkhorn-Knopp scales columns and rows of ``exp(l)``, ``l = teacher @ weight.T / temperature``, in turn. Its result
    is ``softmax(l + u)`` with one number u_k for each prototype, which is returned:

        v = 0;  repeat:  u_k = -log sum_i exp(l_ik + v_i),   v_i = -log sum_k exp(l_ik + u_k)

    The last v is the normaliser of the softmax. `prototype_cross_entropy` takes u as its ``bias``, and its targets are
    then those of the official code after so many iterations. Unlike there, nothing overflows, in any dtype.

    Args:
        teacher: rows ``(N, D)``, ``N >= 1``; or ``(S, N, D)``, S groups of rows each of which is spread for itself,
            such as the positions of patches in CAPI.
        weight: prototypes ``(K, D)``, ``K >= 1``.
        temperature: non-zero number or one-element tensor; 0.05 in SwAV, and that of the teacher in DINOv2.
        iterations: at least 1.
        row_weight: ``(N,)`` or ``(S, N)``, at least 0: how often a row counts. Rows of weight 0, such as padding, may
            hold anything. If no row counts, u is 0.
        group: ranks whose rows are spread together; each gets the same bias. Ranks may hold different N, and none. The
            default communicates nothing; ``"world"`` is every rank.
        backend: see `logsumexp_similarity`.

    Returns:
        float32 ``(K,)``, or ``(S, K)`` (float64 for float64 rows), without a gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend, no rows on any rank.

    Cost: a CPU takes ``2*N*K*D`` operations while the ``N*K`` products take at most 1 GiB in float32, which stay for
    all iterations; above it as many in each, some rows at a time. Triton takes ``2*N*K*D*(2*iterations - 1)`` and
    ``O((N + K)*D)`` memory. Over ranks there are two sums of K numbers in each iteration.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> rows, prototypes = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.eye(2)
    >>> u = SF.sinkhorn_bias(rows, prototypes, 0.1, iterations=100)
    >>> torch.softmax(rows @ prototypes.T / 0.1 + u, dim=1).sum(0)
    tensor([1.0000, 1.0000])
    """
    function = "sinkhorn_bias"
    teacher = check_tensor(function, "teacher", teacher, "(N, D) or (S, N, D)")
    groups = teacher.shape[0] if teacher.dim() == 3 else None
    check_rows(function, "teacher", teacher, "(N, D) or (S, N, D)", dims=2 if groups is None else 3)
    _check_prototypes(function, "weight", weight, "teacher", teacher.flatten(0, -2))
    temperature = check_temperature(function, temperature)
    iterations = check_size(function, "iterations", iterations)
    if row_weight is not None:
        row_weight = check_row_weight(function, row_weight, teacher.shape[:-1], teacher)
    rows, weight = computed(teacher.detach(), weight.detach())
    scale = inverse(temperature, rows).detach()
    counts = None if row_weight is None else row_weight.to(scale.dtype)
    each = rows if groups is not None else rows[None]
    settings = {"temperature": temperature, "iterations": iterations, "prototypes": len(weight), "groups": groups}
    shard = sharded(group, function, each.flatten(0, 1), scale, **settings)
    biases = [
        spread_bias(
            some, weight, scale, iterations, None if counts is None else counts.view(each.shape[:2])[s], shard, backend
        )
        for s, some in enumerate(each)
    ]
    return biases[0] if groups is None else torch.stack(biases)


def center_update_(
    center: Tensor,
    teacher: Tensor,
    weight: Tensor,
    momentum: float = 0.9,
    *,
    group: GroupLike = None,
) -> None:
    """Move DINO's centre towards the mean of the teacher's logits, in place and without the logits.

    ``center <- momentum * center + (1 - momentum) * mean(teacher) @ weight.T``, which is the mean of the logits
    ``teacher @ weight.T``.

    Args:
        center: floating-point, K numbers in any shape, such as the ``(1, K)`` of DINO's checkpoints.
        teacher: rows ``(N, D)``, what enters the last layer.
        weight: prototypes ``(K, D)``.
        momentum: from 0 to 1.
        group: ranks over whose rows the mean is taken; each moves its centre alike. ``None`` never communicates;
            ``"world"`` is every rank. Ranks may hold different N, and none.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, no rows on any rank. Nothing is written
            then.

    Cost: ``2*K*D`` operations, and a sum of D + 1 numbers over ranks. The centre that a loss uses should be the one
    before this update, as the authors' is, so call it once per optimizer step and not for every micro-batch.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> center = torch.zeros(2)
    >>> SF.center_update_(center, torch.ones(5, 3), torch.ones(2, 3))
    >>> center
    tensor([0.3000, 0.3000])
    """
    function = "center_update_"
    check_rows(function, "teacher", teacher)
    _check_prototypes(function, "weight", weight, "teacher", teacher)
    check_tensor(function, "center", center, "(K,), one number for each prototype")
    check_floating(function, "center", center)
    if center.numel() != len(weight):
        raise ValueError(
            f"{function}: center has shape {shape_of(center)} and weight {shape_of(weight)}; "
            "pass one number for each prototype."
        )
    check_device(function, "center", center, "teacher", teacher)
    momentum = check_number(function, "momentum", momentum, least=0, most=1)
    rows = widened(teacher.detach())
    shard = sharded(group, function, rows, momentum=momentum, prototypes=len(weight))
    total = summed(rows.sum(0), shard) / shard.total(len(rows))
    with torch.no_grad(), torch.autocast(center.device.type, enabled=False):
        mean = torch.mv(widened(weight), total).view(center.shape)
        center.copy_(torch.lerp(mean, center.to(mean.dtype), momentum))


def check_row_weight(function: str, value: object, shape: torch.Size, rows: Tensor) -> Tensor:
    """Check that there is one weight for each row, without a gradient."""
    weight = check_tensor(function, "row_weight", value, f"{tuple(shape)}, one number for each row")
    if weight.shape != shape:
        raise ValueError(
            f"{function}: row_weight has shape {shape_of(weight)}; pass {tuple(shape)}, one number for each row."
        )
    check_floating(function, "row_weight", weight)
    check_device(function, "row_weight", weight, "the rows", rows)
    if weight.requires_grad:
        raise ValueError(f"{function}: row_weight requires a gradient, and gets none; pass row_weight.detach().")
    return weight


def _check_prototypes(function: str, name: str, weight: Tensor, rows_name: str, rows: Tensor) -> None:
    check_alike(
        function,
        name,
        check_rows(function, name, weight, "(K, D), one row for each prototype"),
        rows_name,
        rows,
        rows=False,
    )
    if len(weight) == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(weight)}; pass at least one prototype.")


def _check_followed(function: str, index: Tensor | None, student: Tensor, rows: Tensor, teacher: Tensor) -> Tensor:
    """Return the rows of the teacher that each row of the student follows, int64 ``(rows, T)``."""
    if index is None:
        if len(teacher) != student.shape[-2]:
            raise ValueError(
                f"{function}: student has shape {shape_of(student)} and teacher {shape_of(teacher)}; "
                "pass one row of the teacher for each row of a view, or a teacher_index."
            )
        own = torch.arange(len(teacher), device=teacher.device)
        return own.repeat(len(rows) // len(teacher))[:, None]
    if student.dim() == 3:
        raise ValueError(
            f"{function}: teacher_index came with a student of shape {shape_of(student)}; flatten its views."
        )
    index = check_places(function, "teacher_index", index, "student", rows, len(teacher))
    if index.shape[1] == 0:
        raise ValueError(f"{function}: teacher_index has shape {shape_of(index)}; pass at least one column.")
    return index.long()
