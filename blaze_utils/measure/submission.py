"""Detections as text files in the format that the WIDER FACE benchmark takes.

The image ``event/file.jpg`` has the file ``event/file.txt`` (http://shuoyang1213.me/WIDERFACE/)::

    file.jpg
    2
    x y w h score
    x y w h score

with x2 = x + w, scores falling.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from blaze_utils.files import write_atomically


class SubmissionError(ValueError):
    """Results that cannot be written or read. The message names the image, or file and line."""


def write_submission(folder: str | Path, predictions: Mapping[str, Any]) -> None:
    """Write the detections in each image to a file of its own.

    Numbers have nine significant digits, enough for every float32; each file appears whole or not
    at all.

    Args:
        folder: made if need be.
        predictions: ``event/file.jpg`` -> [N, 5] x1, y1, x2, y2, score, in any order; N may be 0.

    Raises:
        SubmissionError: nothing to write; a name that is no path below a folder, lacks a suffix or
            differs from another by its suffix only; a wrong shape, a number that is not finite, a
            box with x2 < x1 or y2 < y1; or the folder has results of other images in it, which
            would count too. Nothing has been written then.
    """
    folder = Path(folder)
    files: dict[Path, bytes] = {}
    for name, rows in predictions.items():
        path = folder / _relative(name).with_suffix(".txt")
        if path in files:
            raise SubmissionError(f"{name!r}: {path} is the file of another image already")
        files[path] = _format(name, rows).encode("utf-8")
    if not files:
        raise SubmissionError(f"{folder}: no predictions to write")
    others = sorted(set(folder.rglob("*.txt")) - files.keys())
    if others:
        raise SubmissionError(f"{folder} has results of other images in it, such as {others[0]}: "
                              "remove them or use another folder")
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    unfit = path.is_absolute() or PureWindowsPath(name).anchor or ".." in path.parts
    unfit = unfit or "\\" in name or "\0" in name or path.as_posix() != name
    if unfit or not path.suffix or path.name != path.name.strip() or len(name.splitlines()) != 1:
        raise SubmissionError(f"image name {name!r}: expected a path such as event/file.jpg")
    return path


def _format(name: str, values: Any) -> str:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise SubmissionError(f"{name}: expected shape [N, 5], got {list(rows.shape)}")
    if not np.isfinite(rows).all() or (rows[:, 2:4] < rows[:, :2]).any():
        raise SubmissionError(f"{name}: expected finite x1 <= x2, y1 <= y2 and scores")
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    rows[:, 2:4] -= rows[:, :2]
    lines = [PurePosixPath(name).name, str(len(rows))]
    lines += [" ".join(f"{value:.9g}" for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def read_submission(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the detections of every ``.txt`` file under a folder.

    A first line without suffix, as many programs write it, stands for a ``.jpg``; folders in it
    are left out. Blank lines, spaces at the end, Windows line ends and a BOM are accepted.

    Returns:
        ``event/file.jpg`` -> float64 [N, 5], x1, y1, x2, y2, score in the order of the file:
        what ``metrics.widerface_ap`` takes. Images without a file are missing.

    Raises:
        FileNotFoundError: no such folder, or no ``.txt`` file in it.
        SubmissionError: naming file and line: the first line names another image than the file,
            the second is not the number of those that follow, one of these is not five finite
            numbers, a width or height is below 0; or the file is not UTF-8 text.
    """
    folder = Path(folder)
    paths = sorted(folder.rglob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no such folder, or no results (.txt) in it")
    found = {}
    for path in paths:
        name, rows = _parse_file(path)
        found[(path.relative_to(folder).parent / name).as_posix()] = rows
    return found


def _parse_file(path: Path) -> tuple[str, np.ndarray]:
    """The name of the image, without folders, and its rows."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SubmissionError(f"{path}: not UTF-8 text ({error})") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) < 2:
        raise SubmissionError(f"{path}:1: expected the image's name, then the number of detections")
    (_, name), (second, count), *others = numbered
    name = name.split("/")[-1]
    if name == path.stem:
        name += ".jpg"
    elif PurePosixPath(name).stem != path.stem:
        raise SubmissionError(f"{path}:{numbered[0][0]}: names {name!r}, not this file's image")
    if count != str(len(others)):
        raise SubmissionError(f"{path}:{second}: expected the number of detections that follow, "
                              f"which is {len(others)}, got {count!r}")
    rows = [_parse_row(line, f"{path}:{number}") for number, line in others]
    return name, np.array(rows).reshape(-1, 5)


def _parse_row(line: str, where: str) -> tuple[float, ...]:
    try:
        x, y, width, height, score = (float(word) for word in line.split())
    except ValueError:
        raise SubmissionError(f"{where}: expected x y w h score, got {line!r}") from None
    row = x, y, x + width, y + height, score
    if not all(map(math.isfinite, row)) or width < 0 or height < 0:
        raise SubmissionError(f"{where}: expected finite numbers, w and h not below 0: {line!r}")
    return row
