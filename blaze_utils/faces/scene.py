"""A whole scene: who stands where, what stands before them, and the labels of every face."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from blaze_utils.labels import FaceLabels

from .background import draw_background
from .body import cloth, draw_body
from .camera import photograph, random_lamp
from .head import Head, draw_head
from .look import View, random_look, skin_colour
from .tools import (
    Array,
    Rng,
    chance,
    log_uniform,
    noise,
    paint,
    pick,
    polygon_mask,
    support,
    uniform,
)

OVERSAMPLING = 2  # scenes are drawn at twice the size and reduced, which antialiases everything
# Heads are drawn between these face widths (in pixels) and then scaled: fewer would lack detail,
# more would cost time that nobody sees.
SMALLEST_DRAWING, LARGEST_DRAWING = 40, 190
LAYOUTS = {"portrait": 20, "close": 10, "group": 26, "crowd": 20, "scattered": 20, "empty": 6}


@dataclass
class Placed:
    """A face on the canvas: landmarks [5, 2] and box [4] in canvas pixels, visible area before
    anything else was drawn over it, and how it is seen."""

    landmarks: Array
    box: Array
    area: float
    view: View


def draw_scene(
    index: int, seed: int = 1, size: tuple[int, int] = (256, 320)
) -> tuple[Array, FaceLabels]:
    """Draw scene number `index` of the stream `seed`.

    Args:
        index, seed: non-negative; the same pair gives the same scene (up to the last bit of
            rounding between processors, which can change a pixel by one or two grey values).
        size: height and width of the picture in pixels.

    Returns:
        The picture, uint8 [H, W, 3] BGR, and the labels of its faces in its pixels, farthest
        face first. Boxes run from hairline to chin and cheek to cheek and are cut off at the
        border; faces of which less than 15 % lies inside the picture, or that are under 3
        pixels, are not listed.
    """
    rng = np.random.default_rng([seed, index])
    height, width = size
    canvas = draw_background(rng, height * OVERSAMPLING, width * OVERSAMPLING)
    owner = np.zeros(canvas.shape[:2], np.int32)  # which face (from 1) each pixel shows; 0: none
    placed = _draw_people(rng, canvas, owner, size)
    if placed and chance(rng, 0.45):
        for _ in range(rng.integers(1, 4)):
            _draw_occluder(rng, canvas, owner, placed[rng.integers(0, len(placed))])
    image, blur, light = photograph(rng, canvas, height, width)
    return image, _labels(placed, owner, size, blur, light)


def _layout(rng: Rng, height: int, width: int) -> list[tuple[float, float, float]]:
    """Centres x, y and face widths, in pixels of the picture, from back to front."""
    kind = pick(rng, LAYOUTS)
    if kind == "group":
        return sorted(_rows_of_people(rng, height, width), key=lambda face: face[1])
    if kind == "crowd":
        typical = log_uniform(rng, 5, 20)
        sizes = [typical * uniform(rng, 0.7, 1.5) for _ in range(rng.integers(8, 22))]
        faces = [
            (uniform(rng, 0, width), uniform(rng, 0.05, 0.95) * height, size) for size in sizes
        ]
        return sorted(faces, key=lambda face: face[1])
    counts = {"portrait": (1, 4), "close": (1, 2), "scattered": (1, 7), "empty": (0, 1)}
    sizes = {"portrait": (50, 185), "close": (130, 230), "scattered": (5, 130), "empty": (1, 2)}
    faces = []
    for _ in range(rng.integers(*counts[kind])):
        x, y = uniform(rng, 0.1, 0.9) * width, uniform(rng, 0.15, 0.8) * height
        faces.append((x, y, log_uniform(rng, *sizes[kind])))
    return sorted(faces, key=lambda face: face[2])


def _rows_of_people(rng: Rng, height: int, width: int) -> list[tuple[float, float, float]]:
    """A group that stands in one to three rows, 14 people at most."""
    faces: list[tuple[float, float, float]] = []
    size, y = log_uniform(rng, 14, 52), uniform(rng, 0.15, 0.45) * height
    for _ in range(rng.integers(1, 4)):
        x = uniform(rng, 0, 2) * size
        while x < width + size and len(faces) < 14:
            faces.append((x, y + rng.normal() * size * 0.2, size * uniform(rng, 0.88, 1.12)))
            x += size * uniform(rng, 1.5, 2.8)
        y += size * uniform(rng, 1.6, 3)
    return faces


def _hides(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether one face would cover nearly all of the other."""
    reach = (a[2] + b[2]) / 2
    return abs(a[0] - b[0]) < 0.45 * reach and abs(a[1] - b[1]) < 0.6 * reach


def _draw_people(rng: Rng, canvas: Array, owner: Array, size: tuple[int, int]) -> list[Placed]:
    lamp, ambient = random_lamp(rng), uniform(rng, 0.4, 0.85)
    tint = (np.clip(1 + rng.normal(0, 0.07, 3), 0.8, 1.2) * uniform(rng, 0.9, 1.25)).astype(
        np.float32
    )
    placed: list[Placed] = []
    drawn: list[tuple[float, float, float]] = []
    for face in _layout(rng, *size):
        if any(_hides(face, other) for other in drawn):
            continue
        drawn.append(face)
        view = _random_view(rng, lamp, ambient, tint)
        x, y, face_width = (value * OVERSAMPLING for value in face)
        placed.append(
            _draw_person(rng, canvas, owner, x, y, face_width, view, number=len(placed) + 1)
        )
    return placed


