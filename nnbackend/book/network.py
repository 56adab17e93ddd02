"""Provide the base class of the book's networks: named layers and a dictionary of parameters."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from nnbackend.backends import backend, to_numpy
from nnbackend.book.arrays import number, together
from nnbackend.book.functions import labels
from nnbackend.book.gradient import numerical_gradient
from nnbackend.book.layers import BatchNormalization, Dropout, SoftmaxWithLoss
from nnbackend.book.pickles import load_arrays
from nnbackend.errors import ModelFileError
from nnbackend.files import write_atomically
from nnbackend.functions.array import Array, array_namespace, pieces


class LayeredNet:
    """Holds named layers in order, and a loss. The parameters are float64 arrays of the backend that is selected.

    params: the parameters by name ("W1", "b1", ...). If a script puts an array into params or into a layer, the network
    uses it from then on. layers: the layers by name. last_layer: the loss.
    """

    _rows_at_once: int | None = None

    def __init__(self) -> None:
        self.weight_decay_lambda: float = 0
        self.params: dict[str, Array] = {}
        self.layers: Any = OrderedDict()
        self.last_layer = SoftmaxWithLoss()
        self._owners: dict[str, tuple[Any, str]] = {}  # by parameter: the key of its layer, and the attribute there
        self._placed: dict[str, Array] = {}  # the arrays in params that the layers hold

    def _draw(self, i: int, scale: float, shape: tuple[int, ...]) -> None:
        """Make W i, of shape (inputs, outputs) or (filters, c, h, w), drawn from numpy.random, and b i, zeros."""
        outputs = shape[1] if len(shape) == 2 else shape[0]
        for name, value in {f"W{i}": scale * np.random.randn(*shape), f"b{i}": np.zeros(outputs)}.items():
            self.params[name] = backend().asarray(value)

    def _append(self, key: str, kind: Any, *names: str, **settings: Any) -> None:
        """Append a layer of class `kind`. names: its parameters' keys in params. settings: its other arguments."""
        self.layers[key] = kind(*(self.params[name] for name in names), **settings)
        attributes = ("gamma", "beta") if kind is BatchNormalization else ("W", "b")
        for attribute, name in zip(attributes, names, strict=False):
            self._owners[name], self._placed[name] = (key, attribute), self.params[name]

    def _draw_and_append(
        self, key: str, kind: Any, i: int, scale: float, shape: tuple[int, ...], **settings: int
    ) -> None:
        self._draw(i, scale, shape)
        self._append(key, kind, f"W{i}", f"b{i}", **settings)

    def _ordered(self) -> list[Any]:
        return list(self.layers.values())

    # --- methods for scripts ----------------------------------------------------------------------------------

    def predict(self, x: Any, train_flg: bool = False) -> Array:
        """Return scores (logits), (n, classes), for x, (n, ...)."""
        self._take_params()
        y: Array = x
        for layer in self._ordered():
            flags = (train_flg,) if isinstance(layer, Dropout | BatchNormalization) else ()
            y = layer.forward(y, *flags)
        return y

    def loss(self, x: Any, t: Any, train_flg: bool = False) -> Any:
        """Return the cross entropy error plus weight_decay_lambda / 2 times the squared weights.

        t: integer labels, (n,) or (n, 1), or one-hot rows. Raises as `cross_entropy_error`.
        """
        loss = self.last_layer.forward(self._scores(x, train_flg), t)
        decay = 0
        for name, (_, attribute) in self._owners.items():
            if attribute == "W" and self.weight_decay_lambda:
                W = self.params[name]
                decay += 0.5 * self.weight_decay_lambda * number(array_namespace(W).sum(W**2))
        return number(loss) + decay

    def accuracy(self, x: Any, t: Any, batch_size: int | None = None) -> Any:
        """Return the fraction of rows whose largest score is at the label, computed for batch_size rows at a time.

        batch_size: by default all rows at once, or 100 in the networks with convolutions. The other arguments and
        errors: see `loss`.
        """
        (x,), (t,) = together(x=x), together(t=t)
        n = x.shape[0] if x.ndim else 0
        if n == 0 or t.ndim == 0 or t.shape[0] != n:
            raise ValueError(
                f"expected as many rows of x as of t, at least one: got {tuple(x.shape)}, {tuple(t.shape)}"
            )
        correct = 0
        for piece in pieces(n, batch_size or self._rows_at_once or n):
            y, right = together(y=self._scores(x[piece, ...], False), t=t[piece, ...])
            xp = array_namespace(y)
            correct += int(xp.sum(xp.astype(xp.argmax(y, axis=1) == labels(y, right), xp.int64)))
        return np.float64(correct / n)

    def gradient(self, x: Any, t: Any) -> dict[str, Array]:
        """Return the gradient of the training loss by backpropagation, for every parameter by its name."""
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in reversed(self._ordered()):
            dout = layer.backward(dout)
        grads = {}
        for name, (key, attribute) in self._owners.items():
            grads[name] = getattr(self.layers[key], f"d{attribute}")
            if attribute == "W" and self.weight_decay_lambda:
                grads[name] = grads[name] + self.weight_decay_lambda * self.params[name]
        return grads

    def numerical_gradient(self, x: Any, t: Any) -> dict[str, Array]:
        """Return the gradient of the training loss by central differences: two losses for every number.

        As in the book, each loss moves the running means of batch normalisation and draws another mask of dropout.
        """

        def loss(_: Array) -> Any:
            return self.loss(x, t, train_flg=True)

        self._take_params()
        return {name: numerical_gradient(loss, self.params[name]) for name in self._owners}

    def save_params(self, file_name: str | os.PathLike[str] = "params.pkl") -> None:
        """Write the parameters to a pickle of a dictionary of NumPy arrays, which the book's own code reads too.

        A file that was there before stays as it is if the new one cannot be written.
        """
        write_atomically(file_name, pickle.dumps({name: to_numpy(value) for name, value in self.params.items()}))

    def load_params(self, file_name: str | os.PathLike[str] = "params.pkl") -> None:
        """Take the parameters from a pickle that `save_params`, here or in the book, has written.

        Nothing in the file is run. Raises ModelFileError for a file that holds anything but a dictionary of arrays, or
        arrays of other names or shapes than the parameters of this network.
        """
        values = load_arrays(file_name)
        try:
            values = dict(values)
            found = {name: value.shape for name, value in values.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelFileError(f"{os.fspath(file_name)}: not a pickle of parameters: {error!s:.1000}") from error
        expected = {name: tuple(value.shape) for name, value in self.params.items()}
        if found != expected:
            raise ModelFileError(f"{os.fspath(file_name)}: expected arrays of shapes {expected}, got {found!s:.1000}")
        moved = {name: together(**{name: value, "params": self.params[name]})[0] for name, value in values.items()}
        self.params.update(moved)
        self._take_params()

    # --- inside -----------------------------------------------------------------------------------------------

    def _scores(self, x: Any, train_flg: bool) -> Array:
        return self.predict(x, train_flg)

    def _take_params(self) -> None:
        """Give the layers the arrays that were put into params since the last call."""
        for name, (key, attribute) in self._owners.items():
            value, before = self.params[name], self._placed[name]
            if value is not before:
                if tuple(value.shape) != tuple(before.shape):
                    shapes = f"{tuple(before.shape)}, got {tuple(value.shape)}"
                    raise ValueError(f"params[{name!r}]: expected shape {shapes}")
                self._placed[name] = value
                setattr(self.layers[key], attribute, value)
