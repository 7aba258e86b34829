# SPDX-License-Identifier: Apache-2.0
"""The ranking losses of sentence-transformers, without their matrices: change the import and nothing else.

Each class is a subclass of the original (sentence-transformers 6), so that the constructor, the trainer, the model
card, `get_config_dict` and `isinstance` are the original's. Only the way from embeddings to the loss is ours. Import
from this module by its name: `sslkernels.losses` does not, so that nothing else needs the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.functional.ranking import ranking

try:
    from sentence_transformers.sentence_transformer import losses as originals
    from sentence_transformers.util import cos_sim, dot_score
except ModuleNotFoundError as error:
    raise ImportError(
        f"sslkernels.losses.sentence_transformers: {error.name} is missing; pip install 'sentence-transformers>=6'.",
        name=error.name,
    ) from error

__all__ = ["CachedMultipleNegativesRankingLoss", "MultipleNegativesRankingLoss"]


class MultipleNegativesRankingLoss(originals.MultipleNegativesRankingLoss):
    """`sentence_transformers.losses.MultipleNegativesRankingLoss` that makes no matrix of similarities.

    Arguments, value and gradients are the original's, in every direction, partition and hardness mode. Embeddings are
    normalised once, logits are summed in float32 at least, and memory is ``O(B*D)`` above the workspace of `info_nce`.
    With ``gather_across_devices`` ranks may hold unlike numbers of rows. Where ``similarity_fct`` is neither `cos_sim`
    nor `dot_score`, ``scale`` is a tensor or the embeddings are sparse, the original computes the loss.

    Example::

        from sslkernels.losses.sentence_transformers import MultipleNegativesRankingLoss

        loss = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        if not _is_served(self, embeddings):
            return super().compute_loss_from_embeddings(embeddings, labels)
        return _ranking(self, embeddings)


class CachedMultipleNegativesRankingLoss(originals.CachedMultipleNegativesRankingLoss):
    """`sentence_transformers.losses.CachedMultipleNegativesRankingLoss` with one loss for the whole batch.

    The model still embeds ``mini_batch_size`` sentences at a time, twice (GradCache). The loss and the gradients of all
    embeddings come from one call in between, where the original goes through the batch ``mini_batch_size`` queries at a
    time and normalises, and gathers, all documents for each of these. `MultipleNegativesRankingLoss` says the rest.
    """

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        if not _is_served(self, [each for column in reps for each in column]):
            return super().calculate_loss(reps, labels, with_backward=with_backward)
        loss = _ranking(self, [torch.cat(column) for column in reps])
        if not with_backward:
            return loss
        loss.backward()
        return loss.detach()


def _is_served(loss: Any, embeddings: Sequence[Tensor]) -> bool:
    known = loss.similarity_fct is cos_sim or loss.similarity_fct is dot_score
    return known and not isinstance(loss.scale, Tensor) and all(each.layout == torch.strided for each in embeddings)


def _ranking(loss: Any, embeddings: list[Tensor]) -> Tensor:
    if len(embeddings) < 2:
        raise ValueError(
            f"{type(loss).__name__}: there is {len(embeddings)} column of sentences; pass (anchor, positive), and any "
            "number of negatives after them."
        )
    mode, strength = loss.hardness_mode, loss.hardness_strength
    return ranking(
        embeddings[0],
        embeddings[1:],
        loss.scale,
        normalize=loss.similarity_fct is cos_sim,
        directions=loss.directions,
        joint=loss.partition_mode == "joint",
        harder=(
            strength if mode in ("in_batch_negatives", "all_negatives") else 0.0,
            strength if mode in ("hard_negatives", "all_negatives") else 0.0,
        ),
        group="world" if loss.gather_across_devices else None,
    )
