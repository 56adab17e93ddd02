"""The book's dataset.mnist."""

from __future__ import annotations

import numpy as np

from nnbackend.backends import backend
from nnbackend.datasets import mnist_host
from nnbackend.functions.array import Array

Split = tuple[Array, Array]


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False, *, data: str = "auto"
) -> tuple[Split, Split]:
    """((x_train, t_train), (x_test, t_test)) on the current backend.

    normalize: float32 in [0, 1] instead of uint8 up to 255. flatten: rows of 784 instead of (1, 28, 28).
    one_hot_label: t as rows of 10 instead of labels. data: which images, as `nnbackend.datasets.mnist` has it.
    """
    host, on = mnist_host(data), backend()

    def split(x: np.ndarray, t: np.ndarray) -> Split:
        x = x.reshape(len(x), -1) if flatten else x.reshape(len(x), 1, *x.shape[-2:])
        x = x.astype(np.float32) / 255 if normalize else x
        t = np.eye(10, dtype=np.uint8)[t] if one_hot_label else t.astype(np.int64)
        return on.asarray(x), on.asarray(t)

    return split(host.x_train, host.t_train), split(host.x_test, host.t_test)
