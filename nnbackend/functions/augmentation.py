"""Random changes of images, (n, h, w, c): where each pixel of the result lies in the image, and what is seen there.

A position is given in pixels: (0, 0) is the middle of the first pixel, rows point down and columns to the right.
"""

from __future__ import annotations

import math

from nnbackend.functions.affine import product
from nnbackend.functions.array import Array, array_namespace, device, pieces
from nnbackend.functions.dispatch import floating

AT_ONCE = 2**22  # elements of the weights that `resample_backward` lays out at a time


@floating
def resample(x: Array, rows: Array, columns: Array, fill: float = 0.0) -> Array:
    """The values of images at positions between their pixels, by bilinear interpolation.

    x: (n, h, w, c). rows, columns: (n, h', w'), in the dtype of x. fill: the value of all that lies outside of an
    image. Returns (n, h', w', c). A position that is not a number gives NaN.
    """
    xp = array_namespace(x)
    n, h, w, c = x.shape
    pixels = xp.reshape(x, (n * h * w, c))
    first = xp.reshape(xp.arange(n, dtype=xp.int64, device=device(x)) * (h * w), (n, 1, 1))
    top, left = xp.floor(rows), xp.floor(columns)
    below, right = rows - top, columns - left
    y = xp.zeros((*rows.shape, c), dtype=x.dtype, device=device(x))
    for i, down in ((top, 1.0 - below), (top + 1.0, below)):
        for j, along in ((left, 1.0 - right), (left + 1.0, right)):
            inside = (i >= 0.0) & (i < h) & (j >= 0.0) & (j < w)
            i_inside, j_inside = (xp.astype(xp.where(inside, at, 0.0), xp.int64) for at in (i, j))
            seen = xp.take(pixels, xp.reshape(first + i_inside * w + j_inside, (-1,)), axis=0)
            values = xp.where(inside[..., None], xp.reshape(seen, y.shape), fill)
            y = y + (down * along)[..., None] * values
    return y


