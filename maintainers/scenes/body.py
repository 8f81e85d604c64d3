"""Bodies: shoulders, clothes, arms and hands; also clothes with nobody in them."""

import math

import cv2
import numpy as np

from .look import View, any_colour, skin_colour
from .tools import (
    Array,
    Rng,
    chance,
    fractal,
    log_uniform,
    noise,
    paint,
    polygon_mask,
    roundness,
    smoothstep,
    support,
    uniform,
)


def cloth(rng: Rng, height: int, width: int) -> Array:
    """Plain, striped, checked or mottled cloth with folds, BGR [height, width, 3]."""
    kind = rng.choice(
        ["plain", "rows", "columns", "checks", "mottled"], p=[0.5, 0.12, 0.12, 0.13, 0.13]
    )
    image = np.empty((height, width, 3), np.float32)
    image[:] = any_colour(rng) * (uniform(rng, 0.15, 0.6) if chance(rng, 0.25) else 1)
    if kind == "rows":
        image[np.arange(height) // int(uniform(rng, 2, 10)) % 2 == 0] = any_colour(rng)
    elif kind == "columns":
        image[:, np.arange(width) // int(uniform(rng, 2, 10)) % 2 == 0] = any_colour(rng)
    elif kind == "checks":
        size = int(uniform(rng, 3, 12))
        rows, columns = np.arange(height) // size % 2, np.arange(width) // size % 2
        image *= (0.6 + 0.25 * (rows[:, None] + columns[None]))[..., None]
    elif kind == "mottled":
        image += noise(rng, height, width, uniform(rng, 3, 10), 3) * uniform(rng, 10, 60)
    folds = 0.12 * fractal(rng, height, width, max(4, width / 3), octaves=3)
    return image * (1 + folds * uniform(rng, 0.5, 2))[..., None]


def draw_body(
    rng: Rng,
    canvas: Array,
    owner: Array,
    x: float,
    y: float,
    face_width: float,
    view: View,
    skin: Array,
) -> None:
    """Paint a torso (and mostly arms) below the face at (x, y); owner is set to 0 where it
    covers a face."""
    unit = face_width / 2
    top, half = y + unit * uniform(rng, 1.22, 1.6), unit * uniform(rng, 2.0, 3.1)
    bottom = min(canvas.shape[0], int(top + unit * uniform(rng, 4, 9)))
    neck = x - math.tan(view.roll) * unit * 0.5
    rows = slice(max(0, int(top - 0.3 * unit)), bottom)
    columns = slice(int(max(0, x - 1.1 * half)), int(min(canvas.shape[1], x + 1.1 * half)))
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height < 4 or width < 4:
        return
    origin = np.array([columns.start, rows.start])
    outline = _torso_outline(x, neck, top, bottom, half, unit) - origin
    mask = cv2.GaussianBlur(polygon_mask(height, width, outline), (3, 3), 0)
    image = _lit_cloth(rng, height, width, (np.arange(width) + columns.start - x) / half, view)
    colour = image[height // 2].mean(0)
    _decorate(rng, image, np.array([x, top]) - origin, unit)
    _draw_collar(rng, image, np.array([x, top]) - origin, neck - x, unit, view, skin)
    paint(canvas[rows, columns], mask, image)
    owner[rows, columns][mask > 0.5] = 0
    if chance(rng, 0.6) and unit > 5:
        _draw_arms(rng, canvas, owner, (x, top, half, unit), colour, skin, view)


def _torso_outline(
    x: float, neck: float, top: float, bottom: float, half: float, unit: float
) -> Array:
    shoulder, arm = top + 0.55 * unit, top + 1.3 * unit
    right = [(neck + 0.75 * unit, top - 0.1 * unit), (x + 0.85 * half, shoulder), (x + half, arm)]
    left = [(x - half, arm), (x - 0.85 * half, shoulder), (neck - 0.75 * unit, top - 0.1 * unit)]
    return np.array(right + [(x + 0.95 * half, bottom + 5), (x - 0.95 * half, bottom + 5)] + left)


def _lit_cloth(rng: Rng, height: int, width: int, across: Array, view: View) -> Array:
    lit = np.clip(0.75 - 0.25 * np.abs(across) + 0.35 * across * view.light[0], 0, 1)
    brightness = view.ambient + (1 - view.ambient) * lit
    return np.clip(cloth(rng, height, width) * brightness[None, :, None] * view.tint, 0, 255)


def _draw_collar(
    rng: Rng, image: Array, centre: Array, lean: float, unit: float, view: View, skin: Array
) -> None:
    """Half of the clothes have a V neck: bare skin, or a shirt that may carry a tie."""
    kind, depth = rng.integers(0, 4), uniform(rng, 0.5, 1.6) * unit
    if kind > 1:
        return
    x, y = centre
    corners = [
        (x + lean - 0.55 * unit, y - 0.2 * unit),
        (x + lean + 0.55 * unit, y - 0.2 * unit),
        (x, y + depth),
    ]
    shirt = np.array([235, 235, 235], np.float32) if chance(rng, 0.6) else any_colour(rng)
    colour = skin * (view.ambient + 0.2) if kind == 0 else shirt * (view.ambient + 0.35)
    paint(image, polygon_mask(*image.shape[:2], np.array(corners)), np.clip(colour, 0, 255))
    if kind == 1 and chance(rng, 0.6):
        left, right = x - 0.12 * unit, x + 0.12 * unit
        tie = [(left, y + 0.1 * unit), (right, y + 0.1 * unit)]
        tie += [(x + 0.2 * unit, y + depth * 1.2), (x - 0.2 * unit, y + depth * 1.2)]
        paint(image, polygon_mask(*image.shape[:2], np.array(tie)), any_colour(rng) * 0.7)


def _draw_arms(
    rng: Rng,
    canvas: Array,
    owner: Array,
    torso: tuple[float, float, float, float],
    colour: Array,
    skin: Array,
    view: View,
) -> None:
    x, top, half, unit = torso
    sleeves, hands = (np.zeros(canvas.shape[:2], np.uint8) for _ in range(2))
    pose, size = rng.integers(0, 3), unit * uniform(rng, 0.34, 0.5)
    for side in (-1, 1):
        shoulder = (x + side * half * 0.88, top + 0.9 * unit)
        elbow, wrist = _pose_arm(rng, pose, side, x, top, half, unit)
        line = np.round(np.array([shoulder, elbow, wrist]) * 8).astype(np.int32)
        cv2.polylines(
            sleeves, [line], False, 255, max(1, int(unit * uniform(rng, 0.5, 0.7))), cv2.LINE_AA, 3
        )
        direction = math.degrees(math.atan2(wrist[1] - elbow[1], wrist[0] - elbow[0]))
        stamp_hand(rng, hands, wrist, size, direction)
    bare = skin * (view.ambient + 0.2)
    for mask, tone in (
        (sleeves, colour * uniform(rng, 0.85, 1.05) if chance(rng, 0.6) else bare),
        (hands, skin * (view.ambient + 0.25) * view.tint),
    ):
        paint_rounded(rng, canvas, mask.astype(np.float32) / 255, tone, unit * 0.3, owner)


def _decorate(rng: Rng, image: Array, centre: Array, unit: float) -> None:
    """Lapels, buttons, a badge or a print: details on clothes that must not be taken for a face."""
    x, y = centre
    if chance(rng, 0.3):
        shade, depth, spread = (
            uniform(rng, 0.6, 1.3),
            uniform(rng, 1.5, 3.5),
            uniform(rng, 0.3, 0.6),
        )
        for side in (-1, 1):
            lapel = [(x + side * 0.6 * unit, y - 0.1 * unit), (x, y + depth * unit)]
            lapel.append((x + side * (0.6 + spread) * unit, y + 0.6 * unit))
            mask = polygon_mask(*image.shape[:2], np.array(lapel))
            paint(image, mask, np.clip(image * shade, 0, 255))
    if chance(rng, 0.35):
        colour, step, size = (
            any_colour(rng).tolist(),
            uniform(rng, 0.4, 0.9),
            uniform(rng, 0.04, 0.1),
        )
        for number in range(rng.integers(2, 7)):
            at = (int(x), int(y + (0.8 + number * step) * unit))
            cv2.circle(image, at, max(1, int(size * unit)), colour, -1, cv2.LINE_AA)
    if chance(rng, 0.35):
        _draw_badge(
            rng, image, x + uniform(rng, -1.5, 1.5) * unit, y + uniform(rng, 0.8, 3) * unit, unit
        )


def _draw_badge(rng: Rng, image: Array, x: float, y: float, unit: float) -> None:
    """A disc or a plate with stripes on it."""
    size = unit * uniform(rng, 0.15, 0.8)
    corners = [(int(x - size), int(y - size * 0.5)), (int(x + size), int(y + size * 0.5))]
    if chance(rng, 0.4):
        cv2.circle(
            image, (int(x), int(y)), max(1, int(size)), any_colour(rng).tolist(), -1, cv2.LINE_AA
        )
    else:
        cv2.rectangle(image, *corners, any_colour(rng).tolist(), -1)
    for _ in range(rng.integers(1, 4)):
        height = int(y + uniform(rng, -0.4, 0.4) * size)
        ends = (int(x - size * 0.8), height), (int(x + size * 0.8), height)
        cv2.line(image, *ends, any_colour(rng).tolist(), max(1, int(size * 0.12)), cv2.LINE_AA)


def _pose_arm(
    rng: Rng, pose: int, side: int, x: float, top: float, half: float, unit: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Elbow and wrist: hanging, folded before the body, or raised."""
    if pose == 0:
        wrist = (x + side * half * uniform(rng, 0.9, 1.1), top + uniform(rng, 4, 4.8) * unit)
        return (x + side * half * 1.05, top + 2.6 * unit), wrist
    if pose == 1:
        wrist = (x + side * unit * uniform(rng, -0.5, 0.6), top + uniform(rng, 2.6, 4.2) * unit)
        return (x + side * half * 1.15, top + 2.6 * unit), wrist
    wrist = (x + side * unit * uniform(rng, 1, 3), top + uniform(rng, -0.8, 1.5) * unit)
    return (x + side * half * 1.3, top + 2.0 * unit), wrist


def stamp_hand(
    rng: Rng, mask: Array, at: tuple[float, float], size: float, direction: float
) -> None:
    """Add a palm and four fingers, pointing in a direction given in degrees, to a uint8 mask."""
    x, y = int(at[0]), int(at[1])
    axes = (max(1, int(size)), max(1, int(size * uniform(rng, 0.5, 0.8))))
    cv2.ellipse(mask, (x, y), axes, direction, 0, 360, 255, -1, cv2.LINE_AA)
    for finger in range(4):
        angle = math.radians(direction + (finger - 1.5) * uniform(rng, 8, 22))
        length = size * uniform(rng, 1.2, 2.0)
        tip = (int(x + math.cos(angle) * length), int(y + math.sin(angle) * length))
        cv2.line(mask, (x, y), tip, 255, max(1, int(size * 0.32)), cv2.LINE_AA)


def paint_rounded(
    rng: Rng, canvas: Array, mask: Array, colour: Array, depth: float, owner: Array | None = None
) -> None:
    """Paint a limb or another rounded thing, darker towards its outline, with a little grain."""
    box = support(mask)
    if box is None:
        return
    part = mask[box]
    grain = 0.08 * noise(rng, *part.shape, max(2, depth * 0.7))
    light = 0.55 + 0.5 * roundness(part, depth) + grain
    paint(canvas[box], part, np.clip(colour * light[..., None], 0, 255))
    if owner is not None:
        owner[box][part > 0.5] = 0


def draw_empty_clothes(rng: Rng, canvas: Array) -> None:
    """A torso without a head, or a dark patch with a texture like hair: no face in either."""
    height, width = canvas.shape[:2]
    size = log_uniform(rng, 20, 300)
    x, y = uniform(rng, 0, width), uniform(rng, 0, height)
    view = View(
        0,
        0,
        uniform(rng, -0.3, 0.3),
        np.array([uniform(rng, -0.7, 0.7), -0.5, 0.6]),
        0.6,
        np.ones(3),
    )
    if chance(rng, 0.6):
        draw_body(
            rng, canvas, np.zeros(canvas.shape[:2], np.int32), x, y, size, view, skin_colour(rng)[0]
        )
        return
    mask = np.zeros((height, width), np.uint8)
    axes = (int(size * uniform(rng, 0.3, 0.7)), int(size * uniform(rng, 0.3, 0.7)))
    cv2.ellipse(mask, (int(x), int(y)), axes, uniform(rng, 0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    grain = smoothstep(noise(rng, height, width, max(2, size * 0.05), 1, 0.3), -2, 2)
    colour = any_colour(rng) * uniform(rng, 0.1, 0.7)
    paint(canvas, mask.astype(np.float32) / 255, colour * (0.7 + 0.6 * grain)[..., None])
