"""Datasets of images with faces: a label file, WIDER FACE, photographs, drawn scenes.

Every dataset gives ``Sample`` objects, so that whatever takes one dataset takes them all.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from blaze_utils.data.images import DatasetError
from blaze_utils.data.images import PHOTO_SUFFIXES, Sample, read_image
from blaze_utils.data.labels import FaceLabels, LABEL_FILE, read_labels




class FaceFolder(Dataset):
    """A folder with ``label.txt`` and its images: ours, or RetinaFace's annotation of WIDER FACE.

    An image is looked for beside the label file, then under ``images/`` (RetinaFace's layout).
    ``folder[index]`` reads the image and gives a ``Sample``; ``folder.labels`` maps every name to
    its ``FaceLabels`` without reading an image.

    Raises:
        FileNotFoundError: the folder, its label file or an image named there is missing.
        LabelError: the label file is wrong; the message names file and line.
        DatasetError: from ``folder[index]``: the image cannot be read, or a face lies wholly
            outside of it, as happens when labels belong to a copy of another size.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        label_file = self.root / LABEL_FILE
        if not label_file.is_file():
            raise FileNotFoundError(f"{label_file}: not found; expected a folder with {LABEL_FILE} "
                                    "and the images that it names")
        self.labels = read_labels(label_file)
        self.names = list(self.labels)
        self._paths = [self._find(name) for name in self.names]

    def _find(self, name: str) -> Path:
        candidates = (self.root / name, self.root / "images" / name)
        for path in candidates:
            if path.is_file():
                return path
        raise FileNotFoundError(f"{candidates[0]}: not found, but named in "
                                f"{self.root / LABEL_FILE}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image, labels = read_image(self._paths[index]), self.labels[name]
        _check_inside(labels, image, f"{self.root / LABEL_FILE}: {name}")
        return Sample(name, image, labels)


def _check_inside(labels: FaceLabels, image: np.ndarray, where: str) -> None:
    height, width = image.shape[:2]
    left, top, right, bottom = labels.boxes.T
    outside = (left >= width) | (top >= height) | (right <= 0) | (bottom <= 0)
    if outside.any():
        x1, y1, x2, y2 = labels.boxes[outside][0]
        raise DatasetError(f"{where}: the face from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) lies "
                           f"outside of the image, which is {width} x {height} pixels")


class PhotoFolder(Dataset):
    """The photographs under a folder and its subfolders, by name; ``labels`` is None.

    Raises:
        FileNotFoundError: the folder is missing, or no file in it has an image's suffix.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.names = sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()
        )
        if not self.names:
            raise FileNotFoundError(f"{self.root}: no images ({', '.join(sorted(PHOTO_SUFFIXES))})")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        return Sample(name, read_image(self.root / name), None)


def open_dataset(root: str | Path) -> FaceFolder | PhotoFolder:
    """Open a folder as what it is.

    With ``label.txt`` in it, it is a ``FaceFolder``; else its photographs are taken, without labels.

    Raises:
        FileNotFoundError, LabelError, DatasetError: as the datasets.
    """
    root = Path(root)
    if (root / LABEL_FILE).is_file():
        return FaceFolder(root)
    return PhotoFolder(root)