@floating
def resample_backward(dy: Array, rows: Array, columns: Array, size: tuple[int, int]) -> Array:
    """dx, of the images of height and width `size`: (n, height, width, c).

    dy: (n, h', w', c). rows, columns: (n, h', w'). The weight of a pixel in a value is the product of two hats,
    max(0, 1 - |distance|), so that dx is a product of matrices for each image.
    """
    xp, (height, width) = array_namespace(dy), size
    n, c, points = dy.shape[0], dy.shape[3], math.prod(dy.shape[1:3])
    found = [xp.zeros((0, height, width, c), dtype=dy.dtype, device=device(dy))]
    for some in pieces(n, max(1, AT_ONCE // max(1, points * (height + width * c)))):
        images = some.stop - some.start
        vertical = _hats(rows[some, ...], images, points, height)
        horizontal = _hats(columns[some, ...], images, points, width)
        gradients = horizontal[..., None] * xp.reshape(dy[some, ...], (images, points, 1, c))
        products = product(xp.matrix_transpose(vertical), xp.reshape(gradients, (images, points, width * c)))
        found.append(xp.reshape(products, (images, height, width, c)))
    return xp.concat(found, axis=0)


def _hats(at: Array, images: int, points: int, length: int) -> Array:
    xp = array_namespace(at)
    pixels = xp.arange(length, dtype=at.dtype, device=device(at))
    return xp.maximum(1.0 - xp.abs(xp.reshape(at, (images, points, 1)) - pixels), 0.0)


def affine_positions(
    draws: Array, size: tuple[int, int], shift: float, degrees: float, scale: float
) -> tuple[Array, Array]:
    """Where the pixels of an image lie that is turned and scaled about its middle, and then shifted.

    draws: (n, 4), in [0, 1): for each image the shift down and to the right, the angle, and the factor. size: height
    and width. shift: the largest shift, as a fraction of height and of width. degrees: the largest angle, counted
    counterclockwise. scale: the factor lies in 1 - scale to 1 + scale. Returns rows and columns, (n, height, width).
    """
    xp, (height, width) = array_namespace(draws), size
    signed = 2.0 * draws - 1.0
    down, right, turn, grow = (xp.reshape(signed[:, k], (-1, 1, 1)) for k in range(4))
    angle, factor = (degrees * math.pi / 180.0) * turn, 1.0 + scale * grow
    along, across = xp.cos(angle) / factor, xp.sin(angle) / factor
    middle_row, middle_column = (height - 1) / 2.0, (width - 1) / 2.0
    i = xp.reshape(xp.arange(height, dtype=draws.dtype, device=device(draws)), (1, -1, 1))
    j = xp.reshape(xp.arange(width, dtype=draws.dtype, device=device(draws)), (1, 1, -1))
    i, j = i - (middle_row + shift * height * down), j - (middle_column + shift * width * right)
    return (middle_row + along * i) + across * j, (middle_column - across * i) + along * j


def elastic_draws(n: int, size: tuple[int, int], spacing: float) -> tuple[int, ...]:
    """The shape of the draws that `elastic_positions` takes for n images."""
    down, right = (math.floor((length - 1) / spacing) + 4 for length in size)
    return down, 2, n, right


@floating
def elastic_positions(draws: Array, size: tuple[int, int], distance: float, spacing: float) -> tuple[Array, Array]:
    """Where the pixels of an image lie that is bent like a sheet of rubber.

    Random points of a grid move, and a cubic B-spline moves the pixels between them: the free-form deformation of
    Rueckert et al. (1999), and for digits what Simard, Steinkraus, Platt (2003) reach by smoothing. draws: of the
    shape of `elastic_draws`, in [0, 1). size: height and width. distance: the standard deviation of the move of each
    pixel, down and to the right, in pixels. spacing: the pixels between two points of the grid. Returns rows and
    columns, (n, height, width).
    """
    xp, (height, width), (below, _, n, beside) = array_namespace(draws), size, draws.shape
    moves = (2.0 * math.sqrt(3.0) * distance) * (draws - 0.5)  # of the standard deviation `distance`
    splines = _splines(draws, height, below, spacing), _splines(draws, width, beside, spacing)
    moves = product(xp.reshape(moves, (below * 2 * n, beside)), splines[1].T)
    moves = xp.reshape(product(splines[0], xp.reshape(moves, (below, 2 * n * width))), (height, 2, n, width))
    i = xp.reshape(xp.arange(height, dtype=draws.dtype, device=device(draws)), (-1, 1, 1))
    j = xp.arange(width, dtype=draws.dtype, device=device(draws))
    rows, columns = i + moves[:, 0, ...], j + moves[:, 1, ...]
    return xp.permute_dims(rows, (1, 0, 2)), xp.permute_dims(columns, (1, 0, 2))


def _splines(like: Array, length: int, points: int, spacing: float) -> Array:
    """The weight of every point of the grid in every pixel of a line, (length, points). Their squares sum to 1."""
    xp = array_namespace(like)
    at = xp.arange(length, dtype=like.dtype, device=device(like)) / spacing
    grid = xp.arange(-1, points - 1, dtype=like.dtype, device=device(like))
    away = xp.abs(at[:, None] - grid)
    near, far = xp.maximum(1.0 - away, 0.0), xp.maximum(2.0 - away, 0.0)
    weights = (far**3 - 4.0 * near**3) / 6.0
    return weights / xp.sqrt(xp.sum(weights * weights, axis=1, keepdims=True))


@floating
def flip(x: Array, chosen: Array) -> Array:
    """The images that are chosen, left and right exchanged; the others as they are. x: (n, h, w, c); chosen: (n,) bool.

    It is its own backward: dx = flip(dy, chosen).
    """
    xp = array_namespace(x)
    return xp.where(xp.reshape(chosen, (-1, 1, 1, 1)), xp.flip(x, axis=2), x)
