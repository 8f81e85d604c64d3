"""Small drawing tools: random numbers, noise, soft shapes and painting through a mask.

Coordinates run x to the right and y downwards; images and colours are float32 BGR, 0..255; masks
are float32, 0..1. Every function that draws lots takes the generator as its first argument, so
that a scene depends on its seed and on nothing else.
"""

import math

import cv2
import numpy as np

Rng = np.random.Generator
Array = np.ndarray


def uniform(rng: Rng, low: float, high: float) -> float:
    """A Python float drawn evenly from [low, high)."""
    return float(rng.uniform(low, high))


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A size between low and high, every octave being equally likely."""
    return math.exp(uniform(rng, math.log(low), math.log(high)))


def chance(rng: Rng, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def pick(rng: Rng, weights: dict[str, float]) -> str:
    """One of the keys, drawn in proportion to its weight."""
    share = np.array(list(weights.values()), float)
    return str(rng.choice(list(weights), p=share / share.sum()))


def smoothstep(x: Array, start: float, stop: float) -> Array:
    """0 below start, 1 above stop, and the smooth cubic 3t^2 - 2t^3 between them."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float) -> Array:
    """An elliptic Gaussian hill of height 1 at (cx, cy)."""
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def pair(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float) -> Array:
    """Two hills that mirror each other about x = 0: a face has most things twice."""
    return bump(x, y, -cx, cy, sx, sy) + bump(x, y, cx, cy, sx, sy)


def noise(
    rng: Rng, height: int, width: int, cell: float, channels: int = 1, stretch: float = 1.0
) -> Array:
    """Smooth noise, about -2..2, whose blobs are `cell` pixels tall and `cell * stretch` wide.

    Returns [height, width] for one channel and [height, width, channels] for more.
    """
    rows, columns = max(2, int(height / cell) + 2), max(2, int(width / (cell * stretch)) + 2)
    grid = rng.standard_normal((rows, columns, channels)).astype(np.float32)
    out = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return out if channels > 1 else out.reshape(height, width)


def fractal(
    rng: Rng,
    height: int,
    width: int,
    cell: float,
    channels: int = 1,
    octaves: int = 4,
    gain: float = 0.5,
) -> Array:
    """A sum of noises, each with half the blobs' size and `gain` times the strength of the last."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    out = np.zeros(shape, np.float32)
    for octave in range(octaves):
        size = cell / 2**octave
        if size < 1:
            break
        out += gain**octave * noise(rng, height, width, size, channels)
    return out


def paint(image: Array, mask: Array, colour: Array | tuple[float, float, float]) -> None:
    """Blend a colour ([3], or an image of image's shape) into image, in place, as strongly as
    mask says.

    Only the rectangle where the mask is above 0.01 is touched: most masks are small.
    """
    box = support(mask)
    if box is None:
        return
    region, colour = image[box], np.asarray(colour, np.float32)
    if colour.ndim == 3:
        colour = colour[box]
    region += (colour - region) * mask[box].astype(np.float32)[..., None]


def support(mask: Array, threshold: float = 0.01) -> tuple[slice, slice] | None:
    """The smallest rectangle that holds every mask value above threshold; None without one."""
    rows, columns = np.flatnonzero(mask.max(1) > threshold), np.flatnonzero(mask.max(0) > threshold)
    if not len(rows) or not len(columns):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def polygon_mask(height: int, width: int, points: Array) -> Array:
    """An antialiased filled polygon, float32 0..1; points [N, 2] may lie outside and between
    pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(np.asarray(points) * 8).astype(np.int32)], 255, cv2.LINE_AA, 3)
    return mask.astype(np.float32) / 255


def roundness(mask: Array, depth: float) -> Array:
    """Shading of a rounded body from its flat outline: 0 on the edge, 1 from `depth` pixels
    inwards."""
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    return smoothstep(inside, 0, max(depth, 0.5))
