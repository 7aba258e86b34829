# SPDX-License-Identifier: Apache-2.0
"""Terms of a loss that the backbone's features give: pretext tasks, and what a paper adds to a known objective."""

from __future__ import annotations

from sslkernels.terms.action import ActionMatch
from sslkernels.terms.agreement import Agreement
from sslkernels.terms.context import Context
from sslkernels.terms.jigsaw import Jigsaw
from sslkernels.terms.labels import Labels
from sslkernels.terms.odd_one_out import OddOneOut
from sslkernels.terms.places import Places
from sslkernels.terms.rotation import Rotation
from sslkernels.terms.series import Permutation, Reversal, Warp
from sslkernels.terms.task import Task
from sslkernels.terms.term import Term
from sslkernels.terms.trajectory import Trajectory

TASKS: dict[str, type[Task]] = {
    "context": Context,
    "jigsaw": Jigsaw,
    "odd_one_out": OddOneOut,
    "permutation": Permutation,
    "reversal": Reversal,
    "rotation": Rotation,
    "warp": Warp,
}

__all__ = [
    "TASKS",
    "ActionMatch",
    "Agreement",
    "Context",
    "Jigsaw",
    "Labels",
    "OddOneOut",
    "Permutation",
    "Places",
    "Reversal",
    "Rotation",
    "Task",
    "Term",
    "Trajectory",
    "Warp",
]
