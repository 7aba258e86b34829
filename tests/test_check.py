# SPDX-License-Identifier: Apache-2.0
"""Check that ``SSLKERNELS_CHECK=1`` names the op that is wrong, and no other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from sslkernels.ops.registry import families

EVERY_LOSS = """
import json, warnings
import torch
import sslkernels.functional as SF
from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import wide
from sslkernels.ops.sigreg import schema as sigreg
from sslkernels.ops.similarity import composed
from sslkernels.ops.similarity.schema import Anchors, Needs

def run(dtype=torch.float32):
    torch.manual_seed(0)
    rows = lambda *shape: torch.randn(*shape).to(dtype).requires_grad_()
    z0, z1, wide0, wide1, queue = rows(12, 7), rows(12, 7), rows(6, 40), rows(6, 40), rows(9, 7).detach()
    images = torch.rand(2, 3, 8, 8).to(dtype)
    tokens, index, mask = rows(2, 6, 5), torch.rand(2, 6).argsort(1)[:, :4], torch.tensor([[0, 1.0] * 3, [1, 1, 0] * 2])
    scale = torch.tensor(5.0, requires_grad=True)
    values = [
        SF.nt_xent(z0, z1), SF.info_nce(z0, z1), SF.info_nce(z0, z1, negatives=queue), SF.clip_loss(z0, z1, scale),
        SF.logsumexp_similarity(z0, z1, 0.5, dim="both")[1].sum(),
        SF.attend_similarity(z0, z1, z1, scale).sum(),
        SF.gather_similarity(z0, z1, torch.arange(24).view(12, 2) % 12).sum(),
        SF.byol_loss(z0, z1), SF.byol_loss(z0, z1, reduction="none").sum(),
        SF.barlow_twins(z0, z1), SF.barlow_twins(wide0, wide1), SF.vicreg(z0, z1), SF.vicreg(wide0, wide1),
        SF.cross_correlation_sq(z0, z1)[1], SF.cross_correlation_sq(wide0, wide1)[1],
        SF.prototype_cross_entropy(z0, z1, z0.detach()),
        SF.siglip_loss(z0, z1, scale, -1.0), SF.softplus_similarity(z0, z1, 0.5, scale).sum(),
        SF.softplus_similarity(z0).sum(), SF.sigreg(z0, num_slices=8), SF.tico(z0, z1)[0],
        SF.gather_tokens(tokens, index, pos=rows(6, 5)).sum(),
        SF.scatter_tokens(tokens[:, :4], index, 6, fill=rows(5)).sum(),
        SF.masked_mse(tokens, rows(2, 6, 5).detach(), mask, normalize_target=True),
    ]
    sum(value.float() for value in values).backward()
    with torch.no_grad():  # several ranks compose their losses of parts
        anchors = Anchors(z0, z1, None, torch.tensor(2.0, dtype=wide(dtype)), "both", True, False, dtype)
        composed.contrast(anchors, True, Needs(True, True, False, True), Shard.alone, "cpu")
        projections = torch.randn(1, 12, 7, dtype=wide(dtype))
        sigreg.adjoint(projections, sigreg.sums(projections, 0.3, 5, "cpu"), 0.3, "cpu")
    keep, restore, _ = SF.random_masking(2, 6, 0.5, generator=torch.Generator().manual_seed(0))
    SF.patchify_gather(images, keep % 4, 4)
    teacher, student = [torch.randn(5)], [torch.randn(5)]
    SF.ema_update_(teacher, student, 0.9)
    SF.queue_update_(torch.zeros(4, 3), torch.randn(3, 3), 2)
    SF.topk_similarity(z0, z1, 2)
    SF.sinkhorn_bias(z0, z1, iterations=2)

with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
"""


def said(run_python: Callable[..., subprocess.CompletedProcess[str]], code: str) -> Any:
    """Run `EVERY_LOSS` and then the code inside the block that records warnings; return ``said`` as they left it."""
    done = run_python(f"{EVERY_LOSS}{code}\nprint(json.dumps(said))", SSLKERNELS_CHECK="1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_right_passes(run_python: Callable) -> None:
    code = """
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        run(dtype)
    said = [str(w.message) for w in seen if "SSLKERNELS_CHECK" in str(w.message)]
"""
    assert said(run_python, code) == []


WRONG = """
    import importlib
    from sslkernels.ops.registry import families

    def wrong(function):
        def broken(*given):
            found = function(*given)
            outputs = found if isinstance(found, tuple) else (found,)
            first = next((x for x in outputs if x is not None and x.numel()), None)
            if first is None:  # in place: of a teacher's pairs, or of a queue
                first = given[0].targets[0] if hasattr(given[0], "targets") else given[0]
            first += 1 if not first.is_floating_point() else 0.01 * first.abs().max() + 1e-3
            return found
        return broken

    said = {}
    for family in families().values():
        module = importlib.import_module(f"sslkernels.ops.{family.name}.cpu")
        for function, op in family.ops.items():
            kernel = getattr(module, function)
            setattr(module, function, wrong(kernel))
            before = len(seen)
            run()
            setattr(module, function, kernel)
            said[op.name] = sorted({str(w.message).split()[1] for w in seen[before:]})
"""


def test_every_op_that_is_wrong_is_named(run_python: Callable) -> None:
    """We break each op's C++ backend in turn. No other op is blamed, although it is given wrong inputs."""
    every = [op.name for family in families().values() for op in family.ops.values()]
    assert said(run_python, WRONG) == {name: [name] for name in every}


def test_an_input_that_a_kernel_changes_is_named(run_python: Callable) -> None:
    code = """
    from sslkernels.ops.rows import cpu
    kernel = cpu.dot_forward
    cpu.dot_forward = lambda x, y, shift: (kernel(x, y, shift), x.detach().mul_(2))[0]
    with torch.no_grad():
        SF.info_nce(torch.randn(4, 3), torch.randn(4, 3), normalize=False, reduction="none")
    said = [str(w.message) for w in seen]
"""
    (warning,) = said(run_python, code)
    assert warning.startswith("sslkernels: rows_dot_forward on cpu: x is off by")
