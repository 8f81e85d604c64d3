"""Laying a drawn head onto the canvas: turned, scaled, and with what becomes of its labels."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .head import Head
from .look import View
from .tools import Array, paint


@dataclass
class Placed:
    """A face on the canvas: landmarks [5, 2] and box [4] in canvas pixels, visible area before
    anything else was drawn over it, and how it is seen."""

    landmarks: Array
    box: Array
    area: float
    view: View


def place(
    canvas: Array,
    owner: Array,
    head: Head,
    centre: tuple[float, float],
    scale: float,
    view: View,
    number: int,
) -> Placed:
    """Turn the head by its roll, scale it, and lay it on the canvas with the face's centre at
    `centre`."""
    middle = (head.box[:2] + head.box[2:]) / 2
    move = cv2.getRotationMatrix2D(
        (float(middle[0]), float(middle[1])), math.degrees(view.roll), scale
    )
    move[:, 2] += np.array(centre) - middle
    outline = _transform(_rounded_outline(head.box), move)
    layers = np.dstack([head.image, head.alpha, head.face]).astype(np.float32)
    rows, columns, layers = _warp(layers, move, canvas.shape[:2])
    if layers is not None:
        paint(canvas[rows, columns], layers[..., 3], layers[..., :3])
        region = owner[rows, columns]
        region[layers[..., 3] > 0.5] = 0
        region[layers[..., 4] > 0.5] = number
    box = np.concatenate([outline.min(0), outline.max(0)])
    return Placed(_transform(head.landmarks, move), box, float(head.face.sum()) * scale**2, view)


def _warp(layers: Array, move: Array, limits: tuple[int, int]) -> tuple[slice, slice, Array | None]:
    """Transform layers [h, w, C] to the part of the canvas that they touch: rows, columns,
    layers there."""
    height, width = layers.shape[:2]
    corners = _transform(np.array([(0, 0), (width, 0), (0, height), (width, height)]), move)
    x1, y1 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(corners.max(0)).astype(int), (limits[1], limits[0]))
    if x2 - x1 < 2 or y2 - y1 < 2:
        return slice(0, 0), slice(0, 0), None
    move = move.copy()
    move[:, 2] -= (x1, y1)
    scale = math.hypot(move[0, 0], move[0, 1])
    if scale < 0.7:  # reduce by area first: a warp alone would skip pixels
        layers = _resize(layers, scale / 0.95)
        fx, fy = layers.shape[1] / width, layers.shape[0] / height
        move = move @ np.array(
            [[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]]
        )
    area = (int(x2 - x1), int(y2 - y1))
    parts = [cv2.warpAffine(np.ascontiguousarray(part), move, area) for part in _split(layers)]
    return slice(y1, y2), slice(x1, x2), np.dstack(parts)


def _split(layers: Array) -> tuple[Array, Array]:
    """OpenCV transforms four channels at most."""
    return layers[..., :4], layers[..., 4:]


def _resize(layers: Array, factor: float) -> Array:
    parts = [
        cv2.resize(
            np.ascontiguousarray(part), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA
        )
        for part in _split(layers)
    ]
    return np.dstack(parts)


def _transform(points: Array, move: Array) -> Array:
    """Apply a 2x3 affine matrix to points [N, 2]."""
    return (points @ move[:, :2].T + move[:, 2]).astype(np.float32)


def _rounded_outline(box: Array) -> Array:
    """Points [24, 2] on a rounded rectangle within the box: what the box must hold after a
    rotation."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return middle + half * np.sign(circle) * np.abs(circle) ** 0.8
