"""What a camera does to a scene: blur, exposure, noise, sharpening, colour, compression."""

import math

import cv2
import numpy as np

from .tools import Array, Rng, chance, noise, uniform


def photograph(rng: Rng, canvas: Array, height: int, width: int) -> tuple[Array, float, float]:
    """Reduce a float canvas to a uint8 picture [height, width, 3].

    Returns the picture, the strength of the blur (about the sigma of a Gaussian, in pixels of
    the picture; 0 is sharp) and the exposure (1 is normal, 0.3 is very dark).
    """
    image = cv2.resize(np.clip(canvas, 0, 255), (width, height), interpolation=cv2.INTER_AREA)
    image, blur = _blur(rng, image)
    exposure = uniform(rng, 0.2, 0.6) if chance(rng, 0.12) else 1.0
    image = _expose(rng, image, exposure)
    if chance(rng, 0.35 if exposure == 1 else 0.8):
        grain = noise(rng, height, width, 1, 3) * uniform(rng, 1, 6)
        image = image + grain + noise(rng, height, width, 1.8)[..., None] * uniform(rng, 0, 4)
    if chance(rng, 0.25):  # as phone cameras do
        image = image + (image - cv2.GaussianBlur(image, (0, 0), 1.2)) * uniform(rng, 0.3, 1.2)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if chance(rng, 0.05):
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if chance(rng, 0.7):
        image = _compress(image, int(uniform(rng, 35, 97)))
    return image, blur, exposure


def _blur(rng: Rng, image: Array) -> tuple[Array, float]:
    """Out of focus, moved, or enlarged from a smaller picture; each only sometimes."""
    blur = 0.0
    if chance(rng, 0.25):
        blur = uniform(rng, 0.3, 1.2)
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if chance(rng, 0.06):
        length = int(uniform(rng, 3, 8))
        image = cv2.filter2D(image, -1, _motion_kernel(length, uniform(rng, 0, 180)))
        blur = max(blur, length / 3)
    if chance(rng, 0.08):
        factor = uniform(rng, 0.55, 0.85)
        height, width = image.shape[:2]
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        blur = max(blur, 1 / factor - 0.5)
    return image, blur


def _motion_kernel(length: int, angle: float) -> Array:
    """A line of weights that sum to 1: the path of a moving camera."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), angle, 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return kernel / kernel.sum()


def _expose(rng: Rng, image: Array, exposure: float) -> Array:
    gamma = uniform(rng, 0.7, 1.4)
    bright = np.clip(image / 255, 0, 1) ** gamma
    return bright * 255 * exposure * uniform(rng, 0.9, 1.15) + uniform(rng, -8, 12)


def _compress(image: Array, quality: int) -> Array:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def random_lamp(rng: Rng) -> Array:
    """A unit vector towards the lamp: mostly from above and from the front."""
    x, y, z = rng.standard_normal(3)
    lamp = np.array([x, -abs(y) * 0.8, abs(z) + uniform(rng, 0.4, 1.6)])
    return lamp / math.sqrt((lamp**2).sum())
