"""A whole scene: who stands where, what stands before them, and the labels of every face."""

import math

import cv2
import numpy as np

from blaze_utils.data import FaceLabels

from .background import draw_background
from .body import cloth, draw_body
from .camera import photograph, random_lamp
from .head import draw_head
from .layout import Place, choose_places, hides
from .look import View, random_look, skin_colour
from .placing import Placed, place
from .tools import Array, Rng, chance, noise, paint, pick, polygon_mask, support, uniform

OVERSAMPLING = 2  # scenes are drawn at twice the size and reduced, which antialiases everything
# Heads are drawn between these face widths (in pixels) and then scaled: fewer would lack detail,
# more would cost time that nobody sees.
SMALLEST_DRAWING, LARGEST_DRAWING = 40, 190


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


def _draw_people(rng: Rng, canvas: Array, owner: Array, size: tuple[int, int]) -> list[Placed]:
    lamp, ambient = random_lamp(rng), uniform(rng, 0.4, 0.85)
    tint = (np.clip(1 + rng.normal(0, 0.07, 3), 0.8, 1.2) * uniform(rng, 0.9, 1.25)).astype(
        np.float32
    )
    placed: list[Placed] = []
    drawn: list[Place] = []
    for face in choose_places(rng, *size):
        if any(hides(face, other) for other in drawn):
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
    return place(canvas, owner, head, (x, y), face_width / drawing, view, number)


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
        thick = max(1, int(size * uniform(rng, 0.05, 0.3)))
        cv2.line(mask, (int(x), int(y)), end, 255, thick, cv2.LINE_AA)
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
