"""The same functions, faster, for one kind of array each. A file here holds registrations and nothing else: it
defines no name that others use, and a registered kernel has the signature, dtype rule and meaning of its reference.

NumPy's are registered here and now; those of a library that may be missing are imported when its backend is selected.
"""

from nnbackend.kernels import numpy

__all__ = ["numpy"]
