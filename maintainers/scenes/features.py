"""The frontal face: its relief (for the light) and its paint (skin, eyes, brows, nose, mouth,
beard, mask).

All of it is drawn in texture coordinates tx, ty, which `skull.Skull` maps onto the turned head.
"""

import numpy as np

from .look import IRIS, Look
from .tools import Array, Rng, bump, chance, noise, paint, pair, smoothstep, uniform

BEARDS = ("full", "goatee", "moustache", "long")
MASK_COLOURS = ((225, 205, 150), (240, 240, 240), (40, 40, 40), (200, 180, 90))


class Face:
    """The visible front of one face while it is drawn: coordinates, paint (`skin`) and grain."""

    def __init__(self, look: Look, tx: Array, ty: Array, scale: float, grain: Array) -> None:
        self.look, self.tx, self.ty, self.grain = look, tx, ty, grain
        self.soft = 1.6 / scale  # width of an antialiased edge
        self.skin = (look.skin * (1 + 0.035 * grain)[..., None]).astype(np.float32)
        self.lips = np.zeros_like(tx)

    def paint(self, mask: Array, colour: Array | tuple[float, float, float]) -> None:
        """Paint the skin where the mask is above 0."""
        paint(self.skin, mask, colour)

    def edge(self, distance: Array) -> Array:
        """Mask of the region where distance is above 0, with a soft edge."""
        return np.clip(distance / self.soft + 0.5, 0, 1)


def folds(face: Face) -> Array:
    """The lines from the nose to the corners of the mouth."""
    look, drop = face.look, np.clip(face.ty - face.look.nose_y, 0, 1)
    line = np.exp(-(((np.abs(face.tx) - (look.nose_width + 0.05 + 0.45 * drop)) / 0.06) ** 2))
    begin = smoothstep(face.ty, look.nose_y - 0.05, look.nose_y + 0.1)
    return line * begin * (1 - smoothstep(face.ty, look.mouth_y - 0.05, look.mouth_y + 0.2))


def relief(rng: Rng, face: Face) -> Array:
    """Height of the face over the ellipsoid, in half face widths."""
    look, tx, ty = face.look, face.tx, face.ty
    bridge = np.exp(-((tx / (0.10 + 0.10 * np.clip(ty - look.eye_y, 0, 0.7))) ** 2))
    bridge *= smoothstep(ty, look.eye_y - 0.2, look.eye_y + 0.15)
    bridge *= 1 - smoothstep(ty, look.nose_y, look.nose_y + 0.12)
    lips = np.exp(-(((ty - look.mouth_y) / 0.13) ** 2)) * np.exp(
        -((tx / (look.mouth_width * 1.1)) ** 4)
    )
    height = 0.20 * bridge + 0.22 * bump(tx, ty, 0, look.nose_y - 0.03, 0.15, 0.15)
    height += 0.10 * pair(tx, ty, look.nose_width * 0.85, look.nose_y + 0.02, 0.09, 0.09)
    height -= 0.20 * uniform(rng, 0.5, 1.1) * pair(tx, ty, look.eye_x, look.eye_y - 0.03, 0.3, 0.17)
    height += 0.07 * pair(tx, ty, look.eye_x, look.eye_y - 0.25, 0.3, 0.1)
    height += 0.08 * uniform(rng, 0.3, 1.6) * pair(tx, ty, 0.55, 0.22, 0.3, 0.25)
    height += 0.07 * lips + 0.10 * bump(tx, ty, 0, look.chin - 0.18, 0.28, 0.14)
    height -= 0.03 * (0.3 + 1.8 * look.age) * folds(face)
    if look.age > 0.5:
        wrinkles = np.sin(ty * uniform(rng, 28, 40) + face.grain * 0.8) * smoothstep(-ty, 0.45, 0.6)
        height += 0.008 * look.age * wrinkles * (np.abs(tx) < 0.7)
    return height.astype(np.float32)


def hollows(rng: Rng, face: Face, light_x: float) -> Array:
    """Factor by which light is lost beside the nose, under the nose and lip, and in the folds."""
    look, tx, ty = face.look, face.tx, face.ty
    loss = 0.30 * bump(tx, ty, -light_x * 0.22, look.nose_y + 0.13, 0.2, 0.07)
    loss += 0.22 * uniform(rng, 0.3, 1.3) * bump(tx, ty, 0, look.mouth_y + 0.19, 0.2, 0.06)
    return 1 - loss - 0.18 * (0.3 + look.age) * folds(face)


def paint_complexion(rng: Rng, face: Face) -> None:
    """Red cheeks and nose, darker eye sockets."""
    look, tx, ty = face.look, face.tx, face.ty
    red = pair(tx, ty, 0.55, 0.35, 0.32, 0.3) + 0.9 * bump(tx, ty, 0, 0.3, 0.2, 0.2)
    red = 0.10 * uniform(rng, 0, 1.3) * red
    face.skin *= np.stack([1 - red, 1 - red * 0.9, 1 + 0.25 * red], -1)
    sockets = pair(tx, ty, look.eye_x, look.eye_y - 0.03, 0.3, 0.17)
    face.skin *= (1 - uniform(rng, 0.05, 0.25) * sockets)[..., None]


