"""How good detections are: WIDER FACE's average precision and its noise, agreement, landmark error.

Predictions are ``{image: [N, 5]}``, rows x1, y1, x2, y2, score in any order; a truth is
``{image: {"boxes": [M, 4], "easy": bool [M], "medium": bool [M], "hard": bool [M]}}``. Both are
numpy arrays or tensors, in pixels of the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.ops import box_iou

from blaze_utils.data import FaceFolder, FaceLabels, Sample, difficulty
from blaze_utils.detector import predict

SETTINGS = ("easy", "medium", "hard")
WIDER_IOU = 0.5
# 0.999, 0.998, ... 0: computed as the official code does, so that ties fall the same way.
WIDER_THRESHOLDS = 1 - np.arange(1, 1001) / 1000

Predictions = Mapping[str, Any]
Truth = Mapping[str, Mapping[str, Any]]


class PrecisionRecall(NamedTuple):
    """A precision-recall curve of T points, thresholds falling.

    ``precision`` float64 [T] in 0..1, and 1 where nothing was detected; ``recall`` float64 [T] in
    0..1, never falling, and NaN everywhere if there is no face to find; ``thresholds`` float64 [T].
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


class _Matches(NamedTuple):
    """The D detections of I images, scores falling, and which of all M truth boxes each one hits.

    ``scores`` [D]; ``hits`` [D], numbered over all images, -1 for none; ``images`` [D] and
    ``truth_images`` [M], the number of the image.
    """

    scores: np.ndarray
    hits: np.ndarray
    images: np.ndarray
    truth_images: np.ndarray


def evaluate(
    model: nn.Module, dataset: Sequence[Sample], long_side: int | None = 640
) -> dict[str, float]:
    """Average precision of a detector on a labelled data set, by WIDER FACE's protocol.

    Returns:
        AP in 0..1 for ``easy``, ``medium`` and ``hard``; NaN where there is no such face.

    Raises:
        ValueError: an image is without labels.
    """
    truth = ground_truth(dataset)
    return widerface_ap(predict(model, dataset, long_side), truth)


def ground_truth(dataset: Sequence[Sample]) -> dict[str, dict[str, np.ndarray]]:
    """The faces of a labelled data set with their difficulty, as ``widerface_ap`` takes it.

    Returns:
        Name of the image -> ``boxes`` float32 [M, 4] x1, y1, x2, y2, and ``easy``, ``medium``,
        ``hard`` bool [M].

    Raises:
        ValueError: an image is without labels, as in ``PhotoFolder``.
    """
    labels: Mapping[str, FaceLabels | None]
    if isinstance(dataset, FaceFolder):  # knows its labels without reading the images
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


def widerface_ap(predictions: Predictions, ground_truth: Truth) -> dict[str, float]:
    """Average precision by the protocol of the WIDER FACE benchmark, for its three settings.

    Equal to the Python version of the official code that the field uses
    (https://github.com/wondervictor/WiderFace-Evaluation) on files with falling scores: scores
    are normalised over all images to 0..1; a detection belongs to the truth that it overlaps most,
    if by an IoU of at least 0.5; the first on a truth finds it, each later one is a mistake; one on
    a face outside the setting counts neither way, nor does that face. Precision is taken at 1000
    thresholds; the result is the area under its falling envelope.

    As in the official code, detections in an image without any truth box, which WIDER FACE hardly
    has, do not count as mistakes; a truth box with a side below 0, which it does have, is there to
    be found but cannot be.

    Args:
        predictions: an image that is missing has no detections. Scores of any range.
        ground_truth: boxes with x2 = x + w.

    Returns:
        AP in 0..1 per setting: 0 without predictions, NaN for a setting without faces. If all
        scores are equal they all count as 1 (the official code divides by 0 there).

    Raises:
        ValueError: predictions for an image that ``ground_truth`` lacks.
    """
    matches = _wider_matches(predictions, ground_truth)
    curves = {s: _curve(matches, _wanted(ground_truth, s), WIDER_THRESHOLDS) for s in SETTINGS}
    return {setting: average_precision(curve) for setting, curve in curves.items()}


def precision_recall(
    predictions: Predictions, ground_truth: Truth, setting: str
) -> PrecisionRecall:
    """The curve of 1000 points that ``widerface_ap`` takes the area of; same arguments and errors.

    ``setting`` is ``"easy"``, ``"medium"`` or ``"hard"``. Thresholds are normalised scores.
    """
    matches = _wider_matches(predictions, ground_truth)
    return _curve(matches, _wanted(ground_truth, setting), WIDER_THRESHOLDS)


def average_precision(curve: PrecisionRecall) -> float:
    """Area under the curve's falling envelope, as in Pascal VOC since 2010.

    The precision at a recall is the best one at this or any higher recall; recalls that the curve
    does not reach add nothing. 0 for a curve without points, NaN if there is no face to find.
    """
    return float(_area(curve.precision, curve.recall))


