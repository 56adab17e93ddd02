"""Find the digit on a sheet of paper, in a picture by a camera, a scanner or a drawing program.

The steps are:

1. Decide whether ink or paper is the darker of the two. Ink is thin.
2. Estimate the brightness of the paper around each pixel and divide by it. That removes shadows.
3. Blur the grain.
4. Remove lines that run across the sheet, then frames, tables and specks.
5. Keep the largest object that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FAINT", "Cut", "cut_out", "edge", "pen_width", "widened"]

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FAINT = 0.1  # a sheet is blank if its contrast is below this (1: from black to white)
_SHADE = 0.25  # pixels are paper if they are weaker than this fraction of the ink
_COARSE = 100  # pixels of the longer side of the small copy from which the paper is estimated
_CLOSING = 0.25  # of the side; dark areas are ink if they are narrower than twice this, else shadow
_LINE = 0.025  # of the longer side; the largest thickness of a line across the sheet
_SLOPES = np.linspace(-0.12, 0.12, 49)  # the slopes of such lines: photographs are up to 7 degrees askew
_SOLID = 0.65  # of its bounding box; strokes fill less


@dataclass(frozen=True)
class Cut:
    """Holds an object that was cut out. ink: (height, width), from 0 (paper) to 1. doubts: reasons to distrust it."""

    ink: Grey
    doubts: tuple[str, ...] = ()


def cut_out(grey: Grey, solid: bool = False) -> Cut | None:
    """Cut the largest object out of a sheet, whose greys go from 0 to 1. Return None if the sheet is blank.

    solid: the object has an area (clothes, say) and no strokes. Its greys are kept, and the light must be even.
    """
    if float(np.ptp(grey)) < FAINT:
        return None
    if solid:
        paper = float(np.median(edge(grey)))
        dark, light = paper - float(grey.min()), float(grey.max()) - paper
        ink = np.clip((paper - grey if dark > light else grey - paper) / max(dark, light), 0, 1)
        return Cut(_trimmed(np.where(ink < FAINT, np.float32(0), ink)))
    found = _thing(grey if _ink_is_darker(_reduced(grey)) else 1 - grey)
    if found is None:
        return None
    ink, level, kept, doubts = found
    soft = np.minimum(ink / np.float32(level), 1)
    around = _grown(kept, round(0.03 * max(_trimmed(kept).shape))) & _without_lines(soft > _SHADE)
    soft[(soft < _SHADE) | ~(around | _grown(kept, 2))] = 0
    return Cut(_trimmed(soft), doubts)


def _thing(grey: Grey) -> tuple[Grey, float, Mask, tuple[str, ...]] | None:
    """Return dark ink, its strength, the mask of the largest object, and doubts; or None if the sheet is blank."""
    for flat in (False, True):  # if the digit fills the sheet, there is too little paper for an estimate
        ink = _ink(grey, flat)
        level, kept, doubts = _strokes(ink)
        if level >= FAINT:
            return ink, level, kept, doubts
    return None


def pen_width(ink: Grey) -> float:
    """Measure the mean width of the strokes, in pixels: the area of a stroke is half its outline times its width."""
    mask = np.pad(ink > 0.5, 1)
    outline = int((mask & ~_shrunk(mask, 1)).sum())
    return 2 * int(mask.sum()) / max(outline, 1)


def widened(ink: Grey, pixels: int) -> Grey:
    """Draw the strokes with a pen that is wider by so many pixels on either side."""
    return _grown(np.pad(ink, pixels), pixels)


# --- paper and ink ----------------------------------------------------------------------------------------------


def _ink_is_darker(coarse: Grey) -> bool:
    """Say whether the thin objects in the picture are darker than their surroundings.

    If so, the deviations from a blurred copy are skewed, whether the light is even or not. If there is little skew, the
    edge of the picture decides.
    """
    inner = tuple(slice(length * 8 // 100, length - length * 8 // 100) for length in coarse.shape)  # without a frame
    skew = 0.0
    for part in (0.03, 0.06, 0.12):
        deviation = (coarse - _blurred(coarse, max(0.7, part * min(coarse.shape))))[inner]
        skew += float((deviation**3).mean()) / float((deviation**2).mean() + 1e-9) ** 1.5
    if abs(skew) >= 1:
        return skew < 0
    middle = (float(coarse.min()) + float(coarse.max())) / 2
    darker = float(np.median(edge(coarse))) > middle
    thing, _ = _largest((coarse < middle) == darker)
    if _is_area(thing) and not edge(thing).any():  # the object is the sheet itself, on a table
        return not darker
    first, second = (coarse, 1 - coarse) if darker else (1 - coarse, coarse)
    return darker == (1.3 * _digit_like(first) >= _digit_like(second))


def _digit_like(grey: Grey) -> float:
    """Return the size of the object on a sheet, reduced if the object reaches the edge or is an area."""
    found = _thing(grey)
    if found is None:
        return 0.0
    kept = found[2]
    size = float(max(_trimmed(kept).shape))
    return size * (0.3 if edge(kept).any() else 1.0) * (0.1 if _is_area(kept) else 1.0)


def _is_area(mask: Mask) -> bool:
    box = _trimmed(mask)
    return float(box.mean()) > _SOLID and min(box.shape) > 0.4 * max(box.shape)


def _ink(grey: Grey, flat: bool) -> Grey:
    """Return the fraction of the paper's light that each pixel lacks. flat: the paper has the same light everywhere."""
    from PIL import Image

    coarse = _reduced(grey)
    if flat:
        paper = np.full(grey.shape, coarse.max(), np.float32)
    else:
        radius = max(1, round(_CLOSING * float(np.sqrt(coarse.size))))
        closed = _blurred(_shrunk(_grown(coarse, radius), radius), max(0.5, 0.01 * max(coarse.shape)))
        paper = np.asarray(Image.fromarray(closed).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    ink: Grey = (1 - grey / np.maximum(paper, np.float32(1e-3))).astype(np.float32)
    noise = _noise(ink)
    if noise > 0.03:  # a blur of r pixels divides the noise by 3.5 r
        ink = _blurred(ink, min(14 * noise, 0.008 * max(ink.shape)))
    bias = min(float(np.median(ink)), 0.5)  # the paper was estimated from its brightest grain
    found: Grey = np.clip((ink - bias) / (1 - bias), 0, 1).astype(np.float32)
    return found


def _noise(values: Grey) -> float:
    """Return the standard deviation of the grain, from second differences in both directions; their norm is 6."""
    rows = values[:-2] - 2 * values[1:-1] + values[2:]
    both = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.median(np.abs(both))) / (0.6745 * 6) if both.size else 0.0


