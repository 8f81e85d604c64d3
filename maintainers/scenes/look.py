"""What a person looks like: every random choice about a face's anatomy and style stands here, once.

Lengths are in units of half a face width, measured from the middle of the face (x to the right,
y down).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .tools import Array, Rng, chance, pick, uniform

# RGB samples of skin from very light to very dark, and of hair; kept as BGR.
SKIN = np.array(
    [(255, 226, 205), (247, 208, 178), (236, 188, 152), (222, 170, 128), (198, 140, 98)]
    + [(165, 110, 72), (125, 80, 52), (92, 58, 40), (66, 42, 32)],
    np.float32,
)[:, ::-1]
HAIR = np.array(
    [(20, 16, 14), (35, 25, 20), (60, 40, 28), (95, 65, 40), (140, 100, 60)]
    + [(190, 150, 95), (215, 190, 150), (150, 150, 150), (225, 225, 225), (120, 50, 25)],
    np.float32,
)[:, ::-1]
IRIS = np.array(
    [(30, 45, 70), (25, 35, 50), (60, 80, 90), (140, 110, 80), (90, 120, 90)], np.float32
)

STYLES_MEN = {"short": 40, "parted": 24, "receding": 12, "bald": 6, "buzz": 10, "curly": 8}
STYLES_WOMEN = {"short": 13, "parted": 12, "buzz": 3, "curly": 17, "long": 30, "bob": 25}
ACCESSORIES = {"none": 64, "glasses": 18, "sunglasses": 4, "mask": 4, "hat": 10}
LONG_STYLES = ("long", "bob")


def any_colour(rng: Rng) -> Array:
    """A colour of clothes and things, BGR [3]: mostly dull, sometimes grey, sometimes vivid."""
    kind = rng.random()
    if kind < 0.5:
        saturation = rng.beta(1.2, 3.0)
    elif kind < 0.7:
        saturation = rng.beta(2, 2)
    else:
        saturation = rng.uniform(0, 0.15)
    hsv = (rng.integers(0, 180), int(255 * saturation), int(255 * rng.beta(1.3, 1.3)))
    return cv2.cvtColor(np.array([[hsv]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def skin_colour(rng: Rng) -> tuple[Array, float]:
    """A skin colour, BGR [3], and how dark it is, 0..1."""
    position = uniform(rng, 0, len(SKIN) - 1.001)
    index, rest = int(position), position % 1
    colour = SKIN[index] * (1 - rest) + SKIN[index + 1] * rest
    tint = np.array([uniform(rng, 0.88, 1.08), uniform(rng, 0.95, 1.03), 1], np.float32)
    return colour * tint, position / (len(SKIN) - 1)


def hair_colour(rng: Rng, darkness: float) -> Array:
    """A hair colour, BGR [3]: dark for most people, and for nearly all with dark skin."""
    common = chance(rng, 0.55)
    choices = 3 if common else 4 if darkness > 0.5 else len(HAIR)
    return HAIR[rng.integers(0, choices)] * uniform(rng, 0.7, 1.3)


@dataclass(frozen=True)
class Look:
    """One person: colours BGR 0..255, lengths in half face widths, everything else named by its
    range."""

    skin: Array
    hair: Array
    age: float  # 0 smooth .. 1 wrinkled
    feminine: bool
    style: str  # a key of STYLES_MEN or STYLES_WOMEN
    accessory: str  # a key of ACCESSORIES
    crown: float  # height of the skull above the centre
    chin: float  # depth of the chin below it
    jaw: tuple[float, float]  # exponents of the jaw line: where it bends, how square it is
    width: float
    hairline: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_lift: float
    nose_y: float
    nose_width: float
    nose_length: float  # how far it stands out in profile
    mouth_y: float
    mouth_width: float
    mouth_open: float
    smile: float


def random_look(rng: Rng) -> Look:
    """Draw a person."""
    skin, darkness = skin_colour(rng)
    feminine = chance(rng, 0.5)
    style = pick(rng, STYLES_WOMEN if feminine else STYLES_MEN)
    eye_width = uniform(rng, 0.17, 0.25)
    opening = uniform(rng, 0.3, 0.5) * (1 if chance(rng, 0.85) else 0.25)
    return Look(
        skin=skin,
        hair=hair_colour(rng, darkness),
        age=float(rng.random()),
        feminine=feminine,
        style=style,
        accessory=pick(rng, ACCESSORIES),
        crown=uniform(rng, 1.45, 1.65),
        chin=uniform(rng, 1.18, 1.38),
        jaw=(uniform(rng, 2.3, 3.3), uniform(rng, 0.42, 0.68)),
        width=uniform(rng, 0.93, 1.05),
        hairline=uniform(rng, -1.18, -0.85) - (0.22 if style == "receding" else 0),
        eye_x=uniform(rng, 0.38, 0.46),
        eye_y=uniform(rng, -0.2, -0.08),
        eye_width=eye_width,
        eye_open=opening * eye_width,
        eye_tilt=uniform(rng, -0.15, 0.2),
        brow_lift=uniform(rng, 0.2, 0.32),
        nose_y=uniform(rng, 0.28, 0.42),
        nose_width=uniform(rng, 0.17, 0.29),
        nose_length=uniform(rng, 0.2, 0.34),
        mouth_y=uniform(rng, 0.64, 0.78),
        mouth_width=uniform(rng, 0.27, 0.43),
        mouth_open=uniform(rng, 0.05, 0.15)
        if chance(rng, 0.5)
        else max(0.0, uniform(rng, -0.1, 0.12)),
        smile=uniform(rng, -0.02, 0.16),
    )


@dataclass(frozen=True)
class View:
    """How the head is turned and lit: yaw (positive to the image's right), pitch and roll in
    radians; light, a unit vector towards the lamp (x right, y down, z to the camera);
    ambient, its share 0..1; tint, BGR factors of the light's colour and strength."""

    yaw: float
    pitch: float
    roll: float
    light: Array
    ambient: float
    tint: Array
