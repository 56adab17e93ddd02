"""array-api-strict: the standard and nothing else, and devices that refuse every silent transfer to the host."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from nnbackend.backends.base import Backend
from nnbackend.errors import BackendError


class StrictBackend(Backend):
    """Creates arrays of array-api-strict."""

    family = "array_api_strict"
    wider: ClassVar[Mapping[str, str]] = {**Backend.wider, "float16": "float32"}

    @classmethod
    def open(cls, device: str) -> Backend:
        if importlib.util.find_spec("array_api_strict") is None:
            raise BackendError("array-api-strict is not installed. pip install array-api-strict")
        import array_api_strict as xp

        try:
            where = xp.Device(device or "CPU_DEVICE")
        except ValueError as error:
            raise BackendError(f"array_api_strict has no device {device!r}: {error}") from error
        return cls(f"array_api_strict:{device}" if device else "array_api_strict", xp, where)

    @classmethod
    def to_host(cls, x: Any) -> Any:
        return x.to_device(type(x.device)("CPU_DEVICE"))

    @classmethod
    def name_of(cls, x: Any) -> str:
        return "array_api_strict:" + str(x.device).split("'")[1]

    @classmethod
    def dlpack_device(cls, x: Any) -> object:
        # as between a GPU and the host, nothing is shared with the other devices
        return super().dlpack_device(x) if x.device == type(x.device)("CPU_DEVICE") else None

    def devices(self) -> tuple[str, ...]:
        found = sys.modules["array_api_strict"].__array_namespace_info__().devices()
        return tuple(str(getattr(device, "_device", device)) for device in found)


BACKEND = StrictBackend
