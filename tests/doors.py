# SPDX-License-Identifier: Apache-2.0
"""A door is a public function or module, with a good call of it and the kinds of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from wrong_values import ROWS

LABELS4 = torch.tensor([0, 1, 0, 1])


@dataclass
class Door:
    call: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)
    says: str | None = None  # the beginning of the sentence, by default the name
    signature: Callable[..., Any] | None = None  # the function that has the parameters, if it is not `call`


def pair(call: Callable[..., Any], first: str, second: str, **kinds: str) -> Door:
    return Door(call, {first: ROWS, second: ROWS}, {first: "rows", second: "rows", **kinds})
