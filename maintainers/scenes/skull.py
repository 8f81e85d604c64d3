"""The head as a solid: for every pixel of a turned head, the point of the frontal face that is
seen there.

A head is a stack of horizontal circles. The one at height y has the radius r(y) and is shifted
forwards by z(y), so that the chin stands before the neck. A camera far away looks along z. Where
it sees the circle at u = x / r, the angle on the circle is asin(u), and after the head has
turned by `yaw` the same skin stood at asin(u) - yaw: this is the map from pixels to the frontal
texture. Turning the other way round, the same formula tells where a landmark of the texture
lands. One frontal drawing thus covers every yaw up to profile.
"""

import math
from functools import cached_property

import cv2
import numpy as np

from .look import Look, View
from .tools import Array, smoothstep

# The drawing area around the centre of a face, in half face widths: room for hair, hats and a neck.
LEFT, RIGHT, TOP, BOTTOM = -1.9, 1.9, -2.15, 2.35
# The part of the frontal texture that carries the features.
FACE_LEFT, FACE_RIGHT, FACE_TOP, FACE_BOTTOM = -1.12, 1.12, -1.35, 1.55


class Skull:
    """Geometry of one head at `scale` pixels per half face width; maps are float32 [H, W]."""

    def __init__(self, look: Look, view: View, scale: float) -> None:
        self.look, self.view, self.scale = look, view, scale
        self.width, self.height = int((RIGHT - LEFT) * scale), int((BOTTOM - TOP) * scale)
        self.rows = np.arange(self.height, dtype=np.float32) / scale + TOP
        columns = np.arange(self.width, dtype=np.float32) / scale + LEFT
        self.x = np.broadcast_to(columns, (self.height, self.width))
        self.y = np.broadcast_to(self.rows[:, None], (self.height, self.width))
        self.radius = self._radii()
        self.forward = self._forward_shift()
        self._map_to_texture()

    def _radii(self) -> Array:
        """Radius of the circle at each row: a flattened dome above, the jaw line below."""
        look, y = self.look, self.rows
        dome = np.clip(1 - np.abs(np.minimum(y, 0) / look.crown) ** 2.5, 0, 1) ** (1 / 2.3)
        bend, squareness = look.jaw
        jaw = np.clip(1 - np.clip(y / look.chin, 0, 1) ** bend, 0, 1) ** squareness
        return (np.where(y < 0, dome, np.where(y < look.chin, jaw, 0)) * look.width).astype(
            np.float32
        )

    def _forward_shift(self) -> Array:
        """How far each circle stands forward: the chin is before the neck."""
        y = self.rows
        shift = np.where((y > 0) & (y < self.look.chin), 0.42 * (y / self.look.chin) ** 2, 0)
        return shift.astype(np.float32)

    def _profile_line(self) -> Array:
        """How far nose, lips, chin and brow stand out of the outline when the head is turned."""
        look, y = self.look, self.rows
        nose = np.exp(-(((y - look.nose_y + 0.02) / np.where(y < look.nose_y, 0.24, 0.10)) ** 2))
        lips = np.exp(-(((y - look.mouth_y) / 0.12) ** 2))
        chin = np.exp(-(((y - look.chin + 0.15) / 0.15) ** 2))
        brow = np.exp(-(((y + 0.38) / 0.12) ** 2)) - 0.8 * np.exp(-(((y + 0.12) / 0.1) ** 2))
        line = look.nose_length * nose + 0.10 * lips + 0.08 * chin + 0.06 * brow
        return (line * math.sin(self.view.yaw) ** 2).astype(np.float32)

    def _map_to_texture(self) -> None:
        sine = math.sin(self.view.yaw)
        side = 1.0 if sine > 0 else -1.0
        radius = self.radius[:, None]
        x = self.x - side * self._profile_line()[:, None] * smoothstep(self.x * side, 0.25, 1.0)
        across = (x - self.forward[:, None] * sine) / np.maximum(radius, 1e-3)
        self.across = np.clip(across, -0.9995, 0.9995)
        angle = np.arcsin(self.across) - self.view.yaw
        self.front = np.cos(angle)  # above 0: skin of the front half
        turned = np.where(
            self.front > 0, np.sin(angle), np.sign(angle) * (2 - np.abs(np.sin(angle)))
        )
        self.tx = (turned * radius / max(self.look.width, 0.5)).astype(np.float32)
        depth = np.sqrt(np.clip(1 - self.across**2, 0, 1)) * radius
        self.ty = (self.y - math.sin(self.view.pitch) * 0.55 * depth).astype(np.float32)
        edge = np.clip((1 - np.abs(across)) * radius * self.scale + 0.5, 0, 1) * (radius > 0.02)
        self.cover = cv2.GaussianBlur(edge.astype(np.float32), (3, 3), 0)

    @cached_property
    def face(self) -> tuple[slice, slice]:
        """The rows and columns of the drawing that can show the front of the face."""
        top, bottom = int((FACE_TOP - TOP) * self.scale), int((FACE_BOTTOM - TOP) * self.scale)
        left, right = int((FACE_LEFT - LEFT) * self.scale), int((FACE_RIGHT - LEFT) * self.scale)
        return slice(top, bottom), slice(left, right)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Pixel coordinates of a point given in half face widths."""
        return (x - LEFT) * self.scale, (y - TOP) * self.scale

    def project(self, tx: float, ty: float) -> tuple[float, float]:
        """Pixel at which a point of the frontal texture lands after the turn."""
        radius = float(np.interp(ty, self.rows, self.radius))
        forward = float(np.interp(ty, self.rows, self.forward))
        angle = (
            math.asin(max(-1.0, min(1.0, tx * self.look.width / max(radius, 0.05)))) + self.view.yaw
        )
        x = forward * math.sin(self.view.yaw) + radius * math.sin(angle)
        depth = radius * max(0.0, math.cos(angle))
        return self.pixel(x, ty + math.sin(self.view.pitch) * 0.55 * depth)

    def normals(self, height: Array) -> tuple[Array, Array, Array]:
        """Unit surface normals (x, y, z) of an ellipsoid roughened by a height map [H, W]."""
        height = cv2.GaussianBlur(height, (3, 3), 0)
        slope = self.scale / 8  # a 3x3 Sobel filter sums eight differences
        x = self.across * 0.95
        y = np.clip(self.y / 1.75, -1, 1) * 0.8 + 0.25 * smoothstep(
            self.y, self.look.chin - 0.45, self.look.chin
        )
        z = np.sqrt(np.clip(1 - x**2 - y**2, 0.03, 1))
        x = x - 1.1 * slope * cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3)
        y = y - 1.1 * slope * cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3)
        length = np.sqrt(x * x + y * y + z * z)
        return x / length, y / length, z / length

    def box(self) -> tuple[float, float, float, float]:
        """Pixels x1, y1, x2, y2 of the face: hairline to chin, cheek to cheek, shifted with the
        turn."""
        sine, half = math.sin(self.view.yaw), 0.96 * self.look.width
        shrink = half * (1 - 0.10 * abs(sine))
        left = -shrink + 0.10 * sine + max(0.0, sine) * 0.18
        right = shrink + 0.10 * sine + min(0.0, sine) * 0.18
        top = self.forehead() + math.sin(self.view.pitch) * 0.1
        bottom = self.look.chin + 0.03 + math.sin(self.view.pitch) * 0.12
        return *self.pixel(left, top), *self.pixel(right, bottom)

    def forehead(self) -> float:
        """Height at which the face begins, also for heads without hair."""
        return max(-1.2, min(-1.0, self.look.hairline + 0.02))
