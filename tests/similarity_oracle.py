# SPDX-License-Identifier: Apache-2.0
"""The similarity family in float64, one row at a time, as the papers write it. It shares no code with the library.

`rows_oracle.gradients` differentiates the values by plain autograd.
"""

from __future__ import annotations

import torch
from rows_oracle import stack, unit
from torch import Tensor


def logsumexp(terms: Tensor) -> Tensor:
    """Compute log(sum(exp(terms))) of a vector; an empty one gives -inf."""
    if terms.numel() == 0:
        return terms.sum() - torch.inf
    largest = terms.detach().max()
    if largest.isinf():
        largest = torch.zeros(())
    return largest + torch.log(torch.exp(terms - largest).sum())


def left_out(exclude: Tensor | None, n: int, m: int) -> list[set[int]]:
    """List the columns that each of n rows leaves out."""
    if exclude is None:
        return [set() for _ in range(n)]
    return [{j for j in row if j >= 0} for row in exclude.reshape(n, -1).tolist()]


def logsumexp_similarity(
    x: Tensor, y: Tensor | None = None, scale: float | Tensor = 1.0, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute rows (N,) and columns (M,) of scale * <x_i, y_j>; both leave out the same pairs."""
    x = x.double()
    y = x if y is None else y.double()
    n, m = x.shape[0], y.shape[0]
    similarity = _double(scale) * (x @ y.T)
    out = left_out(exclude, n, m)
    rows = [logsumexp(similarity[i, [j for j in range(m) if j not in out[i]]]) for i in range(n)]
    columns = [logsumexp(similarity[[i for i in range(n) if j not in out[i]], j]) for j in range(m)]
    return stack(rows), stack(columns)


def nt_xent(z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.1, normalize: bool = True) -> Tensor:
    """SimCLR: for each of 2N anchors (z0's first), -log of its positive's share of all but itself."""
    n = z0.shape[0]
    z = torch.cat([z0.double(), z1.double()])
    z = unit(z) if normalize else z
    similarity = z @ z.T / _double(temperature)
    losses = []
    for anchor in range(2 * n):
        positive = (anchor + n) % (2 * n)
        everyone_else = [j for j in range(2 * n) if j != anchor]
        losses.append(logsumexp(similarity[anchor, everyone_else]) - similarity[anchor, positive])
    return stack(losses)


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    symmetric: bool = False,
) -> Tensor:
    """One loss per query (N,). In-batch: the other keys are negatives. With a queue: its rows alone are."""
    query, key = query.double(), key.double()
    if normalize:
        query, key = unit(query), unit(key)
    if negatives is None:
        forth = clip_direction(query, key, 1 / _double(temperature))
        back = clip_direction(key, query, 1 / _double(temperature))
        return (forth + back) / 2 if symmetric else forth
    losses = []
    for i in range(query.shape[0]):
        positive = query[i] @ key[i] / _double(temperature)
        others = negatives.double() @ query[i] / _double(temperature)
        losses.append(logsumexp(torch.cat([positive[None], others])) - positive)
    return stack(losses)


def clip_loss(image: Tensor, text: Tensor, logit_scale: float | Tensor) -> Tensor:
    """CLIP: the mean of both directions of each pair, (N,)."""
    image, text, scale = image.double(), text.double(), _double(logit_scale)
    return (clip_direction(image, text, scale) + clip_direction(text, image, scale)) / 2


def clip_direction(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of row i of a against all rows of b; row i is the right answer."""
    logits = scale * (a @ b.T)
    return stack([logsumexp(logits[i]) - logits[i, i] for i in range(a.shape[0])])


def rounding(x: Tensor, y: Tensor, scale: float, epsilon: float) -> float:
    """Bound the error of a logit that is summed in arithmetic of this epsilon, with a factor to spare."""
    longest = [float(torch.linalg.vector_norm(z.double(), dim=1).max()) if z.shape[0] else 0.0 for z in (x, y)]
    return 8 * epsilon * (1 + abs(scale) * longest[0] * longest[1])


def _double(value: float | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).reshape(())
