# SPDX-License-Identifier: Apache-2.0
"""Move a teacher towards its student, and keys into a queue, between training steps and without a gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import DTYPES, as_tensor, came, check_rows, check_scalar, check_tensor, is_whole, shape_of
from sslkernels.ops import ema
from sslkernels.ops.registry import is_plain

_NOTHING = torch.empty(0)


def ema_update_(
    targets: Iterable[Tensor],
    sources: Iterable[Tensor],
    momentum: float | Tensor,
    *,
    masters: Iterable[Tensor | None] | None = None,
    backend: str | None = None,
) -> None:
    """Move every tensor of a teacher towards its student's, in place and in one pass over all of them.

    ``t <- t + (1 - momentum) * (s - t)``

    Args:
        targets: a teacher's tensors, of any shapes and dtypes. Integers and booleans are copied.
        sources: the student's, in the same order and of the same shapes, of any dtypes. They are never written.
        momentum: number from 0 to 1, or a one-element floating-point tensor. The host does not wait for a tensor on a
            GPU, so that it may follow a schedule inside a captured graph. 1 leaves the targets bit for bit, 0 copies
            the sources.
        masters: for each target None or its float32 twin. The twin moves, and the target is the twin rounded. If a
            target is not its twin's rounding, somebody wrote it since the last update, and both go on from the target.
            Without a twin a 16-bit target stands still wherever an update is less than half of its last bit: in
            bfloat16 at momentum 0.996, wherever student and teacher differ by less than about half of the teacher's
            value.
        backend: "reference", "cpu", "triton" or "cuda"; None takes the fastest that can run.

    Raises:
        ValueError, TypeError: something does not match; then nothing has been written.

    Arithmetic is at least float32, with ``1 - momentum`` computed in double; the error is at most
    ``0.6 * eps * max(|t|, |s|)`` (1.5 for float64 targets). A tensor that is listed twice moves once. Tensors with gaps
    or unlike strides are copied on the way. DTensors move shard by shard. Version counters are bumped, so that
    autograd notices a target that a backward still needs.

    Cost: both are read and the target is written, 12 bytes per float32 parameter, and 14 per bfloat16 one with a
    master. A GPU takes one launch for each device (Triton: for each mixture of dtypes); its table of addresses is kept
    as long as addresses, sizes and dtypes last.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> teacher, student = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> SF.ema_update_(teacher.parameters(), student.parameters(), momentum=0.0)
    >>> torch.equal(teacher.weight, student.weight)
    True
    """
    ours, theirs = _listed("targets", targets), _listed("sources", sources)
    twins = None if masters is None else _listed("masters", masters)
    if len(ours) != len(theirs) or (twins is not None and len(ours) != len(twins)):
        raise ValueError(
            f"ema_update_: targets has {len(ours)} tensors, sources {len(theirs)}"
            f"{'' if twins is None else f' and masters {len(twins)}'}; pass one for each target."
        )
    number, at = _momentum(momentum)
    if is_plain():
        pairs = ema.pairs_of(ours, theirs, [_NOTHING if twin is None else twin for twin in twins or ()])
        if pairs is not None:
            if pairs.table:
                backend = ema.EMA.choose(ours[0].device, pairs.dtype, backend)
                ema.move(pairs, number, _on(at, ours[0].device), backend)
            return

    checked = [
        _checked(place, target, source, twins[place] if twins else None)
        for place, (target, source) in enumerate(zip(ours, theirs, strict=True))
    ]
    alike = defaultdict(list)
    for triple in checked:
        if triple[0].is_floating_point():
            alike[triple[0].device].append(triple)
    for device, triples in alike.items():
        moved, followed = [t for t, _, _ in triples], [s for _, s, _ in triples]
        held = [t.new_empty(0) if m is None else m for t, _, m in triples] if twins else []
        double = any(tensor.dtype == torch.float64 for tensor in moved + followed)
        chosen = ema.EMA.choose(device, torch.float64 if double else torch.float32, backend)
        ema.update(moved, followed, held, number, _on(at, device), chosen)
    with torch.no_grad():
        for target, source, _ in checked:
            if not target.is_floating_point():
                target.copy_(source)


def queue_update_(queue: Tensor, keys: Tensor, position: int | Tensor, *, backend: str | None = None) -> int | Tensor:
    """Write rows into a ring, in place, and say where the next ones go.

    Args:
        queue: ``(size, D)``. It receives ``queue[(position + i) % size] = keys[i]``, rounded to its dtype.
        keys: ``(N, D)``, any N and floating-point dtype; if there are more than ``size``, the newest stay. They are
            never written.
        position: where the first key goes: a whole number, or an integer tensor with one element, for which the host
            does not wait on a GPU.
        backend: see `ema_update_`.

    Returns:
        The next position, ``(position + N) % size``: a number for a number; a tensor is updated in place and returned.

    Cost: N rows are read and written. No gradient flows.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> queue = torch.zeros(3, 1)
    >>> SF.queue_update_(queue, torch.tensor([[1.0], [2.0]]), position=2)
    1
    >>> queue.flatten()
    tensor([2., 0., 1.])
    """
    check_rows("queue_update_", "queue", queue)
    keys = check_rows("queue_update_", "keys", as_tensor(keys))
    size, count = queue.shape[0], keys.shape[0]
    if size == 0 or keys.shape[1] != queue.shape[1]:
        raise ValueError(
            f"queue_update_: queue has shape {shape_of(queue)} and keys {shape_of(keys)}; "
            "expected (size, D) with size at least 1 and (N, D)."
        )
    if keys.device != queue.device:
        raise ValueError(f"queue_update_: queue is on {queue.device} and keys on {keys.device}; move them together.")
    if any(rows > 1 and step == 0 for rows, step in zip(queue.shape, queue.stride(), strict=True)):
        raise ValueError(
            f"queue_update_: queue of shape {shape_of(queue)} is expanded; pass the tensor that it is a view of."
        )
    at, known = None, position
    if isinstance(position, Tensor):
        check_tensor("queue_update_", "position", position, "()")
        if position.numel() != 1 or position.dtype.is_floating_point or position.dtype == torch.bool:
            raise ValueError(
                f"queue_update_: position is {came(position)}; "
                "pass a whole number or an integer tensor with one element."
            )
        at = position.reshape(()).to(queue.device)
        known = position.item() if position.is_cpu and is_plain() else 0  # we do not wait for a device to check it
    if not is_whole(known, 0) or known >= size:  # type: ignore[operator]
        raise ValueError(f"queue_update_: position is {came(known)}; pass a whole number from 0 to {size - 1}.")
    skipped = max(0, count - size)
    dtype = torch.float64 if torch.float64 in (queue.dtype, keys.dtype) else torch.float32
    if count:
        offset = skipped if isinstance(position, Tensor) else int(position) + skipped
        ema.enqueue(queue, keys[skipped:].detach(), at, offset, ema.EMA.choose(queue.device, dtype, backend))
    if isinstance(position, Tensor):
        return position.copy_((position.long() + count) % size)  # a narrow dtype may not hold the sum
    return (int(position) + count) % size


def _momentum(momentum: float | Tensor) -> tuple[float, Tensor | None]:
    """Return the momentum as a number, and as a tensor if it is one for which the host must not wait."""
    if torch.compiler.is_compiling() and not isinstance(momentum, Tensor):
        # The number changes from step to step. As a factor of a tensor it gets no guard in the compiled graph.
        return 0.0, torch.ones((), dtype=torch.float64, device="cpu") * momentum
    check_scalar("ema_update_", "momentum", momentum)
    if isinstance(momentum, Tensor):
        momentum = momentum.detach()
        if momentum.device.type != "cpu" or not is_plain():
            return 0.0, momentum.reshape(())
        momentum = momentum.item()
    if not 0 <= momentum <= 1:
        raise ValueError(f"ema_update_: momentum is {momentum}; pass a number from 0 to 1, such as 0.996.")
    return float(momentum), None


def _on(at: Tensor | None, device: torch.device) -> Tensor | None:
    return None if at is None else at.to(device, torch.float32 if device.type == "mps" else torch.float64)


def _listed(name: str, tensors: object) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
        raise TypeError(f"ema_update_: {name} is a {type(tensors).__name__}; pass a list of tensors.")
    return list(tensors)


def _checked(place: int, target: object, source: object, master: object) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return a target, its source and its master as ordinary tensors on this rank, or raise if they do not match."""
    t, s = _ordinary(f"targets[{place}]", target), _ordinary(f"sources[{place}]", source, written=False)
    m = None if master is None else _ordinary(f"masters[{place}]", master)
    if m is not None and _placed(master) != _placed(target):
        raise ValueError(
            f"ema_update_: masters[{place}] is placed as {_placed(master)} and its target as {_placed(target)}; "
            "shard masters like their targets."
        )
    if _placed(target) != _placed(source):
        raise ValueError(
            f"ema_update_: targets[{place}] is placed as {_placed(target)} and sources[{place}] as {_placed(source)}; "
            "shard teacher and student alike."
        )
    for name, other in (("sources", s), ("masters", m)):
        if other is None:
            continue
        if other.shape != t.shape:
            raise ValueError(
                f"ema_update_: targets[{place}] has shape {shape_of(t)} and {name}[{place}] {shape_of(other)}; "
                "pass the tensors of one architecture in the same order."
            )
        if other.device != t.device:
            raise ValueError(
                f"ema_update_: targets[{place}] is on {t.device} and {name}[{place}] on {other.device}; "
                "move both to one device."
            )
    if t.is_meta and is_plain():
        raise ValueError(f"ema_update_: targets[{place}] is on meta, which holds no numbers; pass tensors that do.")
    if t.is_complex() != s.is_complex() or t.is_floating_point() != s.is_floating_point():
        raise TypeError(
            f"ema_update_: targets[{place}] has dtype {t.dtype} and sources[{place}] {s.dtype}; "
            "an average needs floating-point numbers on both sides."
        )
    if m is not None and (m.dtype != torch.float32 or t.dtype not in (torch.bfloat16, torch.float16)):
        raise TypeError(
            f"ema_update_: masters[{place}] has dtype {m.dtype} beside a target of {t.dtype}; "
            "pass a float32 master for a bfloat16 or float16 target and None for others."
        )
    if any(size > 1 and step == 0 for size, step in zip(t.shape, t.stride(), strict=True)):
        raise ValueError(
            f"ema_update_: targets[{place}] of shape {shape_of(t)} is expanded; pass the tensor that it is a view of."
        )
    if t.is_complex():
        t, s = torch.view_as_real(t), torch.view_as_real(s)
    for name, tensor in (("targets", t), ("sources", s)):
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            raise TypeError(
                f"ema_update_: {name}[{place}] has dtype {tensor.dtype}; accepted are float64, float32, bfloat16, "
                "float16, and integers, which are copied."
            )
    return t, s, m


