"""Datasets of images with faces: a label file, WIDER FACE, photographs, drawn scenes.

Every dataset gives ``Sample`` objects, so that whatever takes one dataset takes them all.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets import WIDERFace

from blaze_utils.drawing import DatasetError, Draw, draw_folder
from blaze_utils.faces import draw_scene
from blaze_utils.images import PHOTO_SUFFIXES, Sample, read_image
from blaze_utils.labels import ATTRIBUTES, LABEL_FILE, FaceLabels, read_labels
from blaze_utils.widerface import WHERE_TO_GET, load_widerface_ground_truth

__all__ = [
    "DatasetError", "FaceFolder", "PhotoFolder", "Sample", "WiderFace", "draw_dataset",
    "load_widerface_ground_truth", "open_dataset", "read_image",
]

# What torchvision asks for, below ``widerface``.
WIDER_FOLDERS = ("WIDER_train", "WIDER_val", "WIDER_test", "wider_face_split")


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
            hint = f". {WHERE_TO_GET}" if "widerface" in self.root.resolve().parts else ""
            raise FileNotFoundError(f"{label_file}: not found; expected a folder with {LABEL_FILE} "
                                    f"and the images that it names{hint}")
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


class WiderFace(Dataset):
    """WIDER FACE in the folders that ``torchvision.datasets.WIDERFace`` keeps it in.

    ``labels`` maps every name, ``event/file.jpg``, to its ``FaceLabels`` (boxes alone: there are no
    landmarks, and the attributes of WIDER FACE are classes, not measures), or to None in the test
    split. A face that the annotators call invalid has occlusion 1, so that it is ignored, neither
    to be found nor a mistake; one without width or height is left out, as is the row of zeros that
    stands in an image without faces, and ``left_out`` counts these. The difficulties of the
    benchmark come from ``load_widerface_ground_truth``.

    Args:
        root: the folder above ``widerface``.
        split: ``train``, ``val`` or ``test``.
        download: whether torchvision may download what is missing (3.4 GB; needs ``gdown``).

    Raises:
        FileNotFoundError: a folder or an image is missing; the message says where to get it.
        DatasetError: torchvision cannot make sense of the annotations; from ``dataset[index]``: as
            ``FaceFolder``.
        ValueError: another split.
    """

    def __init__(self, root: str | Path, split: str = "val", download: bool = False) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split: expected train, val or test, got {split!r}")
        self.root = Path(root) / "widerface"
        missing = [name for name in WIDER_FOLDERS if not (self.root / name).is_dir()]
        if missing and not download:
            raise FileNotFoundError(f"{self.root}: without {', '.join(missing)}. {WHERE_TO_GET}. "
                                    "torchvision asks for all splits; for one that you do not use "
                                    "an empty folder will do")
        try:
            entries = WIDERFace(root, split, download=download).img_info
        except (ValueError, IndexError) as error:
            raise DatasetError(f"{self.root / 'wider_face_split'}: torchvision cannot read the "
                               f"annotations of {split} ({error})") from error
        self.left_out = 0
        self.labels: dict[str, FaceLabels | None] = {}
        self._paths = []
        for entry in entries:
            path = Path(entry["img_path"])
            if not path.is_file():
                raise FileNotFoundError(f"{path}: not found, but named in "
                                        f"{self.root / 'wider_face_split'}. {WHERE_TO_GET}")
            self._paths.append(path)
            self.labels["/".join(path.parts[-2:])] = self._labels(entry.get("annotations"))
        self.names = list(self.labels)

    def _labels(self, annotations: dict | None) -> FaceLabels | None:
        if annotations is None:
            return None
        boxes = annotations["bbox"].numpy().astype(np.float32)
        kept = (boxes[:, 2:] > 0).all(axis=1)
        self.left_out += int((~kept).sum())
        boxes[:, 2:] += boxes[:, :2]
        attributes = {key: np.full(len(boxes), value) for key, value in ATTRIBUTES.items()}
        # The columns after the box are blur, expression, illumination, invalid, occlusion, pose
        # (readme.txt of wider_face_split); torchvision 0.29 takes the fourth for the occlusion.
        attributes["occlusion"] = annotations["occlusion"].numpy()
        landmarks = np.full((len(boxes), 5, 2), np.nan)
        return FaceLabels(boxes, landmarks, **attributes).select(kept)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image, labels = read_image(self._paths[index]), self.labels[name]
        if labels is not None:
            _check_inside(labels, image, f"{self.root / 'wider_face_split'}: {name}")
        return Sample(name, image, labels)


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


def open_dataset(root: str | Path) -> FaceFolder | WiderFace | PhotoFolder:
    """Open a folder as what it is.

    With ``label.txt`` in it, it is a ``FaceFolder``; with ``wider_face_split``, the validation
    split of ``WiderFace``; else its photographs are taken, without labels.

    Raises:
        FileNotFoundError, LabelError, DatasetError: as the datasets.
    """
    root = Path(root)
    if (root / LABEL_FILE).is_file():
        return FaceFolder(root)
    if root.name == "widerface" and (root / "wider_face_split").is_dir():
        return WiderFace(root.parent)
    return PhotoFolder(root)
