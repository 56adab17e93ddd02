"""Networks for other programs, and from them: ONNX, PyTorch, C, scikit-learn; and what another array library can do."""

from nnbackend.interchange.onnx import Exported, to_onnx

__all__ = ["Exported", "to_onnx"]
