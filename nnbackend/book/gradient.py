"""The book's common.gradient."""

from nnbackend.gradients import numerical_gradient

__all__ = ["numerical_gradient"]
