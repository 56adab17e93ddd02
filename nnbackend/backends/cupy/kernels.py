"""Kernels for CuPy, which need one launch instead of several. Their source is kernels.cu, compiled once per dtype.

The reference serves arguments that a kernel does not support (other dtypes, long rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import cupy

from nnbackend.backends.cupy import cublas
from nnbackend.functions import (
    affine,
    affine_backward,
    convolution,
    convolution_backward,
    count_correct,
    dropout_mask,
    elastic_positions,
    elu,
    elu_backward,
    embedding,
    embedding_backward,
    gelu,
    gelu_backward,
    gru_gates,
    gru_gates_backward,
    leaky_relu,
    leaky_relu_backward,
    lstm_gates,
    lstm_gates_backward,
    product,
    record,
    relu,
    relu_backward,
    resample,
    resample_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_recorded,
    softmax_cross_entropy_rows,
    take_rows,
    tanh,
    tanh_backward,
    total_weight,
    uniform,
)
from nnbackend.functions.array import concat, pieces
from nnbackend.functions.convolution import Pair, Size, output_size, pad, unpadded, windows
from nnbackend.functions.dispatch import kernel
from nnbackend.functions.losses import fraction
from nnbackend.functions.optimizers import (
    adagrad_step,
    adam_step,
    adamw_step,
    average_step,
    clip_by_norm,
    momentum_step,
    nesterov_step,
    rmsprop_step,
    sgd_step,
)

Array = Any
THREADS = 128
TOGETHER = 256  # threads of a block that sum together, rows of a partial sum, and most partial sums
BLOCK_ROWS = 1024  # the largest number of rows, and of threads, that one block takes
GRID_ROWS = 8 * 65535  # the largest number of rows of a CUDA grid
COLUMNS = 256  # one thread walks along a row; for longer rows the reference's reductions are faster
CHAINED = 2**15  # ids that are compared with each other in one launch
PAIRS = 2**24  # pixels times positions of an image, each of which a kernel looks at; for more, products are faster
PATCHES = 2**24  # elements of the patches that are laid out for one product
NULL = 0


@cache
def _kernel(name: str, dtype: str) -> Any:
    return _module(dtype).get_function(f"nn_{name}")


@cache
def _module(dtype: str) -> Any:
    real = {"f": "float", "d": "double"}[dtype]
    source = files("nnbackend.backends.cupy").joinpath("kernels.cu").read_text(encoding="utf-8")
    return cupy.RawModule(code=f"typedef {real} T;\n{source}")


def _launch(name: str, dtype: Any, n: int, *arguments: Any) -> None:
    """Run n threads of a KERNEL. arguments: contiguous arrays, ints, floats (double in the kernel), NULL."""
    if n:
        _kernel(name, dtype.char)((_parts(n, THREADS),), (THREADS,), (n, *arguments))


def _launch_grid(name: str, dtype: Any, shape: tuple[int, int], *arguments: Any, blocks: int | None = None) -> None:
    """Run a GRID kernel over a matrix of `shape`. blocks: the number of blocks along the rows."""
    n, columns = shape
    if n and columns:
        below = min(_parts(n, 8), 65535) if blocks is None else blocks
        _kernel(name, dtype.char)((_parts(columns, 32), below), (32, 8), (n, *arguments))


def _launch_blocks(name: str, dtype: Any, blocks: int, threads: int, n: int, *arguments: Any) -> None:
    """Run a BLOCK kernel with `blocks` blocks of `threads` threads each."""
    _kernel(name, dtype.char)((blocks,), (threads,), (n, *arguments))


def _parts(n: int, size: int) -> int:
    """Return the number of parts of `size` that cover n."""
    return -(-n // size)


def _column_sum(x: Array, out: Array) -> None:
    """Write the sum of the rows of x, a contiguous matrix, to out. Only the shape decides the order of additions."""
    n, columns = x.shape
    if n == 0:
        out.fill(0)
        return
    rows = max(TOGETHER, _parts(n, TOGETHER))
    parts = _parts(n, rows)
    to = out if parts == 1 else cupy.empty((parts, columns), x.dtype)
    _launch_grid("column_sum", x.dtype, x.shape, to, x, columns, rows, blocks=parts)
    if parts > 1:
        _column_sum(to, out)


def _add_bias(y: Array, b: Array) -> None:
    """Add b to every row of y, a contiguous matrix, in place."""
    _launch_grid("add_bias", y.dtype, y.shape, y, _contiguous(b), y.shape[1])


def _real(*arrays: Array) -> bool:
    """Say whether all arrays are float32, or all are float64."""
    return arrays[0].dtype.char in "fd" and all(a.dtype == arrays[0].dtype for a in arrays)


_contiguous = cupy.ascontiguousarray


# --- activations ---------------------------------------------------------------------------------------------------


def _elementwise(function: Callable[..., Array], arrays: tuple[Array, ...], *numbers: float) -> Array:
    first = arrays[0]
    if not _real(*arrays) or any(a.shape != first.shape for a in arrays):
        return NotImplemented
    y = cupy.empty(first.shape, first.dtype)
    alpha = float(numbers[0]) if numbers else 0.0
    _launch(function.__name__, y.dtype, y.size, y, *map(_contiguous, arrays), alpha)
    return y


@kernel(sigmoid, cupy.ndarray)
def _(x: Array) -> Any:
    return _elementwise(sigmoid, (x,))


@kernel(sigmoid_backward, cupy.ndarray)
def _(dy: Array, y: Array) -> Any:
    return _elementwise(sigmoid_backward, (dy, y))


@kernel(relu, cupy.ndarray)
def _(x: Array) -> Any:
    return _elementwise(relu, (x,))


@kernel(relu_backward, cupy.ndarray)
def _(dy: Array, y: Array) -> Any:
    return _elementwise(relu_backward, (dy, y))


@kernel(leaky_relu, cupy.ndarray)
def _(x: Array, alpha: float = 0.01) -> Any:
    return _elementwise(leaky_relu, (x,), alpha)


@kernel(leaky_relu_backward, cupy.ndarray)
def _(dy: Array, y: Array, alpha: float = 0.01) -> Any:
    return _elementwise(leaky_relu_backward, (dy, y), alpha)


@kernel(tanh, cupy.ndarray)
def _(x: Array) -> Any:
    return _elementwise(tanh, (x,))


@kernel(tanh_backward, cupy.ndarray)
def _(dy: Array, y: Array) -> Any:
    return _elementwise(tanh_backward, (dy, y))


@kernel(elu, cupy.ndarray)
def _(x: Array, alpha: float = 1.0) -> Any:
    return _elementwise(elu, (x,), alpha)


@kernel(elu_backward, cupy.ndarray)
def _(dy: Array, y: Array, alpha: float = 1.0) -> Any:
    return _elementwise(elu_backward, (dy, y), alpha)


@kernel(silu, cupy.ndarray)
def _(x: Array) -> Any:
    return _elementwise(silu, (x,))


@kernel(silu_backward, cupy.ndarray)
def _(dy: Array, x: Array) -> Any:
    return _elementwise(silu_backward, (dy, x))


@kernel(gelu, cupy.ndarray)
def _(x: Array) -> Any:
    return _elementwise(gelu, (x,))


@kernel(gelu_backward, cupy.ndarray)
def _(dy: Array, x: Array) -> Any:
    return _elementwise(gelu_backward, (dy, x))


# --- affine --------------------------------------------------------------------------------------------------------


def _product(a: Array, b: Array, out: Array = None) -> Array:
    """Return the matrix product a b, in `out` if that is given. a, b: matrices, or stacks of as many, (k, n, m)."""
    handle = cublas.handle(a.device.id)
    if handle is None or not _real(a, b):
        return cupy.matmul(a, b, out=out)
    if out is None:
        out = cupy.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    if a.shape[-1] == 0:
        out.fill(0)
    elif out.size:
        a, b = (x if cublas.layout(x if x.ndim == 2 else x[0]) else _contiguous(x) for x in (a, b))
        handle.matmul(a, b, out, cupy.cuda.get_current_stream().ptr)
    return out


def _stack(x: Array) -> Array:
    """Return x, (..., n, m), as (k, n, m), each matrix of which lies in one piece, perhaps transposed."""
    turned = cupy.swapaxes(x, -1, -2)
    if turned.flags.c_contiguous and not x.flags.c_contiguous:
        return cupy.swapaxes(turned.reshape(-1, *turned.shape[-2:]), -1, -2)
    return _contiguous(x).reshape(-1, *x.shape[-2:])


@kernel(product, cupy.ndarray)
def _(a: Array, b: Array) -> Any:
    if not _real(a, b) or a.ndim != b.ndim or a.ndim < 2 or a.shape[:-2] != b.shape[:-2] or a.size * b.size == 0:
        return NotImplemented
    return _product(a, b) if a.ndim == 2 else _product(_stack(a), _stack(b)).reshape(*a.shape[:-1], b.shape[-1])


@kernel(affine, cupy.ndarray)
def _(x: Array, W: Array, b: Array) -> Any:
    if not _real(x, W, b):
        return NotImplemented
    y = _product(x, W)
    _add_bias(y, b)
    return y


@kernel(affine_backward, cupy.ndarray)
def _(dy: Array, x: Array, W: Array, dW: Array, db: Array, need_dx: bool = True) -> Any:
    if not (_real(dy, x, W, dW, db) and dW.flags.c_contiguous and db.flags.c_contiguous):
        return NotImplemented
    _product(x.T, dy, dW)
    _column_sum(_contiguous(dy), db)
    return _product(dy, W.T) if need_dx else None


# --- convolution: patches of the images are laid out as rows, then multiplied by the filters -----------------------


def _batches(x: Array, W: Array, count: Pair) -> list[slice]:
    """Return slices of a batch of images whose patches have at most PATCHES elements."""
    patches = count[0] * count[1] * W[..., 0].size
    return list(pieces(x.shape[0], max(1, PATCHES // max(1, patches))))


def _patches(x: Array, W: Array, count: Pair, stride: Size) -> Array:
    """Return the windows of the padded images x as rows: (n h' w', kh kw c)."""
    (kh, kw, c, _), n = W.shape, x.shape[0]
    laid_out = cupy.empty((n, *count, kh, kw, c), x.dtype)
    for i, j, index in windows(count, (kh, kw), stride):
        laid_out[:, :, :, i, j, :] = x[index]
    return laid_out.reshape(n * count[0] * count[1], kh * kw * c)


@kernel(convolution, cupy.ndarray)
def _(x: Array, W: Array, b: Array, stride: Size = 1, padding: Size = 0) -> Any:
    if not _real(x, W, b):
        return NotImplemented
    kh, kw, c, o = W.shape
    count = output_size(x.shape[1:3], (kh, kw), stride, padding)
    x, filters = pad(x, padding), _contiguous(W).reshape(kh * kw * c, o)
    y = cupy.empty((x.shape[0], *count, o), x.dtype)
    for piece in _batches(x, W, count):
        _product(_patches(x[piece], W, count, stride), filters, y[piece].reshape(-1, o))
    _add_bias(y.reshape(-1, o), b)
    return y


@kernel(convolution_backward, cupy.ndarray)
def _(
    dy: Array,
    x: Array,
    W: Array,
    dW: Array,
    db: Array,
    stride: Size = 1,
    padding: Size = 0,
    need_dx: bool = True,
) -> Any:
    if not (_real(dy, x, W, dW, db) and dW.flags.c_contiguous and db.flags.c_contiguous):
        return NotImplemented
    (_, h, w, _), (kh, kw, c, o), count = x.shape, W.shape, dy.shape[1:3]
    x, dy, filters = pad(x, padding), _contiguous(dy), _contiguous(W).reshape(kh * kw * c, o)
    _column_sum(dy.reshape(-1, o), db)
    dW.fill(0)
    dx = cupy.zeros(x.shape, x.dtype) if need_dx else None
    for piece in _batches(x, W, count):
        rows = dy[piece].reshape(-1, o)
        part = _product(_patches(x[piece], W, count, stride).T, rows)
        dW += part.reshape(dW.shape)
        if dx is not None:
            back = _product(rows, filters.T).reshape(-1, *count, kh, kw, c)
            for i, j, index in windows(count, (kh, kw), stride):
                dx[piece][index] += back[:, :, :, i, j, :]
    return None if dx is None else dx[unpadded(h, w, padding)]


@kernel(concat, cupy.ndarray)
def _(first: Array, axis: int, *others: Array) -> Any:
    # CuPy copies the addresses of more than 8 small arrays from the host, which a capture forbids
    if not cublas.is_capturing() or any(a.dtype != first.dtype for a in others):
        return NotImplemented
    before, start = (slice(None),) * (axis % first.ndim), 0
    shape = list(first.shape)
    shape[axis] = sum(a.shape[axis] for a in (first, *others))
    y = cupy.empty(tuple(shape), first.dtype)
    for a in (first, *others):
        y[(*before, slice(start, start + a.shape[axis]))] = a
        start += a.shape[axis]
    return y


# --- rows ----------------------------------------------------------------------------------------------------------


@kernel(softmax, cupy.ndarray)
def _(x: Array) -> Any:
    if not _real(x) or not 0 < x.shape[-1] <= COLUMNS:
        return NotImplemented
    y = cupy.empty(x.shape, x.dtype)
    _launch("softmax", y.dtype, y.size // y.shape[-1], y, _contiguous(x), y.shape[-1])
    return y


@kernel(softmax_backward, cupy.ndarray)
def _(dy: Array, y: Array) -> Any:
    if not _real(dy, y) or dy.shape != y.shape or not 0 < y.shape[-1] <= COLUMNS:
        return NotImplemented
    dx = cupy.empty(y.shape, y.dtype)
    rows = dx.size // dx.shape[-1]
    _launch("softmax_backward", dx.dtype, rows, dx, _contiguous(dy), _contiguous(y), dx.shape[-1])
    return dx


def _targets(x: Array, t: Array, weight: Array, class_weight: Array, label_smoothing: float) -> tuple[Any, ...] | None:
    """Return the target arguments of the loss kernels for x, (n, classes), or None if they do not support them."""
    settings = [a for a in (weight, class_weight) if a is not None]
    if x.ndim != 2 or not _real(x, *settings) or not 0 < x.shape[1] <= COLUMNS:
        return None
    labels, rows = (_as(t, cupy.int64), NULL) if t.ndim == 1 else (NULL, _as(t, x.dtype))
    pointers = (NULL if a is None else _contiguous(a) for a in (weight, class_weight))
    return labels, rows, *pointers, float(label_smoothing)


def _as(x: Array, dtype: Any) -> Array:
    return _contiguous(x if x.dtype == dtype else x.astype(dtype))


@kernel(softmax_cross_entropy_rows, cupy.ndarray)
def _(x: Array, t: Array, weight: Array = None, class_weight: Array = None, label_smoothing: float = 0.0) -> Any:
    targets = _targets(x, t, weight, class_weight, label_smoothing)
    if targets is None:
        return NotImplemented
    rows = cupy.empty(x.shape[:1], x.dtype)
    _launch("softmax_cross_entropy", x.dtype, x.shape[0], rows, NULL, _contiguous(x), x.shape[1], *targets)
    return rows


@kernel(softmax_cross_entropy, cupy.ndarray)
def _(
    x: Array,
    t: Array,
    weight: Array = None,
    class_weight: Array = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    targets = _targets(x, t, weight, class_weight, label_smoothing)
    if targets is None:
        return NotImplemented
    rows, y = cupy.empty(x.shape[:1], x.dtype), cupy.empty(x.shape, x.dtype)
    _launch("softmax_cross_entropy", x.dtype, x.shape[0], rows, y, _contiguous(x), x.shape[1], *targets)
    if divisor is not None:
        return rows.sum() / divisor, y
    if weight is None and class_weight is None:
        return rows.mean(), y
    return fraction(rows.sum(), total_weight(t, weight, class_weight)), y


@kernel(softmax_cross_entropy_backward, cupy.ndarray)
def _(
    y: Array,
    t: Array,
    weight: Array = None,
    class_weight: Array = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    targets = _targets(y, t, weight, class_weight, label_smoothing)
    if targets is None:
        return NotImplemented
    total = total_weight(t, weight, class_weight) if divisor is None else divisor
    divided = (0.0, total) if isinstance(total, cupy.ndarray) else (float(total), NULL)
    dx = cupy.empty(y.shape, y.dtype)
    arguments = (dx, _contiguous(y), y.shape[1], *targets, *divided)
    _launch("softmax_cross_entropy_backward", y.dtype, y.shape[0], *arguments)
    return dx


@kernel(count_correct, cupy.ndarray)
def _(y: Array, t: Array, weight: Array = None) -> Any:
    if weight is not None or t.ndim != 1 or y.ndim != 2 or not _real(y) or not 0 < y.shape[1] <= COLUMNS:
        return NotImplemented
    correct = cupy.empty(t.shape, cupy.int64)
    _launch("is_correct", y.dtype, t.size, correct, _contiguous(y), y.shape[1], _as(t, cupy.int64))
    return correct.sum()


# --- recurrent networks: a thread does all that is behind the products for one element of the state -----------------


def _step(name: str, results: tuple[Array, ...], width: int, *arrays: Array) -> tuple[Array, ...]:
    _launch(name, results[0].dtype, results[-1].size, *results, width, *map(_contiguous, arrays))
    return results


@kernel(lstm_gates, cupy.ndarray)
def _(a: Array, r: Array, c: Array) -> Any:
    if not _real(a, r, c):
        return NotImplemented
    results = tuple(cupy.empty(like.shape, c.dtype) for like in (a, c, c))
    return _step("lstm_gates", results, c.shape[1], a, r, c)


@kernel(lstm_gates_backward, cupy.ndarray)
def _(dh: Array, dc: Array, gates: Array, c: Array, c_next: Array) -> Any:
    if not _real(dh, dc, gates, c, c_next):
        return NotImplemented
    results = tuple(cupy.empty(like.shape, c.dtype) for like in (gates, c))
    return _step("lstm_gates_backward", results, c.shape[1], dh, dc, gates, c, c_next)


@kernel(gru_gates, cupy.ndarray)
def _(a: Array, r: Array, bh: Array, h: Array) -> Any:
    if not _real(a, r, bh, h):
        return NotImplemented
    n, width = h.shape
    results = cupy.empty((n, 4 * width), h.dtype), cupy.empty(h.shape, h.dtype)
    return _step("gru_gates", results, width, a, r, bh, h)


@kernel(gru_gates_backward, cupy.ndarray)
def _(dh: Array, gates: Array, h: Array) -> Any:
    if not _real(dh, gates, h):
        return NotImplemented
    n, width = h.shape
    results = tuple(cupy.empty((n, columns), h.dtype) for columns in (3 * width, 3 * width, width))
    return _step("gru_gates_backward", results, width, dh, gates, h)


# --- ids -----------------------------------------------------------------------------------------------------------


@kernel(embedding, cupy.ndarray)
def _(W: Array, ids: Array) -> Any:
    if not _real(W):
        return NotImplemented
    columns = W.shape[1]
    y = cupy.empty((*ids.shape, columns), W.dtype)
    arguments = (y, _contiguous(W), _as(ids, cupy.int64), columns, W.shape[0])
    _launch_grid("embedding", W.dtype, (ids.size, columns), *arguments)
    return y


@kernel(embedding_backward, cupy.ndarray)
def _(dy: Array, ids: Array, dW: Array) -> Any:
    if not (_real(dy, dW) and dW.flags.c_contiguous):
        return NotImplemented
    # Sums by atomics would have another order in every run, and a sort cannot be captured: equal ids are chained.
    flat, rows = _as(ids, cupy.int64).reshape(-1), _contiguous(dy).reshape(-1, dW.shape[1])
    dW.fill(0)
    for piece in pieces(flat.size, CHAINED):
        part, chain = flat[piece], cupy.empty((piece.stop - piece.start,), cupy.int64)
        _launch("chain", dW.dtype, part.size, chain, part)
        arguments = (dW, rows[piece], part, chain, dW.shape[1], dW.shape[0])
        _launch_grid("sum_chains", dW.dtype, (part.size, dW.shape[1]), *arguments)
    return None


# --- random bits ---------------------------------------------------------------------------------------------------


@kernel(dropout_mask, cupy.ndarray)
def _(x: Array, ratio: float, seed: int, stream: int, clock: Array) -> Any:
    if not _real(x):
        return NotImplemented
    mask = cupy.empty(x.shape, x.dtype)
    seed = (seed + 2**63) % 2**64 - 2**63  # the same 64 bits as a signed integer
    arguments = (mask, mask.size, round(ratio * 2**24), 1.0 / (1.0 - ratio), seed, stream, clock)
    _launch("dropout_mask", mask.dtype, -(-mask.size // 4), *arguments)
    return mask


@kernel(uniform, cupy.ndarray)
def _(x: Array, shape: tuple[int, ...], seed: int, stream: int, clock: Array) -> Any:
    if not _real(x):
        return NotImplemented
    out = cupy.empty(shape, x.dtype)
    seed = (seed + 2**63) % 2**64 - 2**63
    _launch("uniform", out.dtype, -(-out.size // 4), out, out.size, seed, stream, clock)
    return out


# --- images --------------------------------------------------------------------------------------------------------


@kernel(resample, cupy.ndarray)
def _(x: Array, rows: Array, columns: Array, fill: float = 0.0) -> Any:
    if not _real(x, rows, columns):
        return NotImplemented
    _, h, w, c = x.shape
    y = cupy.empty((*rows.shape, c), x.dtype)
    points = rows.shape[1] * rows.shape[2]
    arrays = [_contiguous(a) for a in (x, rows, columns)]
    _launch("resample", y.dtype, y.size, y, *arrays, points, h, w, c, float(fill))
    return y


@kernel(resample_backward, cupy.ndarray)
def _(dy: Array, rows: Array, columns: Array, size: tuple[int, int]) -> Any:
    (h, w), points = size, rows.shape[1] * rows.shape[2]
    if not _real(dy, rows, columns) or h * w * points > PAIRS:
        return NotImplemented
    dx = cupy.empty((dy.shape[0], h, w, dy.shape[3]), dy.dtype)
    arrays = [_contiguous(a) for a in (dy, rows, columns)]
    _launch("resample_backward", dx.dtype, dx.size, dx, *arrays, points, h, w, dx.shape[3])
    return dx


@kernel(elastic_positions, cupy.ndarray)
def _(draws: Array, size: tuple[int, int], distance: float, spacing: float) -> Any:
    if not _real(draws):
        return NotImplemented
    images, beside = draws.shape[2:]
    rows, columns = (cupy.empty((images, *size), draws.dtype) for _ in range(2))
    scale = 2.0 * math.sqrt(3.0) * distance
    arguments = (_contiguous(draws), images, beside, *size, scale, float(spacing))
    _launch("elastic_positions", draws.dtype, rows.size, rows, columns, *arguments)
    return rows, columns


# --- optimizers ----------------------------------------------------------------------------------------------------


def _number(value: Any) -> tuple[float, Any]:
    """Return a number as two kernel arguments: its value, and its array on the device or NULL."""
    return (0.0, _as(value, cupy.float64)) if isinstance(value, cupy.ndarray) else (float(value), NULL)


def _count(value: Any) -> tuple[float, Any]:
    """Return a count of steps as two kernel arguments: its value, and its array on the device or NULL."""
    return (0.0, _as(value, cupy.int64)) if isinstance(value, cupy.ndarray) else (float(value), NULL)


def _in_place(g: Array, *written: Array) -> bool:
    """Say whether a kernel may write to these buffers."""
    return _real(g, *written) and all(a.flags.c_contiguous and a.shape == g.shape for a in written)


@kernel(clip_by_norm, cupy.ndarray)
def _(g: Array, limit: float) -> Any:
    if not _in_place(g):
        return NotImplemented
    if g.size:
        squares = cupy.empty((min(TOGETHER, _parts(g.size, 4 * TOGETHER)),), cupy.float64)
        _launch_blocks("square_sums", g.dtype, squares.size, TOGETHER, g.size, squares, g)
        _launch_blocks(
            "clip", g.dtype, _parts(g.size, TOGETHER), TOGETHER, g.size, g, squares, squares.size, float(limit)
        )
    return None


def _update(function: Callable[..., None], p: Array, g: Array, slots: tuple[Array, ...], *settings: Any) -> None:
    """Launch the kernel of an optimizer step, which writes p and the slots. settings: the kernel's last arguments."""
    _launch(function.__name__, p.dtype, p.size, p, _contiguous(g), *slots, *settings)


