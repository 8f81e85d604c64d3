"""Random crops of training images: where, how large, mirrored or not, in which colours.

Plain numpy and OpenCV on uint8 BGR images ``[H, W, 3]``; boxes are ``[N, 4]`` x1, y1, x2, y2 and
landmarks ``[N, 5, 2]`` x, y in pixels. All chance comes from the generator that is passed in, so
that its state decides the crop: torchvision's transforms would draw from PyTorch's global one.
"""

import cv2
import numpy as np

CROP_TRIES = 8
"""Crops drawn until one holds the centre of a face."""

EMPTY_CROP_SHARE = 0.2
"""Chance that a crop without faces is kept all the same."""

CROP_SCALES = ((0.3, 0.6), (0.6, 1.0), (1.0, 1.0), (1.0, 1.35))
"""Ranges of the crop's side, as a share of the image's shorter side; above 1 it is padded."""
CROP_SCALE_CHANCES = (0.25, 0.40, 0.15, 0.20)

MOST_OCCLUSION = 0.65
LEAST_INSIDE = 0.55
MOST_YAW = 1.3
LEAST_SIDE = 6.0
"""A face beyond one of these (hidden share, share within the crop, radians, px of the longer side)
is ignored. Learning from a cheek that fills the crop, or from the back of a head, makes a detector
that takes every dark jacket for a large face.
"""

LEAST_CLIPPED_SIDE = 2.0
"""A face of which the crop shows no more than this (px) in width or height is dropped."""

MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]


def choose_crop(
    height: int, width: int, boxes: np.ndarray, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Draw a square (left, top, side) in whole pixels; it may reach beyond the image."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for _ in range(CROP_TRIES):
        low, high = CROP_SCALES[rng.choice(len(CROP_SCALES), p=CROP_SCALE_CHANCES)]
        side = max(1, round(min(height, width) * rng.uniform(low, high)))
        left = int(rng.integers(min(0, width - side), max(0, width - side) + 1))
        top = int(rng.integers(min(0, height - side), max(0, height - side) + 1))
        offset = centres - (left, top)
        if ((offset > 0) & (offset < side)).all(axis=1).any() or rng.random() < EMPTY_CROP_SHARE:
            break
    return left, top, side


def cut(
    image: np.ndarray, left: int, top: int, side: int, size: int, fill: tuple[float, ...]
) -> np.ndarray:
    """Cut a square out of an image, ``fill`` (BGR) beyond its border, and scale it to ``size``."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    part = image[y1:y2, x1:x2]
    if part.shape[:2] != (side, side):
        border = y1 - top, top + side - y2, x1 - left, left + side - x2
        part = cv2.copyMakeBorder(part, *border, cv2.BORDER_CONSTANT, value=fill)
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(part, (size, size), interpolation=method)


def mirror(
    image: np.ndarray, boxes: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Swap left and right; left eye and mouth corner remain those on the left of the image."""
    width = image.shape[1]
    boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    landmarks = landmarks[:, MIRRORED_LANDMARKS] * (-1, 1) + (width, 0)
    return image[:, ::-1], boxes, landmarks


def jitter_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, colour cast, saturation, at times the order of the channels; uint8."""
    matrix = np.diag(rng.uniform(0.7, 1.35) * rng.uniform(0.88, 1.12, 3))
    if rng.random() < 0.5:
        saturation = rng.uniform(0.2, 1.5)
        matrix = matrix @ (saturation * np.eye(3) + (1 - saturation) / 3)
    if rng.random() < 0.08:
        matrix = matrix[rng.permutation(3)]
    shift = np.full((3, 1), rng.uniform(-25, 25))
    return cv2.transform(np.ascontiguousarray(image), np.hstack([matrix, shift]))


def random_crop(
    image: np.ndarray,
    boxes: np.ndarray,
    landmarks: np.ndarray,
    size: int,
    rng: np.random.Generator,
    fill: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a random square, mirror it half of the time, and change its colours.

    Args:
        image: uint8 ``[H, W, 3]`` BGR.
        boxes: ``[N, 4]``, N may be 0.
        landmarks: ``[N, 5, 2]``; NaN (unknown) stays NaN.
        size: side of the result in pixels.
        rng: the only source of chance.
        fill: BGR value 0..255 beyond the border of the image.

    Returns:
        uint8 ``[size, size, 3]``, contiguous; boxes and landmarks float32 in its pixels, of all N
        faces, not clipped: faces may lie outside. Mirrored landmarks are put back into the order
        image-left eye, image-right eye, nose, image-left and image-right mouth corner.
    """
    height, width = image.shape[:2]
    left, top, side = choose_crop(height, width, boxes, rng)
    image = cut(image, left, top, side, size, fill)
    scale = size / side
    boxes = (boxes - (left, top, left, top)) * scale
    landmarks = (landmarks - (left, top)) * scale
    if rng.random() < 0.5:
        image, boxes, landmarks = mirror(image, boxes, landmarks)
    image = jitter_colours(image, rng)
    return image, boxes.astype(np.float32), landmarks.astype(np.float32)


def sort_out_faces(
    boxes: np.ndarray, occlusion: np.ndarray, inside: np.ndarray, yaw: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say which faces of a crop are to be learnt, ignored or dropped.

    Args:
        boxes: float ``[N, 4]`` in pixels of the crop, not clipped.
        occlusion: float ``[N]``, hidden share of each face.
        inside: float ``[N]``, share of each face that lay within the image before it was cropped.
        yaw: float ``[N]``, turn of each head in radians, without its sign.
        size: side of the crop in pixels.

    Returns:
        float32 ``[N, 4]`` boxes clipped to the crop; bool ``[N]`` kept, False for faces (almost)
        outside; bool ``[N]`` ignored, for faces too hidden, cut off, turned away, too small, or
        centred outside.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = ((centre <= 0) | (centre >= size)).any(axis=1)
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    clipped = boxes.clip(0, size).astype(np.float32)
    sides = clipped[:, 2:] - clipped[:, :2]
    shown = inside * sides.prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    ignored = (occlusion > MOST_OCCLUSION) | (shown < LEAST_INSIDE) | (yaw > MOST_YAW)
    ignored |= (longer < LEAST_SIDE) | outside
    kept: np.ndarray = (sides > LEAST_CLIPPED_SIDE).all(axis=1)
    return clipped, kept, ignored
