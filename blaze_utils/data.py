"""Folders of images, with labels (``FaceFolder``) or without (``PhotoFolder``).

Begin with ``FaceFolder("data/val")[0]``: a ``Sample`` of name, image and labels. Files are checked
here, where they are opened: what is damaged stops with a ``DataError`` that names file and line;
what is odd is left out and counted in one warning. Not here: preprocessing (``detector``), random
crops (``training``), WIDER FACE's official ground truth (``measure``).

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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

__all__ = [
    "DataError",
    "FaceFolder",
    "FaceLabels",
    "PhotoFolder",
    "Sample",
    "difficulty",
    "format_labels",
    "read_image",
    "read_labels",
    "what_is",
]

LABEL_FILE = "label.txt"
NO_PHOTOS = {LABEL_FILE, "drawn.json", "Thumbs.db", "desktop.ini"}  # nobody's photographs
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

KINDS = {
    rb"\Z": "an empty file",
    rb"\xff\xd8\xff": "a JPEG image",
    rb"\x89PNG": "a PNG image",
    rb"GIF8": "a GIF image",
    rb"RIFF....WEBP": "a WebP image",
    rb"BM....\0\0\0\0": "a BMP image",
    rb"II\*\0|MM\0\*": "a TIFF image",
    rb"....ftypavi": "an AVIF image",
    rb"....ftyp(hei|hev|mif|msf)": "HEIC, as phones store it, which OpenCV does not read (export "
    "it as JPEG)",
    rb"....ftyp|RIFF....AVI|\x1aE\xdf\xa3": "a video",
    rb"%PDF": "a PDF document",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file itself (run: git lfs pull)",
    rb".....\0\0\0\{": "a safetensors file",
    rb"\s*<(!doctype )?html": "an HTML page (the download answered with a web page)",
    rb"\s*<": "XML",
    rb"\s*[{\[]": "JSON",
    rb"PK\x03\x04": "a zip archive",
    rb"\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\xfd7zXZ": "a packed archive (unpack it first)",
    rb"\x80[\x02-\x05]": "a Python pickle",
    rb"\x93NUMPY": "a NumPy array",
    rb"\x89HDF": "an HDF5 file, as Keras writes it",
    rb"\x08[\x03-\x1f][\x12:]": "an ONNX model",
    rb"....TFL3": "a TensorFlow Lite model",
    rb"....ET\d\d": "an ExecuTorch program",
    rb"GGUF": "a GGUF model",
    rb"[\t\r\n -~]+\Z": "text",
}
"""First bytes of a file, as a regular expression -> what it is."""


class DataError(ValueError):
    """A file that cannot be used. The message names it, and the line in it, and says why."""


def what_is(path: str | Path) -> str:
    """Say in words what a file is, going by its first bytes; its name does not count.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    for pattern, kind in KINDS.items():
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return kind
    return "a file of unknown kind"


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


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] BGR, of any size from 1 x 1 to 2**30 pixels.

    Grey, palette and CMYK images become BGR. Of 16 bits a channel the upper eight are kept. Of an
    animation it is the first picture. Transparency is dropped. A rotation noted by the camera
    (EXIF) is applied: labels refer to the picture that a viewer shows.

    Raises:
        FileNotFoundError: there is no such file (other ``OSError``: it cannot be read).
        DataError: the file is empty, cut short, larger than 2**30 pixels, or OpenCV cannot decode
            it; the message says what it is. Most formats have no checksum: changed bytes in a file
            of full length may go unnoticed.
    """
    # Not cv2.imread: on Windows it cannot open names outside the system's code page.
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        kind = what_is(path)
        damaged = "damaged or cut short: " if kind.endswith("image") else "not an image, but "
        raise DataError(f"{path}: {damaged}{kind}")
    return image


def read_labels(path: str | Path) -> dict[str, FaceLabels]:
    """Read a label file: image name -> its faces, in the order of the file.

    Two formats are known by their first lines. RetinaFace's ``label.txt``: a face has 4 columns
    (box), 20 (and landmarks, quality) or 25 (and our attributes); with 20 the occlusion is
    1 - quality, or 0 for a quality below 0, which stands for unknown; a landmark is unknown if its
    flag is -1 or both coordinates are -1. WIDER FACE's ``wider_face_*_bbx_gt.txt``: a face has 10
    columns, of which the box and ``invalid`` are read; an invalid face gets occlusion 1, which
    makes it one to be ignored. What is not given is normal, and NaN for landmarks.

    Faces with a side of 0 or below, of which WIDER FACE has some, are left out; one warning counts
    them and names the first line.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming file and line: another number of columns, not a number, NaN or infinity,
            relative coordinates, an image listed twice or without a name, the file is cut off, is
            empty, is not UTF-8 text, or has another format (which is named if it is a known one).
    """
    text = _read_text(path)
    lines = text.splitlines()
    filled = [line.strip() for line in lines if line.strip()]
    wider = len(filled) > 1 and not filled[0].startswith("#") and filled[1].isdigit()
    images: dict[str, list[list[float]]] = {}
    columns, widest = ((10,) if wider else (4, 20, 25)), 0
    for number, name, words in (_wider_entries if wider else _entries)(lines, path):
        where = f"{path}:{number}"
        if words is None:
            if name in images:
                raise DataError(f"{where}: the image {name!r} was already listed above")
            images[name] = []
            continue
        cut = number == len(lines) and not text.endswith("\n") and len(words) < widest
        if cut or len(words) not in columns:
            expected = " or ".join(map(str, columns))
            why = ": the file is cut off within this line" if cut else ""
            raise DataError(f"{where}: {len(words)} columns, expected {expected}{why}")
        widest = max(widest, len(words))
        images[name].append([number, *_face(words, where)])
    if not images:
        raise DataError(f"{path}:1: the file is empty, expected '# name' lines")
    tables = {name: np.reshape(rows, (-1, 25)) for name, rows in images.items()}
    return _checked(tables, path)


def _read_text(path: str | Path) -> str:
    data = Path(path).read_bytes()
    try:
        if b"\0" in data:
            raise ValueError("it has zero bytes")
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text, but {what_is(path)} ({error})") from error


Entry = tuple[int, str, list[str] | None]


def _entries(lines: list[str], path: str | Path) -> Iterator[Entry]:
    """Line number, image name and None for each image; the words of the line for each face."""
    name = ""
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if line.startswith("#"):
            name = line[1:].strip().replace("\\", "/")
            if not name:
                raise DataError(f"{where}: expected an image name after '#'")
            if re.search(r"\.\w+ \d+ \d+$", name):
                raise DataError(
                    f"{where}: a name with a size: the format of SCRFD, whose boxes are corners; "
                    "expected '# name' and boxes x y w h"
                )
            yield number, name, None
        elif line.strip():
            if not name:
                raise DataError(f"{where}: {_foreign(line, path)}; expected '# name'")
            yield number, name, line.split()


def _foreign(line: str, path: str | Path) -> str:
    """Name the format of a file by its first line, which is not of ours."""
    words = re.split(r"[\s,;]+", line.strip())
    if what_is(path) in ("JSON", "XML") or "HTML" in what_is(path):
        return what_is(path)
    if re.search("[,;]", line):
        return "a table with commas"
    if len(words) == 5 and all(re.fullmatch(r"[01]?(\.\d+)?", word) for word in words[1:]):
        return "YOLO's format: a class and coordinates relative to the image"
    if all(re.fullmatch(r"-?[\d.]+", word) for word in words):
        return "a face before the first '# name' line"
    return f"{line.strip()[:40]!r}: no label file of a known format"


def _wider_entries(lines: list[str], path: str | Path) -> Iterator[Entry]:
    """The same for WIDER FACE's own list: a name, the number of faces, a line for each face."""
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        at += 1
        if not name:
            continue
        yield at, name, None
        count = lines[at].strip() if at < len(lines) else ""
        if not count.isdecimal():
            raise DataError(
                f"{path}:{at + 1}: got {count!r}, expected the number of faces of {name}"
            )
        faces = lines[at + 1 : at + 1 + int(count)]
        if len(faces) < int(count):
            raise DataError(
                f"{path}:{len(lines)}: the file is cut off within the faces of {name}: "
                f"{len(faces)} of {count} are there"
            )
        yield from ((at + 2 + i, name, face.split()) for i, face in enumerate(faces))
        at += 1 + len(faces)
        # The official list gives an image without faces a line of zeros.
        if count == "0" and at < len(lines) and len(lines[at].split()) == 10:
            at += 1


