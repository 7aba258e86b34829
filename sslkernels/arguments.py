# SPDX-License-Identifier: Apache-2.0
"""One checker per kind of argument: each gives the checked value back, or raises the sentence that a user reads.

The sentence names the function, the argument, what came, and what to pass. Every public door (function, module,
method, command) takes its arguments through these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float32).max
# Memory of the machine in bytes. Where Python cannot tell it, as on Windows, everything fits.
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
LARGEST_WHOLE = torch.iinfo(torch.int64).max
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# torch.gather takes tensors of these whole numbers too.
WHOLE_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
INDEX_DTYPES = (torch.int64, torch.int32)
REDUCTIONS = ("mean", "sum", "none")
# Our ops are registered for these devices.
DEVICES = ("cpu", "cuda", "mps", "xpu")
ROWS = "(N, D), rows are samples; flatten the rest"
_ORDINARY = (Tensor, nn.Parameter)
_NUMBERS = (int, float, np.floating, np.integer)
_Kind = TypeVar("_Kind")


def shape_of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def came(value: object) -> str:
    """Describe what a user passed, in a few words on one line."""
    if isinstance(value, Tensor):
        shape = "ragged shape" if value.is_nested else f"shape {shape_of(value)}"
        return f"a tensor of {shape} and dtype {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an ndarray of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to print the largest
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, torch.dtype)):
        return _short(repr(value))
    if isinstance(value, (tuple, list)) and len(value) <= 8 and all(isinstance(each, (int, float)) for each in value):
        return _short(f"({', '.join(map(came, value))})")
    return f"a {type(value).__name__}"


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


# Tensors


def check_tensor(function: str, name: str, value: object, expected: str) -> Tensor:
    """Check that ``value`` is an ordinary dense tensor that holds numbers; ``expected`` is its shape, for the error."""
    if type(value) not in _ORDINARY:  # asking this first saves a microsecond for each argument of each call
        if not isinstance(value, Tensor):
            raise TypeError(f"{function}: {name} is a {type(value).__name__}; pass a torch.Tensor of shape {expected}.")
        if type(value).__name__ == "DTensor":
            raise TypeError(f"{function}: {name} is a DTensor; pass its local shard, {name}.to_local(), and group=.")
        if isinstance(value, nn.parameter.UninitializedTensorMixin):
            raise TypeError(f"{function}: {name} has no values yet; run the lazy module once first.")
    assert isinstance(value, Tensor)
    if value.is_nested:
        raise TypeError(f"{function}: {name} is a nested tensor; pass a padded one, {name}.to_padded_tensor(0.0).")
    if value.layout != torch.strided:
        raise TypeError(f"{function}: {name} has layout {value.layout}; pass a dense tensor, {name}.to_dense().")
    if value.is_meta:
        raise ValueError(f"{function}: {name} is on meta, which holds no numbers; pass a tensor on cpu or cuda.")
    return value


def check_rows(
    function: str, name: str, value: object, expected: str = ROWS, dims: int = 2, whole: bool = False
) -> Tensor:
    """Check floating-point rows ``(N, D)`` with ``D >= 1``, or of more ``dims``; ``expected`` says what to pass."""
    rows = check_tensor(function, name, value, expected)
    if rows.dim() != dims:
        raise ValueError(f"{function}: {name} has shape {shape_of(rows)}; expected {expected}.")
    if not whole or rows.dtype not in WHOLE_DTYPES:
        check_floating(function, name, rows)
    if rows.shape[-1] == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(rows)}; rows need at least one feature.")
    return rows


def check_floating(function: str, name: str, value: Tensor) -> None:
    if value.dtype in DTYPES:
        return
    accepted = f"{function}: {name} has dtype {value.dtype}; accepted are float32, float64, bfloat16 and float16. "
    if value.is_quantized:
        raise TypeError(accepted + f"Pass {name}.dequantize().")
    if value.is_complex():
        raise TypeError(accepted + f"Pass real numbers, such as torch.view_as_real({name}).")
    raise TypeError(accepted + f"Convert it with {name}.float().")


def check_alike(function: str, name: str, value: Tensor, other_name: str, other: Tensor, rows: bool) -> None:
    """Check that two tensors agree in features, device and (outside autocast) dtype, and in rows if ``rows`` is set."""
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
    check_device(function, name, value, other_name, other)
    if value.dtype != other.dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(
            f"{function}: {other_name} has dtype {other.dtype} and {name} {value.dtype}; convert one of them."
        )


def check_device(function: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{function}: {other_name} is on {other.device} and {name} on {value.device}; move both to one device."
        )


def check_pair(function: str, views: Mapping[str, object], gathered: bool = False, least: int = 1) -> None:
    """Check two views of the same rows, under the names that the caller knows. There must be ``least`` rows, unless
    other ranks bring theirs (``gathered``).
    """
    (name0, z0), (name1, z1) = ((name, check_rows(function, name, z)) for name, z in views.items())
    check_alike(function, name1, z1, name0, z0, rows=True)
    if not gathered and z0.shape[0] < least:
        rows = "one row" if least == 1 else f"{least} rows"
        raise ValueError(f"{function}: {name0} has shape {shape_of(z0)}; pass a batch of at least {rows}.")


def check_views(function: str, name: str, value: object) -> list[Tensor]:
    """Check two or more views ``(N, D)`` of the same rows."""
    views = check_list(function, name, value, "a list of tensors of shape (N, D)")
    if len(views) < 2:
        raise ValueError(f"{function}: {name} has length {len(views)}; pass at least two views of the same samples.")
    for place, view in enumerate(views):
        check_rows(function, f"{name}[{place}]", view)
        check_alike(function, f"{name}[{place}]", view, f"{name}[0]", views[0], rows=True)
    return views


def as_tensor(value: object) -> object:
    """Turn a CuPy array, or anything else with DLPack, into a tensor on the same memory; leave all else as it is."""
    if isinstance(value, Tensor) or not hasattr(value, "__dlpack__"):
        return value
    if isinstance(value, np.ndarray) and any(step < 0 for step in value.strides):
        return value  # tensors have no negative strides, and torch ends the process over them
    try:
        return torch.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError):  # tensors lack its dtype or layout
        return value


def check_tokens(function: str, name: str, value: object, expected: str = "(B, L, C)", whole: bool = False) -> Tensor:
    """Check floating-point tokens ``(B, L, C)`` with ``C >= 1``; whole numbers pass too if ``whole`` is set."""
    return check_rows(function, name, as_tensor(value), expected, dims=3, whole=whole)


def check_index(function: str, name: str, value: object, batch: int, device: torch.device) -> Tensor:
    """Check an index ``(B, K)`` of whole numbers into tokens of ``batch`` samples."""
    index = check_tensor(function, name, as_tensor(value), "(B, K), int64 or int32")
    if index.dtype not in INDEX_DTYPES:
        raise TypeError(
            f"{function}: {name} has dtype {index.dtype}; accepted are int64 and int32. For a mask pass its indices."
        )
    if index.dim() != 2 or index.shape[0] != batch:
        raise ValueError(f"{function}: {name} has shape {shape_of(index)}; expected (B, K) with B = {batch}.")
    if index.device != device:
        raise ValueError(
            f"{function}: {name} is on {index.device} and the tokens on {device}; move both to one device."
        )
    return index


# Numbers


def check_scalar(function: str, name: str, value: object) -> float | Tensor:
    """Check a finite number, which becomes a Python float, or a floating-point tensor of one element, which stays."""
    if isinstance(value, Tensor):
        check_tensor(function, name, value, "()")
        if value.numel() != 1 or value.dtype not in DTYPES:
            raise ValueError(
                f"{function}: {name} is {came(value)}; pass a float or a floating-point tensor with one element."
            )
        return value
    number = as_number(value)
    if number is None:
        raise TypeError(f"{function}: {name} is {described(value)}; pass a float or a 0-dim tensor.")
    if not abs(number) <= LARGEST:
        raise ValueError(f"{function}: {name} is {came(value)}; pass a finite number that float32 can hold.")
    return number


def check_temperature(function: str, value: object, name: str = "temperature") -> float | Tensor:
    """Check a number as `check_scalar` does; it must have an inverse too."""
    value = check_scalar(function, name, value)
    if not isinstance(value, Tensor) and not abs(1 / value if value else float("inf")) <= LARGEST:
        raise ValueError(f"{function}: {name} is {value}, whose inverse is no number; pass a non-zero one such as 0.1.")
    return value


def check_number(
    function: str,
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> float:
    """Check a finite number from ``least`` to ``most`` and larger than ``above``; the result is a Python float."""
    number = as_number(value)
    if number is None:
        raise TypeError(f"{function}: {name} is {described(value)}; pass a number.")
    if (
        not abs(number) <= LARGEST
        or (least is not None and number < least)
        or (most is not None and number > most)
        or (above is not None and number <= above)
    ):
        if least is not None and most is not None:
            accepted = f"a number from {least:g} to {most:g}"
        elif above is not None and most is not None:
            accepted = f"a number above {above:g}, up to {most:g}"
        elif above is not None:
            accepted = f"a finite number above {above:g}"
        else:
            accepted = "a finite number" + ("" if least is None else f" of at least {least:g}")
        raise ValueError(f"{function}: {name} is {came(value)}; pass {accepted}.")
    return number


def check_range(
    function: str, name: str, value: object, above: float = 0, most: float = LARGEST
) -> tuple[float, float]:
    """Check ``(low, high)``, two finite numbers with ``above < low <= high <= most``."""
    lower = "" if above == -LARGEST else f"{above:g} < "
    accepted = f"(low, high) with {lower}low <= high" + ("" if most == LARGEST else f" <= {most:g}")
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{function}: {name} is {came(value)}; pass {accepted}.")
    low, high = (check_number(function, f"{name}[{place}]", end) for place, end in enumerate(value))
    if not above < low <= high <= most:
        raise ValueError(f"{function}: {name} is {tuple(value)}; pass {accepted}.")
    return low, high


def check_weights(function: str, **weights: object) -> tuple[float, ...]:
    """Check numbers of at least 0; they come back in the same order."""
    return tuple(check_number(function, name, value, least=0) for name, value in weights.items())


def as_number(value: object) -> float | None:
    """Turn a real number of Python or NumPy into a Python float; anything else, True included, gives None."""
    if type(value) is float:  # under torch.compile it may be a symbol, and stays one
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        return None
    try:
        return float(value)
    except OverflowError:  # the integer is beyond float64
        return float("inf") if value > 0 else -float("inf")


def described(value: object) -> str:
    """Describe a value as `came` does, but by its type alone if it is no tensor and no array."""
    return f"a {type(value).__name__}" if not isinstance(value, (Tensor, np.ndarray)) else came(value)


def is_whole(value: object, least: int) -> bool:
    """Tell if ``value`` is an integer of Python or NumPy of at least ``least``; True is no integer here."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def check_size(function: str, name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Check a whole number from ``least`` to ``most``; the result is a Python int."""
    if not is_whole(value, least) or (most is not None and value > most):  # type: ignore[operator]
        upper = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{function}: {name} is {came(value)}; pass a whole number {upper}.")
    if value > LARGEST_WHOLE:  # type: ignore[operator]
        raise ValueError(f"{function}: {name} is {came(value)}, which 64 bits cannot hold; pass a smaller number.")
    return int(value) if isinstance(value, np.integer) else value  # type: ignore[return-value]


