"""Define the base class of backends: an array library and a device, on which new arrays are created."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np

from nnbackend.backends.steps import ParameterStore, Uncaptured
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array, Namespace

P = ParamSpec("P")
R = TypeVar("R")

# for each array library, by the module that its arrays name: its Backend, or the module that defines it as BACKEND
ROOMS: dict[str, type[Backend] | str] = {
    "numpy": "nnbackend.backends.numpy",
    "cupy": "nnbackend.backends.cupy",
    "torch": "nnbackend.backends.torch",
    "dpnp": "nnbackend.backends.dpnp",
    "array_api_strict": "nnbackend.backends.strict",
}
IMMUTABLE = ("jax", "jaxlib", "tensorflow", "dask", "ndonnx")
_NOTHING = nullcontext()


@dataclass(frozen=True)
class Backend:
    """Creates arrays of one library on one device.

    name: what NNBACKEND would say; xp: the library's array-API namespace; device: its device object. A subclass
    answers what is special about a library. It is found by its `family`, the name of the library's root module.
    """

    name: str
    xp: Namespace
    device: Any

    family: ClassVar[str] = ""
    host: ClassVar[bool] = False  # whether its arrays are NumPy's
    automatic: ClassVar[bool] = False  # whether "auto" may choose it
    captures: ClassVar[bool] = False  # whether `compile` does more than run the steps as they are
    # of host arrays: dtypes in which the library does not compute, and those that hold their values
    wider: ClassVar[Mapping[str, str]] = {np.dtype(np.longdouble).name: "float64"}

    # --- what a subclass answers ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, device: str) -> Backend:
        """Return the backend for a device, given as the text behind the colon of its name ("" for the default).

        Raises BackendError with the exact cause, and what mends it, if the library or the device does not work.
        """
        raise NotImplementedError

    @classmethod
    def to_host(cls, x: Any) -> Any:
        """Return what NumPy can read of an array of this library, copied from the device at most once."""
        return x

    @classmethod
    def name_of(cls, x: Any) -> str:
        """Return the name of the backend on which an array of this library lives."""
        return cls.family

    @classmethod
    def dlpack_device(cls, x: Any) -> object:
        """Return the device of an array as DLPack numbers it, or None if no other library may have its memory."""
        try:
            return x.__dlpack_device__()
        except (BufferError, RuntimeError, ValueError):  # a device that DLPack does not know
            return None

    @classmethod
    def mend(cls, error: Exception) -> str:
        """Say what mends the installation if that is what an error during work speaks of; else return ""."""
        return ""

    def active(self) -> AbstractContextManager[object]:
        """Make the device the current one within a `with` block, if the library has a current device."""
        return _NOTHING

    def activate(self) -> None:
        """Make the device the current one from now on, if the library has a current device."""

    def fits(self, x: Any) -> bool:
        """Say whether `x` needs no move to be computed with here."""
        return self.owns(x)

    def plain(self, x: Any) -> Array:
        """Return an array that is already here without what the library attaches to it beside its values."""
        return x  # type: ignore[no-any-return]

    @property
    def products_in_loops(self) -> bool:
        """Say whether matrix products are loops of ours, too, which the threads of the library's products disturb."""
        return False

    def for_loops(self) -> AbstractContextManager[object]:
        """Give the processors to loops within a `with` block, not to matrix products, if the library's share them."""
        return _NOTHING

    @property
    def threads(self) -> int:
        """Return how many threads of Python gain something by working on arrays at a time."""
        return 1

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        """Copy a host array to the device."""
        return self.xp.asarray(host, device=self.device)

    def synchronize(self) -> None:
        """Wait until everything that was launched on the device has finished (nothing to do on a CPU)."""

    def compile(self, store: ParameterStore) -> Uncaptured:
        """Return what runs training steps that change the `store`."""
        return Uncaptured()

    @classmethod
    def device_of(cls, local_rank: int) -> str:
        """Return the device for one of several processes on this machine, as a name has it; "" for the default."""
        return ""

    def device_sum(
        self, size: int, rank: int, share: Callable[[Any], Any], agree: Callable[[bool], bool]
    ) -> Callable[[Array], None] | None:
        """Return a function that adds the arrays of several processes in place, on their devices.

        size, rank: the number of processes, and that of this one. share: returns to all processes the value that the
        one of rank 0 calls it with. agree: says whether all processes call it with True. Returns None if the library
        has no such function; the hosts then add.
        """
        return None

    def memory(self) -> dict[str, int] | None:
        """Return bytes of device memory, or None if the library keeps no pool of it (every library but CuPy).

        "used": in arrays that are alive; "held": taken by the pool, for these and for later ones; "available": what
        new arrays may still have, of the pool or of the device; "total": of the device.
        """
        return None

    def version(self) -> str:
        """Return the version of the library, and of what it stands on."""
        return str(sys.modules[self.family].__version__)

    def arithmetic(self) -> dict[str, Any]:
        """Return what decides the last bits of a result: the library's version, and what else does. JSON knows it."""
        return {self.family: str(sys.modules[self.family].__version__)}

    def devices(self) -> tuple[str, ...]:
        """Describe every device of the library on this machine, a line each."""
        return (str(self.device),)

    def device_name(self) -> str:
        """Return what the maker calls the device."""
        return str(self.device)

    # --- the same for all -------------------------------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        """Return the namespace's dtype called `name` ("float32", "int64", ...)."""
        return getattr(self.xp, name)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a new array of zeros. shape: its shape; dtype: the name of its dtype."""
        with self.active():
            return self.xp.zeros(shape, dtype=self.dtype(dtype), device=self.device)

    def owns(self, x: object) -> bool:
        """Say whether `x` is an array of this library on this device."""
        return family_of(x) == self.family and device_of(x) == self.device

    def asarray(self, x: Any, dtype: str | None = None, argument: str = "") -> Array:
        """Return `x` on this backend. x: an array that is already here, which is cast if need be, or host data, which
        is moved once: NumPy arrays of any byte order and layout, data frames whose columns are numbers or booleans,
        lists, numbers. An array of another library that lives on this device is shared through DLPack, without a copy.
        A dtype in which the library does not compute becomes one that holds its values.
        argument: the name of what the user passed, for the errors.

        Raises BackendError for an array that lives elsewhere (`to_numpy` it first), ValueError for host data
        that is not a regular array of numbers, TypeError for what is no data but gives data piece by piece.
        """
        try:
            with self.active():
                here = self.plain(x) if self.fits(x) else self._shared(x)
                here = self._put(self._host_array(x, dtype)) if here is None else here
                wanted = here.dtype if dtype is None else self.dtype(dtype)
                if here.dtype == wanted:
                    return here
                if self.xp.isdtype(here.dtype, "complex floating"):  # some libraries drop the imaginary part
                    raise ValueError(f"expected an array of real numbers, got dtype {here.dtype}")
                return self.xp.astype(here, wanted)
        except (BackendError, TypeError, ValueError) as error:
            if not argument:
                raise
            raise type(error)(f"{argument}: {error}") from error.__cause__

    def _shared(self, x: Any) -> Array | None:
        """Return an array of another library as one of this, in the same memory; None for all else."""
        family = family_of(x)
        if family in ("numpy", "", self.family) or not hasattr(x, "__dlpack_device__"):
            return None
        theirs = (room(family) if family in ROOMS else Backend).dlpack_device(x)
        if theirs is None or theirs != self.dlpack_device(self.zeros((1,), "float32")):
            return None
        try:
            here = self.xp.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise BackendError(f"got {describe(x)}, which DLPack does not share with {self.name!r}: {error}") from error
        name = self.wider.get(str(here.dtype).rpartition(".")[2])
        return here if name is None else self.xp.astype(here, self.dtype(name))

    def _put(self, host: np.ndarray[Any, Any]) -> Array:
        name = self.wider.get(host.dtype.name)
        if name is None:
            return self.put(host)
        if host.dtype == np.uint64 and host.size and host.max() >= 2**63:
            raise ValueError(f"expected integers below 2**63 on {self.name!r}, got {host.max()}")
        return self.put(host.astype(name))

    def _host_array(self, x: Any, dtype: str | None) -> np.ndarray[Any, Any]:
        if family_of(x) not in ("numpy", ""):
            raise BackendError(
                f"got {describe(x)}, but this backend is {self.name!r}. "
                f"Move it first: nn.backend().asarray(nn.to_numpy(x))."
            )
        host = host_array(x)
        if not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="))
        if dtype is not None and np.dtype(dtype).itemsize <= host.itemsize:  # the smaller of the two travels
            host = host.astype(dtype, copy=False)
        return host

    def versions(self) -> dict[str, str]:
        """Return the versions of nnbackend, NumPy and the library: what a measurement depends on."""
        return {name: sys.modules[name].__version__ for name in ("nnbackend", "numpy", self.family)}

    def __hash__(self) -> int:
        return hash(self.name)  # a Device of CuPy has no hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the name, since a namespace is a module and a device a thing of this machine."""
        return reopened, (self.name,)


