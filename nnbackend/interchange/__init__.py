"""Networks for other programs, and from them: ONNX, PyTorch, C, scikit-learn; and what another array library can do."""

from nnbackend.interchange.c import to_c
from nnbackend.interchange.conformance import conformance
from nnbackend.interchange.onnx import Exported, to_onnx
from nnbackend.interchange.torch import load_torch, to_torch

__all__ = ["Exported", "conformance", "load_torch", "to_c", "to_onnx", "to_torch"]