def _face(words: list[str], where: str) -> list[float]:
    """The numbers of a face: x y w h, five times lx ly flag, our five attributes."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        hint = ", separate numbers by spaces" if "," in "".join(words) else ""
        raise DataError(f"{where}: {error}{hint}") from None
    if not all(abs(value) <= LARGEST for value in values):  # written so that NaN fails too
        raise DataError(f"{where}: a number is not finite or beyond {LARGEST:g}")
    occlusion, rest = 0.0, [0.0, 1.0, 0.0, 1.0]
    if len(values) == 10:
        return [*values[:4], *[-1.0] * 15, values[7], *rest]
    if len(values) == 20 and values[19] >= 0:
        occlusion = max(1.0 - values[19], 0.0)
    return [*values[:4], *(values[4:19] or [-1.0] * 15), *(values[20:] or [occlusion, *rest])]


def _checked(tables: dict[str, np.ndarray], path: str | Path) -> dict[str, FaceLabels]:
    """Labels from rows of line number and ``_face``, without the faces that have no area."""
    numbers, boxes, _ = np.split(np.concatenate(list(tables.values())), [1, 5], axis=1)
    if len(boxes) and (boxes % 1).any() and 0 <= boxes.min() and boxes.max() <= 1:
        raise DataError(
            f"{path}:{numbers[0, 0]:.0f}: all boxes lie between 0 and 1, relative to the image "
            "as in YOLO's format; expected pixels"
        )
    labels, odd = {}, []
    for name, table in tables.items():
        table[:, 3:5] += table[:, 1:3]
        table = table.astype(np.float32)
        good = (table[:, 1:3] < table[:, 3:5]).all(axis=1)
        odd.extend(table[~good, 0])
        _, boxes, points, attributes = np.split(table[good], [1, 5, 20], axis=1)
        points = points.reshape(-1, 5, 3)
        unknown = (points[..., 2:] == -1) | (points[..., :2] == -1).all(axis=-1, keepdims=True)
        labels[name] = FaceLabels(boxes, np.where(unknown, np.nan, points[..., :2]), *attributes.T)
    if odd:
        warnings.warn(
            f"{path}:{odd[0]:.0f}: left out, as the face has no width or height "
            f"({len(odd)} of {len(numbers)} faces in this file)",
            stacklevel=3,
        )
    return labels


def format_labels(name: str, labels: FaceLabels) -> str:
    """The lines of one image with 25 columns, each with its end, as ``read_labels`` reads them.

    Numbers keep seven significant digits; the quality is 1 - occlusion.
    """
    attributes = [getattr(labels, field.name)[:, None] for field in fields(labels)[2:]]
    unknown = np.isnan(labels.landmarks).any(axis=-1, keepdims=True)
    points = np.where(unknown, -1, np.pad(labels.landmarks, [(0, 0), (0, 0), (0, 1)]))
    corner, sizes = labels.boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]
    columns = [corner, sizes, points.reshape(-1, 15), 1 - attributes[0], *attributes]
    rows = (" ".join(f"{value:.7g}" for value in row) for row in np.concatenate(columns, axis=1))
    return "\n".join([f"# {name}", *rows]) + "\n"


class FaceFolder:
    """A folder of images with a label file: ours, RetinaFace's or WIDER FACE's own.

    The label file is ``label.txt``, else ``wider_face_*_bbx_gt.txt`` in the folder, else the one
    of this split in ``wider_face_split/`` beside it. An image is looked for beside it, then under
    ``images/``. ``folder[index]`` reads the image and gives a ``Sample``; ``folder.labels`` maps
    every name to its ``FaceLabels`` without reading an image.

    Raises:
        FileNotFoundError: the folder, its label file or an image named there is missing.
        DataError: the label file is wrong, see ``read_labels``. From ``folder[index]``: the image
            cannot be read, or a face lies wholly outside of it, as happens when labels belong to
            a copy of another size.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.label_file = self._find_labels()
        self.labels = read_labels(self.label_file)
        self.names = list(self.labels)
        self._paths = [self._find(name) for name in self.names]

    def _find_labels(self) -> Path:
        split = f"wider_face_split/wider_face_{self.root.name.removeprefix('WIDER_')}_bbx_gt.txt"
        wanted = self.root / LABEL_FILE
        for path in (wanted, *self.root.glob("wider_face_*_bbx_gt.txt"), self.root.parent / split):
            if path.is_file():
                return path
        hint = f". {WHERE_TO_GET}" if "wider" in str(self.root).lower() else ""
        raise FileNotFoundError(
            f"{wanted}: not found; expected a folder with {LABEL_FILE} and its images{hint}"
        )

    def _find(self, name: str) -> Path:
        for path in (self.root / name, self.root / "images" / name):
            if path.is_file():
                return path
        lines = self.label_file.read_text(encoding="utf-8-sig").splitlines()
        named = [line.lstrip("# ").strip().replace("\\", "/") for line in lines].index(name) + 1
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
            x1, y1, x2, y2 = labels.boxes[outside][0]
            raise DataError(
                f"{self.label_file}: {name}: the face from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) "
                f"lies outside of the image, which is {width} x {height} pixels"
            )
        return Sample(name, image, labels)


