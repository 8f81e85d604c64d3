"""Folders of images, with labels (``FaceFolder``) or without (``PhotoFolder``).

Begin with ``FaceFolder("data/val")[0]``: a ``Sample`` of name, image and ``FaceLabels``. Files are
checked here, where they are opened: what is damaged stops with a ``DataError`` that names file and
line; what is odd is left out and counted in one warning. Not here: preprocessing (``detector``),
random crops (``training``), WIDER FACE's official ground truth (``measure``).

``label.txt`` has the format of RetinaFace [1]_ and five columns of our own at the end. An image
without faces is its name alone, as the second one here::

    # 00000.jpg
    x y w h  lx ly flag  (five times)  quality  occlusion blur light yaw inside
    # 00001.jpg

.. [1] Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

LABEL_FILE = "label.txt"
NO_PHOTOS = {LABEL_FILE, "drawn.json", "Thumbs.db", "desktop.ini"}
COLUMNS = (4, 10, 20, 25)  # box; WIDER FACE's; box, landmarks and quality; the same and ours
LARGEST = 1e6  # a larger number is a mistake, and float32 would no longer tell pixels apart
WHERE_TO_GET = (
    "WIDER FACE comes from http://shuoyang1213.me/WIDERFACE/ and belongs into data/widerface "
    "(data/README.md shows what goes where); nothing is downloaded for you"
)

# What a face may be at most (``side``, ``light``, ``inside``: at least) to belong to a setting.
# ``side`` is the box's longer side in pixels of the stored image; ``blur`` is sigma / side.
EASY = {"side": 24.0, "occlusion": 0.2, "blur": 0.05, "light": 0.5, "yaw": 1.05, "inside": 0.95}
MEDIUM = {"side": 14.0, "occlusion": 0.4, "blur": 0.1, "light": 0.3, "yaw": 1.4, "inside": 0.8}
HARD = {"side": 4.0, "occlusion": 0.95, "blur": 1.0, "light": 0.1, "yaw": 1.6, "inside": 0.15}

# First bytes of a file, as a regular expression -> what it is.
KINDS = {
    rb"\Z": "an empty file",
    rb"\xff\xd8\xff": "a JPEG image",
    rb"\x89PNG|GIF8|RIFF....WEBP|II\*\0|MM\0\*|BM....\0\0\0\0|....ftypavi": "an image",
    rb"....ftyp(hei|hev|mif|msf)": "HEIC, which OpenCV cannot read (export it as JPEG)",
    rb"....ftyp|RIFF....AVI|\x1aE\xdf\xa3": "a video",
    rb"\xff\xfe|\xfe\xff": "text in UTF-16",
    rb"%PDF": "a PDF document",
    rb"version https://git-lfs": "a pointer of Git LFS (git lfs pull gets the file itself)",
    rb".....\0\0\0\{": "a safetensors file",
    rb"\s*<(!doctype )?html": "an HTML page (the download went wrong)",
    rb"\s*<": "XML",
    rb"\s*[{\[]": "JSON",
    rb"PK\x03\x04": "a zip archive",
    rb"\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\xfd7zXZ": "a packed archive",
    rb"\x80[\x02-\x05]": "a Python pickle",
    rb"\x93NUMPY": "a NumPy array",
    rb"\x89HDF": "an HDF5 file, as Keras writes it",
    rb"\x08[\x03-\x1f][\x12:]": "an ONNX model",
    rb"....TFL3": "a TensorFlow Lite model",
    rb"....ET\d\d": "an ExecuTorch program",
    rb"[\t\r\n -~]+\Z": "text",
}


class DataError(ValueError):
    """A file that cannot be used. The message names it, and the line in it, and says why."""


@dataclass(eq=False)
class FaceLabels:
    """The N faces of one image as numpy arrays, converted to float32; N may be 0.

    Attributes:
        boxes: [N, 4] x1, y1, x2, y2 in pixels; they may reach beyond the image.
        landmarks: [N, 5, 2] x, y in pixels: the eye on the image's left, the eye on its right, the
            nose, the left and the right corner of the mouth. NaN where unknown.
        occlusion: [N] hidden share of the face, 0 to 1.
        blur: [N] sigma of the blur in pixels.
        light: [N] brightness factor; 1 is normal.
        yaw: [N] turn of the head in radians, without its sign.
        inside: [N] share of the box that lies within the image, 0 to 1.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    occlusion: np.ndarray
    blur: np.ndarray
    light: np.ndarray
    yaw: np.ndarray
    inside: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            setattr(self, field.name, np.asarray(getattr(self, field.name), np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> FaceLabels:
        """The labels of an image without faces."""
        return cls(np.empty((0, 4)), np.empty((0, 5, 2)), *np.empty((5, 0)))

    def select(self, chosen: np.ndarray) -> FaceLabels:
        """The faces picked by a bool mask [N] or by integer indices [M], in that order."""
        return FaceLabels(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Sample(NamedTuple):
    """One image of a folder.

    Attributes:
        name: unique within its folder; with ``/`` between folder and file on every system.
        image: uint8 [H, W, 3], BGR.
        labels: its faces, in pixels of ``image``; None where nobody has labelled the image.
    """

    name: str
    image: np.ndarray
    labels: FaceLabels | None


def difficulty(labels: FaceLabels) -> dict[str, np.ndarray]:
    """Tell which faces count as easy, medium and hard, as bool masks [N].

    The masks are nested as in WIDER FACE: every easy face is also medium, every medium face also
    hard. A face that is not even hard is to be ignored: it is neither to be found nor a mistake.
    """
    side = (labels.boxes[:, 2:] - labels.boxes[:, :2]).max(axis=1)

    def within(limits: dict[str, float]) -> np.ndarray:
        return (
            (side >= limits["side"])
            & (labels.occlusion <= limits["occlusion"])
            & (labels.blur <= limits["blur"] * side)
            & (labels.light >= limits["light"])
            & (labels.yaw <= limits["yaw"])
            & (labels.inside >= limits["inside"])
        )

    hard = within(HARD)
    medium = hard & within(MEDIUM)
    return {"easy": medium & within(EASY), "medium": medium, "hard": hard}


def what_is(path: str | Path) -> str:
    """Say in words what a file is, by its first bytes; raises OSError if it cannot be opened."""
    with open(path, "rb") as file:
        head = file.read(64)
    found = (kind for start, kind in KINDS.items() if re.match(start, head, re.DOTALL | re.I))
    return next(found, "a file of unknown kind")


def some(names: Iterable[object], separator: str = ", ") -> str:
    """The first names of many, for a message, and how many more there are."""
    texts = [str(name) for name in names]
    return separator.join(texts[:3] + [f"and {len(texts) - 3} more"] * (len(texts) > 3))


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] BGR, of any size from 1 x 1 to 2**30 pixels.

    Grey, palette and CMYK images become BGR. Of 16 bits a channel the upper eight are kept, of an
    animation the first picture. Transparency is dropped. A rotation noted by the camera (EXIF) is
    applied: labels refer to the picture that a viewer shows.

    Raises:
        FileNotFoundError: there is no such file (other ``OSError``: it cannot be read).
        DataError: the file is cut short, too large, or nothing that OpenCV can decode; the message
            says what it is. Changed bytes in a file of full length may go unnoticed: most formats
            have no checksum.
    """
    # Not cv2.imread: on Windows it cannot open names outside the system's code page.
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        kind = what_is(path)
        damaged = "damaged or cut short" if kind.endswith("image") else "no image"
        raise DataError(f"{path}: {damaged}: this is {kind}")
    return image


def read_labels(path: str | Path) -> dict[str, FaceLabels]:
    """Read a label file: image name -> its faces, in the order of the file.

    RetinaFace's ``label.txt`` and ours: a face has 4 columns (box), 20 (and landmarks, quality) or
    25 (and our attributes). With 20 the occlusion is 1 - quality, or 0 for a quality below 0, which
    stands for unknown. A landmark is unknown if its flag is -1 or both coordinates are -1.

    WIDER FACE's ``wider_face_*_bbx_gt.txt``: of 10 columns the box and ``invalid`` are read; an
    invalid face gets occlusion 1, which makes it one to be ignored.

    Faces with a side of 0 or below, of which WIDER FACE has some, are left out; one warning counts
    them and names the first line.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming file and line: another number of columns, not a number, NaN or infinity,
            relative coordinates, an image listed twice or without a name, the file is cut off or
            empty, or it has another format (which is named if it is a known one).
    """
    rows: dict[str, list[list[float]]] = {}
    name = ""
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}:{number}"
        if line.startswith("#"):
            name = line[1:].strip().replace("\\", "/")
            if not name or name in rows:
                raise DataError(f"{where}: " + (f"{name} is listed twice" if name else "no name"))
            rows[name] = []
        elif line.strip():
            rows[name].append([number, *_numbers(line.split(), where)])
    tables = {name: np.reshape(faces, (-1, 25)) for name, faces in rows.items()}
    numbers, boxes, _ = np.split(np.concatenate(list(tables.values())), [1, 5], axis=1)
    if (boxes % 1).any() and boxes.min() >= 0 and boxes.max() <= 1:
        where = f"{path}:{numbers[0, 0]:.0f}"
        raise DataError(f"{where}: relative boxes, as in YOLO's format; expected pixels")
    labels: dict[str, FaceLabels] = {}
    odd: list[float] = []
    for name, table in tables.items():
        table[:, 3:5] += table[:, 1:3]
        table = table.astype(np.float32)
        good = (table[:, 1:3] < table[:, 3:5]).all(axis=1)
        odd.extend(table[~good, 0])
        labels[name] = _labels(table[good, 1:])
    if odd:
        where = f"{path}:{odd[0]:.0f}"
        faces = f"({len(odd)} of {len(boxes)} faces in this file)"
        warnings.warn(f"{where}: left out, as it has no width or height {faces}", stacklevel=2)
    return labels


def _lines(path: str | Path) -> list[str]:
    """The lines of a label file, those of WIDER FACE's own list made into RetinaFace's."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text, but {what_is(path)} ({error})") from error
    lines = text.rstrip().splitlines()
    filled = [line.strip() for line in lines if line.strip()]
    if not filled:
        raise DataError(f"{path}:1: the file is empty, expected '# name' lines")
    if filled[0][0] != "#":
        if len(filled) < 2 or not filled[1].isdecimal():
            raise DataError(f"{path}:1: expected '# name', got {_foreign(filled[0])}")
        _mark_names(lines, path)
        if Path(path).name == LABEL_FILE:
            message = f"{path}: WIDER FACE's own list, which has boxes but no landmarks"
            warnings.warn(message, stacklevel=3)
    widths = [len(line.split()) for line in filled if line[0] != "#"]
    if text[-1] != "\n" and filled[-1][0] != "#" and widths[-1] < max(widths):
        raise DataError(f"{path}:{len(lines)}: the file is cut off within this line")
    return lines


def _mark_names(lines: list[str], path: str | Path) -> None:
    """WIDER FACE's list: a name, the number of faces, a line for each; give the names their #."""
    at = 0
    while at < len(lines):
        name, count = lines[at].strip(), "".join(lines[at + 1 : at + 2]).strip()
        if not count.isdecimal():
            raise DataError(f"{path}:{at + 2}: {count!r}, expected the number of faces of {name}")
        end = at + 2 + int(count)
        if end > len(lines):
            raise DataError(f"{path}:{len(lines)}: the file is cut off within the faces of {name}")
        for number, face in enumerate(lines[at + 2 : end], start=at + 3):
            if len(face.split()) != 10:
                raise DataError(f"{path}:{number}: expected 10 columns, a face of {name}")
        lines[at : at + 2] = [f"# {name}", ""]
        # The official list gives an image without faces a line of zeros.
        if count == "0" and lines[end : end + 1] and not lines[end].strip(" 0"):
            lines[end] = ""
            end += 1
        at = end


def _foreign(line: str) -> str:
    """Name the format of a file by its first line, which is not of ours."""
    formats = {
        r"[{\[]": "JSON",
        r"<": "XML or HTML",
        r".*[,;]": "a table with commas",
        r"\d+( [01]?\.\d+){4}$": "YOLO's format, a class and coordinates relative to the image",
        r"[-\d. ]+$": "a face before the first name",
    }
    return next((kind for start, kind in formats.items() if re.match(start, line)), repr(line[:40]))


def _numbers(words: list[str], where: str) -> list[float]:
    """The numbers of a face: x y w h, five times lx ly flag, our five attributes."""
    if len(words) not in COLUMNS:
        commas = ", and commas" if any("," in word for word in words) else ""
        raise DataError(f"{where}: {len(words)} columns{commas}, expected 4, 10, 20 or 25")
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not all(abs(value) <= LARGEST for value in values):  # written so that NaN fails too
        raise DataError(f"{where}: a number is not finite, or beyond {LARGEST:g}")
    points = values[4:19] if len(values) > 10 else [-1.0] * 15
    attributes = values[20:] or [0.0, 0.0, 1.0, 0.0, 1.0]
    if len(values) == 10:
        attributes[0] = values[7]
    elif len(values) == 20 and values[19] >= 0:
        attributes[0] = max(1.0 - values[19], 0.0)
    return [*values[:4], *points, *attributes]


def _labels(table: np.ndarray) -> FaceLabels:
    """Labels from rows x1 y1 x2 y2, five times lx ly flag, our five attributes."""
    boxes, points, attributes = np.split(table, [4, 19], axis=1)
    points = points.reshape(-1, 5, 3)
    unknown = (points[..., 2:] == -1) | (points[..., :2] == -1).all(axis=-1, keepdims=True)
    return FaceLabels(boxes, np.where(unknown, np.nan, points[..., :2]), *attributes.T)


def format_labels(name: str, labels: FaceLabels) -> str:
    """The lines of one image with 25 columns, each with its end, as ``read_labels`` reads them."""
    attributes = [getattr(labels, field.name)[:, None] for field in fields(labels)[2:]]
    unknown = np.isnan(labels.landmarks).any(axis=-1, keepdims=True)
    points = np.where(unknown, -1, np.pad(labels.landmarks, [(0, 0), (0, 0), (0, 1)]))
    corner, sizes = labels.boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]
    columns = [corner, sizes, points.reshape(-1, 15), 1 - attributes[0], *attributes]
    rows = (" ".join(f"{value:.7g}" for value in row) for row in np.concatenate(columns, axis=1))
    return "\n".join([f"# {name}", *rows]) + "\n"


