# SPDX-License-Identifier: Apache-2.0
"""What an argument may be, and the sentence a user reads when it is something else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


ROWS = "(N, D), rows are samples; flatten the rest"


def check_rows(function: str, name: str, value: object, expected: str = ROWS, dims: int = 2) -> Tensor:
    """Floating-point rows ``(N, D)`` with ``D >= 1``, or of more ``dims``; ``expected`` is what to pass."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} is a {type(value).__name__}; pass a torch.Tensor of shape {expected}.")
    if type(value).__name__ == "DTensor":
        raise TypeError(f"{function}: {name} is a DTensor; pass its local shard, {name}.to_local(), and group=.")
    if value.layout != torch.strided:
        raise TypeError(f"{function}: {name} has layout {value.layout}; pass a dense tensor, {name}.to_dense().")
    if value.dim() != dims:
        raise ValueError(f"{function}: {name} has shape {shape_of(value)}; expected {expected}.")
    if value.dtype not in DTYPES:
        raise TypeError(
            f"{function}: {name} has dtype {value.dtype}; accepted are float32, float64, bfloat16 and float16. "
            f"Convert it with {name}.float()."
        )
    if value.shape[-1] == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(value)}; rows need at least one feature.")
    return value


def check_alike(function: str, name: str, value: Tensor, other_name: str, other: Tensor, rows: bool) -> None:
    """``value`` matches ``other`` in features, device and (outside autocast) dtype, and in rows where asked."""
    if rows and value.shape[0] != other.shape[0]:
        raise ValueError(
            f"{function}: {other_name} has shape {shape_of(other)} and {name} {shape_of(value)}; "
            "both need the same rows. Did one view lose a sample?"
        )
    if value.shape[1] != other.shape[1]:
        raise ValueError(
            f"{function}: {other_name} has shape {shape_of(other)} and {name} {shape_of(value)}; "
            "both need the same number of features."
        )
    if value.device != other.device:
        raise ValueError(
            f"{function}: {other_name} is on {other.device} and {name} on {value.device}; move both to one device."
        )
    if value.dtype != other.dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(
            f"{function}: {other_name} has dtype {other.dtype} and {name} {value.dtype}; convert one of them."
        )


def check_scalar(function: str, name: str, value: object) -> None:
    """A finite number or a one-element floating-point tensor."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{function}: {name} is a tensor of shape {shape_of(value)} and dtype {value.dtype}; "
                "pass a float or a floating-point tensor with one element."
            )
    elif isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{function}: {name} is a {type(value).__name__}; pass a float or a 0-dim tensor.")
    elif not abs(value) <= LARGEST:
        raise ValueError(f"{function}: {name} is {value}; pass a finite number that float32 can hold.")


def check_number(function: str, name: str, value: object, least: float | None = None) -> None:
    """A finite number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{function}: {name} is a {type(value).__name__}; pass a number.")
    if not abs(value) <= LARGEST or (least is not None and value < least):
        at_least = "" if least is None else f" of at least {least:g}"
        raise ValueError(f"{function}: {name} is {value}; pass a finite number{at_least}.")


def is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_size(function: str, name: str, value: object) -> None:
    if not is_whole(value, 1):
        raise ValueError(f"{function}: {name} is {value!r}; pass a whole number of at least 1.")


def check_choice(function: str, name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{function}: {name} is {value!r}; accepted are {', '.join(map(repr, accepted))}.")


def check_temperature(function: str, value: object) -> None:
    check_scalar(function, "temperature", value)
    if not isinstance(value, Tensor) and not abs(1 / value if value else float("inf")) <= LARGEST:  # type: ignore[operator]
        raise ValueError(
            f"{function}: temperature is {value}, whose inverse is no number; pass a non-zero one such as 0.1."
        )


def as_tensor(value: object) -> object:
    """A CuPy array, or whatever else speaks DLPack, as a tensor on the same memory; anything else as it came."""
    return value if isinstance(value, Tensor) or not hasattr(value, "__dlpack__") else torch.from_dlpack(value)


def check_tokens(function: str, name: str, value: object, expected: str = "(B, L, C)") -> Tensor:
    """Floating-point tokens ``(B, L, C)`` with ``C >= 1``."""
    return check_rows(function, name, as_tensor(value), expected, dims=3)


def check_index(function: str, name: str, value: object, batch: int, device: torch.device) -> Tensor:
    """Whole numbers ``(B, K)`` beside tokens of ``batch`` samples."""
    value = as_tensor(value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{function}: {name} is a {type(value).__name__}; pass an int64 or int32 tensor of shape (B, K)."
        )
    if value.layout != torch.strided:
        raise TypeError(f"{function}: {name} has layout {value.layout}; pass a dense tensor, {name}.to_dense().")
    if value.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"{function}: {name} has dtype {value.dtype}; accepted are int64 and int32. For a mask pass its indices."
        )
    if value.dim() != 2 or value.shape[0] != batch:
        raise ValueError(f"{function}: {name} has shape {shape_of(value)}; expected (B, K) with B = {batch}.")
    if value.device != device:
        raise ValueError(
            f"{function}: {name} is on {value.device} and the tokens on {device}; move both to one device."
        )
    return value
