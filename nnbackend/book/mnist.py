"""Provide the book's dataset.mnist."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from nnbackend.backends import backend
from nnbackend.datasets import SAMPLE_NOTE, mnist_host

NUMPY_NOTE = (
    "nnbackend: these are NumPy's arrays. The networks of nnbackend.book move them to {0}; "
    "layers in a network of your own compute there if they are given nn.backend().asarray(x)."
)
Split = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    *,
    data: str | os.PathLike[str] = "auto",
) -> tuple[Split, Split]:
    """Return ((x_train, t_train), (x_test, t_test)) as NumPy arrays, whatever the backend.

    A script of the book goes on with NumPy: it draws batches by NumPy's indices and compares labels with np.sum. The
    networks of `nnbackend.book` move what they are given to the backend that was selected when they were made.

    normalize: float32 in [0, 1] instead of uint8 up to 255. flatten: rows of 784 instead of (1, 28, 28).
    one_hot_label: t as rows of float64, ten for digits, instead of labels, uint8.
    data: which images, as `nnbackend.datasets.mnist` has it.

    A line on standard error says so if "auto" finds the sample of 10,000 images, and if the backend is not NumPy.

    Raises as `nnbackend.datasets.mnist`; BackendError if NNBACKEND names a backend that does not work.
    """
    host, on = mnist_host(data), backend()
    if not on.owns(host.x_train):
        print(NUMPY_NOTE.format(on.name), file=sys.stderr)
    if host.source == "sample" and data == "auto":
        print(f"nnbackend: {SAMPLE_NOTE}", file=sys.stderr)
    classes = max(10, 1 + int(host.t_train.max()), 1 + int(host.t_test.max()))

    def split(x: np.ndarray[Any, Any], t: np.ndarray[Any, Any]) -> Split:
        x = x.reshape(len(x), -1) if flatten else x.reshape(len(x), 1, *x.shape[-2:])
        x = x.astype(np.float32) / np.float32(255) if normalize else x.copy()
        return x, np.eye(classes)[t] if one_hot_label else t.copy()

    return split(host.x_train, host.t_train), split(host.x_test, host.t_test)
