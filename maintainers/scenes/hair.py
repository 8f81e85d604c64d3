"""Hair: on the skull, around it, and over the cheeks."""

from dataclasses import dataclass

import numpy as np

from .look import LONG_STYLES, Look, View
from .skull import Skull
from .tools import Array, Rng, chance, noise, smoothstep, uniform

# How far hair stands out of the skull, in half face widths, by style.
VOLUME = {
    "short": (0.05, 0.16),
    "parted": (0.08, 0.2),
    "receding": (0.05, 0.05),
    "bald": (0.0, 0.0),
    "buzz": (0.02, 0.02),
    "curly": (0.12, 0.45),
    "long": (0.08, 0.2),
    "bob": (0.1, 0.28),
}


@dataclass
class Hair:
    """Hair of one head, ready to be laid over it: maps [H, W] or [H, W, 3] of the whole drawing."""

    on_skull: Array  # mask of hair on the skull
    around: Array  # mask of hair outside the skull, drawn behind it
    over: Array  # mask of strands that hang before the cheeks
    colour: Array  # lit hair on the skull
    colour_around: Array


def grow_hair(rng: Rng, skull: Skull, strands: Array, grain: Array, lit: Array) -> Hair:
    """Hair for one head; `lit` [H, W] is how strongly the light falls on the skull (0..1)."""
    look, view = skull.look, skull.view
    texture = 1 + uniform(rng, 0.05, 0.22) * strands + 0.12 * grain
    brightness = view.ambient * 0.8 + (1 - view.ambient) * lit * 1.1 + 0.1
    on_skull = _on_skull(rng, skull)
    around = _around(rng, skull)
    return Hair(
        on_skull=on_skull,
        around=around,
        over=_over_cheeks(rng, skull, around),
        colour=_shine(rng, look, view, brightness, texture, strands),
        colour_around=_colour_around(skull, texture),
    )


def _on_skull(rng: Rng, skull: Skull) -> Array:
    """Hair is where the frontal texture lies outside an arch over the forehead, and on the back
    of the head."""
    look, tx, ty = skull.look, skull.tx, skull.ty
    is_long = look.style in LONG_STYLES
    line = _hairline(rng, look, tx)
    width = uniform(rng, 0.68, 0.95) if is_long else uniform(rng, 0.84, 1.0)
    power, middle = uniform(rng, 2, 3.4), uniform(rng, 0.1, 0.35)
    rise = np.clip((middle - ty) / np.maximum(middle - line, 0.3), 0, 4) ** power
    ragged = _ragged(rng, skull, 0.14, 0.07) + _ragged(rng, skull, 0.4, 0.05)
    arch = (np.abs(tx) / width) ** power + np.where(ty < middle, rise, 0) + 2 * ragged
    hair = smoothstep(arch, 0.93, 1.07)
    if is_long:
        hair = hair * (1 - smoothstep(ty, middle, middle + 0.1) * (np.abs(tx) < 0.8))
    else:
        cut = uniform(rng, -0.35, 0.2)
        hair = hair * (1 - smoothstep(ty, cut - 0.08, cut + 0.08) * (np.abs(tx) < 1.2))
    back = (skull.front <= -0.05) & (ty <= (3 if is_long else 0.75))
    hair = np.where(back, 1.0, hair)
    if look.style == "bald":
        hair = hair * smoothstep(np.abs(tx), 0.8, 1.0) * (ty > -0.6)
    if look.style == "buzz":
        hair = hair * uniform(rng, 0.5, 0.85)
    return hair


def _hairline(rng: Rng, look: Look, tx: Array) -> Array:
    """Height at which the hair begins, over the forehead."""
    line = look.hairline + np.zeros_like(tx)
    if look.style in ("short", "parted", *LONG_STYLES):
        line = line + uniform(rng, -0.3, 0.3) * tx
    if look.style == "receding":
        line = line - 0.25 * np.exp(-(((np.abs(tx) - 0.5) / 0.25) ** 2))
    if chance(rng, 0.36 if look.feminine else 0.08):  # a fringe
        line = line + uniform(rng, 0.2, 0.5)
    return line


def _ragged(rng: Rng, skull: Skull, cell: float, strength: float) -> Array:
    return strength * noise(rng, skull.height, skull.width, skull.scale * cell)


def _around(rng: Rng, skull: Skull) -> Array:
    """The outline of the hair that stands out of the skull, and of long hair that hangs down."""
    look, x, y, scale = skull.look, skull.x, skull.y, skull.scale
    volume = uniform(rng, *VOLUME[look.style])
    if volume == 0:
        return np.zeros_like(skull.cover)
    curly = look.style == "curly"
    ragged = _ragged(rng, skull, 0.12 if curly else 0.3, 0.06 if curly else 0.03)
    across, above = (
        np.abs(x / (look.width + volume * 0.8)),
        np.abs((y + 0.05) / (look.crown + volume)),
    )
    distance = (across**2.3 + above**2.3) ** (1 / 2.3) + ragged
    hair = np.clip((1 - distance) * scale * 0.6 + 0.5, 0, 1)
    hair = hair * smoothstep(-(y + 0.15 * np.abs(x)), -uniform(rng, 0, 0.35), 0.15)
    if look.style in LONG_STYLES:
        length = uniform(rng, 1.0, 2.2) if look.style == "long" else uniform(rng, 0.7, 1.2)
        half = uniform(rng, 1.08, 1.35) + 2 * ragged + 0.12 * np.sin(2 * y + ragged)
        fall = np.clip((half - np.abs(x)) * scale / 2.5 + 0.5, 0, 1) * (y > -0.5)
        hair = np.maximum(hair, fall * (1 - smoothstep(y + 3 * ragged, length - 0.2, length + 0.1)))
    return hair


def _over_cheeks(rng: Rng, skull: Skull, around: Array) -> Array:
    """Strands of long hair that hang before the cheeks."""
    if skull.look.style not in LONG_STYLES:
        return np.zeros_like(around)
    edge = uniform(rng, 0.78, 0.98) + 2 * _ragged(rng, skull, 0.3, 0.03)
    # Measured on the texture, so that in profile the strands lie on the cheek and not on the nose.
    side = np.where(skull.front > 0, np.abs(skull.tx), 1.2) - edge
    return np.clip(side * skull.scale / 2.5 + 0.5, 0, 1) * around * (skull.y > -0.7)


def _shine(
    rng: Rng, look: Look, view: View, brightness: Array, texture: Array, strands: Array
) -> Array:
    """Lit hair: its colour, with highlights where the light is strongest."""
    gloss = (
        90
        * np.clip(brightness - 0.75, 0, 1)
        * np.clip(0.5 + strands * 0.5, 0, 1)
        * uniform(rng, 0, 1)
    )
    return np.clip(
        look.hair * (brightness * texture)[..., None] * view.tint + gloss[..., None], 0, 255
    )


def _colour_around(skull: Skull, texture: Array) -> Array:
    view = skull.view
    lit = np.clip(0.35 + 0.35 * skull.x * view.light[0] - 0.12 * skull.y, 0.05, 1)
    brightness = view.ambient * 0.7 + (1 - view.ambient) * lit
    return np.clip(skull.look.hair * (brightness * texture)[..., None] * view.tint, 0, 255)
