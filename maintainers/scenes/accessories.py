"""Glasses, sunglasses and hats, drawn over a finished head."""

import math

import numpy as np

from .look import any_colour
from .skull import Skull
from .tools import Array, Rng, chance, paint, smoothstep, uniform

FRAMES = np.array([(25, 25, 25), (40, 45, 80), (120, 120, 120), (60, 90, 110)], np.float32)


def draw_glasses(rng: Rng, skull: Skull, image: Array) -> None:
    """Two lenses (dark ones for sunglasses), their rims, the bridge and the temples."""
    look, tx, ty = skull.look, skull.tx, skull.ty
    soft = 1.6 / skull.scale
    frame = FRAMES[rng.integers(0, len(FRAMES))] * skull.view.ambient * 1.3
    half_width, half_height = uniform(rng, 0.27, 0.34), uniform(rng, 0.17, 0.27)
    rim, power = uniform(rng, 0.02, 0.05), int(rng.choice([2, 3, 5]))
    in_front = skull.front > 0
    for side in (-1, 1):
        x, y = tx - side * look.eye_x * 1.02, ty - look.eye_y - 0.04
        lens = (np.abs(x / half_width) ** power + np.abs(y / half_height) ** power) ** (1 / power)
        inside = np.clip((1 - lens) * half_height / soft + 0.5, 0, 1) * in_front
        if look.accessory == "sunglasses":
            glint = 50 * smoothstep(-ty, -0.1, 0.3) * uniform(rng, 0, 1)
            paint(image, inside * 0.93, np.array([30, 25, 22], np.float32) + glint[..., None])
        else:
            paint(image, inside * uniform(rng, 0, 0.15), (230, 230, 230))
            if chance(rng, 0.15):
                paint(image, np.exp(-(((x + 0.4 * y) / 0.08) ** 2)) * inside * 0.6, (245, 245, 245))
        edge = np.clip((rim - np.abs(1 - lens) * half_height) / soft + 0.5, 0, 1)
        paint(image, edge * in_front, frame)
    between = np.abs(tx) < look.eye_x - half_width * 0.95
    temples = (np.abs(tx) > look.eye_x + half_width) & (np.abs(tx) < 1.05) & (skull.front > -0.1)
    bar = np.clip((rim - np.abs(ty - look.eye_y + 0.03)) / soft + 0.5, 0, 1)
    paint(image, bar * ((between & in_front) | temples) * skull.cover, frame)


def draw_hat(rng: Rng, skull: Skull, image: Array, lit: Array, grain: Array) -> Array:
    """A cap or hat, plain or striped, with or without a brim; returns its mask [H, W]."""
    look, view, x, y = skull.look, skull.view, skull.x, skull.y
    soft, colour, edge = 1.6 / skull.scale, any_colour(rng), uniform(rng, -1.15, -0.72)
    distance = np.sqrt((x / (1.12 * look.width)) ** 2 + ((y + 0.15) / (look.crown + 0.18)) ** 2)
    hat = np.clip((1 - distance) * skull.scale + 0.5, 0, 1)
    hat = hat * np.clip((edge + 0.12 * x * x - y) / soft + 0.5, 0, 1)
    brightness = view.ambient * 0.8 + (1 - view.ambient) * lit * 1.1 + 0.1
    cloth = np.clip(colour * (brightness * (1 + 0.06 * grain))[..., None] * view.tint, 0, 255)
    if chance(rng, 0.4):
        cloth = cloth * np.where(np.sin(y * uniform(rng, 10, 40)) > 0, 0.75, 1)[..., None]
    image *= (1 - 0.45 * np.exp(-np.clip(skull.ty - edge, 0, 3) / 0.12) * (1 - hat))[..., None]
    paint(image, hat, cloth)
    if chance(rng, 0.6):
        centre = math.sin(view.yaw) * 0.9
        brim = (
            (1 - ((x - centre) / 1.02) ** 2 - ((y - edge - 0.02) / 0.16) ** 2) * skull.scale * 0.15
        )
        brim = np.clip(brim + 0.5, 0, 1)
        shade = (
            colour * uniform(rng, 0.3, 0.9)
            if chance(rng, 0.5)
            else np.array([20, 20, 20], np.float32)
        )
        paint(image, brim, shade * brightness.mean() * view.tint)
        hat = np.maximum(hat, brim)
    return hat