@kernel(sgd_step, cupy.ndarray)
def _(p: Array, g: Array, lr: float, weight_decay: float = 0.0) -> Any:
    if not _in_place(g, p):
        return NotImplemented
    return _update(sgd_step, p, g, (), *_number(lr), float(weight_decay))


@kernel(average_step, cupy.ndarray)
def _(average: Array, p: Array, decay: float) -> Any:
    if not _in_place(p, average):
        return NotImplemented
    _launch("average_step", average.dtype, average.size, average, _contiguous(p), float(decay))
    return None


@kernel(momentum_step, cupy.ndarray)
def _(p: Array, g: Array, v: Array, lr: float, momentum: float, weight_decay: float = 0.0) -> Any:
    if not _in_place(g, p, v):
        return NotImplemented
    return _update(momentum_step, p, g, (v,), *_number(lr), float(momentum), float(weight_decay))


@kernel(nesterov_step, cupy.ndarray)
def _(p: Array, g: Array, v: Array, lr: float, momentum: float, weight_decay: float = 0.0) -> Any:
    if not _in_place(g, p, v):
        return NotImplemented
    return _update(nesterov_step, p, g, (v,), *_number(lr), float(momentum), float(weight_decay))


@kernel(adagrad_step, cupy.ndarray)
def _(p: Array, g: Array, h: Array, lr: float, eps: float, weight_decay: float = 0.0) -> Any:
    if not _in_place(g, p, h):
        return NotImplemented
    return _update(adagrad_step, p, g, (h,), *_number(lr), float(eps), float(weight_decay))


