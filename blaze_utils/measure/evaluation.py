"""A detector over a data set: its predictions, the truth, and the average precision."""
from __future__ import annotations

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from blaze_utils.data.datasets import FaceFolder
from blaze_utils.detector.finding import predict
from blaze_utils.data.labels import difficulty
from blaze_utils.measure.metrics import widerface_ap


def ground_truth(dataset: Dataset) -> dict[str, dict[str, np.ndarray]]:
    """The faces of a labelled data set with their difficulty, as ``metrics.widerface_ap`` takes it.

    Returns:
        Name of the image -> ``boxes`` float32 [M, 4] x1, y1, x2, y2, and ``easy``, ``medium``,
        ``hard`` bool [M].

    Raises:
        ValueError: an image is without labels, as in ``PhotoFolder``.
    """
    # These know their labels without reading the images.
    if isinstance(dataset, FaceFolder):
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
