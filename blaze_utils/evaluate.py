"""A detector over a data set: its predictions, the truth, and the average precision."""
from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from blaze_utils.progress import tqdm

from blaze_utils.datasets import FaceFolder, WiderFace
from blaze_utils.detect import detect
from blaze_utils.labels import difficulty
from blaze_utils.metrics import widerface_ap


def predict(
    model: nn.Module,
    dataset: Dataset,
    long_side: int | None = 640,
    score_threshold: float = 0.02,
    nms_threshold: float = 0.4,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Detect the faces in every image of a data set.

    Args:
        model, long_side, score_threshold, nms_threshold: as for ``detect.detect``.
        dataset: gives ``Sample`` objects; their labels are not looked at.
        progress: whether to show a progress bar.

    Returns:
        Name of the image -> float32 [N, 5], x1, y1, x2, y2, score, scores falling: what
        ``metrics`` takes.
    """
    predictions = {}
    for index in tqdm(range(len(dataset)), "detecting", unit="image", disable=not progress):
        sample = dataset[index]
        found = detect(model, sample.image, long_side, score_threshold, nms_threshold)
        rows = torch.cat([found.boxes, found.scores[:, None]], dim=1)
        predictions[sample.name] = rows.numpy()
    return predictions


def ground_truth(dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """The faces of a labelled data set with their difficulty, as ``metrics.widerface_ap`` takes it.

    Returns:
        Name of the image -> ``boxes`` float32 [M, 4] x1, y1, x2, y2, and ``easy``, ``medium``,
        ``hard`` bool [M].

    Raises:
        ValueError: an image is without labels, as in ``PhotoFolder``.
    """
    # These know their labels without reading the images.
    if isinstance(dataset, (FaceFolder, WiderFace)):
        labels = dataset.labels
    else:
        samples = (dataset[index] for index in range(len(dataset)))
        labels = {sample.name: sample.labels for sample in samples}
    truth = {}
    for name, faces in labels.items():
        if faces is None:
            raise ValueError(f"{name}: has no labels to evaluate against")
        truth[name] = {"boxes": faces.boxes, **difficulty(faces)}
    return truth


def evaluate(
    model: nn.Module, dataset: Dataset, long_side: int | None = 640, progress: bool = True
) -> dict[str, float]:
    """Average precision of a detector on a labelled data set, by WIDER FACE's protocol.

    Returns:
        AP in 0..1 for ``easy``, ``medium`` and ``hard``; NaN where there is no such face.

    Raises:
        ValueError: an image is without labels.
    """
    truth = ground_truth(dataset)
    return widerface_ap(predict(model, dataset, long_side, progress=progress), truth)
