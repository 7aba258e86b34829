# SPDX-License-Identifier: Apache-2.0
"""Every loss and op as its paper writes it, in plain PyTorch and in the dtype of its inputs.

Tests compare with them in float64; in a lower dtype they show the error of eager PyTorch. They share no code with
the library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def lse(logits: Tensor, dim: int = 1) -> Tensor:
    """Compute torch.logsumexp, but give a row of nothing but -inf a gradient of zero, where torch's is NaN."""
    nothing = (logits == -torch.inf).all(dim, keepdim=True)
    return logits.masked_fill(nothing, 0).logsumexp(dim).masked_fill(nothing.squeeze(dim), -torch.inf)


def unit(z: Tensor, eps: float = 1e-12) -> Tensor:
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(eps)


def own(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.bool)


def left_out(exclude: Tensor | None, n: int, m: int) -> Tensor:
    out = torch.zeros(n, m + 1, dtype=torch.bool)
    if exclude is not None:
        listed = exclude.reshape(n, -1)
        out.scatter_(1, torch.where(listed < 0, m, listed), True)
    return out[:, :m]


def logsumexp_similarity(
    x: Tensor, y: Tensor | None, scale: float | Tensor, exclude: Tensor | None, dim: str
) -> list[Tensor]:
    keys = x if y is None else y
    logits = (scale * (x @ keys.T)).masked_fill(left_out(exclude, len(x), len(keys)), -torch.inf)
    return [lse(logits, 1), lse(logits, 0)] if dim == "both" else [lse(logits, 1)]


def attend_similarity(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float | Tensor,
    bias: Tensor | None,
    exclude: Tensor | None,
) -> Tensor:
    logits = scale * (query @ keys.T)
    out = left_out(exclude, len(query), len(keys))
    logits = (logits if bias is None else logits + bias).masked_fill(out, -torch.inf)
    nothing = (logits == -torch.inf).all(1, keepdim=True)
    return torch.softmax(logits.masked_fill(nothing, 0), 1).masked_fill(nothing | out, 0) @ values


def nt_xent(z0: Tensor, z1: Tensor, temperature: float | Tensor, normalize: bool) -> Tensor:
    z = torch.cat([z0, z1])
    z = unit(z) if normalize else z
    logits = z @ z.T / temperature
    positive = logits.diagonal(len(z0)).repeat(2) if len(z0) else logits[:, 0]
    return logits.masked_fill(own(len(z)), -torch.inf).logsumexp(1) - positive


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    temperature: float | Tensor,
    normalize: bool,
    symmetric: bool,
    margin: float = 0.0,
) -> Tensor:
    if normalize:
        query, key = unit(query), unit(key)
    if negatives is not None:
        positive = (query * key).sum(1, keepdim=True) / temperature - margin
        logits = torch.cat([positive, query @ negatives.T / temperature], 1)
        return logits.logsumexp(1) - positive[:, 0]
    logits = query @ key.T / temperature
    logits = logits - margin * torch.eye(*logits.shape, dtype=logits.dtype)
    forth = logits.logsumexp(1) - logits.diagonal()
    return (forth + logits.logsumexp(0) - logits.diagonal()) / 2 if symmetric else forth


