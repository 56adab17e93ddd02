"""Provide the book's common.functions, which are those of the first volume."""

from __future__ import annotations

from nnbackend.book.functions import cross_entropy_error, relu, sigmoid, softmax
from nnbackend.book2.np import GPU, np

__all__ = ["GPU", "cross_entropy_error", "np", "relu", "sigmoid", "softmax"]