class PhotoFolder:
    """The photographs under a folder and its subfolders, by name; ``labels`` is None.

    Taken is every file that OpenCV has a reader for, whatever its suffix: JPEG, PNG, WebP, AVIF,
    GIF, TIFF, BMP and more. ``skipped`` maps the name of every other file to what it is, and one
    warning sums them up. Left out without a word: label files, and what a system keeps for itself.
    A file that turns out to be damaged stops ``folder[index]`` with a ``DataError``.

    Raises:
        FileNotFoundError: the folder is missing, or no file in it is an image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.names: list[str] = []
        self.skipped: dict[str, str] = {}
        for name in sorted(path.relative_to(root).as_posix() for path in self.root.rglob("*")):
            path = self.root / name
            if path.is_dir() or path.name in NO_PHOTOS:
                continue
            reason = _why_skipped(path)
            if reason is None:
                self.names.append(name)
            elif not path.name.startswith("."):
                self.skipped[name] = reason
        kinds = Counter(self.skipped.values())
        summary = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        if not self.names:
            raise FileNotFoundError(f"{self.root}: no images{summary and ', but ' + summary}")
        if summary:
            warnings.warn(
                f"{self.root}: not taken, as they are no images that OpenCV reads: {summary} "
                f"(the first: {next(iter(self.skipped))}; all are in .skipped)",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        return Sample(name, read_image(self.root / name), None)


def _why_skipped(path: Path) -> str | None:
    """What a file is, unless it is an image; read are its first bytes only, to be quick."""
    if not path.is_file():
        return "a broken link, or no ordinary file"
    if cv2.haveImageReader(str(path)):
        return None
    try:
        kind = what_is(path)
    except OSError as error:
        return f"a file that cannot be opened ({error.strerror})"
    # On Windows OpenCV cannot open such a path by itself; ``read_image`` can.
    return None if kind.endswith("image") and not str(path).isascii() else kind
