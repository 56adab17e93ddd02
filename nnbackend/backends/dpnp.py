"""dpnp: NumPy's functions on Intel's GPUs and CPUs, through SYCL. The definitions run on its arrays."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from nnbackend.backends.base import Backend
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array


class DpnpBackend(Backend):
    """Creates arrays of dpnp."""

    family = "dpnp"

    @classmethod
    def open(cls, device: str) -> Backend:
        if importlib.util.find_spec("dpnp") is None:
            raise BackendError("dpnp is not installed. pip install dpnp")
        try:
            import dpnp as xp

            where = xp.zeros(1, device=device or None).device  # "cpu" becomes the device it stands for
        except Exception as error:  # of the import, of SYCL and of its drivers
            reason = " ".join(str(error).split()) or type(error).__name__
            where = f"device {device!r}" if device else "default device"
            raise BackendError(f"dpnp has no working {where}: {reason}") from error
        return cls(f"dpnp:{device}" if device else "dpnp", xp, where)

    @classmethod
    def to_host(cls, x: Any) -> Any:
        return x.asnumpy()

    @classmethod
    def name_of(cls, x: Any) -> str:
        return f"dpnp:{x.sycl_device.filter_string}"

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        return self.xp.asarray(np.asarray(host, order="C"), device=self.device)

    def synchronize(self) -> None:
        self.device.wait()

    def devices(self) -> tuple[str, ...]:
        return (f"dpnp:{self.device.sycl_device.filter_string}: {self.device_name()}",)

    def device_name(self) -> str:
        return str(self.device.sycl_device.name)


BACKEND = DpnpBackend
