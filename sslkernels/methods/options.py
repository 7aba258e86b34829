# SPDX-License-Identifier: Apache-2.0
"""Describes the options of methods: arguments that ``sslkernels train`` takes too, under the same names."""

from __future__ import annotations

from dataclasses import dataclass

from sslkernels.arguments import check_number, check_size


@dataclass(frozen=True)
class Option:
    """The help, type and limits of an option; its value stands in each method's preset.

    Args:
        words: text for ``--help``. In it, ``{methods}`` becomes the names of the methods that have the option.
        kind: float, or int for a whole number of at least 1.
        least, most, above: limits of a float.
    """

    words: str
    kind: type[int] | type[float] = float
    least: float | None = None
    most: float | None = None
    above: float | None = None

    def check(self, function: str, name: str, value: object) -> int | float:
        """Check a value and make it Python's int or float; a ValueError or TypeError says what is accepted."""
        if self.kind is int:
            return check_size(function, name, value)
        return check_number(function, name, value, least=self.least, most=self.most, above=self.above)


# Options that several methods may share, in the order of the help. A method can describe further ones in its own file.
SHARED = {
    "projection_dim": Option("features that the loss compares (default: the method's)", int),
    "hidden_dim": Option("width of projector and predictor in {methods}", int),
    "queue_size": Option("keys that {methods} remember", int),
    "temperature": Option("of the loss in {methods}", above=0),
    "lambd": Option("weight of the redundancy in {methods}", least=0),
    "sim": Option("weight of the invariance in {methods}", least=0),
    "var": Option("weight of the variance in {methods}", least=0),
    "cov": Option("weight of the covariance in {methods}", least=0),
    "patch_size": Option("pixels of a patch's side, {methods} (default: by image size)", int),
    "mask_ratio": Option("share of the patches that {methods} hides", least=0, most=1),
    "momentum": Option("of the teacher at the first step, where there is one", least=0, most=1),
}
