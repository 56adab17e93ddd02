"""Provide the book's common.time_layers: layers over sequences, (n, T, ...), and one step of each recurrent layer.

The results have the common dtype of the input and the parameters. `stateful=True` carries the state over to the next
call of `forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy

from nnbackend import functions as F
from nnbackend.book.arrays import floating, number, together
from nnbackend.book.functions import labels
from nnbackend.book2.functions import cross_entropy_error, sigmoid, softmax
from nnbackend.book2.layers import (
    Affine,
    Bare,
    Dropout,
    Embedding,
    MatMul,
    Parts,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    expect,
    expect_bias,
    made,
)
from nnbackend.book2.np import GPU, np
from nnbackend.functions.affine import product
from nnbackend.functions.array import Array, MaybeArray, array_namespace, as_rows, device
from nnbackend.functions.recurrent import input_products, input_products_backward

__all__ = [
    "GPU",
    "GRU",
    "LSTM",
    "RNN",
    "Affine",
    "Dropout",
    "Embedding",
    "MatMul",
    "Sigmoid",
    "SigmoidWithLoss",
    "Simple_TimeAffine",
    "Simple_TimeSoftmaxWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "TimeAffine",
    "TimeBiLSTM",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeRNN",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "cross_entropy_error",
    "np",
    "sigmoid",
    "softmax",
]

State = Sequence[Array]  # (h,), or (h, c) of an LSTM; each (n, H)


# --- one step -----------------------------------------------------------------------------------------------------


class Step(Parts):
    """Base class of one step of a recurrent layer. Wx: (d, k H); Wh: (H, k H); b: (k H,), for k parts.

    A subclass says what follows the product of the input, a = x Wx + b.
    """

    parts: ClassVar[int] = 1  # the k above

    def __init__(self, Wx: Any, Wh: Any, b: Any):
        super().__init__(Wx, Wh, b)
        self.cache: Any = None

    @staticmethod
    def step(a: Array, Wh: Array, *state: Array) -> tuple[Any, State]:
        """Return what `step_backward` needs, and the next state. a: (n, k H)."""
        raise NotImplementedError

    @staticmethod
    def step_backward(kept: Any, Wh: Array, *dstate: Array) -> tuple[Array, State]:
        """Return the gradients of a and of the state before the step. dstate: those of the state after it."""
        raise NotImplementedError

    @staticmethod
    def state_products_backward(kept: Sequence[Any], da: Array) -> Array:
        """Return the gradient of Wh. kept, da: of all steps, (T, n, k H)."""
        before = _joined([k[0] for k in kept])
        return before.T @ as_rows(da)

    def _forward(self, x: Any, *state: Any) -> State:
        named = _named(state)
        x, Wx, Wh, b, *before = _arrays(self.params, self.parts, x=x, **named)
        expect("x", x, (None, Wx.shape[0]))
        for name, value in zip(named, before, strict=True):
            expect(f"{name}_prev", value, (x.shape[0], Wh.shape[0]))
        kept, after = self.step(F.affine(x, Wx, b), Wh, *before)
        self.cache = x, kept
        return after

    def _backward(self, *dstate: Any) -> tuple[Array, State]:
        x, kept = made("dh_next", self.cache)
        named = _named(dstate, "d")
        x, Wx, Wh, _, *after = _arrays(self.params, self.parts, x=x, **named)
        for name, value in zip(named, after, strict=True):
            expect(f"{name}_next", value, (x.shape[0], Wh.shape[0]))
        da, before = self.step_backward(kept, Wh, *after)
        xp = array_namespace(x)
        dWx, db = xp.empty_like(Wx), xp.empty_like(da[0, :])
        dx = F.affine_backward(da, x, Wx, dWx, db)
        self._write(dWx, self.state_products_backward([kept], da[None, ...]), db)
        return dx, before


class _StepOfH(Step):
    """Base class of a step whose state is h alone."""

    def forward(self, x: Any, h_prev: Any) -> Array:
        """Return the next h, (n, H). x: (n, d); h_prev: (n, H)."""
        return self._forward(x, h_prev)[0]

    def backward(self, dh_next: Any) -> tuple[Array, Array]:
        """Return dx and dh_prev."""
        dx, (dh,) = self._backward(dh_next)
        return dx, dh


class RNN(_StepOfH):
    """Computes h <- tanh(h Wh + x Wx + b). Wx: (d, H); Wh: (H, H); b: (H,)."""

    @staticmethod
    def step(a: Array, Wh: Array, *state: Array) -> tuple[Any, State]:
        after = F.tanh(a + product(state[0], Wh))
        return (state[0], after), (after,)

    @staticmethod
    def step_backward(kept: Any, Wh: Array, *dstate: Array) -> tuple[Array, State]:
        da = F.tanh_backward(dstate[0], kept[1])
        return da, (product(da, Wh.T),)


class LSTM(Step):
    """Computes a step of long short-term memory. Wx: (d, 4 H); Wh: (H, 4 H); b: (4 H,).

    The four parts of the columns are f, g, i, o: forget gate, new content, input gate, output gate (section 6.2).
    """

    parts = 4

    @staticmethod
    def step(a: Array, Wh: Array, *state: Array) -> tuple[Any, State]:
        h, c = state
        gates, c_next, h_next = F.lstm_gates(a, product(h, Wh), c)
        return (h, c, gates, c_next), (h_next, c_next)

    @staticmethod
    def step_backward(kept: Any, Wh: Array, *dstate: Array) -> tuple[Array, State]:
        (dh, dc), (_, c, gates, c_next) = dstate, kept
        da, dc = F.lstm_gates_backward(dh, dc, gates, c, c_next)
        return da, (product(da, Wh.T), dc)

    def forward(self, x: Any, h_prev: Any, c_prev: Any) -> State:
        """Return the next h and c, (n, H) each. x: (n, d); h_prev, c_prev: (n, H)."""
        return self._forward(x, h_prev, c_prev)

    def backward(self, dh_next: Any, dc_next: Any) -> tuple[Array, Array, Array]:
        """Return dx, dh_prev and dc_prev."""
        dx, (dh, dc) = self._backward(dh_next, dc_next)
        return dx, dh, dc


class GRU(_StepOfH):
    """Computes a step of a gated recurrent unit (appendix C). Wx: (d, 3 H); Wh: (H, 3 H); b: (3 H,).

    The three parts of the columns are z, r and the new content, whose product takes the state after its reset:
    z, r <- sigmoid;  n <- tanh(x Wx + (r h) Wh + b);  h <- (1 - z) h + z n.
    """

    parts = 3

    @staticmethod
    def step(a: Array, Wh: Array, *state: Array) -> tuple[Any, State]:
        (h,), xp = state, array_namespace(a)
        width = h.shape[1]
        both = F.sigmoid(a[:, : 2 * width] + product(h, Wh[:, : 2 * width]))
        z, r = both[:, :width], both[:, width:]
        new = F.tanh(a[:, 2 * width :] + product(xp.multiply(r, h), Wh[:, 2 * width :]))
        return (h, z, r, new), ((1.0 - z) * h + z * new,)

    @staticmethod
    def step_backward(kept: Any, Wh: Array, *dstate: Array) -> tuple[Array, State]:
        (dh,), (h, z, r, new) = dstate, kept
        width = h.shape[1]
        dn = F.tanh_backward(dh * z, new)
        dreset = product(dn, Wh[:, 2 * width :].T)
        dz, dr = F.sigmoid_backward(dh * (new - h), z), F.sigmoid_backward(dreset * h, r)
        both = array_namespace(dh).concat([dz, dr], axis=1)
        before = dh * (1.0 - z) + dreset * r + product(both, Wh[:, : 2 * width].T)
        return array_namespace(dh).concat([both, dn], axis=1), (before,)

    @staticmethod
    def state_products_backward(kept: Sequence[Any], da: Array) -> Array:
        h, reset = _joined([k[0] for k in kept]), _joined([k[0] * k[2] for k in kept])
        width = h.shape[1]
        parts = [h.T @ as_rows(da)[:, : 2 * width], reset.T @ as_rows(da)[:, 2 * width :]]
        return array_namespace(da).concat(parts, axis=1)


# --- all steps ----------------------------------------------------------------------------------------------------


class _Recurrent(Parts):
    """Base class of recurrent layers over xs, (n, T, d). forward returns h after every step, (n, T, H).

    h: the state after the last step, (n, H), from which a stateful layer goes on. dh: after `backward`, the gradient of
    the state before the first step.
    """

    kind: ClassVar[type[Step]]
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, Wx: Any, Wh: Any, b: Any, stateful: bool = False):
        super().__init__(Wx, Wh, b)
        self.stateful = stateful
        self.h: MaybeArray = None
        self.dh: MaybeArray = None
        self._cache: Any = None

    def forward(self, xs: Any) -> Array:
        before = {name: getattr(self, name) for name in self.states if self.stateful}
        given = {name: value for name, value in before.items() if value is not None}
        xs, Wx, Wh, b, *found = _arrays(self.params, self.kind.parts, x=xs, **given)
        expect("xs", xs, (None, None, Wx.shape[0]))
        n, steps, width = xs.shape[0], xs.shape[1], Wh.shape[0]
        at = dict(zip(given, found, strict=True))
        xp, kept, hs = array_namespace(xs), [], []
        zeros = xp.zeros((n, width), dtype=xs.dtype, device=device(xs))
        state: State = [at.get(name, zeros) for name in self.states]
        for name, value in zip(self.states, state, strict=True):
            expect(name, value, (n, width))
        a = input_products(xs, Wx, b)
        for t in range(steps):
            one, state = self.kind.step(a[t, ...], Wh, *state)
            kept.append(one)
            hs.append(state[0])
        for name, value in zip(self.states, state, strict=True):
            setattr(self, name, value)
        self._cache = xs, kept
        return xp.stack(hs, axis=1)

    def backward(self, dhs: Any) -> Array:
        xs, kept = made("dhs", self._cache)
        dhs, Wx, Wh, b = _arrays(self.params, self.kind.parts, x=dhs)
        expect("dhs", dhs, (*xs.shape[:2], Wh.shape[0]))
        xp = array_namespace(dhs)
        dstate: State = [xp.zeros_like(dhs[:, 0, :])] * len(self.states)
        all_da = []
        for t in range(xs.shape[1] - 1, -1, -1):
            da, dstate = self.kind.step_backward(kept[t], Wh, dhs[:, t, :] + dstate[0], *dstate[1:])
            all_da.append(da)
        da = xp.stack(all_da[::-1])
        dWx, db = xp.empty_like(Wx), xp.empty_like(b)
        dxs = input_products_backward(da, xs, Wx, dWx, db)
        self._write(dWx, self.kind.state_products_backward(kept, da), db)
        self.dh = dstate[0]
        assert dxs is not None
        return dxs

    def reset_state(self) -> None:
        """Begin with zeros at the next call of `forward`."""
        for name in self.states:
            setattr(self, name, None)


class _RecurrentOfH(_Recurrent):
    """Base class of recurrent layers whose state is h alone."""

    def set_state(self, h: Any) -> None:
        """Begin with h, (n, H), at the next call of `forward`, if the layer is stateful."""
        self.h = h


class TimeRNN(_RecurrentOfH):
    """Computes `RNN` for every step."""

    kind = RNN


class TimeGRU(_RecurrentOfH):
    """Computes `GRU` for every step."""

    kind = GRU


class TimeLSTM(_Recurrent):
    """Computes `LSTM` for every step. c: the cells after the last step, (n, H)."""

    kind = LSTM
    states = ("h", "c")

    def __init__(self, Wx: Any, Wh: Any, b: Any, stateful: bool = False):
        super().__init__(Wx, Wh, b, stateful)
        self.c: MaybeArray = None

    def set_state(self, h: Any, c: Any = None) -> None:
        """Begin with h and c, (n, H) each, at the next call of `forward`, if the layer is stateful. c: None for 0."""
        self.h, self.c = h, c


class TimeBiLSTM:
    """Computes one `TimeLSTM` forward and one backward in time; forward returns (n, T, 2 H)."""

    def __init__(self, Wx1: Any, Wh1: Any, b1: Any, Wx2: Any, Wh2: Any, b2: Any, stateful: bool = False):
        self.forward_lstm = TimeLSTM(Wx1, Wh1, b1, stateful)
        self.backward_lstm = TimeLSTM(Wx2, Wh2, b2, stateful)
        self.params = self.forward_lstm.params + self.backward_lstm.params
        self.grads = self.forward_lstm.grads + self.backward_lstm.grads

    def forward(self, xs: Any) -> Array:
        (xs,) = together(xs=xs)
        xp = array_namespace(xs)
        one, other = self.forward_lstm.forward(xs), self.backward_lstm.forward(xp.flip(xs, axis=1))
        return xp.concat([one, xp.flip(other, axis=1)], axis=2)

    def backward(self, dhs: Any) -> Array:
        (dhs,) = together(dhs=dhs)
        xp, width = array_namespace(dhs), self.forward_lstm.params[1].shape[0]
        one = self.forward_lstm.backward(dhs[:, :, :width])
        return one + xp.flip(self.backward_lstm.backward(xp.flip(dhs[:, :, width:], axis=1)), axis=1)


class TimeEmbedding(Embedding):
    """Takes the rows W[xs]. xs: (n, T) integers. Returns (n, T, d)."""

    @property
    def W(self) -> Any:
        """The table, (vocabulary, d)."""
        return self.params[0]


class TimeAffine(Affine):
    """Computes x W + b. x: (n, T, d); W: (d, o); b: (o,)."""


class TimeDropout(Bare):
    """Drops elements with probability dropout_ratio if train_flg, and divides the others by 1 - dropout_ratio.

    The mask is drawn from numpy.random, as in the book. Raises ValueError for a ratio that is not from 0 to below 1.
    """

    def __init__(self, dropout_ratio: float = 0.5):
        super().__init__()
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f"dropout_ratio: expected a number from 0 to below 1, got {dropout_ratio!r}")
        self.dropout_ratio = dropout_ratio
        self.mask: MaybeArray = None
        self.train_flg = True

    def forward(self, xs: Any) -> Array:
        (xs,) = floating(*together(xs=xs))
        y: Array = xs
        if not self.train_flg:
            return y
        kept = numpy.random.rand(*xs.shape) > self.dropout_ratio
        xs, mask = together(xs=xs, mask=kept / (1.0 - self.dropout_ratio))
        self.mask = array_namespace(xs).astype(mask, xs.dtype)
        y = xs * self.mask
        return y

    def backward(self, dout: Any) -> Array:
        dout, mask = together(dout=dout, mask=self.mask)
        dx: Array = dout * mask
        return dx


class TimeSoftmaxWithLoss(Bare):
    """Computes the cross entropy error of the softmax of xs, (n, T, V), as the mean over all places that count.

    ts: labels, (n, T), or one-hot rows, (n, T, V). A place whose label is `ignore_label` does not count. The logarithm
    is taken of the scores, so nothing is added to the probability. Raises ValueError if no place counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = None
        self.ignore_label = -1

    def forward(self, xs: Any, ts: Any) -> Any:
        xs, ts = together(xs=xs, ts=ts)
        (xs,) = floating(xs)
        expect("xs", xs, (None, None, None))
        xp = array_namespace(xs)
        ts = xp.argmax(ts, axis=2) if ts.ndim == 3 else ts
        expect("ts", ts, tuple(xs.shape[:2]))
        ts = xp.reshape(ts, (-1,))
        counts = ts != self.ignore_label
        ts = labels(as_rows(xs), xp.where(counts, ts, xp.zeros_like(ts)))
        weight = xp.astype(counts, xs.dtype)
        if not number(xp.any(counts)):
            raise ValueError(f"ts: every label is {self.ignore_label}, which does not count")
        loss, ys = F.softmax_cross_entropy(as_rows(xs), ts, weight)
        self.cache = ts, ys, weight, tuple(xs.shape)
        return numpy.float64(number(loss))

    def backward(self, dout: Any = 1) -> Array:
        ts, ys, weight, shape = made("dout", self.cache)
        return array_namespace(ys).reshape(dout * F.softmax_cross_entropy_backward(ys, ts, weight), shape)