def ap_interval(
    predictions: Predictions, truth: Truth, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """How far AP would move with other images of the same kind: a bootstrap over images.

    Each resample draws as many images as there are, with repetition, and computes ``widerface_ap``
    on them; matches and normalised scores are those of the whole set. The interval holds the middle
    95 % of the results (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13).

    Args:
        predictions, truth: as for ``widerface_ap``.
        resamples: how many; 200 settle the ends to about a tenth of the interval.
        seed: decides which images are drawn, the same for every call on as many images.

    Returns:
        Indexed easy, medium, hard: ``AP``, ``low``, ``high``.
    """
    draws = _draws(len(truth), resamples, seed)
    return _interval(_bootstrap(predictions, truth, draws), "AP")


def ap_difference(
    predictions: Predictions, other: Predictions, truth: Truth, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """AP of ``other`` minus AP of ``predictions``, with the interval of a paired bootstrap.

    Both are resampled with the same images, so that what makes an image hard for both cancels out:
    this interval is much narrower than those of ``ap_interval``. No difference has been seen where
    it holds 0.

    Args:
        predictions: of the detector to compare with, say the float model.
        other: of the one to judge, on the same images.
        truth, resamples, seed: as for ``ap_interval``.

    Returns:
        Indexed easy, medium, hard: ``difference``, ``low``, ``high``.
    """
    draws = _draws(len(truth), resamples, seed)
    rows = _bootstrap(other, truth, draws) - _bootstrap(predictions, truth, draws)
    return _interval(rows, "difference")


def agreement_ap(
    reference: Predictions,
    other: Predictions,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> float:
    """How well one detector reproduces another: AP with the reference's detections as truth.

    The reference's detections with a score of at least ``score_threshold`` are the faces to find.
    The boxes that it was less sure of are ignored: ``other`` may report them or not. Everything
    else is a mistake, also in images where the reference finds nothing. Matching is that of
    ``widerface_ap``, the curve is Pascal VOC's: one point per distinct score of ``other``, so that
    equal scores, which int8 models give often, count together and their order does not matter.

    Args:
        reference: predictions of the detector to agree with, say the float model.
        other: predictions of the detector to judge; an image that is missing has no detections.

    Returns:
        AP in 0..1: 1 if ``other`` equals ``reference``, 0 if it finds nothing; NaN if the reference
        is sure of no face.

    Raises:
        ValueError: predictions for an image that ``reference`` lacks.
    """
    rows = {name: _array(found) for name, found in reference.items()}
    boxes = {name: found[:, :4] for name, found in rows.items()}
    matches = _match(other, boxes, iou_threshold)
    sure = np.concatenate([np.empty(0), *(found[:, 4] for found in rows.values())])
    thresholds = np.unique(matches.scores)[::-1]
    return average_precision(_curve(matches, sure >= score_threshold, thresholds))


def landmark_error(predicted: Any, truth: Any, boxes: Any) -> np.ndarray:
    """Normalised mean error of the landmarks of each face.

    The mean distance over a face's known points, divided by sqrt(width * height) of its box: the
    divisor that the RetinaFace paper uses on AFLW. Unlike the distance between the eyes, the other
    usual divisor, it does not shrink to nothing on profiles.

    Args:
        predicted: [N, 5, 2] in pixels.
        truth: [N, 5, 2] in pixels; a point with NaN is unknown and left out.
        boxes: [N, 4] x1, y1, x2, y2 of the true faces, in pixels.

    Returns:
        float64 [N], a share of the face's size (0.05 is 5 %); NaN for a face without known points.
        ``numpy.nanmean`` of it is the figure for a data set.
    """
    boxes, distances = _array(boxes), np.linalg.norm(_array(predicted) - _array(truth), axis=-1)
    known = (~np.isnan(distances)).sum(axis=1)
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 where no point is known
        return np.nansum(distances, axis=1) / known / sizes


def _wider_matches(predictions: Predictions, truth: Truth) -> _Matches:
    boxes = {name: _array(faces["boxes"]) for name, faces in truth.items()}
    matches = _match(predictions, boxes, WIDER_IOU)
    low, high = (matches.scores[[-1, 0]]) if len(matches.scores) else (0.0, 0.0)
    scores = (matches.scores - low) / (high - low) if high > low else np.ones_like(matches.scores)
    kept = np.isin(matches.images, matches.truth_images)  # not those in images without truth
    return _Matches(scores[kept], matches.hits[kept], matches.images[kept], matches.truth_images)


def _match(
    predictions: Predictions, truths: Mapping[str, np.ndarray], iou_threshold: float
) -> _Matches:
    """Give each detection to the truth box of its image that it overlaps most, the first on ties.

    It hits that box if their IoU is at least ``iou_threshold``. Several may hit one box.
    """
    if unknown := [name for name in predictions if name not in truths]:
        raise ValueError(f"predictions for {len(unknown)} unknown images, first {unknown[0]!r}")
    rows, hits, offset = [np.empty((0, 5))], [np.empty(0, int)], 0
    for name, boxes in truths.items():
        rows.append(_array(predictions.get(name, np.empty((0, 5)))))
        hit = _best_truth(rows[-1][:, :4], boxes, iou_threshold)
        hits.append(np.where(hit >= 0, hit + offset, -1))
        offset += len(boxes)
    scores = np.concatenate(rows)[:, 4]
    images = np.repeat(np.arange(len(truths)), [len(found) for found in rows[1:]])
    truth_images = np.repeat(np.arange(len(truths)), [len(boxes) for boxes in truths.values()])
    order = np.argsort(-scores, kind="stable")
    return _Matches(scores[order], np.concatenate(hits)[order], images[order], truth_images)


def _best_truth(boxes: np.ndarray, truths: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Index [N] of the truth that each box hits, -1 if none."""
    if len(boxes) == 0 or len(truths) == 0:
        return np.full(len(boxes), -1)
    # In WIDER FACE a box from x1 to x2 is x2 - x1 + 1 pixels wide. Without area: 0 / 0.
    pixels = [torch.from_numpy(array + [0.0, 0.0, 1.0, 1.0]) for array in (boxes, truths)]
    overlaps = np.nan_to_num(box_iou(*pixels).numpy())
    return np.where(overlaps.max(axis=1) >= iou_threshold, overlaps.argmax(axis=1), -1)


def _verdicts(matches: _Matches, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection finds a wanted truth as the first to hit it, and whether it counts."""
    on_wanted = np.append(wanted, False)[matches.hits]  # -1, no truth, is the False at the end
    first = np.zeros(len(matches.hits), bool)
    first[np.unique(matches.hits, return_index=True)[1]] = True
    return first & on_wanted, on_wanted | (matches.hits < 0)


def _curve(matches: _Matches, wanted: np.ndarray, thresholds: np.ndarray) -> PrecisionRecall:
    """Precision and recall of the detections with ``score >= threshold``, for each threshold."""
    # How many detections reach each threshold, then two counts among that many first ones.
    reached = np.searchsorted(-matches.scores, -thresholds, side="right")
    found, counted = (np.append(0, np.cumsum(mask))[reached] for mask in _verdicts(matches, wanted))
    return PrecisionRecall(*_rates(found, counted, wanted.sum()), thresholds)


def _wanted(truth: Truth, setting: str) -> np.ndarray:
    return np.concatenate([np.empty(0, bool), *(np.asarray(f[setting]) for f in truth.values())])


def _rates(found: np.ndarray, counted: np.ndarray, faces: Any) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall [..., T] from the faces found and the detections that count."""
    precision = np.where(counted > 0, found / np.maximum(counted, 1), 1.0)
    return precision, np.where(faces > 0, found / np.maximum(faces, 1), np.nan)


def _area(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Area under the falling envelope, along the last axis."""
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return np.sum(np.diff(recall, prepend=0.0, axis=-1) * envelope, axis=-1)


def _draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is drawn [1 + resamples, images]; the first row is the set itself."""
    drawn = np.random.default_rng(seed).integers(images, size=(resamples, images))
    return np.stack([np.ones(images, int), *(np.bincount(row, minlength=images) for row in drawn)])


def _bootstrap(predictions: Predictions, truth: Truth, draws: np.ndarray) -> np.ndarray:
    """AP [1 + resamples, 3] of each draw: images are matched once, and their counts added up."""
    matches = _wider_matches(predictions, truth)
    # The first threshold that each detection reaches.
    reached = np.searchsorted(-WIDER_THRESHOLDS, -matches.scores, side="left")
    columns = []
    for setting in SETTINGS:
        wanted = _wanted(truth, setting)
        counts = np.zeros((2, draws.shape[1], len(WIDER_THRESHOLDS)))  # found and counted
        for count, mask in zip(counts, _verdicts(matches, wanted), strict=True):
            np.add.at(count, (matches.images[mask], reached[mask]), 1)
        found, counted = draws @ counts.cumsum(axis=-1)
        faces = draws @ np.bincount(matches.truth_images[wanted], minlength=draws.shape[1])
        columns.append(_area(*_rates(found, counted, faces[:, None])))
    return np.stack(columns, axis=1)


def _interval(rows: np.ndarray, name: str) -> pd.DataFrame:
    """The first row, and the middle 95 % of the others."""
    resampled = pd.DataFrame(rows[1:], columns=SETTINGS).quantile([0.025, 0.975])
    ends = {"low": resampled.iloc[0], "high": resampled.iloc[1]}
    return pd.DataFrame({name: pd.Series(rows[0], SETTINGS), **ends})


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, np.float64)
