"""The former place of `nnbackend.backends`, for scripts and pickles that name it."""

from nnbackend.backends import Backend, available, backend, describe, resolve, to_numpy, use, using, why_not

__all__ = ["Backend", "available", "backend", "describe", "resolve", "to_numpy", "use", "using", "why_not"]
