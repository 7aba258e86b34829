# SPDX-License-Identifier: Apache-2.0
"""Hold every public loss to what a value and a gradient from one call must keep.

The contracts are autograd's: whatever is done between forward and backward, and however often, the gradient is that of
the loss at its inputs, and nothing is computed, kept or rounded that nobody asked for.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from every_loss import EVERY_LOSS, Inputs, Loss, copied, gradients
from interpreted import INTERPRETED, run_interpreted
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.ops import one_call

if INTERPRETED:
    pytestmark = pytest.mark.share(6)

    @pytest.fixture
    def backend() -> str:
        return "triton"

else:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)


# These make no loss, or one that is not reduced to a number, or are plain PyTorch.
OTHERS = {
    "apply_masks", "block_masks", "cross_correlation_sq", "ema_update_", "gather_similarity", "gather_tokens",
    "balanced_sample", "group_ordering", "hierarchical_kmeans", "kmeans",
    "attend_similarity", "center_update_", "logsumexp_similarity",
    "patchify_gather", "queue_update_", "random_masking", "restore_tokens", "scatter_tokens",
    "sinkhorn_bias", "softplus_similarity", "span_mask", "topk_similarity", "tube_masks",
}  # fmt: skip
DTYPES = (torch.float32,) if INTERPRETED else (torch.float32, torch.float64, torch.bfloat16)
# The largest error of a value, and of a gradient relative to its largest entry. Rows are rounded before products.
CLOSE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


COMPILED_ONLY = pytest.mark.skipif(
    INTERPRETED, reason="Triton's interpreter multiplies no bfloat16, keeps tensors, and takes one thread."
)
READ_AGAIN = (
    "masked_mse", "masked_smooth_l1",  # their backward computes the gradient anew if it is not sent 1
    # They are several nodes, whose backwards read the rows.
    "clip_distillation", "graph_nt_xent", "mean_entropy", "mil_nce", "multi_label_bce", "sampled_info_nce",
)  # fmt: skip
# Plain PyTorch multiplies these, and differentiates twice: by a bias without effect, and by weights of terms.
PLAIN = ("logit_bias", "weight")

# A scalar, such as the gradient of a temperature, is a sum of terms of size 1 that may cancel to a tenth.
CANCELS = 0.1


@pytest.fixture(params=EVERY_LOSS)
def loss(request: pytest.FixtureRequest) -> Loss:
    return EVERY_LOSS[request.param]


def found(loss: Loss, inputs: Inputs, **options: Any) -> list[Tensor]:
    """Compute the value and every gradient."""
    value = loss(inputs, **options)
    return [value.detach(), *gradients(value, inputs).values()]


def assert_same_bits(got: Any, wanted: Any) -> None:
    got, wanted = (list(x.values()) if isinstance(x, dict) else x for x in (got, wanted))
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def assert_close(got: Tensor, wanted: Tensor, close: float) -> None:
    error, largest = (got.double() - wanted).abs().max(), wanted.abs().max()
    allowed = close * (largest + CANCELS * (wanted.dim() == 0))
    assert error <= allowed, f"off by {error:.3g}, where {allowed:.3g} is allowed and values reach {largest:.3g}"


def test_every_public_loss_is_listed() -> None:
    assert {loss.function.__name__ for loss in EVERY_LOSS.values()} == set(SF.__all__) - OTHERS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_at_any_grad_output(loss: Loss, backend: str, dtype: torch.dtype) -> None:
    for reduction in loss.reductions():
        inputs = loss.inputs(dtype)
        chosen = {"reduction": reduction} if reduction != "mean" else {}
        value = loss(inputs, **chosen, backend=backend)
        exact, slopes = loss.exact(inputs, **chosen)
        assert value.shape == () and value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_close(value.detach(), exact, CLOSE[dtype])
        once = gradients(value, inputs, retain_graph=True)
        for factor in (1.0, 0.0, -3.0, 65536.0):
            for requires_grad in (False, True):
                grad = torch.tensor(factor, dtype=value.dtype, requires_grad=requires_grad)
                for name, gradient in gradients(value, inputs, grad, retain_graph=True).items():
                    assert gradient.dtype == inputs[name].dtype and gradient.shape == inputs[name].shape
                    assert_close(gradient, factor * slopes[name], CLOSE[dtype])
                    if factor != -3:  # a power of two moves no digit
                        assert torch.equal(gradient, factor * once[name])


def test_a_faint_gradient_survives_when_it_is_scaled_up(loss: Loss, backend: str) -> None:
    """A gradient scaler saves faint gradients: they wait in float32 for grad_output, and are rounded once."""
    inputs, options = loss.faint_inputs(torch.float16)
    value = loss(inputs, **options, backend=backend)
    scaled = gradients(value, inputs, torch.tensor(65536.0))
    faint = 0
    for name, slope in loss.exact(inputs, **options)[1].items():
        size = slope.norm().clamp_min(1e-30)
        if inputs[name].dtype == torch.float16:
            faint += bool((slope.half().double() - slope).norm() / size > 5e-3)
            assert (scaled[name].double() / 65536 - slope).norm() / size < 2e-3
    assert faint, "No gradient was so small that float16 would lose it."


def test_two_backwards_give_the_same_bits(loss: Loss, backend: str) -> None:
    inputs = loss.inputs()
    value = loss(inputs, backend=backend)
    once = gradients(value, inputs, retain_graph=True)
    assert_same_bits(gradients(value, inputs, retain_graph=True), once)
    for times in (1, 2):
        value.backward(retain_graph=True)
        assert_same_bits([x.grad for x in inputs.values() if x.requires_grad], [times * g for g in once.values()])
    gradients(value, inputs)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_a_gradient_that_was_given_out_may_be_overwritten(loss: Loss, backend: str) -> None:
    """Optimizers clip and zero gradients in place, and a second backward must not read what they wrote."""
    inputs = loss.inputs()
    value = loss(inputs, backend=backend)
    given = gradients(value, inputs, retain_graph=True)
    wanted = copied(given)
    for gradient in given.values():
        gradient.fill_(torch.nan)
    assert_same_bits(gradients(value, inputs, retain_graph=True), wanted)


def test_gradients_add_up_in_leaves_that_are_viewed(loss: Loss, backend: str) -> None:
    """A leaf takes the gradient that it gets through a view as its own, and adds the next ones to it in place."""
    leaves = {name: x.detach().reshape(-1).requires_grad_(x.requires_grad) for name, x in loss.inputs().items()}
    inputs = {name: leaves[name].view(x.shape) for name, x in loss.inputs().items()}
    value = loss(inputs, backend=backend)
    once: list[Tensor] = []
    for times in (1, 2, 3, 4):
        value.backward(retain_graph=True)
        added = [leaf.grad for leaf in leaves.values() if leaf.requires_grad]
        once = once or [x.clone() for x in added]
        for one, other in zip(added, once, strict=True):
            torch.testing.assert_close(one, times * other)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, ...]]:
    """List which inputs each node of a value with its gradient was told to differentiate."""
    seen: list[tuple[bool, ...]] = []
    forward = one_call._OneCall.forward

    def watched(ctx: Any, *arguments: Any) -> Tensor:
        seen.append(arguments[2])
        return forward(ctx, *arguments)

    monkeypatch.setattr(one_call._OneCall, "forward", staticmethod(watched))
    return seen


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_value_alone_is_computed(
    loss: Loss, backend: str, mode: Callable[[], Any], asked: list[tuple[bool, ...]]
) -> None:
    inputs, kept = loss.inputs(rows=70, features=33), []
    wanted = loss(inputs, backend=backend)
    asked.clear()
    with mode(), torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x), lambda x: x):
        value = loss(inputs, backend=backend)
    assert torch.equal(value, wanted) and not value.requires_grad and value.grad_fn is None
    assert not kept and not any(map(any, asked))


def test_a_frozen_input_changes_nothing_else(loss: Loss, backend: str, asked: list[tuple[bool, ...]]) -> None:
    """Value and other gradients keep their bits; only frozen keys are read in another order, in a single pass."""
    inputs = loss.inputs(rows=70, features=33)
    wanted = loss(inputs, backend=backend)
    every = gradients(wanted, inputs)
    for frozen in every:
        some = {name: x.detach() if name == frozen else x for name, x in inputs.items()}
        asked.clear()
        value = loss(some, backend=backend)
        assert sum(map(sum, asked)) < len(every)
        assert value.requires_grad == (len(every) > 1)
        others = gradients(value, some) if value.requires_grad else {}
        prototypes = loss.function.__name__ == "mean_entropy" and frozen == "weight"  # the keys of its rows
        if frozen in ("key", "negatives") or prototypes:
            assert_close(value, wanted.double(), 1e-6)
            for name, gradient in others.items():
                assert_close(gradient, every[name].double(), 1e-5)
            continue
        if loss.function.__name__ == "multi_label_bce":
            # The gradients of scale and bias are made of the sums of one side that moves, whichever it is.
            for name in ("temperature", "bias"):
                if name in others:
                    assert_close(others.pop(name), every[name].double(), 1e-5)
        if loss.function.__name__ in ("mean_entropy", "multi_label_bce") and "temperature" in others:
            # A scale's gradient is made of the sums of one side that moves, whichever it is.
            assert_close(others.pop("temperature"), every["temperature"].double(), 1e-5)
        if INTERPRETED and "logit_scale" in others:  # Triton makes it of the sides that it moves, one or both
            assert_close(others.pop("logit_scale"), every["logit_scale"].double(), 1e-5)
        assert_same_bits([value, *others.values()], [wanted, *(every[name] for name in others)])


def test_frozen_inputs_may_be_overwritten_before_the_backward(loss: Loss, backend: str) -> None:
    """A queue takes new keys and a teacher moves on, while the loss still waits for its backward."""
    if loss.function.__name__ in READ_AGAIN:
        pytest.skip("the loss keeps its inputs")
    inputs = loss.inputs()
    differentiable = [name for name, x in inputs.items() if x.requires_grad]
    for left in differentiable:
        some = {name: x.detach().clone().requires_grad_(name == left) for name, x in inputs.items()}
        wanted = gradients(loss(some, backend=backend), some)
        value = loss(some, backend=backend)
        for name, x in some.items():
            if name != left:
                x.fill_(torch.nan if x.is_floating_point() else 0)
        assert_same_bits(gradients(value, some), wanted)


@COMPILED_ONLY
def test_frozen_inputs_are_not_kept_alive(loss: Loss, backend: str) -> None:
    if loss.function.__name__ in READ_AGAIN:
        pytest.skip("the loss keeps its inputs")
    inputs = loss.inputs()
    left = next(name for name, x in inputs.items() if x.requires_grad)
    some = {name: x.detach().clone().requires_grad_(name == left) for name, x in inputs.items()}
    value = loss(some, backend=backend)
    storages = [StorageWeakRef(some.pop(name).untyped_storage()) for name in list(some) if name != left]
    assert all(storage.expired() for storage in storages)
    assert value.requires_grad


@COMPILED_ONLY
def test_nothing_is_left_of_a_forward_without_a_backward(loss: Loss, backend: str) -> None:
    """Everything goes with the value, before any garbage is collected."""
    inputs = loss.inputs()
    loss(inputs, backend=backend)
    gc.disable()
    try:
        value = loss(inputs, backend=backend)
        storages = [StorageWeakRef(x.untyped_storage()) for x in inputs.values()]
        storages += [StorageWeakRef(x.untyped_storage()) for x in saved_by(value)]
        del value, inputs
        assert all(storage.expired() for storage in storages)
    finally:
        gc.enable()


def saved_by(value: Tensor) -> Iterator[Tensor]:
    """Walk the graph of the value for tensors that nodes written in Python saved."""
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        yield from (x for x in getattr(node, "saved_tensors", ()) if x is not None)
        nodes += [before for before, _ in getattr(node, "next_functions", ()) if before is not None]


def resident() -> int:
    with open("/proc/self/statm") as numbers:
        return 4096 * int(numbers.read().split()[1])


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow(loss: Loss, backend: str) -> None:
    """Fifty forwards without a backward, whose gradients are 1 MB each, take no memory.

    Now and then the allocator takes new pages for what it already had; what is never freed shows every time.
    """
    inputs = loss.inputs(rows=512, features=512)
    for _ in range(20):  # until the allocator has what it keeps
        loss(inputs, backend=backend)
    grown = []
    for _ in range(3):
        before = resident()
        for _ in range(50):
            loss(inputs, backend=backend)
        grown.append(resident() - before)
    assert min(grown) < 25 << 20


def test_a_second_derivative_raises(loss: Loss, backend: str) -> None:
    """A gradient penalty with respect to any input raises; it would otherwise count as a constant."""
    inputs = loss.inputs()
    inner = {name: 1 * x if x.requires_grad else x for name, x in inputs.items()}
    value = loss(inner, backend=backend)
    for name, x in inner.items():
        if not x.requires_grad or name in PLAIN:
            continue
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match="gives first derivatives only, and a second derivative was asked for"):
            torch.autograd.grad(value + gradient.square().sum(), inputs[name], retain_graph=True)


def test_the_derivative_by_grad_output_raises(loss: Loss, backend: str) -> None:
    inputs = loss.inputs()
    grad = torch.tensor(2.0, requires_grad=True)
    value = loss(inputs, backend=backend)
    given = gradients(value, inputs, grad, create_graph=True)
    for name in PLAIN:
        given.pop(name, None)
    for gradient in given.values():
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(gradient.sum(), grad, retain_graph=True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(loss: Loss, backend: str, reentrant: bool) -> None:
    inputs = loss.inputs()
    wanted = found(loss, inputs, backend=backend)

    def run(*tensors: Tensor) -> Tensor:
        return loss(dict(zip(inputs, tensors, strict=True)), backend=backend)

    value = checkpoint(run, *inputs.values(), use_reentrant=reentrant)
    value.backward()
    assert_same_bits([value.detach(), *(x.grad for x in inputs.values() if x.requires_grad)], wanted)


@COMPILED_ONLY
def test_autocast_gives_gradients_in_the_dtype_of_the_inputs(loss: Loss, backend: str) -> None:
    inputs = loss.inputs()
    exact, slopes = loss.exact(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(inputs, backend=backend)
    assert value.dtype == torch.float32
    assert_close(value.detach(), exact, CLOSE[torch.bfloat16])
    for name, gradient in gradients(value, inputs).items():
        assert gradient.dtype == torch.float32
        assert_close(gradient, slopes[name], CLOSE[torch.bfloat16])


def test_a_loss_inside_the_backward_of_another(loss: Loss, backend: str) -> None:
    inputs, others = loss.inputs(), EVERY_LOSS["nt_xent"].inputs()
    wanted, inside = found(loss, inputs, backend=backend), found(EVERY_LOSS["nt_xent"], others, backend=backend)
    seen: list[list[Tensor]] = []

    def hook(gradient: Tensor) -> None:
        with torch.enable_grad():
            seen.append(found(EVERY_LOSS["nt_xent"], others, backend=backend))

    inner = {name: 1 * x if x.requires_grad else x for name, x in inputs.items()}
    for x in inner.values():
        if x.requires_grad:
            x.register_hook(hook)
    value = loss(inner, backend=backend)
    assert_same_bits([value.detach(), *gradients(value, inputs).values()], wanted)
    assert len(seen) == len(wanted) - 1
    for one in seen:
        assert_same_bits(one, inside)


@COMPILED_ONLY
@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_at_once(backend: str, threads: int) -> None:
    """Every thread walks all losses with tensors of its own, and finds the bits that one thread finds alone."""
    problems = [{name: loss.inputs(rows=40 + place) for name, loss in EVERY_LOSS.items()} for place in range(8)]
    results: list[Any] = [None] * len(problems)

    def walk(place: int) -> None:
        torch.set_num_threads(threads)
        try:
            results[place] = [
                found(EVERY_LOSS[name], inputs, backend=backend) for name, inputs in problems[place].items()
            ]
        except Exception as error:
            results[place] = error

    def at_once(places: list[int]) -> list[Any]:
        running = [threading.Thread(target=walk, args=(place,)) for place in places]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return [results[place] for place in places]

    alone = [at_once([place])[0] for place in range(8)]
    for result, wanted in zip(at_once(list(range(8))), alone, strict=True):
        assert not isinstance(result, Exception), result
        for one, other in zip(result, wanted, strict=True):
            assert_same_bits(one, other)


FORKS = """
import os, signal, torch
from every_loss import EVERY_LOSS, gradients