# --- which ink --------------------------------------------------------------------------------------------------


def _strokes(ink: Grey) -> tuple[float, Mask, tuple[str, ...]]:
    """Return the strength of the ink of the main object, its mask, and doubts.

    Ink of less than about half that strength is left out: the threshold rises until it fits the object that it shows.
    """
    threshold, level = 0.06, 0.0
    doubts: tuple[str, ...] = ()
    kept: Mask = np.zeros(ink.shape, bool)
    for _ in range(5):
        chosen, said = _largest(_without_lines(ink > threshold))
        if not chosen.any():
            break
        kept, doubts = chosen, said
        level = float(np.percentile(ink[kept], 97))
        if 0.45 * level <= 1.02 * threshold:
            break
        threshold = 0.45 * level
    return level, kept, doubts


def _largest(mask: Mask) -> tuple[Mask, tuple[str, ...]]:
    """Return the mask of the largest connected object with its parts, and doubts whether it is the right one."""
    labels, count = _labelled(mask)
    if not count:
        return mask, ()
    (height, width), (ys, xs) = mask.shape, np.nonzero(mask)
    of = labels[ys, xs] - 1
    mass = np.bincount(of, minlength=count)
    top, left, bottom, right = np.full(count, height), np.full(count, width), np.zeros(count, int), np.zeros(count, int)
    for end, at, least in ((top, ys, True), (left, xs, True), (bottom, ys + 1, False), (right, xs + 1, False)):
        (np.minimum if least else np.maximum).at(end, of, at)
    longer = np.maximum(bottom - top, right - left)
    sides = (top == 0).astype(int) + (left == 0) + (bottom == height) + (right == width)

    score = mass * longer * np.where(sides == 0, 1.0, 0.1)
    large = longer >= 0.1 * min(mask.shape)
    if (large & (sides == 0)).any():
        score[sides >= 3] *= 1e-3  # it may be a table around the sheet
    for i in np.flatnonzero(longer > 0.3 * min(mask.shape)):
        inside = (top > top[i]) & (left > left[i]) & (bottom < bottom[i]) & (right < right[i])
        if (inside & (longer >= 0.25 * longer[i])).any():
            score[i] *= 1e-3  # it is a frame
    main = int(score.argmax())
    size = int(longer[main])
    across = np.maximum(left[main] - right, left - right[main])
    along = np.maximum(top[main] - bottom, top - bottom[main])
    gap = np.maximum(np.maximum(across, along), 0)
    taken = (gap <= 0.12 * size) & (longer >= 0.12 * size) & (longer <= size) & (score > 2e-3 * score[main])
    taken |= (across < 0) & (gap <= 0.3 * size) & (longer >= 0.1 * size) & (score > 5e-3 * score[main])  # a dot on an i
    taken &= (sides == 0) | (sides[main] > 0)
    taken[main] = True

    doubts = []
    others = ~taken & (longer >= 0.5 * size) & (score >= 0.3 * score[main])
    if others.any():
        doubts.append(f"there are {1 + int(others.sum())} things of its size, the largest is taken")
    fills = size >= 0.9 * max(mask.shape)
    if sides[main] and not fills:
        doubts.append("it reaches the edge of the picture, a part may be missing")
    box = (bottom[main] - top[main], right[main] - left[main])
    if (
        mass[main] > 0.8 * box[0] * box[1] and min(box) > 0.4 * size >= 6
    ):  # not if it is small: short strokes fill their box as well
        doubts.append("it is an area, not strokes")
    if size < 8:
        doubts.append(f"it has only {box[0]} x {box[1]} pixels")
    return taken[labels - 1] & mask, tuple(doubts)