def room(family: str) -> type[Backend]:
    """Return the Backend of a library, by the name of its root module. Raises KeyError for an unknown one."""
    found = ROOMS[family]
    if isinstance(found, str):
        found = ROOMS[family] = importlib.import_module(found).BACKEND
    return found


def reopened(name: str) -> Backend:
    """Return the backend of a pickle by its name. Raises BackendError as `Backend.open` does."""
    family, _, device = name.partition(":")
    return room(family).open(device)


def on_its_device(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method of an object with a `backend`, so that its device is the current one while the method runs."""

    @functools.wraps(method)
    def wrapped(*arguments: P.args, **settings: P.kwargs) -> R:
        with arguments[0].backend.active():  # type: ignore[attr-defined]
            return method(*arguments, **settings)

    return wrapped


def family_of(x: object) -> str:
    """Return which library made the array `x`; "" for lists and everything else that is host data or no array."""
    root = type(x).__module__.partition(".")[0]
    if (root in ROOMS or root in IMMUTABLE) and hasattr(x, "dtype"):  # a library has more than arrays: data loaders
        return root
    return "numpy" if isinstance(x, np.ndarray) else ""


def device_of(x: Any) -> Any:
    """Return the device of an array."""
    return "cpu" if family_of(x) == "numpy" else x.device


def describe(x: object) -> str:
    """Return the kind of an array in words: `a numpy array`, `a cupy array on device 1`."""
    family = family_of(x)
    if not family:
        return f"a {type(x).__name__}"
    return f"a {family} array" if family == "numpy" else f"a {family} array on {device_of(x)}"


def host_array(x: Any) -> np.ndarray[Any, Any]:
    """Return host data as a NumPy array of numbers.

    Raises ValueError, or TypeError for what is no data but gives data piece by piece; a column of a data frame that
    does not hold numbers is named.
    """
    if isinstance(x, np.ma.MaskedArray):
        left_out = int(np.ma.getmaskarray(x).sum())
        if left_out:
            raise ValueError(
                f"expected an array of numbers, got a masked array without {left_out} of its {x.size} values: fill "
                f"them first, such as by its filled(0)"
            )
    try:
        host = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected a regular array of numbers, got {describe(x)} that is none: {error}") from error
    if host.dtype.kind in "biuf":
        return host
    if hasattr(x, "columns") and host.ndim == 2 and host.shape[1]:
        columns = x.iter_columns() if hasattr(x, "iter_columns") else (column for _, column in x.items())
        return np.stack([_column(column) for column in columns], axis=1)  # in the dtype that holds all of them
    if host.dtype.kind == "O" and host.ndim == 0:
        if isinstance(x, Iterable) and not isinstance(x, Mapping | Set):
            raise TypeError(f"expected an array, got {describe(x)}: put what it gives into one array first")
        raise TypeError(f"expected an array of numbers, got {describe(x)}")
    raise ValueError(f"expected an array of numbers, got dtype {host.dtype} from {describe(x)}")


def _column(column: Any) -> np.ndarray[Any, Any]:
    host = np.asarray(column)
    if host.dtype.kind not in "biuf":
        kind = getattr(column, "dtype", host.dtype)
        raise ValueError(f"expected columns of numbers, but column {column.name!r} holds {kind}")
    return host


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array with the values of `x`, wherever they live (one device-to-host copy, or none)."""
    family = family_of(x)
    return np.asarray(room(family).to_host(x) if family in ROOMS else x)


def name_of(x: Any) -> str:
    """Return the name of the backend on which the array `x` lives, as NNBACKEND would say it; "" for lists, data frames
    and other host data, and for arrays on which no network can live.
    """
    family = family_of(x)
    return room(family).name_of(x) if family in ROOMS else ""