def _ordinary(name: str, given: object, written: bool = True) -> Tensor:
    if written and isinstance(given, np.ndarray) and not given.flags.writeable:
        raise ValueError(f"ema_update_: {name} is a read-only ndarray and would be written; pass a copy of it.")
    value = as_tensor(given)
    if not isinstance(value, Tensor):
        raise TypeError(f"ema_update_: {name} is a {type(value).__name__}; pass a torch.Tensor.")
    if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
        raise TypeError(f"ema_update_: {name} has no values yet; run the lazy module once first.")
    if value.is_nested or value.layout != torch.strided:
        kind = "is a nested tensor" if value.is_nested else f"has layout {value.layout}"
        raise TypeError(f"ema_update_: {name} {kind}; pass a dense tensor.")
    if value.is_quantized:
        raise TypeError(f"ema_update_: {name} has dtype {value.dtype}; pass numbers, {name}.dequantize().")
    value = value.detach()
    if not torch.compiler.is_compiling() and (value.is_conj() or value.is_neg()):  # the compiler resolves both
        if written:
            raise ValueError(f"ema_update_: {name} is a conjugated or negated view; pass the tensor itself.")
        value = value.resolve_conj().resolve_neg()
    return value.to_local() if _placed(value) is not None else value  # type: ignore[attr-defined]


def _placed(value: object) -> object:
    """Return how a DTensor lies on its ranks; None for other values."""
    return (value.device_mesh, value.placements) if type(value).__name__ == "DTensor" else None  # type: ignore[attr-defined]