def paint_mouth(rng: Rng, face: Face) -> None:
    """Lips, and what an open mouth shows: a dark inside, mostly with the upper teeth."""
    look, tx = face.look, face.tx
    x = tx / look.mouth_width
    y = face.ty - look.mouth_y + look.smile * x**2
    arc, inside = np.sqrt(np.clip(1 - x**2, 0, 1)), np.abs(x) < 1
    thick, opening = uniform(rng, 0.05, 0.10), look.mouth_open
    upper = face.edge(
        thick * arc * (1 + 0.12 * np.cos(x * 6.28)) + opening * arc / 2 - np.abs(y + thick / 4)
    )
    lower = face.edge(thick * 1.15 * arc + opening * arc - np.abs(y - thick * 0.6))
    face.lips = np.maximum(upper * inside, lower * (np.abs(x) < 0.93)) * uniform(rng, 0.55, 1)
    face.paint(face.lips, lip_colour(rng, look))
    if opening > 0.02:
        face.paint(
            face.edge(opening * arc - np.abs(y - thick * 0.2)) * (np.abs(x) < 0.9), (35, 25, 60)
        )
        teeth = face.edge(opening * arc * 0.62 - np.abs(y - thick * 0.2 + opening * arc * 0.25))
        if chance(rng, 0.85):
            shine = uniform(rng, 0.75, 1.05)
            face.paint(teeth * (np.abs(x) < 0.78) * 0.95, np.array([215, 228, 235]) * shine)
    else:
        line = np.exp(-((y / 0.028) ** 2)) * arc * uniform(rng, 0.5, 0.95)
        face.paint(line, look.skin * (0.3, 0.28, 0.35))
    corners = pair(tx, face.ty, look.mouth_width, look.mouth_y - look.smile, 0.05, 0.045)
    face.paint(np.minimum(corners, 1) * 0.55, look.skin * 0.4)


def lip_colour(rng: Rng, look: Look) -> Array:
    """Natural lips, or lipstick."""
    if not look.feminine or chance(rng, 0.7):
        return look.skin * np.array([0.62, 0.58, 0.85], np.float32)
    stick = np.array(
        [uniform(rng, 40, 110), uniform(rng, 20, 80), uniform(rng, 130, 220)], np.float32
    )
    return stick * (0.5 + 0.5 * look.skin[2] / 255)


def paint_nose(rng: Rng, face: Face) -> None:
    """Nostrils and the lines beside the wings."""
    look = face.look
    nostrils = pair(face.tx, face.ty, look.nose_width * 0.48, look.nose_y + 0.06, 0.065, 0.04)
    face.paint(nostrils * uniform(rng, 0.5, 0.9), look.skin * (0.25, 0.25, 0.32))
    face.paint(
        pair(face.tx, face.ty, look.nose_width, look.nose_y, 0.035, 0.09) * 0.4, look.skin * 0.55
    )


def paint_eyes(rng: Rng, face: Face) -> None:
    """Both eyes, open or (one person in twelve) shut."""
    shut = chance(rng, 0.08)
    iris = IRIS[rng.integers(0, len(IRIS))] * uniform(rng, 0.6, 1.1)
    white = np.array([212, 214, 220]) * uniform(rng, 0.72, 1)
    gaze, makeup = uniform(rng, -0.06, 0.06), uniform(rng, 0.4, 1)
    for side in (-1, 1):
        dx = face.tx - side * face.look.eye_x
        dy = face.ty - face.look.eye_y + side * dx * face.look.eye_tilt * 0.6
        if shut:
            lid = dy - face.look.eye_open * 0.3 * np.clip(1 - (dx / face.look.eye_width) ** 2, 0, 1)
            face.paint(
                np.exp(-((lid / 0.03) ** 2)) * (np.abs(dx) < face.look.eye_width) * 0.85,
                (20, 18, 22),
            )
        else:
            paint_open_eye(face, dx, dy, iris, white, gaze, makeup)


