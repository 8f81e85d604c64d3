"""Things that are no faces, although some are round, have marks inside, or the colour of skin.

Each is a function that draws one thing somewhere into an image, [H, W, 3] BGR, in place.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from .body import paint_rounded, stamp_hand
from .look import any_colour, skin_colour
from .tools import Array, Rng, chance, fractal, log_uniform, roundness, uniform


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
    font, thick = int(rng.integers(0, 7)), int(uniform(rng, 1, 4))
    colour = any_colour(rng).tolist()
    cv2.putText(image, text, (x, y), font, size / 40, colour, thick, cv2.LINE_AA)


def draw_ball(rng: Rng, image: Array) -> None:
    """A shaded ball or egg, as often as not in the colour of skin."""
    x, y, size = _anywhere(rng, image)
    colour = any_colour(rng) if chance(rng, 0.5) else skin_colour(rng)[0]
    for ring in range(12):
        shrink = size * 0.5 * (1 - ring / 14)
        centre = (int(x - ring * size * 0.02), int(y - ring * size * 0.03))
        shade = np.clip(colour * (0.5 + ring * 0.05), 0, 255).tolist()
        axes = (int(shrink), int(shrink * 1.15))
        cv2.ellipse(image, centre, axes, 0, 0, 360, shade, -1, cv2.LINE_AA)


def draw_clock(rng: Rng, image: Array) -> None:
    """Round, with marks inside: the classic false face."""
    x, y, size = _anywhere(rng, image)
    cv2.circle(image, (x, y), int(size * 0.5), (235, 235, 235), -1, cv2.LINE_AA)
    colour, thick = any_colour(rng).tolist(), max(1, int(size * 0.06))
    cv2.circle(image, (x, y), int(size * 0.5), colour, thick, cv2.LINE_AA)
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


def draw_coin(rng: Rng, image: Array) -> None:
    """A coin, a medal, a stone: a disc with a relief that the light brings out."""
    x, y, size = _anywhere(rng, image)
    radius = int(size * uniform(rng, 0.3, 1.0)) + 3
    grid = np.arange(-radius, radius + 1)
    mask = np.clip(radius - np.hypot(grid[:, None], grid[None]) + 0.5, 0, 1).astype(np.float32)
    relief = fractal(rng, *mask.shape, radius * uniform(rng, 0.3, 1.0), octaves=3)
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 1, ksize=3)
    light = 0.85 + uniform(rng, 0.05, 0.3) * slope / (np.abs(slope).mean() + 1e-6)
    colour = skin_colour(rng)[0] if chance(rng, 0.3) else any_colour(rng)
    light = light * (0.7 + 0.3 * roundness(mask, radius * 0.3))
    coin = np.clip(colour * light[..., None], 0, 255)
    rows, columns = (slice(max(0, at - radius), at + radius + 1) for at in (y, x))
    top, left = rows.start - (y - radius), columns.start - (x - radius)
    part = image[rows, columns]
    inside = slice(top, top + len(part)), slice(left, left + part.shape[1])
    mask, coin = mask[inside], coin[inside]
    part[:] = part * (1 - mask[..., None]) + coin * mask[..., None]


def draw_wheel(rng: Rng, image: Array) -> None:
    """A wheel: a tyre, a hub, spokes."""
    x, y, size = _anywhere(rng, image)
    colour, thick = any_colour(rng).tolist(), max(1, int(size * uniform(rng, 0.05, 0.25)))
    cv2.circle(image, (x, y), int(size * 0.8), colour, thick, cv2.LINE_AA)
    turn, spokes = uniform(rng, 0, math.pi), int(rng.integers(3, 14))
    for spoke in range(spokes):
        angle = turn + spoke * 2 * math.pi / spokes
        end = (int(x + math.cos(angle) * size * 0.8), int(y + math.sin(angle) * size * 0.8))
        cv2.line(image, (x, y), end, colour, max(1, int(size * 0.05)), cv2.LINE_AA)
    hub = max(1, int(size * uniform(rng, 0.05, 0.3)))
    cv2.circle(image, (x, y), hub, any_colour(rng).tolist(), -1)


def draw_dish(rng: Rng, image: Array) -> None:
    """A plate or a cup from above or from the side: ellipses in one another."""
    x, y, size = _anywhere(rng, image)
    flat, angle = uniform(rng, 0.3, 1.0), uniform(rng, 0, 180)
    radius = size * uniform(rng, 0.4, 1.6)
    for _ in range(rng.integers(2, 6)):
        axes = (max(1, int(radius)), max(1, int(radius * flat)))
        cv2.ellipse(image, (x, y), axes, angle, 0, 360, any_colour(rng).tolist(), -1, cv2.LINE_AA)
        radius *= uniform(rng, 0.5, 0.95)
        x, y = int(x + rng.normal() * radius * 0.15), int(y + rng.normal() * radius * 0.15)


def draw_fence(rng: Rng, image: Array) -> None:
    """Parallel bars."""
    x, y, size = _anywhere(rng, image)
    colour, thick = any_colour(rng).tolist(), max(1, int(size * 0.04))
    for bar in range(int(uniform(rng, 3, 12))):
        left = int(x + bar * size * 0.15)
        cv2.line(image, (left, y), (left, int(y + size * 2)), colour, thick, cv2.LINE_AA)


THINGS: tuple[Callable[[Rng, Array], None], ...] = (
    draw_line,
    draw_rectangle,
    draw_text,
    draw_ball,
    draw_clock,
    draw_spotted_disc,
    draw_fence,
    draw_coin,
    draw_wheel,
    draw_dish,
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
