"""Photographs and the frames of videos as inputs; pictures with faces drawn in as outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from blaze_utils.data.datasets import DatasetError, PhotoFolder, read_image
from blaze_utils.detector.finding import Detections
from blaze_utils.files import write_atomically

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}

COMPLETE = 0.9
"""A video with fewer frames than this share of what its header announces is cut short. Some formats
announce no more than an estimate."""

# The palette of plots.py in BGR, which would cost matplotlib's import here.
FLOAT_COLOUR, INT8_COLOUR = (178, 114, 0), (0, 94, 213)
YELLOW, BLUE, PINK = (66, 228, 240), (233, 180, 86), (167, 121, 204)
LANDMARK_COLOURS = (YELLOW, YELLOW, BLUE, PINK, PINK)


def sources(paths: Sequence[Path], failures: list[str]) -> list[tuple[str, Path]]:
    """Name and path of every photograph and video; folders give the photographs below them.

    What is missing or empty is added to ``failures``, a line each.
    """
    found = []
    for path in paths:
        try:
            if path.is_dir():
                found += [(name, path / name) for name in PhotoFolder(path).names]
            elif path.exists():
                found.append((path.name, path))
            else:
                failures.append(f"{path}: no such file")
        except OSError as error:
            failures.append(str(error))
    return found


def read_pictures(name: str, path: Path, every: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and image, uint8 [H, W, 3] BGR, of a photograph or of every ``every``-th frame.

    Raises:
        OSError, DatasetError: it cannot be read; of a damaged video, after the frames that can be.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _frames(name, path, every)
    else:
        yield name, read_image(path)


def _frames(name: str, path: Path, every: int) -> Iterator[tuple[str, np.ndarray]]:
    video = cv2.VideoCapture(str(path))
    number = 0
    try:
        while video.grab():
            decoded, frame = video.retrieve() if number % every == 0 else (False, None)
            if decoded:
                yield f"{name}/{number:06d}", frame
            number += 1
        announced = video.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        video.release()
    if number == 0:
        raise DatasetError(f"{path}: not a video that OpenCV can decode, or a damaged one")
    if number < COMPLETE * announced:
        raise DatasetError(f"{path}: cut short, ends after {number} of {announced:.0f} frames")


def draw_faces(image: np.ndarray, found: Detections, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of the image with boxes and landmarks; lines get thicker as it gets larger."""
    picture, thickness = image.copy(), max(1, round(max(image.shape[:2]) / 400))
    for box, points in zip(found.boxes.round().int().tolist(), found.landmarks.round().tolist()):
        cv2.rectangle(picture, box[:2], box[2:], colour, thickness)
        for (x, y), point_colour in zip(points, LANDMARK_COLOURS):
            cv2.circle(picture, (int(x), int(y)), thickness + 1, point_colour, cv2.FILLED)
    return picture


class PictureFolder:
    """A folder for pictures, named after their originals.

    Args:
        root: made with the first picture.
        originals: files beside which nothing is written, as a picture could replace one of them.
    """

    def __init__(self, root: Path, originals: Sequence[Path]) -> None:
        self.root, self.written = root, set()
        self.forbidden = {path.resolve().parent for path in originals}

    def write(self, name: str, picture: np.ndarray) -> Path:
        """Store a picture as PNG below its name; of two with one name the second gets a number.

        Raises:
            DatasetError: it would lie beside an original.
            OSError: it cannot be written; no part of it is left.
        """
        stem = PurePosixPath(name).with_suffix("").as_posix()
        path, number = self.root / f"{stem}.png", 1
        while path in self.written:
            number += 1
            path = self.root / f"{stem}-{number}.png"
        if path.resolve().parent in self.forbidden:
            raise DatasetError(f"{path.parent}: holds inputs, use another folder for the pictures")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, cv2.imencode(".png", picture)[1].tobytes())
        self.written.add(path)
        return path
