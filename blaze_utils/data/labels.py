"""The labels of the faces of an image: in memory, on disk, and how difficult each face is.

The text format is that of RetinaFace's ``label.txt`` [1]_, with five columns of our own at the
end. An image without faces is its name alone, as the second one here::

    # 00000.jpg
    x y w h  lx ly flag  (five times)  quality  occlusion blur light yaw inside
    # 00001.jpg

.. [1] Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019.
"""
from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from blaze_utils.files import write_atomically

LABEL_FILE = "label.txt"  # its name in a folder of images

# The five attributes in the order of their columns, with the value of a face that has none given.
ATTRIBUTES = {"occlusion": 0.0, "blur": 0.0, "light": 1.0, "yaw": 0.0, "inside": 1.0}
COLUMNS = (4, 20, 25)  # box; box, landmarks and quality; the same and the attributes
LARGEST = 1e6  # beyond it a number is a mistake, and float32 would no longer tell pixels apart

# What a face may be at most (``side``, ``light``, ``inside``: at least) to belong to a setting.
# ``side`` is the box's longer side in pixels of the stored image; ``blur`` is sigma / side.
EASY = {"side": 24.0, "occlusion": 0.2, "blur": 0.05, "light": 0.5, "yaw": 1.05, "inside": 0.95}
MEDIUM = {"side": 14.0, "occlusion": 0.4, "blur": 0.1, "light": 0.3, "yaw": 1.4, "inside": 0.8}
HARD = {"side": 4.0, "occlusion": 0.95, "blur": 1.0, "light": 0.1, "yaw": 1.6, "inside": 0.15}


class LabelError(ValueError):
    """A label file, or a line of it, that cannot be used.  The message starts ``file:line:``."""


@dataclass(eq=False)
class FaceLabels:
    """The N faces of one image as numpy arrays, converted to float32; N may be 0.

    Attributes:
        boxes: [N, 4] x1, y1, x2, y2 in pixels; they may reach beyond the image.
        landmarks: [N, 5, 2] x, y in pixels: the eye on the image's left, the eye on its right, the
            nose, the left and the right corner of the mouth.  NaN where unknown.
        occlusion: [N] hidden share of the face, 0 to 1.
        blur: [N] sigma of the blur in pixels.
        light: [N] brightness factor; 1 is normal.
        yaw: [N] turn of the head in radians, without its sign.
        inside: [N] share of the box that lies within the image, 0 to 1.

    Raises:
        ValueError: an array has another shape than given here.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    occlusion: np.ndarray
    blur: np.ndarray
    light: np.ndarray
    yaw: np.ndarray
    inside: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        shapes = {"boxes": (count, 4), "landmarks": (count, 5, 2)}
        for field in fields(self):
            array = np.asarray(getattr(self, field.name), np.float32)
            expected = shapes.get(field.name, (count,))
            if array.shape != expected:
                raise ValueError(f"FaceLabels.{field.name}: expected shape {list(expected)}, "
                                 f"got {list(array.shape)}")
            setattr(self, field.name, array)

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> FaceLabels:
        """The labels of an image without faces."""
        return cls(np.empty((0, 4)), np.empty((0, 5, 2)), *(np.empty(0) for _ in ATTRIBUTES))

    def select(self, mask: np.ndarray) -> FaceLabels:
        """The faces picked by a bool mask [N] or by integer indices [M], in that order."""
        return FaceLabels(*(getattr(self, field.name)[mask] for field in fields(self)))


def difficulty(labels: FaceLabels) -> dict[str, np.ndarray]:
    """Tell which faces count as easy, medium and hard, as bool masks [N].

    The masks are nested as in WIDER FACE: every easy face is also medium, every medium face also
    hard.  A face that is not even hard is to be ignored: it is neither to be found nor a mistake.
    """
    hard = _within(labels, HARD)
    medium = hard & _within(labels, MEDIUM)
    return {"easy": medium & _within(labels, EASY), "medium": medium, "hard": hard}


def _within(labels: FaceLabels, limits: Mapping[str, float]) -> np.ndarray:
    side = (labels.boxes[:, 2:] - labels.boxes[:, :2]).max(axis=1)
    return (
        (side >= limits["side"])
        & (labels.occlusion <= limits["occlusion"])
        & (labels.blur <= limits["blur"] * side)
        & (labels.light >= limits["light"])
        & (labels.yaw <= limits["yaw"])
        & (labels.inside >= limits["inside"])
    )


def read_labels(path: str | Path) -> dict[str, FaceLabels]:
    """Read a label file: image name -> its faces, in the order of the file.

    A face line has 4 columns (box), 20 (and landmarks, quality) or 25 (and our attributes).  What
    is not given takes the values of ``ATTRIBUTES``, and NaN for landmarks; with 20 columns the
    occlusion is 1 - quality, unless the quality is below 0, which stands for unknown.  A landmark
    is unknown if its flag is -1 or both coordinates are -1.  Blank lines, Windows line ends and a
    BOM are accepted; the encoding is UTF-8.

    Faces without width or height, of which WIDER FACE has some, are left out; a ``UserWarning``
    names the file, their number and the first line.

    Raises:
        FileNotFoundError: there is no such file.
        LabelError: naming file and line: another number of columns, not a number, NaN or infinity,
            width or height below 0, a face before the first name, a name given twice, a name
            missing, bytes that are not UTF-8, or a file with nothing in it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text ({error})") from error
    faces: dict[str, list[np.ndarray]] = {}
    name, left_out = None, []
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if line.startswith("#"):
            name = _new_name(line, faces, where)
            faces[name] = []
        elif line.strip():
            if name is None:
                raise LabelError(f"{where}: a face before the first '# name' line")
            face = _parse_face(line, where)
            if (face[:2] < face[2:4]).all():
                faces[name].append(face)
            else:
                left_out.append(number)
    if not faces:
        raise LabelError(f"{path}:1: the file is empty, expected '# name' lines")
    if left_out:
        warnings.warn(f"{path}:{left_out[0]}: left out, as the face has no width or height "
                      f"({len(left_out)} in this file)", stacklevel=2)
    return {name: _from_rows(rows) for name, rows in faces.items()}