def paint_open_eye(
    face: Face, dx: Array, dy: Array, iris: Array, white: Array, gaze: float, makeup: float
) -> None:
    """One eye around (0, 0): white, iris, pupil, glint, lid shadow, lashes, crease and bag."""
    look, width, opening = face.look, face.look.eye_width, face.look.eye_open
    arch = np.clip(1 - (dx / width) ** 2, 0, 1)
    upper, lower = -opening * 1.1 * arch, opening * 0.75 * arch
    within = np.abs(dx) < width
    eye = face.edge(np.minimum(dy - upper, lower - dy)) * within
    radius = np.sqrt((dx - gaze) ** 2 + dy**2)
    face.paint(eye, white)
    face.paint(eye * face.edge(width * 0.48 - radius), iris)
    face.paint(eye * face.edge(width * 0.24 - radius), (12, 12, 12))
    face.paint(
        eye * face.edge(0.03 - np.hypot(dx - gaze + 0.035, dy + 0.04)) * 0.8, (250, 250, 250)
    )
    face.paint(eye * smoothstep(upper - dy, -0.09, 0) * 0.55, (30, 25, 25))
    lashes = np.exp(-(((dy - upper) / 0.03) ** 2)) * (np.abs(dx) < width * 1.08)
    face.paint(lashes * makeup, look.skin * 0.12)
    face.paint(np.exp(-(((dy - lower) / 0.022) ** 2)) * within * 0.3 * makeup, look.skin * 0.35)
    face.paint(
        np.exp(-(((dy - upper + 0.07 + 0.05 * arch) / 0.02) ** 2)) * within * 0.35, look.skin * 0.45
    )
    face.paint(
        bump(dx, dy, 0, opening + 0.1, width, 0.05) * 0.25 * (0.3 + look.age), look.skin * 0.55
    )


def paint_brows(rng: Rng, face: Face, strands: Array) -> None:
    """Two brows in the colour of the hair."""
    look = face.look
    thick, arch, strength = (
        uniform(rng, 0.03, 0.075),
        uniform(rng, -0.02, 0.1),
        uniform(rng, 0.45, 0.95),
    )
    for side in (-1, 1):
        dx = (face.tx - side * look.eye_x) * side
        centre = look.eye_y - look.brow_lift - arch * (1 - ((dx - 0.08) / 0.25) ** 2) + 0.02
        taper = thick * (1.1 - 0.6 * np.clip(dx / 0.35, -0.5, 1))
        brow = np.exp(-(((face.ty - centre) / taper) ** 2))
        brow *= smoothstep(dx, -0.3, -0.2) * (1 - smoothstep(dx, 0.24, 0.36))
        grain = np.clip(0.85 + 0.3 * strands, 0, 1)
        face.paint(brow * strength * grain, np.minimum(look.hair, look.skin * 0.75) * 0.8)


def paint_beard(rng: Rng, face: Face, strands: Array) -> None:
    """A beard for nearly half of the men."""
    look, tx, ty = face.look, face.tx, face.ty
    if look.feminine or not chance(rng, 0.45):
        return
    cheeks = smoothstep(np.abs(tx) + 0.65 * np.clip(ty, -1, 2), 0.62, 0.95) * smoothstep(
        ty, -0.1, 0.35
    )
    moustache = np.exp(-(((ty - look.mouth_y + 0.18) / 0.09) ** 2)) * (
        np.abs(tx) < look.mouth_width * 1.2
    )
    chin = bump(tx, ty, 0, look.mouth_y + 0.42, 0.36, 0.32)
    kind = BEARDS[rng.integers(0, len(BEARDS))]
    beard = {"full": cheeks, "goatee": chin, "moustache": 0 * chin}.get(kind)
    if beard is None:
        beard = np.maximum(cheeks, smoothstep(ty, look.mouth_y - 0.25, look.mouth_y))
    beard = np.maximum(beard, moustache) * (1 - face.lips)
    beard = beard * np.clip(uniform(rng, 0.35, 1.0) + 0.35 * strands, 0, 1)
    face.paint(np.clip(beard, 0, 0.95), np.minimum(look.hair, look.skin))


def paint_mask(rng: Rng, face: Face) -> Array:
    """A medical mask over nose and mouth; returns the light's factor in its pleats."""
    top = face.look.nose_y - uniform(rng, 0.05, 0.25)
    cloth = smoothstep(face.ty - 0.12 * np.abs(face.tx), top - face.soft, top + face.soft)
    cloth = cloth * (np.abs(face.tx) < 0.98)
    colour = np.array(MASK_COLOURS[rng.integers(0, len(MASK_COLOURS))]) * uniform(rng, 0.7, 1)
    face.paint(cloth, colour)
    return np.where(cloth > 0.5, 1 - 0.06 * np.sin(face.ty * 18), 1)


def draw_face(rng: Rng, face: Face, strands: Array) -> Array:
    """Paint everything onto face.skin; returns the factor [h, w] by which accessories change the
    light."""
    paint_complexion(rng, face)
    paint_mouth(rng, face)
    paint_nose(rng, face)
    paint_eyes(rng, face)
    paint_brows(rng, face, strands)
    paint_beard(rng, face, strands)
    if face.look.accessory == "mask":
        return paint_mask(rng, face)
    return np.ones_like(face.tx)


def hair_strands(rng: Rng, height: int, width: int, scale: float) -> Array:
    """Noise that looks like hair: fine curls, or long streaks from top to bottom."""
    if chance(rng, 0.5):
        return noise(rng, height, width, max(1.2, scale * 0.035), 1, uniform(rng, 0.3, 1))
    return noise(rng, height, width, max(1.2, scale * 0.25), 1, 0.15)