class FaceFolder:
    """A folder of images with a label file: ours, RetinaFace's or WIDER FACE's own list.

    The labels are ``label.txt`` in the folder, or the list of this split in ``wider_face_split/``
    beside it. An image is looked for in the folder, then under ``images/``. ``folder[index]`` reads
    the image and gives a ``Sample``; ``folder.labels`` maps every name to its ``FaceLabels``.

    Raises:
        FileNotFoundError: the folder, its label file or an image named there is missing.
        DataError: the label file is wrong, see ``read_labels``. From ``folder[index]``: the image
            cannot be read, or a face lies wholly outside of it, as happens when labels belong to
            a copy of another size.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.label_file = self.root / LABEL_FILE
        split = self.root.name.removeprefix("WIDER_")
        list_file = self.root.parent / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        if not self.label_file.is_file() and list_file.is_file():
            self.label_file = list_file
        if not self.label_file.is_file():
            hint = f". {WHERE_TO_GET}" if "wider" in str(root).lower() else ""
            raise FileNotFoundError(f"{self.label_file}: not found; it names the images{hint}")
        self.labels = read_labels(self.label_file)
        self.names = list(self.labels)
        self._paths = [self._find(name) for name in self.names]

    def _find(self, name: str) -> Path:
        for path in (self.root / name, self.root / "images" / name):
            if path.is_file():
                return path
        lines = (line.replace("\\", "/") for line in _lines(self.label_file))
        named = next(number for number, line in enumerate(lines, start=1) if name in line)
        raise FileNotFoundError(
            f"{self.root / name}: not found, but named in {self.label_file}:{named}"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image, labels = read_image(self._paths[index]), self.labels[name]
        height, width = image.shape[:2]
        left, top, right, bottom = labels.boxes.T
        outside = (left >= width) | (top >= height) | (right <= 0) | (bottom <= 0)
        if outside.any():
            raise DataError(
                f"{self.label_file}: {name}: the face {labels.boxes[outside][0].tolist()} lies "
                f"outside of the image, which is {width} x {height} pixels"
            )
        return Sample(name, image, labels)


class PhotoFolder:
    """The photographs under a folder and its subfolders, by name; ``labels`` is None.

    Taken is every file that OpenCV has a reader for, whatever its suffix: JPEG, PNG, WebP, AVIF,
    GIF, TIFF, BMP and more. ``skipped`` maps the name of every other file to what it is, and one
    warning sums them up. Only label files and what a system keeps for itself are left out silently.
    A file that is found to be damaged stops ``folder[index]`` with a ``DataError``.

    Raises:
        FileNotFoundError: the folder is missing, or no file in it is an image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.names: list[str] = []
        self.skipped: dict[str, str] = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if (path.is_dir() and not path.is_symlink()) or path.name in NO_PHOTOS:
                continue
            reason = _why_skipped(path)
            if reason is None:
                self.names.append(name)
            elif not path.name.startswith("."):
                self.skipped[name] = reason
        self.names.sort()
        kinds: dict[str, list[str]] = {kind: [] for kind in self.skipped.values()}
        for name, kind in self.skipped.items():
            kinds[kind].append(name)
        summary = "; ".join(f"{some(names)}: {kind}" for kind, names in kinds.items())
        if not self.names:
            raise FileNotFoundError(f"{self.root}: no images. {summary}".strip())
        if summary:
            message = f"{self.root}: {len(self.skipped)} files are not read. {summary}"
            warnings.warn(message, stacklevel=2)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        return Sample(name, read_image(self.root / name), None)


def _why_skipped(path: Path) -> str | None:
    """What a file is, unless it is an image; only its first bytes are read, to be quick."""
    if not path.is_file():
        return "a link that leads to no file, or no ordinary file"
    if cv2.haveImageReader(str(path)):
        return None
    try:
        kind = what_is(path)
    except OSError as error:
        return f"a file that cannot be opened ({error.strerror})"
    # On Windows OpenCV cannot open such a path by itself; ``read_image`` can.
    return None if kind.endswith("image") and not str(path).isascii() else kind
