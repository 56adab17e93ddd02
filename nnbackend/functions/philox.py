"""Counter-based random bits: a pure function of a counter and a key, so the same on every backend, bit for bit."""

from __future__ import annotations

import math
from functools import singledispatch

from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.functions.dispatch import floating

_LOW16, _LOW32 = 0xFFFF, 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as 32-bit fractions


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10: four random 32-bit words for every counter of four words and key of two.

    Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3". counter: int64 arrays (or
    integers that broadcast) with values in [0, 2^32); so are the four results. The array API has no product of
    32-bit words that keeps both halves; signed 64-bit words, multiplied by 16 bits at a time, never overflow.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW32, (k1 + _WEYL[1]) & _LOW32
    return c0, c1, c2, c3


def _multiply(a: Array, constant: int) -> tuple[Array, Array]:
    """The upper and the lower 32 bits of a times a constant, both below 2^32."""
    by_low, by_high = a * (constant & _LOW16), a * (constant >> 16)
    upper = by_high + (by_low >> 16)
    return upper >> 16, ((upper & _LOW16) << 16) | (by_low & _LOW16)


@floating
def dropout_mask(x: Array, ratio: float, seed: int, stream: int, clock: Array) -> Array:
    """Zero with probability `ratio`, else 1 / (1 - ratio), for every element of x: any shape, in its dtype.

    Srivastava et al. (2014), scaled while training so that inference needs nothing ("inverted"). clock: (1,) int64,
    on the device; a mask depends on seed, stream, clock and the element's position and on nothing else: element e
    is word e mod 4 for the counter (e div 4, clock, stream, 0), of which 24 bits are compared with the ratio.
    """
    xp = array_namespace(x)
    bits = _bits(x, math.prod(x.shape), seed, stream, clock)
    kept = xp.astype(bits >= round(ratio * 2**24), x.dtype)
    return xp.reshape(kept * (1.0 / (1.0 - ratio)), x.shape)


@floating
def masked(x: Array, mask: Array) -> Array:
    """x mask, elementwise: what `dropout_mask` leaves of x, or of its gradient. Both have one shape and dtype."""
    return x * mask


@singledispatch
def advance(clock: Array, passes: int) -> None:
    """Add a number of training passes to the clock, (1,) int64, in place."""
    clock += passes


@floating
def uniform(x: Array, shape: tuple[int, ...], seed: int, stream: int, clock: Array) -> Array:
    """Random numbers, even on [0, 1): multiples of 2^-24, of `shape`, in the dtype and on the device of x.

    seed, stream, clock, and the word that an element is made of: as in `dropout_mask`. The values of x are not read.
    """
    xp = array_namespace(x)
    bits = _bits(x, math.prod(shape), seed, stream, clock)
    return xp.reshape(xp.astype(bits, x.dtype) * 2.0**-24, shape)


def normal(x: Array, shape: tuple[int, ...], seed: int, stream: int, clock: Array) -> Array:
    """Random numbers of a normal distribution, of mean 0 and standard deviation 1. Arguments: as in `uniform`.

    Box, Muller (1958), "A note on the generation of random normal deviates", from pairs of even numbers. None is
    further from 0 than sqrt(48 log 2) = 5.8.
    """
    xp, size = array_namespace(x), math.prod(shape)
    pairs = uniform(x, (2, -(-size // 2)), seed, stream, clock)
    radius, angle = xp.sqrt(-2.0 * xp.log(1.0 - pairs[0, ...])), 2.0 * math.pi * pairs[1, ...]
    return xp.reshape(xp.concat([radius * xp.cos(angle), radius * xp.sin(angle)])[:size], shape)


def _bits(x: Array, size: int, seed: int, stream: int, clock: Array) -> Array:
    """The upper 24 bits of the first `size` words of a stream: (size,), int64, on the device of x."""
    xp = array_namespace(x)
    block = xp.arange(-(-size // 4), dtype=xp.int64, device=device(x))
    zero = xp.zeros_like(block)
    words = philox((block, zero + (clock & _LOW32), zero + stream, zero), (seed & _LOW32, (seed >> 32) & _LOW32))
    return xp.reshape(xp.stack(words, axis=1), (-1,))[:size] >> 8
