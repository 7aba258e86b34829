# SPDX-License-Identifier: Apache-2.0
# Pointers are integers as `Tensor.data_ptr()` gives them; 0 stands for "absent". Strides count elements.
from collections.abc import Sequence
from typing import Any

from torch import Tensor

def isa() -> str: ...
def available_isas() -> list[str]: ...
def limit_workspace(bytes: int) -> None: ...
def workspace_bytes() -> int: ...
def release_workspace() -> None: ...
def sigmoid_forward(
    dtype: int,
    x: Sequence[int],
    y: Sequence[int],
    itself: bool,
    paired: bool,
    d: int,
    scale: float,
    bias: float,
    sums: int,
    threads: int,
) -> None: ...
def sigmoid_backward(
    dtype: int,
    x: Sequence[int],
    y: Sequence[int],
    itself: bool,
    paired: bool,
    d: int,
    scale: float,
    bias: float,
    weights: int,
    to: Sequence[int],
    threads: int,
) -> None: ...
def sigmoid_loss(
    dtype: int,
    x: Sequence[int],
    y: Sequence[int],
    paired: bool,
    d: int,
    scale: float,
    bias: float,
    share: float,
    value: int,
    to: Sequence[int],
    threads: int,
) -> None: ...
def neighbours_topk(
    dtype: int,
    metric: int,
    x: int,
    x_strides: Sequence[int],
    y: int,
    y_strides: Sequence[int],
    itself: bool,
    bias: int,
    exclude: int,
    sizes: Sequence[int],
    values: int,
    indices: int,
    threads: int,
) -> None: ...
def attention_forward(
    dtype: int,
    queries: int,
    query_stride: int,
    n: int,
    keys: int,
    key_stride: int,
    values: int,
    value_stride: int,
    m: int,
    d: int,
    dv: int,
    scale: float,
    bias: int,
    exclude: int,
    excluded: int,
    out: int,
    lse: int,
    threads: int,
) -> None: ...
def attention_backward(
    dtype: int,
    queries: int,
    query_stride: int,
    n: int,
    keys: int,
    key_stride: int,
    values: int,
    value_stride: int,
    m: int,
    d: int,
    dv: int,
    scale: float,
    bias: int,
    exclude: int,
    excluded: int,
    out: int,
    lse: int,
    grad: int,
    wanted: Sequence[int],  # moved_queries, moved_keys, dvalues, dbias
    threads: int,
) -> None: ...
def similarity_forward(given: tuple[Any, ...], rows: int, columns: int, attended: int, threads: int) -> None: ...
def similarity_backward(
    given: tuple[Any, ...], sums: Sequence[int], moved_x: int, moved_y: int, of_bias: int, threads: int
) -> None: ...
def similarity_weigh(
    dtype: int,
    x: int,
    x_stride: int,
    n: int,
    y: int,
    y_stride: int,
    d: int,
    scale: float,
    rows: int,
    columns: int,
    share: float,
    row_weights: int,
    column_weights: int,
    pull: int,
    threads: int,
) -> tuple[float, float]: ...
def similarity_finish(
    dtype: int,
    x: int,
    x_stride: int,
    n: int,
    d: int,
    moved: int,
    partners: int,
    partners_stride: int,
    pull: int,
    norms: int,
    scale: float,
    out: int,
    threads: int,
) -> float: ...
def similarity_kept_bytes(against: int, compute: int, n: int, m: int, d: int, threads: int) -> int: ...
def similarity_contrast(
    against: int,
    dtype: int,
    compute: int,
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    n: int,
    negatives: int,
    negatives_stride: int,
    m: int,
    d: int,
    scale: float,
    unit: bool,
    frozen: bool,
    share: float,
    most_kept: int,
    value: int,
    gradients: Sequence[int],
    threads: int,
) -> None: ...
def unit_rows_forward(
    dtype: int, z: int, z_stride: int, n: int, d: int, out_dtype: int, unit: int, norms: int, threads: int
) -> None: ...
def unit_rows_backward(
    dtype: int,
    unit: int,
    norms: int,
    grad: int,
    grad_stride: int,
    n: int,
    d: int,
    out_dtype: int,
    dz: int,
    threads: int,
) -> None: ...
def row_dot_forward(
    dtype: int, x: int, x_stride: int, n: int, y: int, y_stride: int, m: int, d: int, shift: int, out: int, threads: int
) -> None: ...
def scale_rows(
    dtype: int,
    y: int,
    y_stride: int,
    m: int,
    d: int,
    shift: int,
    grad: int,
    also: int,
    also_shift: int,
    n: int,
    out: int,
    threads: int,
) -> None: ...
def row_cosine_forward(
    dtype: int, x: int, x_stride: int, y: int, y_stride: int, n: int, d: int, eps: float, cosines: int, norms: int,
    threads: int,
) -> None: ...  # fmt: skip
def row_cosine_backward(
    dtype: int, x: int, x_stride: int, y: int, y_stride: int, n: int, d: int, eps: float, cosines: int, norms: int,
    grad: int, grad_stride: int, dx: int, dy: int, threads: int,
) -> None: ...  # fmt: skip
def row_cosine_loss(
    dtype: int, x: int, x_stride: int, y: int, y_stride: int, n: int, d: int, eps: float, offset: float, weight: float,
    share: float, value: int, dx: int, dy: int, threads: int,
) -> None: ...  # fmt: skip
def correlation_moments(
    dtype: int, z0: int, stride0: int, z1: int, stride1: int, n: int, d: int, centre: bool,
    mean: int, squares: int, products: int, gap: int, threads: int,
) -> None: ...  # fmt: skip
def correlation_samples(
    dtype: int, z: int, stride: int, n: int, d: int, mean: int, scale: int, first: int, count: int, out: int,
    threads: int,
) -> None: ...  # fmt: skip
def correlation_features(
    dtype: int, compute: int, a: int, a_stride: int, a_mean: int, a_scale: int, b: int, b_stride: int, b_mean: int,
    b_scale: int, itself: bool, n: int, d: int, out: int, threads: int,
) -> None: ...  # fmt: skip
def correlation_energies(
    dtype: int, x: int, y: int, n: int, m: int, rows: int, columns: int, total: int, threads: int
) -> None: ...
def correlation_backward(
    dtype: int, compute: int, z: tuple[int, int], strides: tuple[int, int], mean: tuple[int, int],
    scale: tuple[int, int], n: int, d: int, first: int, count: int, samples: bool, cross: bool,
    matrix: tuple[int, int], outer: int, own: int, mixed: int, through: int, pull: float, widened: bool,
    out: tuple[int, int], threads: int,
) -> None: ...  # fmt: skip
def correlation_loss(
    dtype: int, compute: int, z: tuple[int, int], strides: tuple[int, int], n: int, d: int, energy: int, samples: bool,
    standardised: bool, unbiased: bool, outside: bool, eps: float, agreement: float, gap: float, hinge: float,
    hinge_eps: float, off: float, power: int, value: int, gradients: tuple[int, int], threads: int,
) -> None: ...  # fmt: skip
def characteristic_sums(
    dtype: int, p: int, sizes: tuple[int, int, int, int], step: float, turns: tuple[float, float, float], out: int,
    threads: int,
) -> None: ...  # fmt: skip
def characteristic_adjoint(
    dtype: int, p: int, sizes: tuple[int, int, int, int], step: float, turns: tuple[float, float, float], grad: int,
    dp: int, threads: int,
) -> None: ...  # fmt: skip
def characteristic_statistic(
    dtype: int, p: int, sizes: tuple[int, int, int, int], step: float, turns: tuple[float, float, float], scale: float,
    dp: int, threads: int,
) -> float: ...  # fmt: skip
def sigreg_distance(dtype: int, z: int, sizes: tuple[int, int, int], scale: float, dz: int, threads: int) -> float: ...
def tokens_gather(
    dtype: int, x: int, sample_stride: int, row_stride: int, prefix: int, d: int, index: int, wide: bool,
    shape: tuple[int, int, int], length: int, fill: int, pos: int, by_place: bool, to: int, out: int, threads: int,
) -> bool: ...  # fmt: skip
def tokens_collect(
    dtype: int, x: int, sample_stride: int, row_stride: int, prefix: int, d: int, index: int, wide: bool,
    shape: tuple[int, int, int], length: int, fill: int, strict: bool, to: int, out: int, threads: int,
) -> bool: ...  # fmt: skip
def tokens_sums(
    dtype: int, x: int, sample_stride: int, row_stride: int, d: int, index: int, wide: bool,
    shape: tuple[int, int, int], length: int, out: int, threads: int,
) -> None: ...  # fmt: skip
def tokens_ranks(
    keys: int, batch: int, length: int, keep: int, ids_keep: int, ids_restore: int, mask: int, threads: int
) -> None: ...
def tokens_patches(
    dtype: int, images: int, channels: int, down: int, across: int, patch: int, index: int, wide: bool,
    shape: tuple[int, int, int], out: int, threads: int,
) -> bool: ...  # fmt: skip
def tokens_masked_error(
    dtype: int, pred: int, sample_stride: int, row_stride: int, target_dtype: int, target: int,
    target_sample_stride: int, target_row_stride: int, weights: int, samples: int, tokens: int, d: int, norm: int,
    beta: float, grad: float, value: int, dpred: int, threads: int,
) -> None: ...  # fmt: skip
def ema_table(
    targets: Sequence[Tensor], sources: Sequence[Tensor], masters: Sequence[Tensor], tensor: type, parameter: type
) -> bytes | None: ...
def ema_update(table: bytes, momentum: float, threads: int) -> None: ...
def ema_enqueue(
    queue_dtype: int, queue: int, queue_stride: int, size: int, keys_dtype: int, keys: int, keys_stride: int,
    count: int, d: int, start: int, threads: int,
) -> None: ...  # fmt: skip

