"""How good detections are: WIDER FACE's average precision, agreement, landmark error.

Predictions are ``{image id: [N, 5]}``, arrays or tensors of x1, y1, x2, y2, score in pixels, in
any order.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from blaze_utils.measure.matching import (
    Matches, PrecisionRecall, average_precision, match_detections, precision_recall_curve,
)

SETTINGS = ("easy", "medium", "hard")
WIDER_IOU = 0.5
# 0.999, 0.998, ... 0: computed as the official code does, so that ties fall the same way.
WIDER_THRESHOLDS = 1 - np.arange(1, 1001) / 1000

Predictions = Mapping[str, Any]
GroundTruth = Mapping[str, Mapping[str, Any]]


def widerface_ap(predictions: Predictions, ground_truth: GroundTruth) -> dict[str, float]:
    """Average precision by the protocol of the WIDER FACE benchmark, for its three settings.

    Equal to the Python version of the official code that the field uses
    (https://github.com/wondervictor/WiderFace-Evaluation) on files with falling scores: scores
    are normalised over all images to 0..1; a detection belongs to the truth that it overlaps most,
    if by an IoU of at least 0.5; the first on a truth finds it, each later one is a mistake; one on
    a face outside the setting counts neither way, nor does that face.  Precision is taken at 1000
    thresholds; the result is the area under its falling envelope.

    As in the official code, detections in an image without any truth box, which WIDER FACE hardly
    has, do not count as mistakes.

    Args:
        predictions: an image that is missing has no detections.  Scores of any range.
        ground_truth: per image ``boxes`` [M, 4] x1, y1, x2, y2 (x2 = x + w) and bool [M] ``easy``,
            ``medium`` and ``hard``.

    Returns:
        AP in 0..1 per setting: 0 without predictions, NaN for a setting without faces.  If all
        scores are equal they all count as 1 (the official code divides by 0 there).

    Raises:
        ValueError: an image id that ``ground_truth`` lacks, a wrong shape, a number that is not
            finite, a box with x2 < x1 or y2 < y1, a setting that is not bool [M].
    """
    matches = _match_wider(predictions, ground_truth)
    return {
        setting: average_precision(_wider_curve(matches, ground_truth, setting))
        for setting in SETTINGS
    }


def precision_recall(
    predictions: Predictions, ground_truth: GroundTruth, setting: str
) -> PrecisionRecall:
    """The curve of 1000 points that ``widerface_ap`` takes the area of; same arguments and errors.

    ``setting`` is ``"easy"``, ``"medium"`` or ``"hard"``.  Thresholds are normalised scores.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r}: expected one of {', '.join(SETTINGS)}")
    return _wider_curve(_match_wider(predictions, ground_truth), ground_truth, setting)


def _match_wider(predictions: Predictions, ground_truth: GroundTruth) -> Matches:
    _check_ids(predictions, ground_truth)
    detections = [_detections(predictions, name) for name in ground_truth]
    truths = [
        _boxes(truth["boxes"], 4, f"ground truth of {name!r}")
        for name, truth in ground_truth.items()
    ]
    _normalise_scores(detections)
    pairs = [pair for pair in zip(detections, truths, strict=True) if len(pair[1])]
    return match_detections([pair[0] for pair in pairs], [pair[1] for pair in pairs], WIDER_IOU)


def _normalise_scores(detections: list[np.ndarray]) -> None:
    """Map the scores of all images to 0..1, in place; to 1 if they are all the same."""
    scores = np.concatenate([np.empty(0), *(found[:, 4] for found in detections)])
    if len(scores) == 0:
        return
    low, high = scores.min(), scores.max()
    for found in detections:
        found[:, 4] = (found[:, 4] - low) / (high - low) if high > low else 1.0


def _wider_curve(matches: Matches, ground_truth: GroundTruth, setting: str) -> PrecisionRecall:
    wanted = [np.empty(0, bool)]
    for name, truth in ground_truth.items():
        mask = np.asarray(truth[setting])
        if mask.dtype != bool or mask.shape != (len(truth["boxes"]),):
            raise ValueError(
                f"ground truth of {name!r}: {setting!r} must be bool [{len(truth['boxes'])}], "
                f"one per box, got {mask.dtype} {list(mask.shape)}"
            )
        wanted.append(mask)
    return precision_recall_curve(matches, np.concatenate(wanted), WIDER_THRESHOLDS)


