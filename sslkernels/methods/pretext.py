# SPDX-License-Identifier: Apache-2.0
"""Pretext tasks: tell how a sample was turned, cut up, reversed or warped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import came, check_choice, check_list, check_number, check_size
from sslkernels.distributed import GroupLike
from sslkernels.methods.method import Method
from sslkernels.ops.tokens import TOKENS
from sslkernels.terms import TASKS, Jigsaw, Task
from sslkernels.terms.task import COUNTED


class Pretext(Method):
    """Representations from pretext tasks: the weighted sum of their cross-entropies.

    Tasks that leave a sample a sample are chained, one network seeing all their changes at once, as in the multi-task
    training of Yuan et al. (2024) on movements. Each other task has a pass of its own. The paper below is the first
    with rotations.

    Args:
        backbone: samples to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        tasks: names in `sslkernels.terms.TASKS`.
        weights: weight of each task; None weighs all 1.
        permutations, grid, whole: settings of `sslkernels.terms.Jigsaw`.
        backend, group: see `Method`. A mean over ranks is the mean of their losses.

    >>> import torch
    >>> from sslkernels.methods import Pretext
    >>> from sslkernels.models import resnet_small
    >>> method = Pretext(resnet_small(), feature_dim=128, tasks=("rotation",))
    >>> method([torch.rand(16, 1, 8, 8)])["loss"].shape
    torch.Size([])
    """

    paper = "Gidaris et al. 2018"
    arxiv = "1803.07728"
    family = TOKENS
    views = 1
    small = {"epochs": 30, "batch_size": 128, "lr": 2e-3}
    paper_options = {"epochs": 100, "batch_size": 128, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        tasks: tuple[str, ...] = ("rotation",),
        weights: tuple[float, ...] | None = None,
        permutations: int = 30,
        grid: int = 3,
        whole: float = 0.1,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        names = [
            check_choice("Pretext", "tasks", name, list(TASKS))
            for name in check_list("Pretext", "tasks", tasks, f"names such as {', '.join(TASKS)}")
        ]
        given = [1.0] * len(names) if weights is None else check_list("Pretext", "weights", weights, "a number each")
        if len(set(names)) < len(names) or len(given) != len(names):
            raise ValueError(
                f"Pretext: tasks is ({', '.join(names)}) and weights {came(weights)}; pass each task once, and a "
                "weight for each."
            )
        self.weights = {
            name: check_number("Pretext", "weights", weight, least=0) for name, weight in zip(names, given, strict=True)
        }
        if not names:
            raise ValueError(f"Pretext: tasks is {came(tasks)}; pass a task such as rotation.")
        check_size("Pretext", "grid", grid), check_size("Pretext", "permutations", permutations)
        check_number("Pretext", "whole", whole, least=0, most=1)
        options: dict[str, Any] = {"permutations": permutations, "grid": grid, "whole": whole}
        self.tasks = nn.ModuleDict(
            {name: TASKS[name](feature_dim, **(options if TASKS[name] is Jigsaw else {})) for name in names}
        )

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        embeddings = tuple(rows for solved in self.solve(self.one_view(views)) for rows in solved)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, *embeddings: Tensor) -> Tensor:
        solved = zip(embeddings[::2], embeddings[1::2], strict=True)
        terms = [
            weight * F.cross_entropy(logits, answers)
            for weight, (logits, answers) in zip(self.weights.values(), solved, strict=True)
        ]
        return torch.stack(terms).sum()

    def check_views(self, views: Sequence[Any]) -> None:
        changed = view = self.one_view(views)
        for task in self.tasks.values():
            assert isinstance(task, Task)
            if task.chains:
                changed, _ = task.draw(changed)
            else:
                task.draw(view)

    def solve(self, view: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Change the samples, and give logits and answers of each task."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        chained: dict[str, Tensor] = {}
        changed = view
        for name, task in self.tasks.items():
            assert isinstance(task, Task)
            task.backend = self.backend
            if task.chains:
                changed, chained[name] = task.draw(changed)
            else:
                parts, answers = task.draw(view)
                found[name] = task.logits(self.features(parts)), answers
        if chained:
            rows = self.features(changed)
            found |= {name: (self.tasks[name].logits(rows), answers) for name, answers in chained.items()}
        return [found[name] for name in self.tasks]

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Accuracy of each task."""
        right = dict.fromkeys(self.tasks, 0)
        for begin in range(0, len(inputs), COUNTED):
            solved = self.solve(inputs[begin : begin + COUNTED])
            for name, (logits, answers) in zip(self.tasks, solved, strict=True):
                right[name] += int((logits.argmax(1) == answers).sum())
        return {f"{name}_accuracy": count / len(inputs) for name, count in right.items()}
