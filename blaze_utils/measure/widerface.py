"""The ground truth of the WIDER FACE benchmark.

An image is called ``event/file.jpg``, for instance ``0--Parade/0_Parade_marchingband_1_465.jpg``:
its place under ``WIDER_val/images``. Datasets name it alike, so what ``evaluate.predict`` gives
fits the ground truth as it is.
"""
from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

WHERE_TO_GET = (
    "WIDER FACE comes from http://shuoyang1213.me/WIDERFACE/ and belongs into data/widerface "
    "(data/README.md shows what goes where); nothing is downloaded unless you ask for it"
)
SETTINGS = ("easy", "medium", "hard")
SUFFIX = ".jpg"  # of all its images; the .mat files leave it out


class WiderFaceError(ValueError):
    """A file of ground truth that cannot be used. The message names it and says why."""


def load_widerface_ground_truth(folder: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the official ground truth of the validation set: what ``metrics.widerface_ap`` takes.

    Args:
        folder: holds ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat``: the folder
            ``ground_truth`` of the website's ``eval_tools.zip``.

    Returns:
        ``event/file.jpg`` -> ``boxes`` float64 [M, 4], x1, y1, x2, y2 in pixels with x2 = x + w, as
        in the official code; and bool [M] ``easy``, ``medium``, ``hard``: the faces to be found.

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it.
        WiderFaceError: a file is damaged or built otherwise; the message names it and the image.
    """
    faces = Path(folder) / "wider_face_val.mat"
    lists = {setting: Path(folder) / f"wider_{setting}_val.mat" for setting in SETTINGS}
    content = _load(faces)
    events, files = _cells(content, "event_list", faces), _nested(content, "file_list", faces)
    if len(events) != len(files):
        raise WiderFaceError(f"{faces}: {len(events)} events, but {len(files)} in file_list")
    names = [
        f"{_text(event, faces)}/{_text(file, faces).removesuffix(SUFFIX)}{SUFFIX}"
        for event, group in zip(events, files, strict=True)
        for file in group
    ]
    boxes = _flat(_nested(content, "face_bbx_list", faces), files, faces)
    truth = {name: {"boxes": _corners(rows, f"{faces}: {name}")}
             for name, rows in zip(names, boxes, strict=True)}
    if len(truth) < len(names):
        raise WiderFaceError(f"{faces}: an image is listed twice")
    for setting, path in lists.items():
        chosen = _flat(_nested(_load(path), "gt_list", path), files, path)
        for (name, image), indices in zip(truth.items(), chosen, strict=True):
            image[setting] = _mask(indices, len(image["boxes"]), f"{path}: {name}")
    return truth


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found. {WHERE_TO_GET}")
    # Half a second, which all who only import ``datasets`` shall not wait.
    from scipy.io import loadmat

    try:
        return loadmat(path)
    # Given damaged bytes, scipy raises errors of many classes.
    except Exception as error:
        raise WiderFaceError(
            f"{path}: damaged, or no MATLAB file ({type(error).__name__}: {error})"
        ) from error


def _cells(content: Mapping[str, Any], key: str, path: Path) -> list[np.ndarray]:
    """The cells of a MATLAB cell array, whether it is a row or a column."""
    array = content.get(key)
    if not isinstance(array, np.ndarray) or array.dtype != object:
        raise WiderFaceError(f"{path}: expected a cell array {key}")
    return list(array.ravel())


def _nested(content: Mapping[str, Any], key: str, path: Path) -> list[list[np.ndarray]]:
    """For each event the cells of its images."""
    return [_cells({key: event}, key, path) for event in _cells(content, key, path)]


def _flat(nested: list[list[np.ndarray]], files: list[list[np.ndarray]], path: Path
          ) -> list[np.ndarray]:
    """One cell an image, all events in a row; checked to fit the list of files."""
    if [len(group) for group in nested] != [len(group) for group in files]:
        raise WiderFaceError(f"{path}: lists other events or numbers of images than file_list "
                             "in wider_face_val.mat")
    return list(chain.from_iterable(nested))


def _text(cell: np.ndarray, path: Path) -> str:
    if not isinstance(cell, np.ndarray) or cell.dtype.kind != "U" or cell.size != 1:
        raise WiderFaceError(f"{path}: expected a name in event_list or file_list, got {cell!r}")
    return str(cell.item())


def _numbers(cell: np.ndarray, columns: int, where: str) -> np.ndarray:
    """A matrix of that many columns; MATLAB's empty matrix has 0 of everything."""
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "uif" or cell.ndim != 2 \
            or (cell.size and cell.shape[1] != columns):
        raise WiderFaceError(f"{where}: expected numbers in {columns} columns, got {cell!r}")
    return cell.reshape(-1, columns).astype(np.float64)


def _corners(cell: np.ndarray, where: str) -> np.ndarray:
    """x, y, w, h as x1, y1, x2, y2 with x2 = x + w."""
    boxes = _numbers(cell, 4, where)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
        raise WiderFaceError(f"{where}: a box is not finite, or its width or height is below 0")
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _mask(cell: np.ndarray, count: int, where: str) -> np.ndarray:
    """MATLAB's indices, which count from 1, as bool [count]."""
    indices = _numbers(cell, 1, where)[:, 0]
    if not np.isin(indices, np.arange(1, count + 1)).all() or len(set(indices)) < len(indices):
        raise WiderFaceError(f"{where}: expected different numbers from 1 to {count}")
    mask = np.zeros(count, bool)
    mask[indices.astype(np.int64) - 1] = True
    return mask
