"""Datasets of images with faces: a folder with a label file, a folder of photographs, drawn scenes.

Every dataset gives ``Sample`` objects, so that whatever takes one dataset takes them all.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from blaze_utils.drawing import DatasetError, Draw, draw_folder
from blaze_utils.faces import draw_scene
from blaze_utils.labels import LABEL_FILE, FaceLabels, read_labels

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
    """Read an image file as uint8 [H, W, 3] BGR.

    Grey, RGBA, CMYK and 16-bit images are converted; a rotation noted by the camera is applied.

    Raises:
        FileNotFoundError: there is no such file (other ``OSError``: it cannot be read).
        DatasetError: the file is empty, or OpenCV cannot decode it.
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


class FaceFolder(Dataset):
    """A folder with ``label.txt`` and its images: ours, or RetinaFace's annotation of WIDER FACE.

    An image is looked for beside the label file, then under ``images/`` (RetinaFace's layout).
    ``folder[index]`` reads the image and gives a ``Sample``; ``folder.labels`` maps every name to
    its ``FaceLabels`` without reading an image.

    Raises:
        FileNotFoundError: the folder, its label file or an image named there is missing.
        LabelError: the label file is wrong; the message names file and line.
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
        return Sample(name, read_image(self._paths[index]), self.labels[name])


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


def draw_dataset(
    root: str | Path,
    count: int,
    seed: int,
    workers: int = 2,
    quality: int = 95,
    draw: Draw = draw_scene,
    progress: bool = True,
) -> FaceFolder:
    """Draw ``count`` scenes into a folder, or take what is already there, and open the folder.

    Scene i becomes ``0000i.jpg``; the files are the same whatever the number of workers.  If the
    work is interrupted, the next call goes on where it stopped.  A complete folder is not drawn
    again, even if the drawing code has changed since: delete it to have it redrawn.

    Args:
        root: the folder, made if need be; ``drawn.json`` in it notes count, seed and quality.
        count: number of scenes, at least 1.
        seed: the same seed gives the same scenes.
        workers: processes; 1 draws in this process.  With more, a script needs the usual
            ``if __name__ == "__main__":`` around its own work; a notebook needs nothing.
        quality: of the JPEG files, 0 to 100.
        draw: ``draw(index, seed=seed) -> (image uint8 [H, W, 3] BGR, FaceLabels)``.
        progress: whether to show a progress bar.

    Raises:
        ValueError: ``count`` or ``workers`` is below 1.
        DatasetError: the folder holds scenes of another count, seed or quality, or other files.
    """
    draw_folder(root, count, seed, draw, workers, quality, progress)
    return FaceFolder(root)
