"""What stands behind the people: walls, leaves, bricks, shelves, and things that are round but no faces."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from .body import draw_empty_clothes, paint_rounded, stamp_hand
from .look import any_colour, skin_colour
from .tools import Array, Rng, chance, fractal, log_uniform, noise, uniform


def draw_background(rng: Rng, height: int, width: int) -> Array:
    """A cluttered picture without a face, float32 BGR [height, width, 3], 0..255."""
    painter = PLACES[rng.integers(0, len(PLACES))]
    image = painter(rng, height, width)
    if painter is not studio:
        dirt = uniform(rng, 0.05, 0.3) * fractal(rng, height, width, uniform(rng, 60, 300), octaves=5, gain=0.6)
        image = np.clip(image * (1 + dirt)[..., None], 0, 255).astype(np.uint8)
        for _ in range(int(uniform(rng, 0, 14))):
            THINGS[rng.integers(0, len(THINGS))](rng, image)
    image = image.astype(np.float32)
    if chance(rng, 0.45):
        for _ in range(rng.integers(1, 5)):
            draw_skin_coloured(rng, image)
    if chance(rng, 0.35):
        for _ in range(rng.integers(1, 4)):
            draw_empty_clothes(rng, image)
    if chance(rng, 0.45):
        image = cv2.GaussianBlur(image, (0, 0), uniform(rng, 1, 9))
    return np.clip(image, 0, 255)


def gradient(rng: Rng, height: int, width: int) -> Array:
    """From one colour to another, in any direction."""
    share = uniform(rng, 0, 1)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
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
        cv2.rectangle(image, (x, y), corner, any_colour(rng).tolist(), -1 if chance(rng, 0.7) else 2)
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
    studio, clouds, foliage, bricks, shelves, shards, stripes, gradient,
)


def _anywhere(rng: Rng, image: Array) -> tuple[int, int, float]:
    """A place and a size for a thing."""
    height, width = image.shape[:2]
    return int(uniform(rng, 0, width)), int(uniform(rng, 0, height)), uniform(rng, 6, 90)


def draw_line(rng: Rng, image: Array) -> None:
    """A pole, a cable, a bar."""
    x, y, _ = _anywhere(rng, image)
    end = (int(x + rng.normal() * 150), int(y + rng.normal() * 150))
    cv2.line(image, (x, y), end, any_colour(rng).tolist(), int(uniform(rng, 1, 8)), cv2.LINE_AA)


def draw_rectangle(rng: Rng, image: Array) -> None:
    """A sign, a box."""
    x, y, size = _anywhere(rng, image)
    corner = (int(x + size * uniform(rng, 0.3, 3)), int(y + size * uniform(rng, 0.3, 3)))
    cv2.rectangle(image, (x, y), corner, any_colour(rng).tolist(), -1)


def draw_text(rng: Rng, image: Array) -> None:
    """Letters and digits."""
    x, y, size = _anywhere(rng, image)
    text = "".join(chr(rng.integers(48, 123)) for _ in range(rng.integers(2, 10)))
    font, thickness = int(rng.integers(0, 7)), int(uniform(rng, 1, 4))
    cv2.putText(image, text, (x, y), font, size / 40, any_colour(rng).tolist(), thickness, cv2.LINE_AA)


def draw_ball(rng: Rng, image: Array) -> None:
    """A shaded ball or egg, as often as not in the colour of skin."""
    x, y, size = _anywhere(rng, image)
    colour = any_colour(rng) if chance(rng, 0.5) else skin_colour(rng)[0]
    for ring in range(12):
        shrink = size * 0.5 * (1 - ring / 14)
        centre = (int(x - ring * size * 0.02), int(y - ring * size * 0.03))
        shade = np.clip(colour * (0.5 + ring * 0.05), 0, 255).tolist()
        cv2.ellipse(image, centre, (int(shrink), int(shrink * 1.15)), 0, 0, 360, shade, -1, cv2.LINE_AA)


def draw_clock(rng: Rng, image: Array) -> None:
    """Round, with marks inside: the classic false face."""
    x, y, size = _anywhere(rng, image)
    cv2.circle(image, (x, y), int(size * 0.5), (235, 235, 235), -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), int(size * 0.5), any_colour(rng).tolist(), max(1, int(size * 0.06)), cv2.LINE_AA)
    for hour in range(12):
        angle = hour * math.pi / 6
        mark = (int(x + math.cos(angle) * size * 0.4), int(y + math.sin(angle) * size * 0.4))
        cv2.circle(image, mark, max(1, int(size * 0.03)), (20, 20, 20), -1)
    for length in (0.3, 0.42):
        angle = uniform(rng, 0, 2 * math.pi)
        end = (int(x + math.cos(angle) * size * length), int(y + math.sin(angle) * size * length))
        cv2.line(image, (x, y), end, (10, 10, 10), max(1, int(size * 0.04)), cv2.LINE_AA)


def draw_spotted_disc(rng: Rng, image: Array) -> None:
    """A wheel, a button, a ladybird."""
    x, y, size = _anywhere(rng, image)
    cv2.circle(image, (x, y), int(size * 0.5), any_colour(rng).tolist(), -1, cv2.LINE_AA)
    for _ in range(int(uniform(rng, 2, 9))):
        spot = (int(x + rng.normal() * size * 0.2), int(y + rng.normal() * size * 0.2))
        radius = max(1, int(size * uniform(rng, 0.03, 0.12)))
        cv2.circle(image, spot, radius, any_colour(rng).tolist(), -1, cv2.LINE_AA)


def draw_fence(rng: Rng, image: Array) -> None:
    """Parallel bars."""
    x, y, size = _anywhere(rng, image)
    colour = any_colour(rng).tolist()
    for bar in range(int(uniform(rng, 3, 12))):
        left = int(x + bar * size * 0.15)
        cv2.line(image, (left, y), (left, int(y + size * 2)), colour, max(1, int(size * 0.04)), cv2.LINE_AA)


THINGS: tuple[Callable[[Rng, Array], None], ...] = (
    draw_line, draw_rectangle, draw_text, draw_ball, draw_clock, draw_spotted_disc, draw_fence,
)


def draw_skin_coloured(rng: Rng, image: Array) -> None:
    """A blob, a hand or an arm of skin, and no face."""
    height, width = image.shape[:2]
    size, angle = log_uniform(rng, 6, 70), uniform(rng, 0, 180)
    x, y = int(uniform(rng, 0, width)), int(uniform(rng, 0, height))
    mask = np.zeros((height, width), np.uint8)
    kind = rng.integers(0, 3)
    if kind == 0:
        axes = (int(size), int(size * uniform(rng, 0.5, 1.5)))
        cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
    elif kind == 1:
        stamp_hand(rng, mask, (x, y), size * 0.6, angle)
    else:
        end = (int(x + math.cos(angle) * size * 4), int(y + math.sin(angle) * size * 4))
        cv2.line(mask, (x, y), end, 255, max(2, int(size * 0.6)), cv2.LINE_AA)
    colour = skin_colour(rng)[0] * uniform(rng, 0.5, 1)
    paint_rounded(rng, image, mask.astype(np.float32) / 255, colour, size * 0.5)