def check_sizes(function: str, **sizes: object) -> tuple[int, ...]:
    """Check whole numbers of at least 1; they come back in the same order."""
    return tuple(check_size(function, name, value) for name, value in sizes.items())


def check_widths(function: str, **widths: object) -> tuple[int, ...]:
    """Check sizes as `check_sizes` does; a matrix of the two largest must fit the machine's memory."""
    checked = check_sizes(function, **widths)
    *_, other, largest = sorted((*checked, 1))
    check_fits(function, list(widths)[checked.index(largest)], largest, largest * other)
    return checked


def check_transformer(function: str, heads: object, **sizes: object) -> tuple[int, int]:
    """Check width and depth, under the caller's names: the heads divide the width, and all blocks fit the memory."""
    width_name, depth_name = sizes
    width, depth = check_sizes(function, **sizes)
    heads = check_size(function, "heads", heads)
    if width % heads or width % 4:
        raise ValueError(
            f"{function}: {width_name} is {width} and there are {heads} heads; "
            f"pass a {width_name} that both 4 and the heads divide, such as {4 * heads * max(1, width // (4 * heads))}."
        )
    check_fits(function, width_name, width, 12 * width**2)
    check_fits(function, depth_name, depth, depth * 12 * width**2)
    return width, depth


def check_image_size(function: str, name: str, value: object) -> tuple[int, int]:
    """Check a pair of sizes: height and width, or rows and columns."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{function}: {name} is {described(value)}; pass (height, width), such as (32, 32).")
    height, width = (check_size(function, f"{name}[{place}]", side) for place, side in enumerate(value))
    return height, width


def check_fits(function: str, name: str, value: object, numbers: int, itemsize: int = 4) -> None:
    """Check that as many numbers as the argument ``name`` asks for fit the machine's memory."""
    if numbers * itemsize > MEMORY:
        gib = min(numbers * itemsize >> 30, 10**15)
        raise ValueError(
            f"{function}: {name} is {came(value)}, which takes {gib:.3g} GiB or more where this machine has "
            f"{MEMORY / 2**30:.3g}; pass a smaller number."
        )