def clip_loss(image: Tensor, text: Tensor, scale: float | Tensor, margin: float = 0.0) -> Tensor:
    logits = scale * (image @ text.T)
    logits = logits - margin * torch.eye(*logits.shape, dtype=logits.dtype)
    return (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()


def clip_distillation(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_logit_scale: float | Tensor,
) -> Tensor:
    """The cross-entropies of the student's logits with the teacher's softmax, written with both matrices."""
    student, teacher = logit_scale * (image @ text.T), teacher_logit_scale * (teacher_image @ teacher_text.T)
    of_images = -(teacher.softmax(1) * student.log_softmax(1)).sum(1)
    return (of_images - (teacher.softmax(0) * student.log_softmax(0)).sum(0)) / 2


def softplus_similarity(x: Tensor, y: Tensor | None, scale: float | Tensor, bias: float | Tensor) -> Tensor:
    return -F.logsigmoid(-(scale * (x @ (x if y is None else y).T) + bias)).sum(1)


def siglip_loss(image: Tensor, text: Tensor, scale: float | Tensor, bias: float | Tensor) -> Tensor:
    logits = scale * (image @ text.T) + bias
    return -F.logsigmoid((2 * own(len(image)) - 1.0).to(logits) * logits).sum(1)


def topk_similarity(x: Tensor, y: Tensor | None, k: int, metric: str, exclude: Tensor | None = None) -> Tensor:
    """The values of the k best, from a sorted matrix."""
    keys = x if y is None else y
    if metric == "cosine":
        x, keys = unit(x, 1e-12), unit(keys, 1e-12)
    scores = -(x[:, None] - keys).square().sum(2) if metric == "euclidean" else x @ keys.T
    columns = torch.arange(len(keys))
    if y is None:
        scores = scores.masked_fill(columns == columns[:, None], -torch.inf)
    if exclude is not None:
        scores = scores.masked_fill((columns == exclude[..., None]).any(1), -torch.inf)
    best = scores.sort(1, descending=True).values[:, :k]
    return (-best).sqrt() if metric == "euclidean" else best


def kmeans(x: Tensor, starts: Tensor, metric: str) -> Tensor:
    """The centroids after one iteration of rows that are all alike in a cluster; without rows one stays."""
    near = x[:, None] - starts
    if metric == "cosine":
        x, starts = unit(x), unit(starts)
        near = x[:, None] - starts
    own = (near.square().sum(2).argmin(1) == torch.arange(len(starts))[:, None]).to(x.dtype)
    found = torch.where(own.any(1, keepdim=True), own @ x / own.sum(1, keepdim=True).clamp_min(1), starts)
    return unit(found) if metric == "cosine" else found


def of_views(z0: Tensor, z1: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines over the temperature: those of each anchor's negatives, (2N, 2N - 2), and of its positive; and pairs'."""
    n, z = len(z0), unit(torch.cat([z0, z1]))
    logits = z @ z.T / temperature
    partner = torch.arange(2 * n).roll(n)
    kept = ~(own(2 * n) | torch.zeros(2 * n, 2 * n, dtype=torch.bool).scatter(1, partner[:, None], True))
    return logits[kept].view(2 * n, 2 * n - 2), logits[torch.arange(2 * n), partner], (z[:n] * z[n:]).sum(1)


def dcl(z0: Tensor, z1: Tensor, temperature: Tensor, sigma: float | None = None) -> Tensor:
    negatives, positive, cosines = of_views(z0, z1, temperature)
    weights = torch.ones_like(cosines) if sigma is None else 2 - len(z0) * torch.softmax(cosines.detach() / sigma, 0)
    return lse(negatives) - torch.cat([weights, weights]) * positive


def debiased_nt_xent(
    z0: Tensor, z1: Tensor, temperature: Tensor, prior: float = 0.1, hardness: float = 0.0, **_: Any
) -> Tensor:
    """The authors' code, line by line."""
    negatives, positive, _ = of_views(z0, z1, temperature)
    neg, pos, count = negatives.exp(), positive.exp(), negatives.shape[1]
    importance = neg**hardness
    reweighed = (importance * neg).sum(1) / importance.mean(1)
    ng = (reweighed - prior * count * pos) / (1 - prior)
    ng = torch.maximum(ng, count * torch.exp(torch.as_tensor(-1 / temperature, dtype=ng.dtype)))
    return -torch.log(pos / (pos + ng))


def sup_con(
    z: Tensor, labels: Tensor, temperature: Tensor, form: str = "out", empty: str = "skip", normalize: bool = True
) -> Tensor:
    """One row after another, those without a positive left out, or 0."""
    logits, losses = (unit(z) if normalize else z) @ (unit(z) if normalize else z).T / temperature, []
    for i in range(len(z)):
        others = torch.arange(len(z)) != i
        positives = others & (labels == labels[i])
        if not positives.any():
            losses += [0 * logits[i, 0]] * (empty == "zero")
            continue
        mine = logits[i, positives]
        middle = mine.mean() if form == "out" else torch.logsumexp(mine, 0) - math.log(len(mine))
        losses.append(torch.logsumexp(logits[i, others], 0) - middle)
    return torch.stack(losses) if losses else 0 * logits.sum().reshape(1)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    scale: float | Tensor = 1.0,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    margin_kind: str = "arc",
    subcenters: int = 1,
    normalize: bool = False,
) -> Tensor:
    """torch's cross-entropy of the dense logits, each the log-sum-exp of a class's own, where targets are there."""
    cosines = (unit(x) @ unit(weight).T) if normalize else x @ weight.T
    if margin:
        angles = torch.arccos(cosines.clamp(-1, 1))
        turned = torch.where(
            angles + margin <= math.pi, torch.cos(angles + margin), cosines - margin * math.sin(margin)
        )
        hit = torch.arange(len(weight)) // subcenters == target[:, None]
        cosines = torch.where(hit, turned if margin_kind == "arc" else cosines - margin, cosines)
    logits = scale * cosines + (0 if bias is None else bias)
    logits = logits.unflatten(1, (-1, subcenters)).logsumexp(2)
    there = target >= 0
    return F.cross_entropy(logits[there], target[there], label_smoothing=label_smoothing, reduction="none")


def group_ordering(similarities: Tensor, positives: int, steepness: float = 1.0) -> Tensor:
    """Multiply out the matrices of an odd-even network's layers, and take both binary cross-entropies of the groups."""
    losses = []
    for row in similarities:
        count, negatives = len(row), len(row) - positives
        values = torch.cat([row[:negatives].sort().values, row[negatives:].sort().values])
        whole = torch.eye(count, dtype=row.dtype)  # [value, place]
        for layer in range(count):
            swaps = torch.eye(count, dtype=row.dtype)
            for a in range(layer % 2, count - 1, 2):
                ordered = 0.5 + torch.atan(steepness * (values[a + 1] - values[a])) / math.pi
                block = torch.stack([torch.stack([ordered, 1 - ordered]), torch.stack([1 - ordered, ordered])])
                swaps = swaps.index_put((torch.tensor([[a], [a + 1]]), torch.tensor([[a, a + 1]])), block)
            values, whole = values @ swaps, whole @ swaps
        truth = (torch.arange(count) >= negatives).to(row.dtype)
        among = whole[:, negatives:].sum(1).clamp(0, 1), whole[:, :negatives].sum(1).clamp(0, 1)
        both = [F.binary_cross_entropy(p, t) for p, t in zip(among, (truth, 1 - truth), strict=True)]
        losses.append(sum(both) / 2)
    return torch.stack(losses)


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    return torch.pdist(z).pow(2).mul(-t).exp().mean().log()


def alignment(z0: Tensor, z1: Tensor, power: float = 2.0) -> Tensor:
    return (z0 - z1).norm(dim=1).pow(power)


def cosine(x: Tensor, y: Tensor, eps: float) -> Tensor:
    return (unit(x, eps) * unit(y, eps)).sum(1)


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    return matrix.masked_fill(own(len(matrix)), 0).square().sum()


def cross_correlation_sq(a: Tensor, b: Tensor) -> list[Tensor]:
    c = a.T @ b
    return [c.diagonal(), c.square().sum()]


def standardized(z: Tensor, eps: float, convention: str) -> Tensor:
    centred = z - z.mean(0)
    if convention == "stable-pretraining":
        return centred / (z.std(0) + eps)
    return centred / (z.var(0, unbiased=False) + eps).sqrt()


def barlow_twins(z0: Tensor, z1: Tensor, lambd: float, eps: float, convention: str) -> Tensor:
    c = standardized(z0, eps, convention).T @ standardized(z1, eps, convention) / len(z0)
    return (1 - c.diagonal()).square().sum() + lambd * off_diagonal_energy(c)


def variance_hinge(z: Tensor, eps: float) -> Tensor:
    return torch.relu(1 - (z.var(0) + eps).sqrt()).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return off_diagonal_energy(centred.T @ centred / (len(z) - 1)) / z.shape[1]


def vicreg(z0: Tensor, z1: Tensor, sim: float, var: float, cov: float, eps: float) -> Tensor:
    hinges = variance_hinge(z0, eps) + variance_hinge(z1, eps)
    return sim * (z0 - z1).square().mean() + var * hinges / 2 + cov * (covariance_penalty(z0) + covariance_penalty(z1))


def vcreg(z: Tensor, var: float, cov: float, eps: float) -> Tensor:
    return var * variance_hinge(z, eps) / 2 + cov * covariance_penalty(z)


def correlation_penalty(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    normed = centred / centred.norm(dim=0).clamp_min(1e-30)
    return off_diagonal_energy(normed.T @ normed) / z.shape[1] ** 2


def vibcreg(z0: Tensor, z1: Tensor, sim: float, var: float, cov: float, eps: float) -> Tensor:
    hinges = variance_hinge(z0, eps) + variance_hinge(z1, eps)
    penalties = correlation_penalty(z0) + correlation_penalty(z1)
    return sim * (z0 - z1).square().mean() + var * hinges + cov * penalties


def frossl(views: Sequence[Tensor], weight: float) -> Tensor:
    units = torch.stack([z / z.norm(dim=0).clamp_min(1e-30) for z in views])
    total = weight * len(views) / len(views[0]) * (units - units.mean(0)).square().sum()
    for u in units:
        c = u.T @ u
        total = total + (c / c.trace()).square().sum().log()
    return total


def tico(z0: Tensor, z1: Tensor, covariance: Tensor | None, beta: float, rho: float) -> list[Tensor]:
    u0, u1 = unit(z0), unit(z1)
    c = (1 - beta) * (u0.T @ u0).detach() / len(z0)
    c = c if covariance is None else c + beta * covariance
    return [1 - (u0 * u1).sum(1).mean() + rho * (u0 @ c * u0).sum(1).mean(), c]


def sigreg(z: Tensor, slices: Tensor, knots: int, t_max: float) -> Tensor:
    p, n, step = z @ slices, z.shape[-2], t_max / (knots - 1)
    total = 0.0
    for k in range(knots):
        t, width = k * step, step / 2 if k in (0, knots - 1) else step
        normal = math.exp(-t * t / 2)
        gap = (torch.cos(t * p).mean(-2) - normal).square() + torch.sin(t * p).mean(-2).square()
        total = total + 2 * width * normal * gap.mean()
    return n * total


def lejepa(local_z: Tensor, global_z: Tensor, slices: Tensor, weight: float, knots: int, t_max: float) -> Tensor:
    every = torch.cat([global_z, local_z])
    distance = (every - global_z.mean(0)).square().mean()
    return weight * sigreg(every, slices, knots, t_max) + (1 - weight) * distance


def masked(pred: Tensor, target: Tensor, mask: Tensor, norm: str, beta: float | None) -> Tensor:
    """Take the mean over masked tokens; those of mask 0 have no part in it, even if they hold NaN."""
    counted = mask != 0
    if not counted.any():
        return (pred.masked_fill(torch.ones_like(pred, dtype=torch.bool), 0)).sum()
    pred, target, weights = pred[counted], target[counted], mask[counted].to(pred.dtype)
    if norm != "none":
        variance, mean = torch.var_mean(target, 1, correction=norm == "mae", keepdim=True)
        target = (target - mean) / (variance + (1e-6 if norm == "mae" else 1e-5)).sqrt()
    if beta is None:
        errors = (pred - target).square().mean(1)
    else:
        errors = F.smooth_l1_loss(pred, target, beta=beta, reduction="none").mean(1)
    return (errors * weights).sum() / weights.sum().clamp_min(1)


def koleo(x: Tensor, eps: float = 1e-8, group_size: int | None = None) -> Tensor:
    losses = []
    for rows in unit(x, eps).split(group_size or len(x)):
        squares = (rows[:, None] - rows).square().sum(2)
        apart = rows - rows[squares.masked_fill(own(len(rows)), torch.inf).argmin(1)]
        apart = torch.where((apart == 0).all(1, keepdim=True), apart.detach(), apart)
        losses.append(-((apart + eps).norm(dim=1) + eps).log())
    return torch.cat(losses)


def gram_loss(x: Tensor, target: Tensor, normalize: bool = True, clip: str = "none") -> Tensor:
    losses = []
    for image, other in zip(x, target.detach(), strict=True):
        student, teacher = (unit(rows) if normalize else rows for rows in (image, other))
        ours, theirs = student @ student.T, teacher @ teacher.T
        if clip != "none":
            ours = ours.masked_fill((ours < 0) if clip == "both" else (ours < 0) & (theirs < 0), 0)
            theirs = theirs.clamp_min(0)
        losses.append((ours - theirs).square().mean())
    return torch.stack(losses)


def mean_entropy(
    x: Tensor,
    weight: Tensor,
    temperature: float | Tensor = 0.1,
    prior: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    if normalize:
        x, weight = unit(x), unit(weight)
    logs = torch.log_softmax(x @ weight.T / temperature, 1).logsumexp(0) - math.log(len(x))
    if prior is None:
        return (logs.exp() * (logs + math.log(len(weight)))).sum()
    return (torch.xlogy(prior, prior) - prior * logs).sum()


def gather_tokens(x: Tensor, index: Tensor, pos: Tensor | None) -> Tensor:
    out = torch.stack([sample[i] for sample, i in zip(x, index.long(), strict=True)])
    return out if pos is None else out + pos.reshape(pos.shape[-2:])[index.long()]


def scatter_tokens(x: Tensor, index: Tensor, length: int, fill: float | Tensor) -> Tensor:
    samples = []
    for tokens, places in zip(x, index.tolist(), strict=True):
        rows = []
        for place in range(length):
            arriving = [tokens[k] for k, to in enumerate(places) if to == place]
            rows.append(sum(arriving[1:], arriving[0]) if arriving else x.new_zeros(x.shape[2]) + fill)
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def restore_tokens(visible: Tensor, ids: Tensor, token: Tensor, pos: Tensor | None, prefix: int) -> Tensor:
    kept, samples = visible.shape[1] - prefix, []
    for tokens, ranks in zip(visible, ids.tolist(), strict=True):
        rows = [tokens[prefix + rank] if rank < kept else token.reshape(-1) for rank in ranks]
        samples.append(torch.stack([*tokens[:prefix], *rows]))
    out = torch.stack(samples)
    return out if pos is None else out + pos.reshape(pos.shape[-2:])


def patchify_gather(images: Tensor, index: Tensor, patch: int) -> Tensor:
    pixels = F.unfold(images.double(), patch, stride=patch).to(images.dtype).transpose(1, 2)
    return torch.stack([sample[i] for sample, i in zip(pixels, index.long(), strict=True)])


def queue_update(queue: Tensor, keys: Tensor, position: int) -> Tensor:
    queue = queue.clone()
    for i, key in enumerate(keys):
        queue[(position + i) % len(queue)] = key.to(queue.dtype)
    return queue


def gather_similarity(x: Tensor, y: Tensor, index: Tensor, scale: float | Tensor) -> Tensor:
    named = F.pad(y, (0, 0, 0, 1))[torch.where(index < 0, len(y), index)]  # the row behind the last stands for none
    return (scale * (x[:, None] * named).sum(2)).masked_fill(index < 0, -torch.inf)


def sampled_info_nce(
    query: Tensor,
    positive: Tensor,
    pool: Tensor,
    index: Tensor,
    temperature: float | Tensor,
    normalize: bool = True,
    equal: str = "exclude",
) -> Tensor:
    same = (F.pad(pool, (0, 0, 0, 1))[index] == positive[:, None]).all(2) & (equal == "exclude")
    if normalize:
        query, positive, pool = unit(query), unit(positive), unit(pool)
    logits = gather_similarity(query, pool, index, 1 / temperature).masked_fill(same, -torch.inf)
    own = (query * positive).sum(1, keepdim=True) / temperature
    return torch.cat([own, logits], 1).logsumexp(1) - own[:, 0]


def mil_nce(
    video: Tensor, text: Tensor, positive: Tensor, temperature: float | Tensor = 1.0, normalize: bool = False
) -> Tensor:
    if normalize:
        video, text = unit(video), unit(text)
    logits = video @ text.T / temperature
    own = left_out(positive.long(), len(video), len(text))
    losses = []
    for row, mine in zip(logits, own, strict=True):
        above, below = row[mine], [row[~mine], logits[:, mine][~own[:, mine]]]
        losses.append(torch.cat([above, *below]).logsumexp(0) - above.logsumexp(0) if mine.any() else 0 * row.sum())
    return torch.stack(losses)


def graph_nt_xent(
    z: Tensor,
    positive: Tensor,
    weight: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
) -> Tensor:
    z = unit(z) if normalize else z
    logits = z @ z.T / temperature
    whole = lse(logits.masked_fill(own(len(z)), -torch.inf))
    none = (positive < 0) | (positive == torch.arange(len(z))[:, None])
    terms = whole[:, None] - logits.gather(1, torch.where(none, (torch.arange(len(z))[:, None] + 1) % len(z), positive))
    return ((1 if weight is None else weight) * terms.masked_fill(none, 0)).sum(1)


def soft_targets(query: Tensor, targets: Tensor, keys: Tensor, temperature: float | Tensor) -> Tensor:
    return -(targets * torch.log_softmax(query @ keys.T / temperature, 1)).sum(1)


def similarity_distillation(
    query: Tensor,
    key: Tensor,
    bank: Tensor,
    temperature: float | Tensor = 0.1,
    target_temperature: float | Tensor = 0.07,
    coefficient: float = 0.5,
    normalize: bool = True,
) -> Tensor:
    """One row after another, the key before the bank."""
    if normalize:
        query, key = unit(query), unit(key)
    losses = []
    for q, k in zip(query, key.detach(), strict=True):
        share = torch.softmax(bank.detach() @ k / target_temperature, 0).detach()
        targets = torch.cat([share.new_full((1,), coefficient), (1 - coefficient) * share])
        losses.append(soft_targets(q[None], targets[None], torch.cat([k[None], bank]), temperature))
    return torch.cat(losses)


def ressl(
    query: Tensor,
    key: Tensor,
    bank: Tensor,
    temperature: float | Tensor = 0.1,
    target_temperature: float | Tensor = 0.04,
    normalize: bool = True,
) -> Tensor:
    if normalize:
        query, key = unit(query), unit(key)
    return soft_targets(query, torch.softmax(key @ bank.T / target_temperature, 1).detach(), bank, temperature)


def prototype_cross_entropy(
    student: Tensor,
    weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    bias: Tensor | None = None,
    row_weight: Tensor | None = None,
    teacher_index: Tensor | None = None,
) -> Tensor:
    targets = teacher @ (weight if teacher_weight is None else teacher_weight).T / teacher_temperature
    targets = torch.softmax(targets if bias is None else targets + bias, 1).detach()
    logs = torch.log_softmax(student.flatten(0, -2) @ weight.T / temperature, 1)
    if teacher_index is None:
        teacher_index = torch.arange(len(teacher)).repeat(len(logs) // len(teacher))[:, None]
    losses = -(targets[teacher_index.clamp_min(0)] * logs[:, None]).sum(2)[teacher_index >= 0]
    if row_weight is None:
        return losses.mean() if len(losses) else 0 * logs.sum()
    return (row_weight.reshape(-1, 1).expand(teacher_index.shape)[teacher_index >= 0] * losses).sum()


def multi_label_bce(
    query: Tensor,
    dictionary: Tensor,
    positive: Tensor,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    bias: float | Tensor = 0.0,
) -> Tensor:
    logits = (unit(query) if normalize else query) @ dictionary.T / temperature + bias
    labels = left_out(positive.long(), len(query), len(dictionary)).to(logits)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