def _random_view(rng: Rng, lamp: Array, ambient: float, tint: Array) -> View:
    """Most people look about at the camera; a quarter are turned anywhere up to profile."""
    yaw = rng.normal(0, 0.36) if chance(rng, 0.75) else rng.uniform(-1.5, 1.5)
    light = lamp + rng.normal(0, 0.15, 3)
    return View(
        yaw=float(np.clip(yaw, -1.5, 1.5)),
        pitch=float(rng.normal(0, 0.16)),
        roll=math.radians(float(np.clip(rng.normal(0, 11), -35, 35))),
        light=light / np.linalg.norm(light),
        ambient=float(np.clip(ambient + rng.normal(0, 0.06), 0.2, 0.85)),
        tint=tint * np.float32(uniform(rng, 0.92, 1.08)),
    )


def _draw_person(
    rng: Rng,
    canvas: Array,
    owner: Array,
    x: float,
    y: float,
    face_width: float,
    view: View,
    number: int,
) -> Placed:
    look = random_look(rng)
    drawing = float(np.clip(face_width, SMALLEST_DRAWING, LARGEST_DRAWING))
    head = draw_head(rng, look, view, drawing)
    if chance(rng, 0.88):
        draw_body(rng, canvas, owner, x, y, face_width, view, look.skin)
    return _paste(canvas, owner, head, (x, y), face_width / drawing, view, number)


def _paste(
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


def _draw_occluder(rng: Rng, canvas: Array, owner: Array, face: Placed) -> None:
    """Something before a face: a board, a stick, an ellipse or a scrap, of cloth or of skin."""
    x1, y1, x2, y2 = face.box
    size = float(x2 - x1)
    x, y = uniform(rng, x1 - 0.2 * size, x2 + 0.2 * size), uniform(rng, y1, y2 + 0.3 * size)
    mask = _occluder_mask(rng, canvas.shape[:2], x, y, size)
    box = support(mask, 0.5)
    if box is None:
        return
    part = mask[box]
    if chance(rng, 0.6):
        colour = cloth(rng, *part.shape)
    else:
        grain = 0.75 + 0.15 * noise(rng, *part.shape, size / 2 + 2)
        colour = skin_colour(rng)[0] * grain[..., None] * uniform(rng, 0.5, 1.1)
    paint(canvas[box], part, np.clip(colour, 0, 255))
    owner[box][part > 0.5] = 0


def _occluder_mask(rng: Rng, shape: tuple[int, int], x: float, y: float, size: float) -> Array:
    kind = pick(rng, {"board": 1, "stick": 1, "ellipse": 1, "scrap": 1})
    if kind == "board":
        right, bottom = x + size * uniform(rng, 0.2, 0.9), y + size * uniform(rng, 0.2, 1.2)
        return polygon_mask(*shape, np.array([(x, y), (right, y), (right, bottom), (x, bottom)]))
    if kind == "scrap":
        corners = np.array([x, y]) + rng.standard_normal((6, 2)) * size * 0.25
        return polygon_mask(*shape, cv2.convexHull(corners.astype(np.float32))[:, 0])
    mask = np.zeros(shape, np.uint8)
    if kind == "stick":
        end = (int(x + rng.normal() * size * 2), int(y + rng.normal() * size * 2))
        cv2.line(
            mask,
            (int(x), int(y)),
            end,
            255,
            max(1, int(size * uniform(rng, 0.05, 0.3))),
            cv2.LINE_AA,
        )
    else:
        axes = (int(size * uniform(rng, 0.15, 0.4)), int(size * uniform(rng, 0.15, 0.5)))
        cv2.ellipse(
            mask, (int(x), int(y)), axes, uniform(rng, 0, 180), 0, 360, 255, -1, cv2.LINE_AA
        )
    return mask.astype(np.float32) / 255


def _labels(
    placed: list[Placed], owner: Array, size: tuple[int, int], blur: float, light: float
) -> FaceLabels:
    """Labels in pixels of the picture, from what is left of each face on the canvas."""
    if not placed:
        return FaceLabels.empty()
    height, width = size
    visible = np.bincount(owner.ravel(), minlength=len(placed) + 1)[1:]
    whole = np.stack([face.box for face in placed]) / OVERSAMPLING
    boxes = np.clip(whole, 0, [width, height, width, height])
    sides, whole_sides = boxes[:, 2:] - boxes[:, :2], whole[:, 2:] - whole[:, :2]
    inside = np.minimum(1, sides.prod(1) / whole_sides.prod(1))
    hidden = 1 - np.minimum(1, visible / np.maximum(1, [face.area for face in placed]))
    count = len(placed)
    labels = FaceLabels(
        boxes=boxes,
        landmarks=np.stack([face.landmarks for face in placed]) / OVERSAMPLING,
        occlusion=hidden,
        blur=np.full(count, blur),
        light=np.full(count, light),
        yaw=np.abs([face.view.yaw for face in placed]),
        inside=inside,
    )
    return labels.select((sides >= 3).all(1) & (inside >= 0.15))
