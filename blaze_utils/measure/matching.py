"""Which detections find a face, and the precision and recall that follow.

Used by ``metrics``, which says which faces there are to find.  Overlaps are those of WIDER FACE: a
box from x1 to x2 is x2 - x1 + 1 pixels wide.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou


class Matches(NamedTuple):
    """The D detections of a whole data set, scores falling, and the truth box that each one hits.

    ``scores`` float64 [D]; ``truth`` int64 [D], an index into all truth boxes, images one after
    the other, or -1 for a detection that hits none.
    """

    scores: np.ndarray
    truth: np.ndarray


class PrecisionRecall(NamedTuple):
    """A precision-recall curve of T points, thresholds falling.

    ``precision`` float64 [T] in 0..1, and 1 where nothing was detected; ``recall`` float64 [T] in
    0..1, never falling, and NaN everywhere if there is no face to find; ``thresholds`` float64 [T].
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


def match_detections(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], iou_threshold: float
) -> Matches:
    """Give each detection to the truth box of its image that it overlaps most.

    It hits that box if their IoU is at least ``iou_threshold``.  Of several boxes with the same
    overlap the first is taken.  Several detections may hit one box.

    Args:
        detections: per image float64 [N, 5], x1, y1, x2, y2, score.
        truths: per image float64 [M, 4], x1, y1, x2, y2.
    """
    scores, hits, offset = [np.empty(0)], [np.empty(0, np.int64)], 0
    for found, boxes in zip(detections, truths, strict=True):
        hit = _best_truth(found[:, :4], boxes, iou_threshold)
        scores.append(found[:, 4])
        hits.append(np.where(hit >= 0, hit + offset, -1))
        offset += len(boxes)
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    return Matches(all_scores[order], np.concatenate(hits)[order])


def _best_truth(boxes: np.ndarray, truths: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Index [N] of the truth that each box hits, -1 if none."""
    if len(boxes) == 0 or len(truths) == 0:
        return np.full(len(boxes), -1)
    inclusive = [torch.from_numpy(array + [0.0, 0.0, 1.0, 1.0]) for array in (boxes, truths)]
    overlaps = box_iou(*inclusive).numpy()
    best = overlaps.argmax(axis=1)
    return np.where(overlaps.max(axis=1) >= iou_threshold, best, -1)


def precision_recall_curve(
    matches: Matches, wanted: np.ndarray, thresholds: np.ndarray
) -> PrecisionRecall:
    """Precision and recall of the detections with ``score >= threshold``, for each threshold.

    The first detection on a wanted truth finds it; later ones, and those that hit no truth, are
    mistakes; detections on an unwanted truth count neither way.

    Args:
        matches: from ``match_detections``.
        wanted: bool [M], which of all truth boxes are to be found.
        thresholds: [T], falling.
    """
    hits = matches.truth >= 0
    on_wanted = np.zeros(len(hits), bool)
    on_wanted[hits] = wanted[matches.truth[hits]]
    first = np.zeros(len(hits), bool)
    first[np.unique(matches.truth, return_index=True)[1]] = True

    # How many detections reach each threshold, then the two counts among that many first ones.
    reached = np.searchsorted(-matches.scores, -thresholds, side="right")
    found = _running_count(first & on_wanted)[reached]
    counted = _running_count(on_wanted | ~hits)[reached]
    precision = np.where(counted > 0, found / np.maximum(counted, 1), 1.0)
    faces = int(wanted.sum())
    recall = found / faces if faces else np.full(len(thresholds), np.nan)
    return PrecisionRecall(precision, recall, thresholds)


def _running_count(mask: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(mask)])


def average_precision(curve: PrecisionRecall) -> float:
    """Area under the curve's falling envelope, as in Pascal VOC since 2010.

    The precision at a recall is the best one at this or any higher recall; recalls that the curve
    does not reach add nothing.  0 for a curve without points, NaN if there is no face to find.
    """
    if np.isnan(curve.recall).any():
        return float("nan")
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * envelope))
