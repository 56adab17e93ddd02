"""A stand-in for CuPy and its devices, on NumPy and g++, which knows what a GPU forbids.

`installed()` puts it where `import cupy` finds it, so that a whole network trains on "cupy" without one. As a plugin
(`pytest -p cuda_standin`) it is CuPy for a whole run of the tests. What it keeps of the real thing:

* kernels: the CUDA text itself, compiled by g++ with loops for the grid, called with the raw addresses; threads of a
  block that work together take turns at every __syncthreads;
* streams that capture: work is then recorded and not done, results hold garbage until the graph is launched, and
  whoever reads a value on the host, waits, copies from the host, joins more arrays than CuPy does without such a copy,
  multiplies through the library's own handle or allocates outside a pool of his own is refused as there;
* graphs that hold addresses: a launch fails if memory that the graph does not own has been freed since the capture;
* memory pools (CuPy 14.1 and later) that keep free memory by stream, split and merge it, and hand it out again, full of
  NaN, and return that of the current device alone; a pool that is dropped leaks what is free in it; a block of which a
  part is in use cannot be returned;
* devices: an array is born on the current one of its thread, whatever `device=` array-api-compat is told for zeros,
  full and arange; work on an array of another one is refused; a Device has no hash;
* cuBLAS's interface: column-major, by address.

What it cannot show: races between threads, blocks or streams, since everything happens in order; a capture that CUDA
would refuse for another reason than those above; misaligned addresses; how long anything takes; TF32 and bfloat16,
whose products are computed in float32; launches beyond CUDA's limits other than those that are asserted in `Kernel`.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat
import array_api_compat.numpy as np_xp
import numpy as np

SHIM = r"""
#include <cmath>
#include <cstddef>
#include <functional>
#include <ucontext.h>
#include <utility>
#include <vector>
using namespace std;
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)
struct Index { unsigned x, y; };
static Index blockIdx, blockDim, threadIdx, gridDim;
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }

// Threads of a block that work together: each runs on a stack of its own until it waits for the others.
static const size_t STACK = 1 << 15;
static ucontext_t scheduler;
static vector<ucontext_t> fibers(1024);
static vector<char> stacks(1024 * STACK);
static function<void()> body;
static size_t running;
static bool waiting;
static void fiber() { body(); }
static inline void __syncthreads() {
    waiting = true;
    swapcontext(&fibers[running], &scheduler);
}
static void together(unsigned threads) {
    vector<bool> done(threads, false);
    for (size_t i = 0; i < threads; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = &stacks[i * STACK];
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], fiber, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (running = 0; running < threads; running++) {
            if (done[running]) continue;
            threadIdx.x = running % blockDim.x;
            threadIdx.y = running / blockDim.x;
            waiting = false;
            swapcontext(&scheduler, &fibers[running]);
            done[running] = !waiting;
            any = any || waiting;
        }
    }
}