torch.set_num_threads({threads})

def walk():
    torch.manual_seed(0)
    bits = []
    for loss in EVERY_LOSS.values():
        inputs = loss.inputs(rows=60)
        value = loss(inputs)
        bits += [value.detach(), *gradients(value, inputs).values()]
    return bits

wanted = walk()
child = os.fork()
if child == 0:
    signal.alarm(30)
    torch.set_num_threads(1)  # OpenMP has no threads after a fork, as torch's workers know
    os._exit(0 if all(torch.equal(x, y) for x, y in zip(walk(), wanted, strict=True)) else 3)
ended = os.waitpid(child, 0)[1]
assert os.waitstatus_to_exitcode(ended) == 0, ended
assert all(torch.equal(x, y) for x, y in zip(walk(), wanted, strict=True))
print("same bits")
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_of_a_fork_computes_the_same(run_python: Callable, threads: int) -> None:
    done = run_python(FORKS.format(threads=threads))
    assert done.returncode == 0 and done.stdout.split() == ["same", "bits"], done.stderr


EVERY_ISA = """
import torch
from every_loss import EVERY_LOSS, gradients
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for dtype, close in ((torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)):
    for rows, features in ((3, 2), (17, 33), (70, 19), (33, 130)):
        for name, loss in EVERY_LOSS.items():
            inputs = loss.inputs(dtype, rows, features)
            value = loss(inputs, backend="cpu")
            exact, slopes = loss.exact(inputs)
            spread = loss.spread(inputs, exact, slopes)
            compared = {{"value": (value, exact)}}
            compared |= {{of: (x, slopes[of]) for of, x in gradients(value, inputs).items()}}
            for what, (got, wanted) in compared.items():
                error, largest = (got.double() - wanted).abs().max().item(), wanted.abs().max().item()
                allowed = close * (largest + ({cancels} if wanted.dim() == 0 else 1e-3)) + 2 * spread[what]
                assert error <= allowed, (name, dtype, rows, features, what, error, largest)
print("agrees")
"""


def isas() -> list[str]:
    from sslkernels import _C

    return _C.available_isas()


@pytest.mark.slow
@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set_agrees_with_the_formulas(isa: str, run_python: Callable) -> None:
    done = run_python(EVERY_ISA.format(isa=isa, cancels=CANCELS), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiles_whole(loss: Loss, backend: str, fresh_compiler: None) -> None:
    """Value and gradient compile as full graphs, and so does the value alone."""
    inputs = loss.inputs()
    wanted = found(loss, inputs, backend=backend)
    names = list(inputs)

    def run(*tensors: Tensor) -> Tensor:
        return loss(dict(zip(names, tensors, strict=True)), backend=backend)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    value = compiled(*inputs.values())
    got = [value.detach(), *gradients(value, inputs).values()]
    with torch.no_grad():
        alone = compiled(*inputs.values())
    assert not alone.requires_grad
    for one, other in zip([*got, alone], [*wanted, wanted[0]], strict=True):
        assert_close(one, other.double(), CLOSE[torch.float32])