def agreement_ap(
    reference: Predictions,
    other: Predictions,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> float:
    """How well one detector reproduces another: AP with the reference's detections as truth.

    The reference's detections with a score of at least ``score_threshold`` are the faces to find.
    The boxes that it was less sure of are ignored: ``other`` may report them or not.  Everything
    else is a mistake, also in images where the reference finds nothing.  Matching is that of
    ``widerface_ap``, the curve is Pascal VOC's: one point per distinct score of ``other``, so that
    equal scores, which int8 models give often, count together and their order does not matter.

    Args:
        reference: predictions of the detector to agree with, say the float model.
        other: predictions of the detector to judge; an image that is missing has no detections.

    Returns:
        AP in 0..1: 1 if ``other`` equals ``reference``, 0 if it finds nothing; NaN if the reference
        is sure of no face.

    Raises:
        ValueError: an image id that ``reference`` lacks, a wrong shape, a number that is not
            finite, a box with x2 < x1 or y2 < y1.
    """
    _check_ids(other, reference)
    truths = [_detections(reference, name) for name in reference]
    detections = [_detections(other, name) for name in reference]
    matches = match_detections(detections, [truth[:, :4] for truth in truths], iou_threshold)
    scores = np.concatenate([np.empty(0), *(truth[:, 4] for truth in truths)])
    thresholds = np.unique(matches.scores)[::-1]
    return average_precision(
        precision_recall_curve(matches, scores >= score_threshold, thresholds)
    )


def landmark_error(predicted: Any, truth: Any, boxes: Any) -> np.ndarray:
    """Normalised mean error of the landmarks of each face.

    The mean distance over a face's known points, divided by sqrt(width * height) of its box: the
    divisor that the RetinaFace paper uses on AFLW.  Unlike the distance between the eyes, the other
    usual divisor, it does not shrink to nothing on profiles.

    Args:
        predicted: [N, 5, 2] in pixels.
        truth: [N, 5, 2] in pixels; a point with NaN is unknown and left out.
        boxes: [N, 4] x1, y1, x2, y2 of the true faces, in pixels.

    Returns:
        float64 [N], a share of the face's size (0.05 is 5 %); NaN for a face without known points.
        ``numpy.nanmean`` of it is the figure for a data set.

    Raises:
        ValueError: a wrong shape, a prediction that is not finite, a box without width or height.
    """
    boxes = _boxes(boxes, 4, "boxes")
    predicted, truth = _to_array(predicted), _to_array(truth)
    for name, array in {"predicted": predicted, "truth": truth}.items():
        if array.shape != (len(boxes), 5, 2):
            raise ValueError(f"{name}: expected [{len(boxes)}, 5, 2], got {list(array.shape)}")
    if not np.isfinite(predicted).all():
        raise ValueError("predicted: expected finite landmarks")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    if not (areas > 0).all():
        raise ValueError("boxes: expected x1 < x2 and y1 < y2 for every face")
    distances = np.linalg.norm(predicted - truth, axis=-1)
    known = (~np.isnan(distances)).sum(axis=1)
    means = np.full(len(boxes), np.nan)
    np.divide(np.nansum(distances, axis=1), known, out=means, where=known > 0)
    return means / np.sqrt(areas)


def _check_ids(predictions: Predictions, known: Mapping[str, Any]) -> None:
    unknown = [name for name in predictions if name not in known]
    if unknown:
        raise ValueError(f"predictions for {len(unknown)} unknown images, first {unknown[0]!r}")


def _detections(predictions: Predictions, name: str) -> np.ndarray:
    if name not in predictions:
        return np.empty((0, 5))
    return _boxes(predictions[name], 5, f"predictions of {name!r}")


def _boxes(values: Any, columns: int, what: str) -> np.ndarray:
    array = _to_array(values)
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"{what}: expected shape [N, {columns}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: a number is not finite")
    if (array[:, 2:4] < array[:, :2]).any():
        raise ValueError(f"{what}: a box has x2 < x1 or y2 < y1 (expected x1, y1, x2, y2)")
    return array


def _to_array(values: Any) -> np.ndarray:
    """A float64 copy, so that changing it leaves the caller's data alone."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.array(values, dtype=np.float64)