template <class... A, size_t... I>
void call(void (*f)(A...), void** arguments, index_sequence<I...>) { f(*(A*)arguments[I]...); }
template <class... A>
void launch(void (*f)(A...), bool cooperative, const unsigned* grid, const unsigned* block, void** arguments) {
    gridDim = {grid[0], grid[1]};
    blockDim = {block[0], block[1]};
    body = [&] { call(f, arguments, index_sequence_for<A...>()); };
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
            if (cooperative) {
                together(block[0] * block[1]);
                continue;
            }
            for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)
                for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++) body();
        }
}
"""
DEFINITION = re.compile(r"^(KERNEL|GRID|BLOCK|FUNCTION|BACKWARD)\((\w+)[,)]", re.M)


def kernel_names(source: str) -> list[str]:
    return [name for _, name in DEFINITION.findall(source)]


def cooperative(source: str) -> set[str]:
    """The kernels in which threads of a block wait for each other."""
    starts = [*DEFINITION.finditer(source), None]
    texts = {a[2]: source[a.start() : b.start() if b else None] for a, b in pairwise(starts)}  # type: ignore[index,union-attr]
    return {name for name, text in texts.items() if "__syncthreads" in text or "block_sum" in text}


@cache
def compiled(source: str) -> ctypes.CDLL:
    """The kernels in `source` as a shared library: run_NAME(grid, block, addresses of the arguments)."""
    waits = cooperative(source)
    runners = (
        f'extern "C" void run_nn_{name}(const unsigned* g, const unsigned* b, void** a) '
        f"{{ launch(nn_{name}, {str(name in waits).lower()}, g, b, a); }}"
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
    """The devices: what they may hold together, and what they were asked to do."""

    def __init__(self) -> None:
        self.capacity, self.held = 2**30, 0
        self.devices = 1
        self.capturing: Stream | None = None
        self.counts: dict[str, int] = defaultdict(int)
        self.blocks: weakref.WeakSet[Block] = weakref.WeakSet()

    def do(self, work: Callable[[], None], *touched: Block) -> None:
        """Do it now, or, where the current stream captures, when the graph is launched. touched: what it works on."""
        recording = HERE.streams[-1].recording
        if recording is not None:
            recording.work.append(work)
            recording.touched += map(weakref.ref, touched)
        else:
            self.counts["launches"] += 1
            with np.errstate(all="ignore"):
                work()

    def host(self, what: str) -> None:
        """The host is about to wait for the device."""
        if self.capturing is not None:
            raise Forbidden(f"{what}: operation not permitted when stream is capturing")
        self.counts["waits"] += 1

    def block_at(self, address: int) -> Block:
        """The block in use in which an address lies."""
        found = [block for block in self.blocks if 0 <= address - block.bytes.ctypes.data < block.bytes.size]
        assert len(found) == 1, f"address {address:x} is in no array"
        return found[0]


# --- memory ---------------------------------------------------------------------------------------------------------


class Memory:
    """What cudaMalloc returned. In CuPy it goes back when nothing refers to it; here it says so itself."""

    def __init__(self, size: int):
        if MACHINE.held + size > MACHINE.capacity:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        MACHINE.held += size
        self.bytes = np.empty(size, np.uint8)

    def free(self) -> None:
        MACHINE.held -= self.bytes.size


class Chunk:
    """A part of a Memory, between its neighbours."""

    def __init__(self, memory: Memory, offset: int, size: int, arena: Arena):
        self.memory, self.offset, self.size, self.arena = memory, offset, size, arena
        self.previous: Chunk | None = None
        self.next: Chunk | None = None

    def split(self, size: int) -> None:
        """Keep the first `size` bytes; the rest becomes a free chunk."""
        if size == self.size:
            return
        rest = Chunk(self.memory, self.offset + size, self.size - size, self.arena)
        rest.previous, rest.next = self, self.next
        if self.next is not None:
            self.next.previous = rest
        self.next, self.size = rest, size
        self.arena.free.append(rest)

    def merge_next(self) -> None:
        assert self.next is not None
        self.size += self.next.size
        self.next = self.next.next
        if self.next is not None:
            self.next.previous = self


class Arena:
    """The free chunks of one stream in one pool."""

    def __init__(self) -> None:
        self.free: list[Chunk] = []

    def take(self, size: int) -> Chunk | None:
        """The smallest free chunk that is large enough, cut to size."""
        large = [chunk for chunk in self.free if chunk.size >= size]
        if not large:
            return None
        chunk = min(large, key=lambda chunk: chunk.size)
        self.free.remove(chunk)
        chunk.split(size)
        return chunk

    def insert(self, chunk: Chunk) -> None:
        while chunk.next in self.free:
            self.free.remove(chunk.next)
            chunk.merge_next()
        while chunk.previous in self.free:
            chunk = chunk.previous
            self.free.remove(chunk)
            chunk.merge_next()
        self.free.append(chunk)

    def free_all(self) -> int:
        """Return the memory of the chunks that are whole."""
        whole = [chunk for chunk in self.free if chunk.next is None and chunk.previous is None]
        for chunk in whole:
            self.free.remove(chunk)
            chunk.memory.free()
        return sum(chunk.size for chunk in whole)


class Block:
    """A chunk in use, handed back to its pool when the last array in it is gone."""

    def __init__(self, pool: MemoryPool, chunk: Chunk, device: int):
        self.pool, self.chunk, self.device = weakref.ref(pool), chunk, device
        self.bytes = chunk.memory.bytes[chunk.offset : chunk.offset + chunk.size]
        MACHINE.blocks.add(self)

    def __del__(self) -> None:
        pool = self.pool()
        if pool is not None:
            pool.used -= self.chunk.size
            self.chunk.arena.insert(self.chunk)
        elif self.chunk.next is None and self.chunk.previous is None and MACHINE is not None:
            self.chunk.memory.free()


class MemoryPool:
    """As CuPy's since 14.1: dropping it does not return what is free in it, nor split blocks later."""

    def __init__(self) -> None:
        self.arenas: dict[tuple[int, int], Arena] = defaultdict(Arena)  # by device and stream
        self.held = self.used = 0

    def malloc(self, size: int) -> Block:
        if self is POOL and MACHINE.capturing is not None:
            raise AssertionError("memory of the common pool would be handed to others while a graph writes to it")
        size = max(512, -(-size // 512) * 512)
        device = HERE.devices[-1]
        arena = self.arenas[device, HERE.streams[-1].ptr]
        chunk = arena.take(size)
        if chunk is None:
            try:
                memory = Memory(size)
            except OutOfMemoryError:
                self.free_all_blocks()
                memory = Memory(size)
            self.held += size
            chunk = Chunk(memory, 0, size, arena)
        block = Block(self, chunk, device)
        block.bytes[:] = 0xFF  # NaN: nobody may rely on what a fresh array holds
        self.used += size
        return block

    def total_bytes(self) -> int:
        return self.held

    def used_bytes(self) -> int:
        return self.used

    def free_all_blocks(self) -> None:
        mine = [arena for (device, _), arena in self.arenas.items() if device == HERE.devices[-1]]
        self.held -= sum(arena.free_all() for arena in mine)


class Here(threading.local):
    """What every thread has of its own, as CuPy has it."""

    def __init__(self) -> None:
        self.devices, self.streams, self.allocators = [0], [DEFAULT_STREAM], [POOL.malloc]


@contextmanager
def using_allocator(malloc: Callable[[int], Block]) -> Iterator[None]:
    HERE.allocators.append(malloc)
    try:
        yield
    finally:
        HERE.allocators.pop()


# --- streams and graphs -----------------------------------------------------------------------------------------------


class Recording:
    """What a stream has captured so far."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.touched: list[weakref.ref[Block]] = []


class Stream:
    numbers = count()

    def __init__(self, non_blocking: bool = False):
        self.recording: Recording | None = None
        self.ptr = next(self.numbers)  # 0 for the default stream, the first

    def __enter__(self) -> Stream:
        HERE.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert HERE.streams.pop() is self

    def begin_capture(self) -> None:
        assert self.ptr != 0, "cannot capture on the default (legacy) stream"
        self.recording, MACHINE.capturing = Recording(), self

    def end_capture(self) -> Graph:
        recording, self.recording, MACHINE.capturing = self.recording, None, None
        assert recording is not None
        # what the capture itself allocated and freed again is gone by now, or will be: its pool has to stay
        pool = getattr(HERE.allocators[-1], "__self__", None)
        return Graph(recording, pool)

    def is_capturing(self) -> bool:
        return self.recording is not None

    def synchronize(self) -> None:
        MACHINE.host("cudaStreamSynchronize")


class Graph:
    """Launches what was captured. pool: the one that its temporaries came from."""

    def __init__(self, recording: Recording, pool: MemoryPool | None):
        self.work, self.pool = recording.work, pool
        blocks = [ref() for ref in recording.touched]
        self.touched = {id(b): weakref.ref(b) for b in blocks if b is not None and b.pool() is not pool}

    def launch(self, stream: Stream | None = None) -> None:
        MACHINE.counts["graph launches"] += 1
        for ref in self.touched.values():
            assert ref() is not None, "the graph reads or writes memory that was freed since it was captured"
        with np.errstate(all="ignore"):
            for work in self.work:
                work()

    def upload(self, stream: Stream | None = None) -> None:
        pass


MACHINE = Machine()
POOL = MemoryPool()
DEFAULT_STREAM = Stream()
HERE = Here()


class Device:
    def __init__(self, number: int | Device | None = None):
        self.id: int = HERE.devices[-1] if number is None else getattr(number, "id", number)  # type: ignore[assignment]

    def synchronize(self) -> None:
        MACHINE.host("cudaDeviceSynchronize")

    def use(self) -> Device:
        HERE.devices[-1] = self.id
        return self

    def __enter__(self) -> Device:
        HERE.devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        HERE.devices.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    @property
    def mem_info(self) -> tuple[int, int]:
        return MACHINE.capacity - MACHINE.held, MACHINE.capacity


# --- arrays -----------------------------------------------------------------------------------------------------------


class ndarray:
    """An array on the device: a NumPy view of a Block."""

    __module__ = "cupy"

    def __init__(self, view: np.ndarray, block: Block):
        self._view, self._block = view, block

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA, and the number of the device

    shape = property(lambda self: self._view.shape)
    dtype = property(lambda self: self._view.dtype)
    ndim = property(lambda self: self._view.ndim)
    size = property(lambda self: self._view.size)
    nbytes = property(lambda self: self._view.nbytes)
    itemsize = property(lambda self: self._view.itemsize)
    strides = property(lambda self: self._view.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._view.flags.c_contiguous))
    device = property(lambda self: Device(self._block.device))
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
        view, touched = bare(self), blocks(self, key, value)
        key, value = bare(key), bare(value)
        if isinstance(value, np.ndarray) and value.size > 1 and MACHINE.capturing is not None:
            np.broadcast_shapes(view[key].shape, value.shape)
        MACHINE.do(lambda: view.__setitem__(key, value), *touched)

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
            view, touched, other = bare(self), blocks(self, other), bare(other)
            MACHINE.do(lambda: f(view, other), *touched)
            return self

        setattr(ndarray, f"__{name}__", binary)
        setattr(ndarray, f"__r{name}__", reflected)
        setattr(ndarray, f"__i{name}__", in_place)
    for name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"]:

        def plain(self: ndarray, *other: Any, f: Any = getattr(np.ndarray, f"__{name}__")) -> ndarray:  # noqa: B008
            return on_device(f, self, *other)

        setattr(ndarray, f"__{name}__", plain)
    ndarray.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[attr-defined]


def bare(value: Any, anywhere: bool = False) -> Any:
    """`value` with NumPy views in place of arrays on the device, which is the current one unless `anywhere`."""
    if isinstance(value, ndarray):
        if value._block.device != HERE.devices[-1] and not anywhere:
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {value._block.device} while current = {HERE.devices[-1]}"
            )
        return value._view
    if isinstance(value, list | tuple):
        return type(value)(bare(part, anywhere) for part in value)
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array met an array on the device")
    return value


def blocks(*values: Any) -> list[Block]:
    """The memory of all arrays in `values`."""
    found = []
    for value in values:
        found += blocks(*value) if isinstance(value, list | tuple) else []
        found += [value._block] if isinstance(value, ndarray) else []
    return found


def fresh(shape: tuple[int, ...], dtype: Any) -> ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = HERE.allocators[-1](size)
    return ndarray(block.bytes[:size].view(dtype).reshape(shape), block)


def on_device(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A NumPy function as an operation of the device: a view stays one, everything else gets memory of its own."""
    inputs = bare(arguments, anywhere=True)
    settings = {name: bare(value) for name, value in named.items() if name != "device"}
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
    bare(arguments)  # a view may be taken anywhere, but work is done on the current device
    out = fresh(np.shape(result), result.dtype) if out is None else out
    target = bare(out)
    work = lambda: np.copyto(target, function(*inputs, **settings), casting="same_kind")  # noqa: E731
    MACHINE.do(work, *blocks(out, arguments, list(named.values())))
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
    with Device(device):
        return on_device(lambda: np.array(x, dtype=dtype))


def concat(arrays: Any, axis: int = 0) -> ndarray:
    size = sum(a.nbytes for a in arrays)
    if MACHINE.capturing is not None and len(arrays) > 8 and size < 2**21 * len(arrays):
        raise Forbidden("the current stream is capturing, so H2D transfers are disallowed")  # of their addresses
    return on_device(lambda *parts: np.concatenate(parts, axis=axis), *arrays)


class Kernel:
    def __init__(self, source: str, name: str):
        self.name, self.run = name, getattr(compiled(source), f"run_{name}")

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        (gx, gy), (bx, by) = ((*sizes, 1)[:2] for sizes in (grid, block))
        assert 0 < gx < 2**31
        assert 0 < gy < 2**16
        assert 0 < bx * by <= 1024
        sizes = (ctypes.c_uint * 2)(gx, gy), (ctypes.c_uint * 2)(bx, by)
        values, keep = [], []
        for argument in arguments:
            if isinstance(argument, ndarray):
                assert bare(argument).flags.c_contiguous
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
        MACHINE.do(lambda: kept and self.run(*sizes, addresses), *blocks(arguments))


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
        assert settings["stream"] == HERE.streams[-1].ptr, "the handle works on another stream"
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
        MACHINE.do(lambda: np.copyto(out, left @ right), *(MACHINE.block_at(pointer.value) for pointer in (a, b, c)))
        return 0

    def cublasGemmStridedBatchedEx(self, handle: Any, transpose_a: int, transpose_b: int, m: int, n: int, k: int,
                                   alpha: Any, a: Any, type_a: int, lead_a: int, step_a: Any, b: Any, type_b: int,
                                   lead_b: int, step_b: Any, beta: Any, c: Any, type_c: int, lead_c: int, step_c: Any,
                                   batches: int, compute: int, algorithm: int) -> int:  # fmt: skip
        size = {0: 4, 1: 8}[type_a]
        MACHINE.counts["stack of gemm"] += 1
        for i in range(batches):
            places = [
                ctypes.c_void_p(p.value + i * step.value * size) for p, step in ((a, step_a), (b, step_b), (c, step_c))
            ]
            self.cublasGemmEx(
                handle, transpose_a, transpose_b, m, n, k, alpha, places[0], type_a, lead_a, places[1], type_b, lead_b,
                beta, places[2], type_c, lead_c, compute, algorithm,
            )  # fmt: skip
        return 0


CUBLAS = Cublas()


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
    module.concat = concat  # type: ignore[attr-defined]
    module.stack = lambda arrays, axis=0: concat([module.expand_dims(a, axis=axis) for a in arrays], axis)  # type: ignore[attr-defined]
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
        get_current_stream=lambda: HERE.streams[-1],
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            CUDARuntimeError=Forbidden,
            driverGetVersion=lambda: 13000,
            getDeviceCount=lambda: MACHINE.devices,
            getDeviceProperties=lambda index: {"name": b"stand-in", "totalGlobalMem": 2**30, "major": 9, "minor": 0},
            runtimeGetVersion=lambda: 13000,
        ),
        using_allocator=using_allocator,
    ),
)


KERNELS = "nnbackend.backends.cupy.kernels"
REGISTERED: list[ModuleType] = []


@contextmanager
def installed() -> Iterator[Machine]:
    """Within the block `import cupy` finds the stand-in, and so do this library and array-api-compat."""
    from nnbackend.backends.cupy import cublas

    mine = {"cupy": CUPY, "array_api_compat.cupy": XP}
    before = {name: sys.modules.get(name) for name in [*mine, KERNELS]}
    sys.modules.update(mine)
    sys.modules.pop(KERNELS, None)
    if REGISTERED:  # once: every import of the kernels would register them in front of themselves
        sys.modules[KERNELS] = REGISTERED[0]
    library, cublas.library = cublas.library, lambda: CUBLAS  # type: ignore[assignment]
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
        REGISTERED[:] = [sys.modules[KERNELS]] if KERNELS in sys.modules else []
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def pytest_configure(config: object) -> None:
    """As a plugin: be CuPy from before the tests are collected until the process ends."""
    context = installed()
    context.__enter__()
    config.add_cleanup(lambda: context.__exit__(None, None, None))  # type: ignore[attr-defined]
