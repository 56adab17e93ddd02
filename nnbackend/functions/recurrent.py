"""Recurrent networks over sequences, forward and backward through time.

x: (n, T, d), n sequences of T >= 1 steps. The product of the inputs is done for all steps at once, that of the state
step by step. Inside, arrays have the steps first: (T, n, ...). `hidden` and `cells` are (T + 1, n, h): the state before
the first step, then the one after every step. A backward takes the gradient dy of all states after a step, (n, T, h),
and writes the gradients of the weights into the given arrays. No gradient reaches the state before the first step,
which truncates backpropagation through time there (the second volume of the book, section 5.2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from nnbackend.functions.activations import sigmoid, tanh, tanh_backward
from nnbackend.functions.affine import affine, affine_backward, product, product_into
from nnbackend.functions.array import Array, MaybeArray, array_namespace, stack
from nnbackend.functions.dispatch import floating


def batch_first(a: Array) -> Array:
    """Return (T, n, h) as (n, T, h), or the other way round."""
    return array_namespace(a).permute_dims(a, (1, 0, 2))


def input_products(x: Array, Wx: Array, b: Array) -> Array:
    """Return x Wx + b for all steps, (T, n, columns of Wx)."""
    xp, (n, steps, d) = array_namespace(x), x.shape
    return xp.reshape(affine(xp.reshape(batch_first(x), (steps * n, d)), Wx, b), (steps, n, Wx.shape[1]))


def input_products_backward(da: Array, x: Array, Wx: Array, dWx: Array, db: Array, need_dx: bool = True) -> MaybeArray:
    """Write dWx and db; return dx, or None. da: (T, n, columns of Wx)."""
    xp, (n, steps, d) = array_namespace(x), x.shape
    rows = xp.reshape(batch_first(x), (steps * n, d))
    dx = affine_backward(xp.reshape(da, (steps * n, Wx.shape[1])), rows, Wx, dWx, db, need_dx)
    return batch_first(xp.reshape(dx, (steps, n, d))) if need_dx else None


@floating
def for_products(W: Array) -> Array:
    """W, (n, m), with its elements where many products with it are fast: W itself, or a copy."""
    return W


def state_products_backward(hidden: Array, dr: Array, dWh: Array) -> None:
    """Write dWh, the gradient of the products of the states with Wh. dr: (T, n, columns of Wh)."""
    xp, (steps, n, columns) = array_namespace(dr), dr.shape
    before = xp.reshape(hidden[:-1, ...], (steps * n, hidden.shape[2]))
    product_into(before.T, xp.reshape(dr, (steps * n, columns)), dWh)


# --- the simple recurrent network ---------------------------------------------------------------------------------


@floating
def rnn(x: Array, Wx: Array, Wh: Array, b: Array, h: Array) -> Array:
    """h <- tanh(x Wx + b + h Wh) for every step (Elman 1990). x: (n, T, d); Wx: (d, h); Wh: (h, h); b: (h,); h: (n, h).

    Returns `hidden`, (T + 1, n, h).
    """
    a, hidden, Wh = input_products(x, Wx, b), [h], for_products(Wh)
    for t in range(x.shape[1]):
        hidden.append(tanh(a[t, ...] + product(hidden[-1], Wh)))
    return stack(hidden)


@floating
def rnn_backward(
    dy: Array, x: Array, Wx: Array, Wh: Array, hidden: Array, dWx: Array, dWh: Array, db: Array, need_dx: bool = True
) -> MaybeArray:
    """Write dWx, dWh and db; return dx, (n, T, d), or None without need_dx. x, Wx, Wh, hidden: of the forward."""
    dh, changes, WhT = dy[:, -1, :], [], for_products(Wh.T)
    for t in range(x.shape[1] - 1, -1, -1):
        changes.append(tanh_backward(dh, hidden[t + 1, ...]))
        dh = dy[:, t - 1, :] + product(changes[-1], WhT) if t else dh
    da = _in_order(changes)
    state_products_backward(hidden, da, dWh)
    return input_products_backward(da, x, Wx, dWx, db, need_dx)


def _in_order(last_first: Sequence[Array]) -> Array:
    return stack(last_first[::-1])


# --- long short-term memory ---------------------------------------------------------------------------------------


@floating
def lstm_gates(a: Array, r: Array, c: Array) -> tuple[Array, Array, Array]:
    """One step of an LSTM behind its products. a, r: (n, 4 h), of the inputs and of the state; c: (n, h), the cells.

    The four parts of a + r are f, g, i, o: the gate that forgets, the new content, the gates of input and output.
    f, i, o <- sigmoid, g <- tanh;  c <- f c + i g;  h <- o tanh(c).
    Returns the four after their functions, (n, 4 h), the new c and the new h.
    """
    xp, width = array_namespace(a), c.shape[1]
    a = a + r
    f, g = sigmoid(a[:, :width]), tanh(a[:, width : 2 * width])
    rest = sigmoid(a[:, 2 * width :])
    c = f * c + rest[:, :width] * g
    return xp.concat([f, g, rest], axis=1), c, rest[:, width:] * tanh(c)


@floating
def lstm_gates_backward(dh: Array, dc: Array, gates: Array, c: Array, c_next: Array) -> tuple[Array, Array]:
    """Return the gradients of a + r, (n, 4 h), and of c, (n, h).

    dh, dc: the gradients of the new h, and of the new c by the steps that follow. gates: of the forward. c, c_next: the
    cells before and after the step.
    """
    xp, width = array_namespace(dh), c.shape[1]
    f, g, i, o = (gates[:, k * width : (k + 1) * width] for k in range(4))
    squashed = tanh(c_next)
    dc = dc + dh * o * (1.0 - squashed * squashed)
    parts = [
        dc * c * f * (1.0 - f),
        dc * i * (1.0 - g * g),
        dc * g * i * (1.0 - i),
        dh * squashed * o * (1.0 - o),
    ]
    return xp.concat(parts, axis=1), dc * f


@floating
def lstm(x: Array, Wx: Array, Wh: Array, b: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    """Long short-term memory (Hochreiter, Schmidhuber 1997; with a forget gate, Gers, Schmidhuber, Cummins 2000).

    x: (n, T, d); Wx: (d, 4 h); Wh: (h, 4 h); b: (4 h,); h, c: (n, h). The four parts of the columns are those of
    `lstm_gates`: f, g, i, o, the order of the book's second volume (section 6.2). PyTorch has i, f, g, o, and two
    biases that are added.
    Returns hidden, (T + 1, n, h), the gates of every step, (T, n, 4 h), and cells, (T + 1, n, h).
    """
    a = input_products(x, Wx, b)
    hidden, cells, gates, Wh = [h], [c], [], for_products(Wh)
    for t in range(x.shape[1]):
        activated, c, h = lstm_gates(a[t, ...], product(h, Wh), c)
        hidden.append(h)
        cells.append(c)
        gates.append(activated)
    return stack(hidden), stack(gates), stack(cells)


@floating
def lstm_backward(
    dy: Array,
    x: Array,
    Wx: Array,
    Wh: Array,
    hidden: Array,
    gates: Array,
    cells: Array,
    dWx: Array,
    dWh: Array,
    db: Array,
    need_dx: bool = True,
) -> MaybeArray:
    """Write dWx, dWh and db; return dx, (n, T, d), or None without need_dx. All else is of the forward."""
    dh, changes, WhT = dy[:, -1, :], [], for_products(Wh.T)
    dc = array_namespace(dy).zeros_like(cells[0, ...])
    for t in range(x.shape[1] - 1, -1, -1):
        da, dc = lstm_gates_backward(dh, dc, gates[t, ...], cells[t, ...], cells[t + 1, ...])
        changes.append(da)
        dh = dy[:, t - 1, :] + product(da, WhT) if t else dh
    all_da = _in_order(changes)
    state_products_backward(hidden, all_da, dWh)
    return input_products_backward(all_da, x, Wx, dWx, db, need_dx)


# --- the gated recurrent unit -------------------------------------------------------------------------------------


@floating
def gru_gates(a: Array, r: Array, bh: Array, h: Array) -> tuple[Array, Array]:
    """One step of a GRU behind its products. a, r: (n, 3 h), of the inputs and of the state h, (n, h); bh: (h,).

    The three parts are r, z, n: the gates of reset and update, and the new content.
    r, z <- sigmoid(a + r);  u = r_n + bh;  n <- tanh(a_n + r u);  h <- (1 - z) n + z h.
    Returns r, z, n and u beside each other, (n, 4 h), and the new h.
    """
    xp, width = array_namespace(a), h.shape[1]
    both = sigmoid(a[:, : 2 * width] + r[:, : 2 * width])
    z, u = both[:, width:], r[:, 2 * width :] + bh
    new = tanh(a[:, 2 * width :] + both[:, :width] * u)
    return xp.concat([both, new, u], axis=1), new + z * (h - new)


@floating
def gru_gates_backward(dh: Array, gates: Array, h: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of a and of r, (n, 3 h) each, and the one of h past the products, (n, h).

    dh: the gradient of the new h; gates: of the forward; h: the state before the step. The gradient of bh is the sum of
    the last third of the one of r.
    """
    xp, width = array_namespace(dh), h.shape[1]
    r, z, new, u = (gates[:, k * width : (k + 1) * width] for k in range(4))
    dn = dh * (1.0 - z) * (1.0 - new * new)
    both = [dn * u * r * (1.0 - r), dh * (h - new) * z * (1.0 - z)]
    return xp.concat([*both, dn], axis=1), xp.concat([*both, dn * r], axis=1), dh * z


