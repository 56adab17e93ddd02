"""A stand-in for CuPy and its device, on NumPy and g++, which knows what a GPU forbids.

`installed()` puts it where `import cupy` finds it, so that a whole network trains on "cupy" without one. What it
keeps of the real thing:

* kernels: the CUDA text itself, compiled by g++ with a loop for the grid, called with the raw addresses;
* streams that capture: work is then recorded and not done, results hold garbage until the graph is launched, and
  whoever reads a value on the host, waits, copies from the host, multiplies through the library's own handle or
  allocates outside a pool of his own is refused as there;
* memory pools that hand out freed memory again, full of NaN, and a device whose memory ends;
* cuBLAS's interface: column-major, by address.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat
import array_api_compat.numpy as np_xp
import numpy as np

SHIM = r"""
#include <cmath>
#include <cstddef>
#include <utility>
using namespace std;
#define __global__
#define __device__
struct Index { unsigned x; };
static thread_local Index blockIdx, blockDim, threadIdx;
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
template <class... A, size_t... I>
void call(void (*f)(A...), void** arguments, index_sequence<I...>) { f(*(A*)arguments[I]...); }
template <class... A>
void launch(void (*f)(A...), unsigned grid, unsigned block, void** arguments) {
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
            call(f, arguments, index_sequence_for<A...>());
}
"""


def kernel_names(source: str) -> list[str]:
    return re.findall(r"^(?:KERNEL|FUNCTION|BACKWARD)\((\w+)[,)]", source, re.M)


@cache
def compiled(source: str) -> ctypes.CDLL:
    """The kernels in `source` as a shared library: run_NAME(grid, block, addresses of the arguments)."""
    runners = (
        f'extern "C" void run_nn_{name}(unsigned g, unsigned b, void** a) {{ launch(nn_{name}, g, b, a); }}'
        for name in kernel_names(source)
    )
    text = "\n".join([SHIM, source, *runners])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.cpp").write_text(text)
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Werror",
            "-o",
            "kernels.so",
            "kernels.cpp",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(Path(folder) / "kernels.so"))


class Forbidden(RuntimeError):
    """What CUDA answers to an operation that is not permitted while a stream is capturing."""


class OutOfMemoryError(MemoryError):
    pass


class Machine:
    """The one device: its streams, what it may hold, and what it was asked to do."""

    def __init__(self) -> None:
        self.capacity, self.held = 2**30, 0
        self.capturing: Stream | None = None
        self.counts: dict[str, int] = defaultdict(int)
        self.pools: list[Any] = []

    def do(self, work: Callable[[], None]) -> None:
        """Do it now, or, where the current stream captures, when the graph is launched."""
        stream = STREAMS[-1]
        if stream.recording is not None:
            stream.recording.append(work)
        else:
            self.counts["launches"] += 1
            with np.errstate(all="ignore"):
                work()

    def host(self, what: str) -> None:
        """The host is about to wait for the device."""
        if self.capturing is not None:
            raise Forbidden(f"{what}: operation not permitted when stream is capturing")
        self.counts["waits"] += 1


# --- memory ---------------------------------------------------------------------------------------------------------


class Block:
    """Memory, handed back to its pool when the last array in it is gone."""

    def __init__(self, pool: MemoryPool, bytes_: np.ndarray):
        self.pool, self.bytes = pool, bytes_

    def __del__(self) -> None:
        self.pool.free.setdefault(self.bytes.size, []).append(self.bytes)
        self.pool.used -= self.bytes.size


class MemoryPool:
    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = {}
        self.held = self.used = 0

    def malloc(self, size: int) -> Block:
        if self is POOL and MACHINE.capturing is not None:
            raise AssertionError("memory of the common pool would be handed to others while a graph writes to it")
        size = max(512, -(-size // 512) * 512)
        if not self.free.get(size):
            if MACHINE.held + size > MACHINE.capacity:
                self.free_all_blocks()
            if MACHINE.held + size > MACHINE.capacity:
                raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
            MACHINE.held += size
            self.held += size
            self.free.setdefault(size, []).append(np.empty(size, np.uint8))
        bytes_ = self.free[size].pop()
        bytes_[:] = 0xFF  # NaN: nobody may rely on what a fresh array holds
        self.used += size
        return Block(self, bytes_)

    def total_bytes(self) -> int:
        return self.held

    def used_bytes(self) -> int:
        return self.used

    def free_all_blocks(self) -> None:
        freed = self.held - self.used
        self.free.clear()
        self.held -= freed
        MACHINE.held -= freed

    def __del__(self) -> None:
        if MACHINE is not None:  # at exit, modules go in any order
            MACHINE.held -= self.held


MACHINE = Machine()
POOL = MemoryPool()
ALLOCATORS: list[Callable[[int], Block]] = [POOL.malloc]


@contextmanager
def using_allocator(malloc: Callable[[int], Block]) -> Iterator[None]:
    ALLOCATORS.append(malloc)
    try:
        yield
    finally:
        ALLOCATORS.pop()


# --- streams and graphs -----------------------------------------------------------------------------------------------


class Stream:
    def __init__(self, non_blocking: bool = False):
        self.recording: list[Callable[[], None]] | None = None
        self.ptr = 0 if not STREAMS else id(self)

    def __enter__(self) -> Stream:
        STREAMS.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert STREAMS.pop() is self

    def begin_capture(self) -> None:
        assert self.ptr != 0, "cannot capture on the default (legacy) stream"
        self.recording, MACHINE.capturing = [], self

    def end_capture(self) -> Graph:
        work, self.recording, MACHINE.capturing = self.recording, None, None
        assert work is not None
        return Graph(work)

    def is_capturing(self) -> bool:
        return self.recording is not None

    def synchronize(self) -> None:
        MACHINE.host("cudaStreamSynchronize")


class Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self.work = work

    def launch(self, stream: Stream | None = None) -> None:
        MACHINE.counts["graph launches"] += 1
        with np.errstate(all="ignore"):
            for work in self.work:
                work()

    def upload(self, stream: Stream | None = None) -> None:
        pass


STREAMS: list[Stream] = []
STREAMS.append(Stream())


class Device:
    def __init__(self, number: int = 0):
        self.id = number

    def synchronize(self) -> None:
        MACHINE.host("cudaDeviceSynchronize")

    def use(self) -> Device:
        return self

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    @property
    def mem_info(self) -> tuple[int, int]:
        return MACHINE.capacity - MACHINE.held, MACHINE.capacity


# --- arrays -----------------------------------------------------------------------------------------------------------


class ndarray:
    """An array on the device: a NumPy view of a Block."""

    __module__ = "cupy"

    def __init__(self, view: np.ndarray, block: Block):
        self._view, self._block = view, block

    shape = property(lambda self: self._view.shape)
    dtype = property(lambda self: self._view.dtype)
    ndim = property(lambda self: self._view.ndim)
    size = property(lambda self: self._view.size)
    nbytes = property(lambda self: self._view.nbytes)
    itemsize = property(lambda self: self._view.itemsize)
    strides = property(lambda self: self._view.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._view.flags.c_contiguous))
    device = property(lambda self: Device(0))
    data = property(lambda self: SimpleNamespace(ptr=self._view.ctypes.data))
    T = property(lambda self: ndarray(self._view.T, self._block))

    def __len__(self) -> int:
        return len(self._view)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return XP

    def __array__(self, *arguments: object, **named: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        MACHINE.host("cudaMemcpy")
        return self._view.copy()

    def item(self) -> Any:
        return self.get().item()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __getitem__(self, key: Any) -> ndarray:
        return on_device(lambda x, k: x[k], self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        view, key, value = self._view, bare(key), bare(value)
        if isinstance(value, np.ndarray) and value.size > 1 and MACHINE.capturing is not None:
            np.broadcast_shapes(view[key].shape, value.shape)
        MACHINE.do(lambda: view.__setitem__(key, value))

    def fill(self, value: float) -> None:
        self[...] = value

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return on_device(lambda x: x.astype(dtype), self) if copy or dtype != self.dtype else self

    def reshape(self, *shape: int) -> ndarray:
        return on_device(lambda x: x.reshape(*shape), self)

    def copy(self) -> ndarray:
        return self.astype(self.dtype)

    def sum(self, **named: Any) -> ndarray:
        return on_device(np.sum, self, **named)

    def mean(self, **named: Any) -> ndarray:
        return on_device(np.mean, self, **named)


def _operators() -> None:
    names = "add sub mul truediv floordiv mod pow and or xor lshift rshift"
    for name in names.split():
        function = getattr(np.ndarray, f"__{name}__")

        def binary(self: ndarray, other: Any, f: Any = function) -> ndarray:
            return on_device(f, self, other)

        def reflected(self: ndarray, other: Any, f: Any = getattr(np.ndarray, f"__r{name}__")) -> ndarray:  # noqa: B008
            return on_device(f, self, other)

        def in_place(self: ndarray, other: Any, f: Any = getattr(np.ndarray, f"__i{name}__")) -> ndarray:  # noqa: B008
            view, other = self._view, bare(other)
            MACHINE.do(lambda: f(view, other))
            return self

        setattr(ndarray, f"__{name}__", binary)
        setattr(ndarray, f"__r{name}__", reflected)
        setattr(ndarray, f"__i{name}__", in_place)
    for name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"]:

        def plain(self: ndarray, *other: Any, f: Any = getattr(np.ndarray, f"__{name}__")) -> ndarray:  # noqa: B008
            return on_device(f, self, *other)

        setattr(ndarray, f"__{name}__", plain)
    ndarray.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[attr-defined]


def bare(value: Any) -> Any:
    """`value` with NumPy views in place of arrays on the device."""
    if isinstance(value, ndarray):
        return value._view
    if isinstance(value, list | tuple):
        return type(value)(bare(part) for part in value)
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array met an array on the device")
    return value


def fresh(shape: tuple[int, ...], dtype: Any) -> ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = ALLOCATORS[-1](size)
    return ndarray(block.bytes[:size].view(dtype).reshape(shape), block)


def on_device(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A NumPy function as an operation of the device: a view stays one, everything else gets memory of its own."""
    inputs, settings = bare(arguments), {name: bare(value) for name, value in named.items() if name != "device"}
    out = named.pop("out", None)
    settings.pop("out", None)
    with np.errstate(all="ignore"):
        result = function(*inputs, **settings)
    if isinstance(result, tuple | list):
        return type(result)(
            on_device(lambda *a, i=i, **k: function(*a, **k)[i], *arguments, **named) for i in range(len(result))
        )
    if not isinstance(result, np.ndarray | np.generic):
        return result
    parts = [p for a in arguments for p in (a if isinstance(a, list | tuple) else [a]) if isinstance(p, ndarray)]
    owner = next((p for p in parts if np.size(result) and np.may_share_memory(result, p._view)), None)
    if owner is not None:
        return ndarray(result, owner._block)
    out = fresh(np.shape(result), result.dtype) if out is None else out
    target = out._view
    MACHINE.do(lambda: np.copyto(target, function(*inputs, **settings), casting="same_kind"))
    return out


