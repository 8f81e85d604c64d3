"""The official ground truth of WIDER FACE's validation set, as ``widerface_ap`` takes it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from blaze_utils.data import WHERE_TO_GET, DataError
from blaze_utils.measure.accuracy import SETTINGS


def load_widerface_ground_truth(folder: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the official ground truth exactly as it is.

    A few of its boxes have a side of 0 or below. They stay, as in the official evaluation: a face
    to be found where a setting lists them. One warning counts them.

    Args:
        folder: holds ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat``: the folder
            ``ground_truth`` of the website's ``eval_tools.zip``.

    Returns:
        ``event/file.jpg``, as ``PhotoFolder("WIDER_val/images")`` names its images -> ``boxes``
        float64 [M, 4], x1, y1, x2, y2 in pixels with x2 = x + w, as in the official code; and bool
        [M] ``easy``, ``medium``, ``hard``: the faces to be found.

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it.
        DataError: a file is damaged or built otherwise; the message names it.
    """
    truth: dict[str, dict[str, np.ndarray]] = {}
    odd = []
    with _opened(Path(folder) / "wider_face_val.mat") as faces:
        events = zip(faces["event_list"].flat, faces["file_list"].flat, strict=True)
        names = [
            f"{event.item()}/{file.item().removesuffix('.jpg')}.jpg"
            for event, files in events
            for file in files.flat
        ]
        for name, cell in zip(names, _images(faces["face_bbx_list"]), strict=True):
            corner, size = np.split(cell.reshape(-1, 4).astype(np.float64), 2, axis=1)
            if name in truth or not np.isfinite(corner + size).all():
                raise ValueError(f"{name} is listed twice, or has a box that is not finite")
            truth[name] = {"boxes": np.concatenate([corner, corner + size], axis=1)}
            odd += [name] * int((size <= 0).any(axis=1).sum())
    for setting in SETTINGS:
        with _opened(Path(folder) / f"wider_{setting}_val.mat") as lists:
            for (name, image), cell in zip(truth.items(), _images(lists["gt_list"]), strict=True):
                # MATLAB counts from 1.
                image[setting] = np.isin(np.arange(1, 1 + len(image["boxes"])), cell)
                if image[setting].sum() != cell.size:
                    raise ValueError(f"{name} has not got the faces {cell.ravel()}")
    if odd:
        warnings.warn(
            f"{folder}: {len(odd)} faces have a side of 0 or below, the first in {odd[0]}; they "
            "are kept, as in the official evaluation",
            stacklevel=2,
        )
    return truth


def _images(events: np.ndarray) -> Iterator[np.ndarray]:
    """The cells of all images, event after event."""
    return (cell for event in events.flat for cell in event.flat)


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a ``.mat`` file; what goes wrong with it becomes an error that names it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found. {WHERE_TO_GET}")
    try:
        from scipy.io import loadmat  # optional, and half a second to import
    except ImportError as error:
        raise ImportError(f"{path}: to read it, scipy is needed (pip install scipy)") from error

    try:
        yield loadmat(path)
    except Exception as error:
        raise DataError(
            f"{path}: damaged, or not WIDER FACE's ({type(error).__name__}: {error})"
        ) from error