def _labelled(mask: Mask) -> tuple[npt.NDArray[np.int_], int]:
    """Number the connected objects (8 neighbours) from 1 on, by joining the runs of each row with those of the next."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded.reshape(-1))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    below = width + 2
    low = np.searchsorted(ends, starts + below, side="left")
    many = np.maximum(np.searchsorted(starts, ends + below, side="right") - low, 0)
    upper = np.repeat(np.arange(len(starts)), many)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(low, many)
    parent = np.arange(len(starts))
    while True:
        least, joined = np.minimum(parent[upper], parent[lower]), parent.copy()
        for runs in (parent[upper], parent[lower], upper, lower):
            np.minimum.at(joined, runs, least)
        joined = joined[joined]
        if np.array_equal(joined, parent):
            break
        parent = joined
    roots, number = np.unique(parent, return_inverse=True)
    changes = np.zeros(padded.size + 1, int)
    changes[starts + 1] += number + 1  # runs do not touch, so no index comes twice
    changes[ends + 1] -= number + 1
    return np.cumsum(changes)[:-1].reshape(padded.shape)[:, 1:-1], len(roots)


def _without_lines(mask: Mask) -> Mask:
    """Remove the straight lines that run across the sheet, but not a bar of a digit that fills it."""
    cleared, rows = _without_rows(mask)
    turned, columns = _without_rows(cleared.T)
    cleared = turned.T
    if not rows and not columns:
        return mask
    left, _ = _largest(cleared)
    for lines, rest, main in ((rows, cleared, left), (columns, turned, left.T)):
        ends = max(2, round(0.03 * rest.shape[1]))
        at = np.r_[:ends, -ends:0]
        joined = sum(bool(rest[np.clip(line, 0, len(rest) - 1)[:, at], at].any()) for line in lines)
        bars = joined == len(lines) and len(rows) + len(columns) <= 3
        if lines and (bars or main[:, :2].any() or main[:, -2:].any()):
            return mask  # the ends of the line are strokes of the digit
    return cleared if left.any() else mask


def _without_rows(mask: Mask) -> tuple[Mask, list[npt.NDArray[np.int_]]]:
    """Remove nearly horizontal lines from side to side. Return the mask, and for each line its rows, by column."""
    (height, width), (ys, xs) = mask.shape, np.nonzero(mask)
    if not len(ys) or min(mask.shape) < 12:
        return mask, []
    margin = int(0.12 * width) + 2  # a sloping line may leave the picture

    def drop(slope: float, columns: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
        moved: npt.NDArray[np.int_] = np.round(slope * (columns - width / 2)).astype(int)
        return moved

    def counted(slope: float) -> npt.NDArray[np.int_]:
        return np.bincount(ys - drop(slope, xs) + margin, minlength=height + 2 * margin)

    def found(slope: float) -> float:
        count = counted(slope)
        return float((count[count >= 0.8 * width].astype(float) ** 2).sum())

    slope = max(_SLOPES, key=found)
    if not found(slope):
        return mask, []
    count, row, columns = counted(slope), ys - drop(slope, xs) + margin, np.arange(width)
    steps = np.diff(np.concatenate([[0], count >= 0.6 * width, [0]]))
    cleared, found_lines = mask.copy(), list[npt.NDArray[np.int_]]()
    for start, end in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
        reach = xs[(row >= start - 1) & (row <= end)]
        across = reach.min() <= 0.02 * width + 1 and reach.max() >= 0.98 * width - 2
        if end - start > max(3, _LINE * max(mask.shape)) or count[start:end].max() < 0.8 * width or not across:
            continue
        lines: npt.NDArray[np.int_] = (
            np.arange(start - 2, end + 2)[:, None] - margin + drop(slope, columns)
        )  # with two rows around each line
        found_lines.append(lines)
        inside = (lines >= 0) & (lines < height)
        values = mask[np.clip(lines, 0, height - 1), columns] & inside
        erase = inside[1:-1] & ~(values[0] | values[-1])  # except where a stroke crosses the line
        cleared[lines[1:-1][erase], np.broadcast_to(columns, erase.shape)[erase]] = False
    return cleared, found_lines


# --- arrays -----------------------------------------------------------------------------------------------------


def edge(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels of the first and last row and column."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _trimmed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut out the smallest box that holds all values other than 0."""
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else values