@floating
def gru(x: Array, Wx: Array, Wh: Array, b: Array, bh: Array, h: Array) -> tuple[Array, Array]:
    """A gated recurrent unit (Cho et al. 2014) in the form of cuDNN and PyTorch: reset comes behind the product.

    x: (n, T, d); Wx: (d, 3 h); Wh: (h, 3 h); b: (3 h,); bh: (h,); h: (n, h). The three parts of the columns are those
    of `gru_gates`: r, z, n, PyTorch's order. PyTorch has a second bias for r and z, too, which is added to the first.
    The book (second volume, appendix C) has z, r, h~, resets the state before the product, and swaps the parts of z.
    Returns hidden, (T + 1, n, h), and the gates of every step, (T, n, 4 h).
    """
    a = input_products(x, Wx, b)
    hidden, gates, Wh = [h], [], for_products(Wh)
    for t in range(x.shape[1]):
        activated, h = gru_gates(a[t, ...], product(h, Wh), bh, h)
        hidden.append(h)
        gates.append(activated)
    return stack(hidden), stack(gates)


@floating
def gru_backward(
    dy: Array,
    x: Array,
    Wx: Array,
    Wh: Array,
    hidden: Array,
    gates: Array,
    dWx: Array,
    dWh: Array,
    db: Array,
    dbh: Array,
    need_dx: bool = True,
) -> MaybeArray:
    """Write dWx, dWh, db and dbh; return dx, (n, T, d), or None without need_dx. All else is of the forward."""
    dh, changes, recurrent, WhT = dy[:, -1, :], [], [], for_products(Wh.T)
    for t in range(x.shape[1] - 1, -1, -1):
        da, dr, past = gru_gates_backward(dh, gates[t, ...], hidden[t, ...])
        changes.append(da)
        recurrent.append(dr)
        dh = dy[:, t - 1, :] + past + product(dr, WhT) if t else dh
    dr = _in_order(recurrent)
    state_products_backward(hidden, dr, dWh)
    dbh[...] = array_namespace(dr).sum(dr[:, :, 2 * dbh.shape[0] :], axis=(0, 1))
    return input_products_backward(_in_order(changes), x, Wx, dWx, db, need_dx)
