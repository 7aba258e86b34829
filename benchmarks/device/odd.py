# SPDX-License-Identifier: Apache-2.0
"""Launches every kernel at tiny odd shapes, so that compute-sanitizer sees their edges.

`python -m device.odd K N` makes every N-th call, from the K-th on.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import sslkernels.functional as SF
from device.rehearsal import REHEARSED, device
from sslkernels import backends
from sslkernels.ops.registry import families

DTYPES = (torch.float32, torch.float16) if REHEARSED else (torch.float32, torch.bfloat16)
Call = Callable[[str], object]


def calls(here: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, str, Call]]:
    """Yield family, name and call of every op, which takes the backend."""

    def rows(n: int, d: int) -> Tensor:
        """Rows that begin in the middle of a 16-byte word."""
        room = torch.randn(n * d + 1, device=here).to(dtype)
        return room[1:].view(n, d).requires_grad_()

    def both(loss: Tensor) -> None:
        loss.float().sum().backward()

    def lse(x: Tensor, y: Tensor, own: Tensor, dim: str, backend: str) -> None:
        sums = SF.logsumexp_similarity(x, y, 2.0, exclude=own if len(y) > 1 else None, dim=dim, backend=backend)
        both(torch.cat(sums) if dim == "both" else sums)

    for n, m, d in ((33, 257, 17), (1, 1, 1), (5, 3, 300)):
        x, y = rows(n, d), rows(m, d)
        own = torch.arange(n, device=here)[:, None] % m
        for dim in ("rows", "both"):
            yield "similarity", f"logsumexp_similarity {n}x{m}x{d} {dim}", partial(lse, x, y, own, dim)
    for n, d in ((33, 17), (1, 5), (3, 300)):
        x, y, keys = rows(n, d), rows(n, d), rows(37, d).detach()
        scale = torch.tensor(3.0, device=here, requires_grad=True)
        yield "similarity", f"nt_xent {n}x{d}", lambda b, x=x, y=y: both(SF.nt_xent(x, y, backend=b))
        yield "similarity", f"clip_loss {n}x{d}", lambda b, x=x, y=y, s=scale: both(SF.clip_loss(x, y, s, backend=b))
        yield (
            "similarity",
            f"info_nce {n}x37x{d}",
            lambda b, x=x, y=y, k=keys: both(SF.info_nce(x, y, negatives=k, backend=b)),
        )
        yield "rows", f"byol_loss {n}x{d}", lambda b, x=x, y=y: both(SF.byol_loss(x, y.detach(), backend=b))
    for n, d in ((33, 17), (5, 67)):
        x, y, slices = rows(n, d), rows(n, d), torch.randn(d, 19, device=here).to(dtype)
        yield "correlation", f"barlow_twins {n}x{d}", lambda b, x=x, y=y: both(SF.barlow_twins(x, y, backend=b))
        yield "correlation", f"vicreg {n}x{d}", lambda b, x=x, y=y: both(SF.vicreg(x, y, backend=b))
        yield "sigreg", f"sigreg {n}x{d}", lambda b, x=x, s=slices: both(SF.sigreg(x, s, backend=b))
    for length, kept, channels in ((7, 1, 3), (16, 5, 33)):
        x = rows(3 * length, channels).view(3, length, channels).detach().requires_grad_()
        index = torch.randint(length, (3, kept), device=here)  # tokens may repeat
        other = torch.rand(3, length, device=here).argsort(1)
        mask = (torch.rand(3, length, device=here) < 0.5).float()
        mask[0, 0] = 1
        token, seen = torch.zeros(channels, device=here), rows(3 * kept, channels).view(3, kept, channels)
        name = f"3x{length}x{channels}"
        yield "tokens", f"gather {name}", lambda b, x=x, i=index: both(SF.gather_tokens(x, i, backend=b))
        yield "tokens", f"masks {name}", lambda b, x=x, i=index: both(SF.apply_masks(x, [i, i], backend=b))
        yield (
            "tokens", f"restore {name}",
            lambda b, s=seen, o=other, t=token: both(SF.restore_tokens(s, o, t, backend=b)),
        )  # fmt: skip
        yield "tokens", f"mse {name}", lambda b, x=x, m=mask: both(SF.masked_mse(x, x.detach() + 1, m, backend=b))
    targets = [torch.randn(count + 1, device=here)[1:] for count in (1, 7, 8193)]
    sources = [torch.randn(count + 1, device=here).to(dtype)[1:] for count in (1, 7, 8193)]
    yield "ema", "ema_update_", lambda b: SF.ema_update_(targets, sources, 0.9, backend=b)


def main(part: int, parts: int) -> int:
    here, failed = device(), 0
    torch.manual_seed(0)
    known = families()
    for dtype in DTYPES:
        for family, name, call in itertools.islice(calls(here, dtype), part, None, parts):
            for backend in known[family].backends:
                if backend == "reference" or backends.why_not(backend, here, dtype) is not None:
                    continue
                try:
                    call(backend)
                    if here.type == "cuda":
                        torch.cuda.synchronize()
                    print(f"ran {name} {dtype} {backend}", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"FAILED {name} {dtype} {backend}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