@kernel(rmsprop_step, cupy.ndarray)
def _(p: Array, g: Array, h: Array, lr: float, alpha: float, eps: float, weight_decay: float = 0.0) -> Any:
    if not _in_place(g, p, h):
        return NotImplemented
    return _update(rmsprop_step, p, g, (h,), *_number(lr), float(alpha), float(eps), float(weight_decay))


@kernel(adam_step, cupy.ndarray)
def _(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
) -> Any:
    if not _in_place(g, p, m, v):
        return NotImplemented
    return _update(adam_step, p, g, (m, v), *_adam_settings(t, lr, beta1, beta2, eps, weight_decay))


@kernel(adamw_step, cupy.ndarray)
def _(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Any:
    if not _in_place(g, p, m, v):
        return NotImplemented
    return _update(adamw_step, p, g, (m, v), *_adam_settings(t, lr, beta1, beta2, eps, weight_decay))


def _adam_settings(t: Any, lr: Any, beta1: float, beta2: float, eps: float, weight_decay: float) -> tuple[Any, ...]:
    logarithms = (math.log(beta) if beta else -math.inf for beta in (beta1, beta2))
    return (*_count(t), *_number(lr), float(beta1), float(beta2), *logarithms, float(eps), float(weight_decay))


# --- begin and end of a step ---------------------------------------------------------------------------------------


def _place(at: Array | int) -> tuple[int, Any, int]:
    """Return a step number as three kernel arguments: its value, the counters on the device, and their number."""
    return (at, NULL, 0) if isinstance(at, int) else (0, at, at.size)


def _are_words(*arrays: Array) -> bool:
    """Say whether these arrays are contiguous rows of 32-bit words."""
    return all(isinstance(a, cupy.ndarray) and a.itemsize in (4, 8) and a.ndim and a.flags.c_contiguous for a in arrays)


@kernel(take_rows, cupy.ndarray)
def _(order: Array, at: Array | int, stride: int, start: int, size: int, *arrays: Array) -> Any:
    inside = not isinstance(at, int) or at * stride + start + size <= order.size
    if not (_are_words(order, *arrays) and order.dtype == cupy.int64 and len(arrays) <= 3 and inside):
        return NotImplemented
    if size > GRID_ROWS:
        return NotImplemented
    taken = tuple(cupy.empty((size, *a.shape[1:]), a.dtype) for a in arrays)
    widths = [math.prod(a.shape[1:]) * a.itemsize // 4 for a in arrays]
    copies: list[Any] = []
    for to, a, width in zip(taken, arrays, widths, strict=True):
        copies += [to, a, width]
    copies += [NULL, NULL, 0] * (3 - len(arrays))
    settings = (order, order.size, *_place(at)[:2], stride, start)
    _launch_grid("take_rows", cupy.dtype("float32"), (size, sum(widths)), *settings, *copies)
    return taken


def _takes_entries(metrics: Array, at: Array | int) -> bool:
    return (
        metrics.dtype.char in "fd"
        and metrics.flags.c_contiguous
        and (isinstance(at, int) or (at.dtype == cupy.int64 and at.flags.c_contiguous))
    )


@kernel(record, cupy.ndarray)
def _(metrics: Array, at: Array | int, *values: Array | float) -> Any:
    kinds = [getattr(value, "dtype", None) for value in values]
    if not (_takes_entries(metrics, at) and kinds in ([metrics.dtype], [metrics.dtype, cupy.int64])):
        return NotImplemented
    loss, correct = (*values, NULL)[:2]
    return _launch("record", metrics.dtype, 1, metrics, metrics.shape[1], *_place(at), loss, correct)


@kernel(softmax_cross_entropy_recorded, cupy.ndarray)
def _(
    x: Array,
    t: Array,
    metrics: Array,
    at: Array | int,
    class_weight: Array = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    targets = _targets(x, t, None, class_weight, label_smoothing)
    apart = (
        class_weight is not None and divisor is None
    )  # the sum of weights would have to be known before the gradient
    if targets is None or apart or x.shape[0] == 0 or x.dtype != metrics.dtype or not _takes_entries(metrics, at):
        return NotImplemented
    (n, classes), dx = x.shape, cupy.empty(x.shape, x.dtype)
    share = float(n if divisor is None else divisor)
    rows = (_contiguous(x), classes, *targets, share)
    entry = (metrics, metrics.shape[1], *_place(at))
    if n <= BLOCK_ROWS:
        threads = max(32, 2 ** (n - 1).bit_length())
        _launch_blocks("softmax_cross_entropy_recorded", x.dtype, 1, threads, n, dx, *rows, *entry)
    else:
        losses, correct = cupy.empty((n,), x.dtype), cupy.empty((n,), cupy.int32)
        _launch("softmax_cross_entropy_apart", x.dtype, n, dx, losses, correct, *rows)
        _launch_blocks("record_mean", x.dtype, 1, BLOCK_ROWS, n, *entry, losses, correct, share)
    return dx
