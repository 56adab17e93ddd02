"""Backends: one room for each array library, with all that is special about it, and the choice among them.

A room defines a subclass of `Backend` and calls it BACKEND; `base.ROOMS` lists the rooms.
"""

from nnbackend.backends import numpy
from nnbackend.backends.base import Backend, describe, name_of, on_its_device, to_numpy
from nnbackend.backends.select import available, backend, resolve, spread_over_devices, use, using, why_not

__all__ = [
    "Backend",
    "available",
    "backend",
    "describe",
    "name_of",
    "numpy",
    "on_its_device",
    "resolve",
    "spread_over_devices",
    "to_numpy",
    "use",
    "using",
    "why_not",
]