def check_count(function: str, name: str, value: object, each: int, itemsize: int = 4) -> int:
    """Check a count as `check_size` does; so many things of ``each`` numbers must fit the machine's memory."""
    count = check_size(function, name, value)
    check_fits(function, name, value, count * each, itemsize)
    return count


# Everything else


def check_flag(function: str, name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{function}: {name} is {came(value)}; pass True or False.")
    return bool(value)


def check_choice(function: str, name: str, value: object, accepted: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{function}: {name} is {came(value)}; accepted are {', '.join(map(repr, accepted))}.")
    return value


def check_kind(function: str, name: str, value: object, kind: type[_Kind], expected: str) -> _Kind:
    """Check that ``value`` is an instance of ``kind``; ``expected`` says what to pass."""
    if not isinstance(value, kind):
        raise TypeError(f"{function}: {name} is {described(value)}; pass {expected}.")
    return value


def check_module(function: str, name: str, value: object) -> nn.Module:
    if isinstance(value, type):
        raise TypeError(f"{function}: {name} is the class {value.__name__}; pass an instance of it.")
    return check_kind(function, name, value, nn.Module, "a torch.nn.Module")


def check_callable(function: str, name: str, value: object) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{function}: {name} is {came(value)}; pass something that can be called.")
    return value


def check_list(function: str, name: str, value: object, expected: str) -> list[Any]:
    """Turn an iterable into a list. A tensor, an array or a string counts as one thing, and a set has no order."""
    unordered = isinstance(value, (Tensor, np.ndarray, str, bytes, Set, Mapping))
    if unordered or not isinstance(value, Iterable):
        raise TypeError(f"{function}: {name} is a {type(value).__name__}; pass {expected}.")
    return list(value)


def check_given(function: str, names: Sequence[str], given: Mapping[str, Any], call: str) -> dict[str, Any]:
    """Take ``names`` out of what is known of each sample; ``call`` is the call without them."""
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{function}: {missing[0]} of each sample is missing; call {call}, {missing[0]}=...).")
    return {name: given[name] for name in names}


def check_generator(
    function: str, value: object, device: torch.device | None = None, name: str = "generator"
) -> torch.Generator | None:
    """Check a generator, or None. If ``device`` is given, the generator must be on it."""
    if value is None:
        return None
    if not isinstance(value, torch.Generator):
        place = "" if device is None else f" on {device}"
        raise TypeError(f"{function}: {name} is {described(value)}; pass a torch.Generator{place}, or None.")
    if device is not None and value.device.type != device.type:
        raise ValueError(f"{function}: {name} is on {value.device}; pass a torch.Generator on {device}, or None.")
    return value


def check_place(function: str, value: object, name: str = "device") -> torch.device | None:
    """Check a device that tensors can be made on here, or None."""
    if value is None:
        return None
    try:
        device = torch.device(value)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"{function}: {name} is {came(value)}; pass a device such as 'cpu' or 'cuda'.") from error
    if not torch.compiler.is_compiling() and not _is_here(device):
        raise ValueError(f"{function}: {name} is {str(device)!r}, which is not here; pass one that is, such as 'cpu'.")
    return device


def _is_here(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    found = torch.accelerator.current_accelerator() if device.type in DEVICES else None
    return found is not None and found.type == device.type and (device.index or 0) < torch.accelerator.device_count()


def check_path(function: str, name: str, value: object) -> Path:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise TypeError(f"{function}: {name} is {came(value)}; pass the path of a file or folder.")
    return Path(text)