class TimeSigmoidWithLoss(Bare):
    """Computes `SigmoidWithLoss` of xs, (n, T), as the mean over all places. ts: (n, T), 0 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.xs_shape: tuple[int, ...] | None = None
        self._layer = SigmoidWithLoss()

    def forward(self, xs: Any, ts: Any) -> Any:
        xs, ts = together(xs=xs, ts=ts)
        expect("xs", xs, (None, None))
        expect("ts", ts, tuple(xs.shape))
        self.xs_shape, xp = tuple(xs.shape), array_namespace(xs)
        return self._layer.forward(xp.reshape(xs, (-1,)), xp.reshape(ts, (-1,)))

    def backward(self, dout: Any = 1) -> Array:
        dx = self._layer.backward(dout)
        return array_namespace(dx).reshape(dx, self.xs_shape)


class Simple_TimeSoftmaxWithLoss(Bare):
    """Computes `SoftmaxWithLoss` of xs, (n, T, V), as the mean over all places. ts: labels, (n, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = None

    def forward(self, xs: Any, ts: Any) -> Any:
        xs, ts = together(xs=xs, ts=ts)
        expect("xs", xs, (None, None, None))
        layer = SoftmaxWithLoss()
        self.cache = layer, tuple(xs.shape)
        return layer.forward(as_rows(xs), array_namespace(ts).reshape(ts, (-1,)))

    def backward(self, dout: Any = 1) -> Array:
        layer, shape = made("dout", self.cache)
        dx: Array = layer.backward(dout)
        return array_namespace(dx).reshape(dx, shape)


class Simple_TimeAffine(TimeAffine):
    """Computes x W + b as `TimeAffine`, with the names W, b, dW and db for parameters and gradients."""

    @property
    def W(self) -> Any:
        return self.params[0]

    @property
    def b(self) -> Any:
        return self.params[1]

    @property
    def dW(self) -> Any:
        return self.grads[0]

    @property
    def db(self) -> Any:
        return self.grads[1]


def _named(arrays: Sequence[Any], before: str = "") -> dict[str, Any]:
    return {f"{before}{name}": value for name, value in zip(("h", "c"), arrays, strict=False)}


def _arrays(params: Sequence[Any], parts: int, x: Any, **state: Any) -> list[Array]:
    """Return x, the parameters Wx, Wh and b, and the state on one device and in one dtype.

    Raise ValueError unless the parameters are (d, parts H), (H, parts H), and (parts H,) or (1, parts H).
    """
    Wx, Wh, b = params
    x, Wx, Wh, b, *rest = floating(*together(x=x, Wx=Wx, Wh=Wh, b=b, **state))
    columns = parts * Wh.shape[0] if Wh.ndim else 0
    expect("Wh", Wh, (None, columns))
    expect("Wx", Wx, (None, columns))
    expect_bias(b, columns)
    return [x, Wx, Wh, array_namespace(b).reshape(b, (columns,)), *rest]


def _joined(steps: Sequence[Array]) -> Array:
    """Return the (n, H) of all steps as (T n, H)."""
    return array_namespace(steps[0]).concat(list(steps), axis=0)
