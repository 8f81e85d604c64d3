"""``detect``: the faces in photographs, folders and videos, as a table and as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from blaze_utils.data.datasets import DatasetError
from blaze_utils.detector.finding import Detections, detect
from blaze_utils.progress import tqdm

from .common import BUILD, add_detector, is_int8, load_detector, note, report, share, whole_number
from .pictures import (
    FLOAT_COLOUR,
    INT8_COLOUR,
    VIDEO_SUFFIXES,
    PictureFolder,
    draw_faces,
    read_pictures,
    sources,
)

HELP = "find the faces in photographs, folders of them and videos"
EXAMPLE = "detect holiday.jpg my_photographs film.mp4 --output build/found"
MORE = """
A photograph that cannot be read is named on stderr; the exit status is then 1, after all others.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="PATH", help="photograph, folder or video")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--output", type=Path, default=BUILD / "found", metavar="FOLDER",
                          help="for copies with boxes and landmarks drawn in")
    pictures.add_argument("--no-pictures", action="store_true", help="write no copies")
    add("--score-threshold", type=share, default=0.5, metavar="SCORE", help="least score of a face")
    add("--every", type=whole_number(1), default=1, metavar="N", help="each N-th frame of a video")
    add_detector(parser)


def run(options: argparse.Namespace) -> int:
    """Detect, draw, and count what could not be read."""
    model = load_detector(options.checkpoint)
    colour = INT8_COLOUR if is_int8(model) else FLOAT_COLOUR
    failures: list[str] = []
    files = sources(options.inputs, failures)
    for failure in failures:
        note(failure)
    folder = PictureFolder(options.output, [path for _, path in files])
    images = []
    for name, image in _readable(files, options.every, failures):
        found = detect(model, image, options.long_side or None, options.score_threshold)
        images.append({"image": name, "faces": _faces(found)})
        if not options.no_pictures:
            images[-1]["picture"] = str(folder.write(name, draw_faces(image, found, colour)))
    report({"images": images, "not_read": failures}, _table(images), options.json)
    if folder.written:
        note(f"pictures in {options.output}: {len(folder.written)}")
    if failures:
        note(f"inputs that could not be read: {len(failures)}")
    return 1 if failures else 0


def _readable(
    files: list[tuple[str, Path]], every: int, failures: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """All images that can be read; what cannot is noted and added to ``failures``."""
    videos = any(path.suffix.lower() in VIDEO_SUFFIXES for _, path in files)
    with tqdm(desc="detecting", total=None if videos else len(files), unit="image") as bar:
        for name, path in files:
            try:
                for picture in read_pictures(name, path, every):
                    yield picture
                    bar.update()
            except (OSError, DatasetError) as error:
                failures.append(str(error))
                note(error)


def _faces(found: Detections) -> list[dict[str, Any]]:
    """The faces of an image in plain numbers: scores to 4 decimals, pixels to 2."""
    boxes, scores = found.boxes.double().numpy().round(2), found.scores.double().numpy().round(4)
    points = found.landmarks.double().numpy().round(2)
    return [
        {"score": score, "box": box, "landmarks": landmarks}
        for score, box, landmarks in zip(scores.tolist(), boxes.tolist(), points.tolist())
    ]


def _table(images: list[dict[str, Any]]) -> str:
    """One row a face; an image without faces has a row without numbers."""
    rows, width = [], max((len(image["image"]) for image in images), default=0)
    for image in images:
        name = f"{image['image']:{width}}"
        for number, face in enumerate(image["faces"], 1):
            box = [f"{value:.0f}" for value in face["box"]]
            rows.append([name, number, f"{face['score']:.3f}", *box])
        if not image["faces"]:
            rows.append([name, "-", "", "", "", "", ""])
    columns = ["image", "face", "score", "x1", "y1", "x2", "y2"]
    return pd.DataFrame(rows, columns=columns).to_string(index=False) if rows else "no images"