def matmul(a: ndarray, b: ndarray, out: ndarray | None = None) -> ndarray:
    if MACHINE.capturing is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    MACHINE.counts["matmul"] += 1
    return on_device(np.matmul, a, b, out=out)


def asarray(x: Any, dtype: Any = None, device: Any = None, copy: bool | None = None) -> ndarray:
    if isinstance(x, ndarray):
        if copy or (dtype is not None and dtype != x.dtype):
            return on_device(lambda a: np.array(a, dtype=dtype), x)
        return x
    if MACHINE.capturing is not None:
        raise Forbidden("a copy from the host would be repeated with the values of today")
    return on_device(lambda: np.array(x, dtype=dtype))


class Kernel:
    def __init__(self, source: str, name: str):
        self.name, self.run = name, getattr(compiled(source), f"run_{name}")

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        values, keep = [], []
        for argument in arguments:
            if isinstance(argument, ndarray):
                assert argument._view.flags.c_contiguous
                values.append(ctypes.c_void_p(argument.data.ptr))
                keep.append(argument._block.bytes)
            elif isinstance(argument, float):
                values.append(ctypes.c_double(argument))
            else:
                assert isinstance(argument, int), argument
                assert -(2**63) <= argument < 2**63
                values.append(ctypes.c_longlong(argument))
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        kept = (values, keep)
        MACHINE.counts[f"kernel {self.name}"] += 1
        MACHINE.do(lambda: kept and self.run(grid[0], block[0], addresses))


