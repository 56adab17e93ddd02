"""The spiral of the book and exclusive or."""

import math

import numpy as np
import pytest

from nnbackend.backends import to_numpy, using
from nnbackend.datasets import spiral, xor

BACKENDS = ["numpy", "array_api_strict:device1"]


def book_spiral(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The loop of Deep Learning from Scratch 2, section 1.4.1, with another source of random numbers."""
    random = np.random.default_rng(seed)
    x, t = np.zeros((300, 2)), np.zeros(300, int)
    for j in range(3):
        for i in range(100):
            rate = i / 100
            radius = 1.0 * rate
            theta = j * 4.0 + 4.0 * rate + random.standard_normal() * 0.2
            x[100 * j + i] = [radius * np.sin(theta), radius * np.cos(theta)]
            t[100 * j + i] = j
    return x, t


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_spiral_is_that_of_the_book(backend: str, dtype: str) -> None:
    with using(backend) as current:
        x, t = spiral(dtype=dtype, seed=1984)
        assert current.owns(x)
        assert current.owns(t)
    expected, labels = book_spiral(1984)
    assert to_numpy(x).dtype == dtype
    assert to_numpy(t).dtype == np.int64
    # one rounding to dtype, and a few in float64 before it (sums in another order), all of numbers up to 1
    np.testing.assert_allclose(to_numpy(x), expected, rtol=0, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(to_numpy(t), labels)


def test_spiral_depends_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(spiral(seed=3)[0], spiral(seed=3)[0])
    assert np.any(spiral(seed=3)[0] != spiral(seed=4)[0])


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7])
def test_arms_of_a_spiral_stay_apart(classes: int) -> None:
    x, t = spiral(classes, 50, noise=0.0, dtype="float64")
    assert x.shape == (50 * classes, 2)
    assert t.tolist() == [j for j in range(classes) for _ in range(50)]
    x = x.reshape(classes, 50, 2)
    np.testing.assert_allclose(np.hypot(*x[:, 1:].T), np.arange(1, 50)[:, None] / 50 * np.ones(classes))
    angles = np.sort(np.arctan2(x[:, -1, 0], x[:, -1, 1]) % (2 * math.pi))
    gaps = np.diff(angles, append=angles[0] + 2 * math.pi)
    if classes == 3:  # the book's 4 j radians
        np.testing.assert_allclose(np.sort(gaps), [8 - 2 * math.pi, 2 * math.pi - 4, 2 * math.pi - 4])
    else:
        np.testing.assert_allclose(gaps, 2 * math.pi / classes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_xor(backend: str) -> None:
    with using(backend) as current:
        x, t = xor()
        assert current.owns(x)
    assert to_numpy(x).dtype == np.float32
    assert to_numpy(t).dtype == np.int64
    assert to_numpy(x).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert to_numpy(t).tolist() == [0, 1, 1, 0]


def test_a_backend_can_be_given() -> None:
    with using("array_api_strict:device1") as other:
        pass
    for x, t in (xor(backend=other), spiral(points=2, backend=other)):
        assert other.owns(x)
        assert other.owns(t)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes: got 1, expected at least 2"),
        ({"points": 0}, "points: got 0, expected at least 1"),
        ({"seed": -1}, "seed: got -1, expected at least 0"),
        ({"noise": -0.1}, "noise: got -0.1, expected a finite number of at least 0"),
        ({"noise": math.nan}, "noise: got nan"),
        ({"noise": math.inf}, "noise: got inf"),
        ({"dtype": "int32"}, "dtype: got 'int32', expected one of float32, float64"),
    ],
    ids=str,
)
def test_spiral_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        spiral(**arguments)


@pytest.mark.parametrize(("name", "value"), [("classes", 3.0), ("points", "9"), ("points", True), ("seed", None)])
def test_spiral_refuses_what_is_no_integer(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: got {value!r}, expected an integer"):
        spiral(**{name: value})


def test_xor_refuses() -> None:
    with pytest.raises(ValueError, match=r"^dtype: got 'float16'"):
        xor(dtype="float16")
    with pytest.raises(TypeError, match=r"^backend: got 'numpy', expected a Backend or None"):
        xor(backend="numpy")
