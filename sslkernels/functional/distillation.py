# SPDX-License-Identifier: Apache-2.0
"""Let a student match images with texts as its teacher does.

With the student's logits l_ij = s * <x_i, y_j> and the teacher's softmax p_ij, the cross-entropy of row i is

    lse_i - sum_j p_ij * l_ij = (lse_i - l_ii) + s * <x_i, y_i - t_i>,   t_i = sum_j p_ij * y_j

The first term is that of CLIP, whose kernel gives it with its gradient; t_i is what `attend_similarity` gives. A sure
teacher has t_i = y_i, so the second term vanishes where the difference on the left would be one of large numbers.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_device, check_pair, check_scalar, shape_of
from sslkernels.distributed import GroupLike, gather_rows
from sslkernels.functional.similarity import computed, sharded
from sslkernels.ops.attention import attend_similarity
from sslkernels.ops.dtypes import scale_tensor, widened
from sslkernels.ops.rows import row_dot
from sslkernels.ops.similarity.contrast import contrast
from sslkernels.ops.similarity.schema import Anchors


def clip_distillation(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_logit_scale: float | Tensor,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Match images with texts as a teacher does: CLIP with soft targets, the distillation loss of open_clip.

    The mean over N pairs of ``(H(p_i, q_i) + H(p'_i, q'_i)) / 2``: the cross-entropy of the student's softmax over the
    texts of image i, q_i, with the teacher's, p_i, and that over the images of text i.

    Args:
        image, text: the student's ``(N, D)``, ``N >= 1``, used as given: both already normalised.
        logit_scale: the factor itself (already exponentiated); number or one-element tensor of any shape.
        teacher_image, teacher_text: ``(N, E)``, of the same pairs, in any dtype; E need not be D. They get a gradient
            if they require one, as in open_clip: run the teacher under ``torch.no_grad()``.
        teacher_logit_scale: the teacher's factor, as ``logit_scale``.
        reduction: ``"none"`` gives ``(N,)``, the mean of both directions of each pair.
        group: ranks whose pairs are among the targets; the mean over ranks of the returned loss is the loss of the
            concatenated batch. ``None`` never communicates; ``"world"`` is every rank. Ranks may hold different N, and
            must multiply a "mean" or a "sum" by the same number.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        ValueError, TypeError: shapes or devices that do not match, an unknown backend, no rows; ranks that disagree. Of
            two tensors, the scales, ranks compare the values of the student's.

    Of 16-bit rows a gradient is the sum of two that are rounded: where student and teacher agree, and it is near zero,
    it has their errors.

    Cost: that of `clip_loss`, and ``8*N^2*(D + E)`` operations for value and gradient if the teacher has no gradient.
    ``O(N*(D + E))`` memory, and no matrix of weights. ``torch.compile(fullgraph=True)`` works for ``group=None``.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.clip_distillation(torch.eye(3), torch.eye(3), 1.0, torch.eye(3), torch.eye(3), 1.0)
    tensor(0.9753)
    """
    name = "clip_distillation"
    check_pair(name, {"image": image, "text": text}, gathered=group is not None)
    check_pair(name, {"teacher_image": teacher_image, "teacher_text": teacher_text}, gathered=group is not None)
    check_same_pairs(name, "teacher_image", teacher_image, "image", image)
    logit_scale = check_scalar(name, "logit_scale", logit_scale)
    teacher_logit_scale = check_scalar(name, "teacher_logit_scale", teacher_logit_scale)
    check_choice(name, "reduction", reduction, REDUCTIONS)
    student, teacher = (image, text, logit_scale), (teacher_image, teacher_text, teacher_logit_scale)
    return clip_and_distillation(name, student, teacher, reduction, group, backend)[1]


def check_same_pairs(function: str, name: str, teacher: Tensor, other_name: str, student: Tensor) -> None:
    """Check that a teacher's features, whose width and dtype may be others, are of the student's pairs."""
    if len(teacher) != len(student):
        raise ValueError(
            f"{function}: {other_name} has shape {shape_of(student)} and {name} {shape_of(teacher)}; "
            "pass what student and teacher make of the same pairs."
        )
    check_device(function, name, teacher, other_name, student)


Features = tuple[Tensor, Tensor, float | Tensor]


def clip_and_distillation(
    function: str, student: Features, teacher: Features, reduction: str, group: GroupLike, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return `clip_loss` of the student's (images, texts, scale), and `clip_distillation` with the teacher's.

    The second is the first and what the teacher adds to it, so that both take one pass over the student's logits.
    """
    image, text, teacher_image, teacher_text = computed(*student[:2], *teacher[:2])
    scale, teacher_scale = scale_tensor(student[2], image), scale_tensor(teacher[2], image)
    inputs = image, text, teacher_image, teacher_text, scale, teacher_scale
    settings = {"logit_scale": student[2], "teacher_logit_scale": teacher[2], "reduction": reduction}
    shard = sharded(group, function, *inputs, **settings, teacher_features=teacher_image.shape[1])

    matched = contrast(Anchors(image, text, None, scale, "both", False, False, image.dtype), reduction, shard, backend)
    columns = (gather_rows(each, shard) for each in (image, text, teacher_image, teacher_text))
    every_image, every_text, every_teacher_image, every_teacher_text = columns
    wanted_text = attend_similarity(teacher_image, every_teacher_text, every_text, teacher_scale, backend=backend)
    wanted_image = attend_similarity(teacher_text, every_teacher_image, every_image, teacher_scale, backend=backend)
    image, text = widened(image), widened(text)
    to_texts, to_images = row_dot(image, text - wanted_text), row_dot(text, image - wanted_image)
    more = scale * (to_texts + to_images) / 2
    if reduction == "none":
        return matched, matched + more
    rows = shard.total(len(more)) if reduction == "mean" else 1
    return matched, matched + more.sum() * (shard.ranks / rows)
