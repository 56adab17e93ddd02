"""PyTorch, on whatever device it has. It has no kernels of its own: the definitions run on its tensors."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nnbackend.backends.base import Backend
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array


class TorchBackend(Backend):
    """Creates PyTorch tensors."""

    family = "torch"
    # of the unsigned integers it computes with those of one byte alone
    wider: ClassVar[Mapping[str, str]] = {**Backend.wider, "uint16": "int32", "uint32": "int64", "uint64": "int64"}

    @classmethod
    def open(cls, device: str) -> Backend:
        if importlib.util.find_spec("torch") is None:
            raise BackendError("PyTorch is not installed. pip install torch")
        try:
            import array_api_compat.torch as xp
        except Exception as error:
            raise BackendError(f"PyTorch is installed but cannot be imported: {error}. pip install -U torch") from error
        try:
            where = xp.zeros(1, device=device or "cpu").device  # "cuda" becomes the device it stands for
        except Exception as error:
            raise BackendError(f"torch has no working device {device!r}: {str(error).splitlines()[0]}") from error
        return cls(f"torch:{device}" if device else "torch", xp, where)

    @classmethod
    def to_host(cls, x: Any) -> Any:
        x = x.detach().cpu().resolve_conj().resolve_neg()
        if x.is_floating_point() and x.element_size() < 4 and x.dtype != sys.modules["torch"].float16:
            x = x.float()  # NumPy has no bfloat16, and none with 8 bits
        return x.numpy()

    @classmethod
    def name_of(cls, x: Any) -> str:
        return "torch" if x.device.type == "cpu" else f"torch:{x.device}"

    def plain(self, x: Any) -> Array:
        if str(x.layout) != "torch.strided":
            raise ValueError(f"expected a dense tensor, got one of layout {x.layout}: pass its to_dense()")
        # the gradients here are no part of PyTorch's graph, and writing into it would fail
        return x.detach() if x.requires_grad or type(x) is not sys.modules["torch"].Tensor else x  # type: ignore[no-any-return]

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        # a tensor that shares a read-only buffer is undefined behaviour: copy
        return self.xp.tensor(host.copy(), device=self.device)

    def synchronize(self) -> None:
        if self.device.type != "cpu":
            getattr(self.xp, self.device.type).synchronize()

    def devices(self) -> tuple[str, ...]:
        torch = sys.modules["torch"]
        found = ["torch:cpu"]
        if torch.cuda.is_available():
            found += [f"torch:cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            found.append("torch:mps")
        return tuple(found)


BACKEND = TorchBackend