CUDA_VERSION: int

def cuda_driver_version() -> int: ...
def cuda_load(image: bytes) -> int: ...
def cuda_kernel(library: int, name: str) -> int: ...
def cuda_launch(
    kernel: int, device: int, stream: int, blocks: tuple[int, int], threads: tuple[int, int],
    fields: tuple[int | float, ...],
) -> None: ...  # fmt: skip
def prototypes_multiply(
    rows: int,
    row_stride: int,
    weight: int,
    weight_stride: int,
    d: int,
    products: int,
    size: tuple[int, ...],
    threads: int,
) -> None: ...
def prototypes_compare(
    dtype: int, student: int, student_stride: int, weight: int, weight_stride: int, d: int, teacher: int,
    teacher_stride: int, teacher_weight: int, teacher_weight_stride: int, teacher_d: int, size: tuple[int, int, int],
    scale: float, teacher_scale: float, bias: int, index: int, share: int, each: int, most: int, kept: int, value: int,
    dstudent: int, dweight: int, dscale: int, threads: int,
) -> None: ...  # fmt: skip
def prototypes_columns(
    dtype: int, products: int, size: tuple[int, ...], scale: float, weights: int, peaks: int, totals: int, threads: int
) -> None: ...
def prototypes_spread(
    dtype: int, products: int, size: tuple[int, ...], scale: float, weights: int, bias: int, mass: int, threads: int
) -> None: ...
def sampled_forward(
    dtype: int,
    x: int,
    x_stride: int,
    n: int,
    y: int,
    y_stride: int,
    m: int,
    d: int,
    index: int,
    wide: bool,
    k: int,
    scale: float,
    out: int,
    threads: int,
) -> None: ...
def sampled_gradient_of_x(
    dtype: int,
    x: int,
    x_stride: int,
    n: int,
    y: int,
    y_stride: int,
    m: int,
    d: int,
    index: int,
    wide: bool,
    k: int,
    scale: float,
    grad: int,
    out: int,
    along: int,
    threads: int,
) -> None: ...
def sampled_gradient_of_y(
    dtype: int,
    x: int,
    x_stride: int,
    n: int,
    y: int,
    y_stride: int,
    m: int,
    d: int,
    index: int,
    wide: bool,
    k: int,
    scale: float,
    grad: int,
    out: int,
    along: int,
    threads: int,
) -> None: ...
