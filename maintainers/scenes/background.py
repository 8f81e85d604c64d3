"""What stands behind the people: walls, leaves, bricks, shelves, and the things before them."""

import math
from collections.abc import Callable

import cv2
import numpy as np

from .body import draw_empty_clothes
from .look import any_colour
from .things import THINGS, draw_skin_coloured
from .tools import Array, Rng, chance, fractal, noise, uniform


def draw_background(rng: Rng, height: int, width: int) -> Array:
    """A cluttered picture without a face, float32 BGR [height, width, 3], 0..255."""
    painter = PLACES[rng.integers(0, len(PLACES))]
    image = painter(rng, height, width)
    if painter is not studio:
        dirt = uniform(rng, 0.05, 0.3) * fractal(
            rng, height, width, uniform(rng, 60, 300), octaves=5, gain=0.6
        )
        image = np.clip(image * (1 + dirt)[..., None], 0, 255).astype(np.uint8)
        for _ in range(int(uniform(rng, 0, 14))):
            THINGS[rng.integers(0, len(THINGS))](rng, image)
    image = image.astype(np.float32)
    if chance(rng, 0.45):
        for _ in range(rng.integers(1, 5)):
            draw_skin_coloured(rng, image)
    if chance(rng, 0.45):
        for _ in range(rng.integers(1, 4)):
            draw_empty_clothes(rng, image)
    if chance(rng, 0.45):
        image = cv2.GaussianBlur(image, (0, 0), uniform(rng, 1, 9))
    return np.clip(image, 0, 255)


def gradient(rng: Rng, height: int, width: int) -> Array:
    """From one colour to another, in any direction."""
    share = uniform(rng, 0, 1)
    rows, columns = (
        np.linspace(0, 1, height)[:, None, None],
        np.linspace(0, 1, width)[None, :, None],
    )
    t = (rows * share + columns * (1 - share)).astype(np.float32)
    return any_colour(rng) * (1 - t) + any_colour(rng) * t


def studio(rng: Rng, height: int, width: int) -> Array:
    """A photographer's backdrop."""
    return gradient(rng, height, width) + uniform(rng, 0, 8) * noise(rng, height, width, 3, 3)


def clouds(rng: Rng, height: int, width: int) -> Array:
    """Coloured noise on many scales."""
    shapes = fractal(rng, height, width, uniform(rng, 40, 160), 3, 6, uniform(rng, 0.45, 0.8))
    return gradient(rng, height, width) + shapes * uniform(rng, 15, 45)


def foliage(rng: Rng, height: int, width: int) -> Array:
    """Leaves with patches of light."""
    leaves = 1 + 0.55 * fractal(rng, height, width, uniform(rng, 10, 40), octaves=4, gain=0.75)
    tint = [uniform(rng, 0.5, 1.3), uniform(rng, 0.7, 1.3), uniform(rng, 0.5, 1.3)]
    green = np.array([30, 80, 60], np.float32) * np.array(tint, np.float32)
    light = noise(rng, height, width, 60) > 0.8
    return green * leaves[..., None] + 60 * light[..., None]


def bricks(rng: Rng, height: int, width: int) -> Array:
    """A wall; every brick has a shade of its own."""
    tall, wide = int(uniform(rng, 8, 40)), int(uniform(rng, 16, 90))
    rows = np.arange(height)[:, None] // tall
    columns = np.arange(width)[None] + rows % 2 * (wide // 2)
    shades = rng.standard_normal((height // tall + 2, width // wide + 3)).astype(np.float32)
    image = any_colour(rng) * (1 + 0.12 * shades[rows, columns // wide])[..., None]
    image = image + 8 * noise(rng, height, width, 3)[..., None]
    mortar = (np.arange(height)[:, None] % tall < 2) | (columns % wide < 2)
    image[mortar] = any_colour(rng)
    return image


def shelves(rng: Rng, height: int, width: int) -> Array:
    """Rectangles, filled and empty: books, windows, boxes."""
    image = np.ascontiguousarray(gradient(rng, height, width))
    for _ in range(int(uniform(rng, 20, 90))):
        x, y = int(uniform(rng, 0, width)), int(uniform(rng, 0, height))
        corner = (x + int(uniform(rng, 5, 100)), y + int(uniform(rng, 5, 100)))
        cv2.rectangle(
            image, (x, y), corner, any_colour(rng).tolist(), -1 if chance(rng, 0.7) else 2
        )
    return image


def shards(rng: Rng, height: int, width: int) -> Array:
    """Irregular polygons."""
    image = np.ascontiguousarray(gradient(rng, height, width))
    for _ in range(int(uniform(rng, 10, 60))):
        centre = np.array([uniform(rng, 0, width), uniform(rng, 0, height)])
        corners = centre + rng.standard_normal((rng.integers(3, 8), 2)) * uniform(rng, 10, 90)
        cv2.fillPoly(image, [corners.astype(np.int32)], any_colour(rng).tolist(), cv2.LINE_AA)
    return image


def stripes(rng: Rng, height: int, width: int) -> Array:
    """Parallel stripes at any angle."""
    period, angle = uniform(rng, 4, 50), uniform(rng, 0, math.pi)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    wave = np.sin((columns * math.cos(angle) + rows * math.sin(angle)) * 2 * math.pi / period)
    return np.where((wave > uniform(rng, -0.8, 0.8))[..., None], any_colour(rng), any_colour(rng))


PLACES: tuple[Callable[[Rng, int, int], Array], ...] = (
    studio,
    clouds,
    foliage,
    bricks,
    shelves,
    shards,
    stripes,
    gradient,
)