class RawModule:
    def __init__(self, *, code: str):
        self.code = code

    def get_function(self, name: str) -> Kernel:
        return Kernel(self.code, name)


class Cublas:
    """libcublas: checks what it can, then multiplies."""

    def __init__(self) -> None:
        self.handles: dict[int, dict[str, int]] = {}
        self.numbers = count(1)

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = next(self.numbers)
        self.handles[handle._obj.value] = {"stream": 0, "workspace": 0}
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:
        del self.handles[handle.value]
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.handles[handle.value] = {"stream": stream.value or 0, "workspace": 0}  # the workspace goes, too
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, size: Any) -> int:
        self.handles[handle.value]["workspace"] = size.value
        return 0

    def cublasGemmEx(self, handle: Any, transpose_a: int, transpose_b: int, m: int, n: int, k: int, alpha: Any,
                     a: Any, type_a: int, lead_a: int, b: Any, type_b: int, lead_b: int, beta: Any,
                     c: Any, type_c: int, lead_c: int, compute: int, algorithm: int) -> int:  # fmt: skip
        settings = self.handles[handle.value]
        assert settings["stream"] == STREAMS[-1].ptr, "the handle works on another stream"
        assert MACHINE.capturing is None or settings["workspace"], "cuBLAS would allocate while capturing"
        dtype = {0: np.dtype("f4"), 1: np.dtype("f8")}[type_a]
        assert type_a == type_b == type_c
        assert (dtype.itemsize == 8) == (compute == 70)
        assert min(m, n, k) > 0
        scales = alpha._obj.value, beta._obj.value

        def matrix(pointer: Any, rows: int, columns: int, lead: int) -> np.ndarray:
            if lead < max(1, rows):
                raise AssertionError(f"a leading dimension of {lead} for {rows} rows")
            count = lead * (columns - 1) + rows
            memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer.value)
            return np.ndarray((rows, columns), dtype, memory, strides=(dtype.itemsize, lead * dtype.itemsize))

        left = matrix(a, *((m, k) if not transpose_a else (k, m)), lead_a)
        right = matrix(b, *((k, n) if not transpose_b else (n, k)), lead_b)
        left, right = left.T if transpose_a else left, right.T if transpose_b else right
        out = matrix(c, m, n, lead_c)
        MACHINE.counts[f"gemm {compute}"] += 1
        assert scales == (1.0, 0.0)
        MACHINE.do(lambda: np.copyto(out, left @ right))
        return 0


