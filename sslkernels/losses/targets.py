# SPDX-License-Identifier: Apache-2.0
"""Make targets of a teacher's logits as DINOv2 does: centred, by a centre that moves a step later, or balanced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_flag, check_number, check_rows, check_size, check_tensor
from sslkernels.distributed import shard_of
from sslkernels.functional.assignments import balanced, centred
from sslkernels.losses.center import Centred, check_prototypes, sums_of


class Teacher(Centred):
    """Make targets of a teacher's logits, with a centre that moves at the next step, or balanced."""

    def __init__(self, name: str, prototypes: int, dims: int, student_temp: float, center_momentum: float) -> None:
        function = type(self).__name__
        super().__init__(function, name, prototypes, dims, center_momentum)
        self.student_temp = check_number(function, "student_temp", student_temp, above=0.0)
        self._waiting: tuple[Tensor, int] | None = None

    @torch.no_grad()
    def softmax_center_teacher(
        self, teacher_output: Tensor, teacher_temp: float, update_centers: bool = True
    ) -> Tensor:
        """Return ``softmax((teacher_output - center) / teacher_temp)``, float32.

        What `update_center` was given since the last call moves the centre first, unless ``update_centers`` is False.
        """
        function = type(self).__name__
        logits = self._logits("teacher_output", teacher_output, "(..., K)")
        temperature = check_number(function, "teacher_temp", teacher_temp, above=0.0)
        if check_flag(function, "update_centers", update_centers):
            self.apply_center_update()
        return centred(logits, self.center, temperature)

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor) -> None:
        """Take the logits ``(..., K)`` of a step into the centre, at the next `apply_center_update`.

        Several calls in between, as gradients are accumulated, count as one with all of their rows.
        """
        logits = self._logits("teacher_output", teacher_output, "(..., K)")
        sums, rows = self._over_ranks(sums_of(logits), logits.shape[:-1].numel())
        if self._waiting is not None:
            sums, rows = sums + self._waiting[0], rows + self._waiting[1]
        self._waiting = sums, rows

    @torch.no_grad()
    def apply_center_update(self) -> None:
        """Move the centre by what `update_center` was given. Nothing is sent here."""
        if self._waiting is not None:
            self._move_to(*self._waiting)
            self._waiting = None

    def _balanced(self, logits: Tensor, teacher_temp: float, n_iterations: int, counted: Tensor | None) -> Tensor:
        function = type(self).__name__
        temperature = check_number(function, "teacher_temp", teacher_temp, above=0.0)
        iterations = check_size(function, "n_iterations", n_iterations)
        logits = logits.detach()
        shard = shard_of("world", f"{function}, its targets", logits, temperature=temperature, iterations=iterations)
        return balanced(logits, temperature, iterations, shard, counted=counted)

    def _logits(self, name: str, value: Tensor, expected: str, dims: int | None = None) -> Tensor:
        function = type(self).__name__
        logits = check_tensor(function, name, value, expected)
        check_rows(function, name, logits, expected, max(2, logits.dim()) if dims is None else dims)
        check_device(function, name, logits, "the center", self.center)
        return check_prototypes(function, name, logits, self.center)

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self.apply_center_update()  # DINOv2 forgets the last step's when it saves
        super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._waiting = None
        super()._load_from_state_dict(*arguments)