def _new_name(line: str, known: Mapping[str, object], where: str) -> str:
    name = line[1:].strip()
    if not name:
        raise LabelError(f"{where}: expected an image name after '#'")
    if name in known:
        raise LabelError(f"{where}: the image {name!r} was already given above")
    return name


def _parse_face(line: str, where: str) -> np.ndarray:
    """One line as float32 [24]: x1 y1 x2 y2, five times (x y flag), the attributes."""
    words = line.split()
    if len(words) not in COLUMNS:
        raise LabelError(f"{where}: {len(words)} columns, expected 4, 20 or 25")
    values = [_parse_number(word, where) for word in words]
    x, y, width, height = values[:4]
    if width < 0 or height < 0:
        raise LabelError(f"{where}: width {width:g} and height {height:g} must not be below 0")
    landmarks = values[4:19] or [-1.0] * 15
    attributes = list(ATTRIBUTES.values())
    if len(values) == 20 and values[19] >= 0:
        attributes[0] = max(1.0 - values[19], 0.0)
    elif len(values) == 25:
        attributes = values[20:]
    return np.array([x, y, x + width, y + height, *landmarks, *attributes], np.float32)


def _parse_number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise LabelError(f"{where}: {word!r} is not a number") from None
    if not abs(value) <= LARGEST:  # written so that NaN fails too
        raise LabelError(f"{where}: {word!r} is not a finite number up to {LARGEST:g}")
    return value


def _from_rows(rows: list[np.ndarray]) -> FaceLabels:
    if not rows:
        return FaceLabels.empty()
    table = np.stack(rows)
    points = table[:, 4:19].reshape(-1, 5, 3)
    landmarks = points[..., :2].copy()
    landmarks[(points[..., 2] == -1) | (landmarks == -1).all(axis=-1)] = np.nan
    return FaceLabels(table[:, :4], landmarks, *table[:, 19:].T)


def write_labels(path: str | Path, labels: Mapping[str, FaceLabels]) -> None:
    """Write image names and their faces with 25 columns, so that ``read_labels`` reads them back.

    Numbers keep seven significant digits; the quality column is 1 - occlusion.  The file appears
    whole or not at all.

    Raises:
        LabelError: nothing to write, a name that is empty or has line breaks or spaces around it,
            a box without width or height, or a value that is not finite (landmarks may be NaN).
    """
    if not labels:
        raise LabelError(f"{path}: no images to write")
    text = "".join(format_labels(name, faces) for name, faces in labels.items())
    write_atomically(path, text.encode("utf-8"))


def format_labels(name: str, labels: FaceLabels) -> str:
    """The lines of one image as ``write_labels`` writes them, with the last line's end."""
    if not name or name != name.strip() or len(name.splitlines()) != 1:
        raise LabelError(f"image name {name!r}: expected one line without spaces around it")
    attributes = np.stack([getattr(labels, key) for key in ATTRIBUTES], axis=1)
    sizes = labels.boxes[:, 2:] - labels.boxes[:, :2]
    if not (sizes > 0).all() or not np.isfinite(labels.boxes).all():
        raise LabelError(f"{name}: every box needs finite x1 < x2 and y1 < y2")
    if not np.isfinite(attributes).all() or np.isinf(labels.landmarks).any():
        raise LabelError(f"{name}: a landmark or attribute ({', '.join(ATTRIBUTES)}) is not finite")
    unknown = np.isnan(labels.landmarks).any(axis=-1, keepdims=True)
    points = np.concatenate(
        [np.where(unknown, -1.0, labels.landmarks), np.where(unknown, -1.0, 0.0)], axis=-1
    ).reshape(-1, 15)
    quality = 1.0 - labels.occlusion[:, None]
    rows = np.concatenate([labels.boxes[:, :2], sizes, points, quality, attributes], axis=1)
    lines = [f"# {name}", *(" ".join(f"{value:.7g}" for value in row) for row in rows)]
    return "\n".join(lines) + "\n"