# --- the modules ------------------------------------------------------------------------------------------------------


def _namespace(name: str, functions: ModuleType) -> ModuleType:
    """A module with NumPy's functions as operations of the device."""
    module = ModuleType(name)

    def find(attribute: str) -> Any:
        value = getattr(functions, attribute)
        if not callable(value) or isinstance(value, type | np.dtype):
            return value
        return lambda *a, **k: on_device(value, *a, **k)

    module.__getattr__ = find  # type: ignore[method-assign]
    module.asarray = asarray  # type: ignore[attr-defined]
    module.matmul = matmul  # type: ignore[attr-defined]
    return module


_operators()
XP = _namespace("array_api_compat.cupy", np_xp)
CUPY = _namespace("cupy", np)
CUPY.__dict__.update(
    __version__="14.2.0",
    __spec__=SimpleNamespace(name="cupy", origin="stand-in", submodule_search_locations=None),
    ndarray=ndarray,
    RawModule=RawModule,
    empty=lambda shape, dtype=float: fresh(shape if isinstance(shape, tuple) else (shape,), dtype),
    ascontiguousarray=lambda x: x if x._view.flags.c_contiguous else on_device(lambda a: a.copy("C"), x),
    get_default_memory_pool=lambda: POOL,
    cuda=SimpleNamespace(
        Device=Device,
        Graph=Graph,
        MemoryPool=MemoryPool,
        Stream=Stream,
        get_current_stream=lambda: STREAMS[-1],
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            CUDARuntimeError=Forbidden,
            driverGetVersion=lambda: 13000,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {"name": b"stand-in", "totalGlobalMem": 2**30, "major": 9, "minor": 0},
            runtimeGetVersion=lambda: 13000,
        ),
        using_allocator=using_allocator,
    ),
)


@contextmanager
def installed() -> Iterator[Machine]:
    """Within the block `import cupy` finds the stand-in, and so do this library and array-api-compat."""
    from nnbackend import cublas

    mine = {"cupy": CUPY, "array_api_compat.cupy": XP}
    before = {name: sys.modules.get(name) for name in [*mine, "nnbackend.kernels.cupy"]}
    sys.modules.update(mine)
    sys.modules.pop("nnbackend.kernels.cupy", None)
    library, cublas.library = cublas.library, cache(Cublas)  # type: ignore[assignment]
    cublas._shared.cache_clear()
    real = getattr(array_api_compat, "cupy", None)
    array_api_compat.cupy = XP  # type: ignore[attr-defined]
    MACHINE.counts.clear()
    try:
        yield MACHINE
    finally:
        cublas._shared.cache_clear()
        cublas.library = library
        if real is None:
            del array_api_compat.cupy
        else:
            array_api_compat.cupy = real
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
