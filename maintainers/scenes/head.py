"""One head, from skull to hat: a picture with transparency, its landmarks and its box."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .accessories import draw_glasses, draw_hat
from .features import Face, draw_face, hair_strands, hollows, relief
from .hair import Hair, grow_hair
from .look import LONG_STYLES, Look, View
from .skull import Skull
from .tools import Array, Rng, bump, fractal, paint, uniform


@dataclass
class Head:
    """A drawn head in its own pixels: image [H, W, 3] BGR and alpha [H, W], not premultiplied;
    face [H, W], the visible front of the face; landmarks [5, 2] (eyes, nose, mouth corners;
    left of the image first); box x1, y1, x2, y2."""

    image: Array
    alpha: Array
    face: Array
    landmarks: Array
    box: Array


def draw_head(rng: Rng, look: Look, view: View, face_width: float) -> Head:
    """Draw a head whose face is about face_width pixels wide."""
    skull = Skull(look, view, face_width / 2)
    grain = fractal(rng, skull.height, skull.width, skull.scale * 0.9, octaves=4, gain=0.6)
    strands = hair_strands(rng, skull.height, skull.width, skull.scale)
    image, lit, shade = _lit_skin(rng, skull, grain, strands)
    hair = grow_hair(rng, skull, strands, grain, lit)
    _lay_hair_on_skull(image, hair, skull.scale)
    alpha = skull.cover.copy()
    if look.style not in LONG_STYLES:
        _draw_ears(skull, image, alpha, float(shade.mean()))
    image = _under(image, alpha, hair.colour_around, hair.around)
    paint(image, hair.over, hair.colour)
    if look.accessory in ("glasses", "sunglasses"):
        draw_glasses(rng, skull, image)
    if look.accessory == "hat":
        alpha[:] = np.maximum(alpha, draw_hat(rng, skull, image, lit, grain))
    image = _under(image, alpha, *_neck(rng, skull))
    face = skull.cover * (skull.ty > skull.forehead()) * (skull.front > 0)
    return Head(
        np.clip(image, 0, 255), np.clip(alpha, 0, 1), face, landmarks(skull), np.array(skull.box())
    )


def landmarks(skull: Skull) -> Array:
    """The five points [5, 2] in pixels, through the same map as the texture."""
    look = skull.look
    mouth = look.mouth_y - look.smile
    points = [(-look.eye_x, look.eye_y), (look.eye_x, look.eye_y), (0, look.nose_y)]
    points += [(-look.mouth_width, mouth), (look.mouth_width, mouth)]
    return np.array([skull.project(*point) for point in points], np.float32)


def _lit_skin(rng: Rng, skull: Skull, grain: Array, strands: Array) -> tuple[Array, Array, Array]:
    """The bald head under the lamp: image [H, W, 3], Lambert's cosine and brightness [H, W]."""
    view, where = skull.view, skull.face
    face = Face(skull.look, skull.tx[where], skull.ty[where], skull.scale, grain[where])
    height = np.zeros((skull.height, skull.width), np.float32)
    height[where] = relief(rng, face)
    nx, ny, nz = skull.normals(height)
    lx, ly, lz = view.light
    lit = np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
    shade = view.ambient + (1 - view.ambient) * lit * 1.25
    shade[where] *= hollows(rng, face, lx) * draw_face(rng, face, strands[where])
    # Blinn's half vector between the lamp and the camera.
    half = np.clip(nx * lx / 2 + ny * ly / 2 + nz * (1 + lz) / 2, 0, 1)
    gloss = 255 * half ** uniform(rng, 18, 40) * uniform(rng, 0, 0.35)
    albedo = (skull.look.skin * (1 + 0.035 * grain)[..., None]).astype(np.float32)
    albedo[where] = face.skin
    return (albedo * shade[..., None] + gloss[..., None]) * view.tint, lit, shade


def _lay_hair_on_skull(image: Array, hair: Hair, scale: float) -> None:
    """Hair on the skull, with the shadow that it casts on the forehead."""
    shadow = cv2.GaussianBlur(hair.on_skull, (0, 0), max(0.6, scale * 0.07)) * (1 - hair.on_skull)
    image *= (1 - 0.35 * shadow)[..., None]
    paint(image, hair.on_skull, hair.colour)


def _draw_ears(skull: Skull, image: Array, alpha: Array, brightness: float) -> None:
    """The ears that the turn leaves in sight."""
    look, view, x, y = skull.look, skull.view, skull.x, skull.y
    for side in (-1, 1):
        angle = side * 1.45 + view.yaw
        if math.cos(angle) <= -0.55:
            continue
        centre = math.sin(angle) * 0.98
        distance = np.sqrt(((x - centre - side * 0.05) / 0.17) ** 2 + ((y - 0.06) / 0.33) ** 2)
        ear = np.clip((1 - distance) * skull.scale * 0.2 + 0.5, 0, 1) * (1 - skull.cover)
        hollow = bump(x, y, centre + side * 0.06, 0.04, 0.07, 0.18)
        light = brightness * (0.9 + 0.25 * side * view.light[0]) * (1 - 0.35 * hollow)
        paint(image, ear, look.skin * light[..., None] * view.tint)
        alpha[:] = np.maximum(alpha, ear)


def _neck(rng: Rng, skull: Skull) -> tuple[Array, Array]:
    """Colour [H, W, 3] and mask [H, W] of the neck, in the shadow of the chin."""
    look, view, x, y = skull.look, skull.view, skull.x, skull.y
    half = uniform(rng, 0.6, 0.82) + 0.05 * np.clip(y - 1.3, 0, 2) ** 2
    mask = np.clip((half - np.abs(x - math.sin(view.yaw) * 0.05)) * skull.scale / 2 + 0.5, 0, 1) * (
        y > 0.4
    )
    light = view.ambient + (1 - view.ambient) * np.clip(0.6 + x * 0.6 * view.light[0], 0, 1)
    shadow = uniform(rng, 0.25, 0.5) * np.exp(-((np.clip(y - look.chin, 0, 2) / 0.35) ** 2))
    return look.skin * np.clip(light - shadow, 0.1, 1.2)[..., None] * view.tint, mask


def _under(image: Array, alpha: Array, colour: Array, mask: Array) -> Array:
    """Put something behind what is drawn so far; alpha grows in place; returns the new image."""
    behind = (mask * (1 - alpha))[..., None]
    alpha[:] = np.maximum(alpha, mask)
    return image * (1 - behind) + colour * behind
