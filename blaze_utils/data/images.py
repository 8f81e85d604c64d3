"""One image: how a file is read, and the sample that every dataset makes of it."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from blaze_utils.data.labels import FaceLabels

class DatasetError(ValueError):
    """A folder or an image that cannot be used.  The message names it and says why."""


PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a dataset.

    Attributes:
        name: unique within its dataset; with ``/`` between folder and file on every system.
        image: uint8 [H, W, 3], BGR.
        labels: its faces, in pixels of ``image``; None where nobody has labelled the image.
    """

    name: str
    image: np.ndarray
    labels: FaceLabels | None


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] BGR, of any size from 1 x 1 to 2**30 pixels.

    Grey, palette and CMYK images become BGR. Of 16 bits a channel the upper eight are kept (an
    image that uses only the lower ones comes out dark). Transparency is dropped, not blended with a
    background. A rotation noted by the camera (EXIF) is applied: height and width are those that a
    viewer shows, and labels refer to them.

    Raises:
        FileNotFoundError: there is no such file (other ``OSError``: it cannot be read).
        DatasetError: the file is empty, cut short, larger than 2**30 pixels, or OpenCV cannot
            decode it. Bytes that were changed in a file of full length may go unnoticed: most
            formats have no checksum.
    """
    path = Path(path)
    # Not cv2.imread: on Windows it cannot open names outside the system's code page.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if data.size == 0:
        raise DatasetError(f"{path}: the file is empty")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot be decoded ({error.err})") from error
    if image is None:
        raise DatasetError(f"{path}: not an image that OpenCV can decode, or a damaged one")
    return image