def _reduced(grey: Grey) -> Grey:
    from PIL import Image

    step = -(-max(grey.shape) // _COARSE)
    return grey if step == 1 else np.asarray(Image.fromarray(grey).reduce(step))


def _blurred(values: Grey, sigma: float) -> Grey:
    """Blur floats with a Gaussian. Pillow does so for bytes only."""
    reach = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    for _ in range(2):
        padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
        total = np.zeros_like(values)
        for i, weight in enumerate(kernel / kernel.sum()):
            total += weight * padded[i : i + len(values)]
        values = total.T
    return values


def _grown(values: npt.NDArray[Any], radius: int) -> npt.NDArray[Any]:
    """Return the largest value in an octagon around each pixel."""
    for step in range(radius):
        padded = np.pad(values, 1, mode="edge")
        middle = padded[:, 1:-1]
        column = np.maximum(np.maximum(middle[:-2], middle[2:]), values)
        if step % 2:
            wide = np.maximum(np.maximum(padded[:-2], padded[2:]), padded[1:-1])
            values = np.maximum(np.maximum(wide[:, :-2], wide[:, 2:]), column)
        else:
            values = np.maximum(np.maximum(padded[1:-1, :-2], padded[1:-1, 2:]), column)
    return values


def _shrunk(values: npt.NDArray[Any], radius: int) -> npt.NDArray[Any]:
    """Return the smallest value in an octagon around each pixel."""
    return ~_grown(~values, radius) if values.dtype == bool else -_grown(-values, radius)
