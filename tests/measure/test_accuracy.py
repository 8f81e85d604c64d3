"""Accuracy: hand-computed cases, the official protocol written out slowly, the bootstrap."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from blaze_utils.data import FaceLabels, Sample
from blaze_utils.detector import prior_boxes
from blaze_utils.detector.anchors import encode_boxes
from blaze_utils.measure import (
    SETTINGS,
    agreement_ap,
    ap_difference,
    ap_interval,
    evaluate,
    ground_truth,
    landmark_error,
    precision_recall,
    widerface_ap,
)

# The slow oracle: one loop per sentence of the protocol, with no code of the package.


def slow_iou(a, b):
    """Boxes of whole pixels: both ends belong to the box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area_a + area_b - width * height)


def slow_image(detections, boxes, wanted):
    """After each detection, scores falling: faces found so far, and does it count?"""
    found, faces_found, counts = set(), [], []
    for detection in detections:
        overlaps = [slow_iou(detection, box) for box in boxes]
        best = overlaps.index(max(overlaps))
        count = True
        if overlaps[best] >= 0.5:
            if wanted[best]:
                found.add(best)
            else:
                count = False
        faces_found.append(len(found))
        counts.append(count)
    return faces_found, counts


def slow_points(detections, faces_found, counts):
    """What one image adds at each of the 1000 thresholds: detections that count, faces found."""
    points = []
    for step in range(1000):
        reached = [i for i, d in enumerate(detections) if d[4] >= 1 - (step + 1) / 1000]
        last = reached[-1] if reached else None
        points.append((0, 0) if last is None else (sum(counts[: last + 1]), faces_found[last]))
    return np.array(points)


def slow_area(recall, precision):
    recall = [0.0, *recall, 1.0]
    precision = [0.0, *precision, 0.0]
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def slow_ap(predictions, truth, setting):
    scores = [row[4] for rows in predictions.values() for row in rows]
    low, high = min(scores), max(scores)
    total, faces = np.zeros((1000, 2)), 0
    for name, image in truth.items():
        faces += int(image[setting].sum())
        rows = sorted(predictions.get(name, []), key=lambda row: -row[4])
        rows = [(*row[:4], (row[4] - low) / (high - low)) for row in rows]
        if rows and len(image["boxes"]):
            judged = slow_image(rows, image["boxes"], image[setting])
            total += slow_points(rows, *judged)
    precision = [found / counted if counted else 0.0 for counted, found in total]
    return slow_area(total[:, 1] / faces, precision)


def random_case(seed, ties=False, smallest=0):
    """Ten small images: some without faces, some without detections, one not predicted at all."""
    rng = np.random.default_rng(seed)
    predictions, truth = {}, {}
    for index in range(10):
        count = 0 if index == 0 else int(rng.integers(1, 8))
        corners = rng.integers(0, 80, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(smallest, 30, (count, 2))], axis=1)
        hard = rng.random(count) < 0.8
        medium = hard & (rng.random(count) < 0.6)
        easy = medium & (rng.random(count) < 0.6)
        truth[f"{index}"] = {
            "boxes": boxes.astype(float),
            "easy": easy,
            "medium": medium,
            "hard": hard,
        }
        near = np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (2 * count, 4))
        far = rng.integers(0, 50, (5, 4)) + [0, 0, 50, 50]
        rows = np.concatenate([near, far])
        scores = rng.integers(0, 8, len(rows)) / 8 if ties else rng.random(len(rows)) ** 3
        predictions[f"{index}"] = np.concatenate([rows, scores[:, None]], axis=1).astype(float)
    predictions["3"] = np.empty((0, 5))
    del predictions["4"]
    return predictions, truth


@pytest.mark.parametrize("smallest", [0, -6])  # the official truth has sides of 0 and below
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_protocol_written_out(seed, ties, smallest):
    predictions, truth = random_case(seed, ties, smallest)
    expected = {setting: slow_ap(predictions, truth, setting) for setting in SETTINGS}
    assert widerface_ap(predictions, truth) == pytest.approx(expected, abs=1e-9)
    assert len(set(expected.values())) == 3, "the settings do not differ: the case shows nothing"


# Cases computed by hand.

A, B, FAR = (10, 10, 29, 29), (50, 50, 69, 69), (80, 10, 99, 29)


def image(boxes, wanted=None):
    wanted = np.ones(len(boxes), bool) if wanted is None else np.array(wanted, bool)
    return {"boxes": np.array(boxes, float).reshape(-1, 4), **dict.fromkeys(SETTINGS, wanted)}


def rows(*detections):
    return np.array(detections, float).reshape(-1, 5)


AP_CASES = {
    "both found above a mistake": (
        {"i": rows((*A, 0.9), (*B, 0.8), (*FAR, 0.1))},
        {"i": image([A, B])},
        1.0,
    ),
    # Points (recall, precision): (1/2, 1), (1/2, 1/2), (1, 2/3); area 1/2 + 1/2 * 2/3.
    "a mistake between two hits": (
        {"i": rows((*A, 0.9), (*FAR, 0.5), (*B, 0.1))},
        {"i": image([A, B])},
        5 / 6,
    ),
    "a second detection of a face is a mistake": (
        {"i": rows((*A, 0.9), (*A, 0.5), (*B, 0.1))},
        {"i": image([A, B])},
        5 / 6,
    ),
    "an ignored face counts neither way": (
        {"i": rows((*B, 0.95), (*A, 0.9), (*B, 0.5), (*FAR, 0.1))},
        {"i": image([A, B], [True, False])},
        1.0,
    ),
    "a detection beside ignored faces is a mistake": (
        {"i": rows((*A, 0.5)), "j": rows((*FAR, 0.9))},
        {"i": image([A]), "j": image([B], [False])},
        1 / 2,
    ),
    "an image without any truth does not count": (
        {"i": rows((*A, 0.5)), "j": rows((*FAR, 0.9))},
        {"i": image([A]), "j": image([])},
        1.0,
    ),
    # 10 x 10 pixels against 10 x 5: half of the area with both ends, 4/9 without.
    "both ends of a box overlap": ({"i": rows((0, 0, 9, 4, 0.9))}, {"i": image([(0, 0, 9, 9)])}, 1),
    "too little overlaps": ({"i": rows((0, 0, 9, 3.9, 0.9))}, {"i": image([(0, 0, 9, 9)])}, 0),
    "no predictions": ({}, {"i": image([A])}, 0.0),
    "no detections": ({"i": rows()}, {"i": image([A])}, 0.0),
    "no faces": ({"i": rows((*A, 0.5))}, {"i": image([A], [False])}, math.nan),
    "no images": ({}, {}, math.nan),
    # One point: recall 1/2, precision 1/2.
    "equal scores": ({"i": rows((*A, 0.3), (*FAR, 0.3))}, {"i": image([A, B])}, 1 / 4),
}


@pytest.mark.parametrize("case", AP_CASES)
def test_ap_by_hand(case):
    predictions, truth, expected = AP_CASES[case]
    assert widerface_ap(predictions, truth)["hard"] == pytest.approx(expected, nan_ok=True)


def test_scores_are_normalised_so_that_their_scale_does_not_matter():
    predictions, truth = random_case(11)
    scaled = {
        name: found * [1, 1, 1, 1, 40] - [0, 0, 0, 0, 7] for name, found in predictions.items()
    }
    assert widerface_ap(scaled, truth) == pytest.approx(widerface_ap(predictions, truth), abs=1e-3)


def test_tensors_in_any_order_give_the_same_and_stay_as_they_are():
    predictions, truth = random_case(12)
    expected = widerface_ap(predictions, truth)
    tensors = {name: torch.from_numpy(found.copy()).flip(0) for name, found in predictions.items()}
    before = {name: found.clone() for name, found in tensors.items()}
    assert widerface_ap(tensors, truth) == pytest.approx(expected, abs=1e-12)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_the_curve_has_the_area_that_widerface_ap_gives():
    predictions, truth = random_case(13)
    curve = precision_recall(predictions, truth, "medium")
    assert len(curve.recall) == len(curve.precision) == len(curve.thresholds) == 1000
    assert (np.diff(curve.recall) >= 0).all() and (np.diff(curve.thresholds) < 0).all()
    area = slow_area(curve.recall, curve.precision)
    assert area == pytest.approx(widerface_ap(predictions, truth)["medium"])


@pytest.mark.parametrize("metric", [widerface_ap, ap_interval])
def test_predictions_of_unknown_images_are_refused(metric):
    with pytest.raises(ValueError, match="1 unknown images, first 'b.jpg'"):
        metric({"b.jpg": rows()}, {"a.jpg": image([A])})


# The bootstrap.


def test_a_resample_is_the_ap_of_the_images_drawn():
    predictions, truth = random_case(14)
    drawn = np.random.default_rng(5).integers(10, size=10)  # the first resample of seed 5
    # Repeated under other names. The tenth image keeps its scores in, so that the scale stays.
    names = [f"{index}" for index in drawn]
    again = {f"{k}": predictions.get(name, rows()) for k, name in enumerate(names)}
    truth_again = {f"{k}": truth[name] for k, name in enumerate(names)}
    scale = {"scale": rows(*((*A, s) for s in every_score(predictions)[[0, -1]]))}
    expected = widerface_ap(again | scale, truth_again | {"scale": image([])})
    one = ap_interval(predictions, truth, resamples=1, seed=5)
    assert one["low"].to_dict() == pytest.approx(expected, abs=1e-12)
    assert one["AP"].to_dict() == pytest.approx(widerface_ap(predictions, truth), abs=1e-12)
    assert list(one.index) == list(SETTINGS)


def every_score(predictions):
    return np.sort(np.concatenate([found[:, 4] for found in predictions.values()]))


def test_an_interval_holds_the_ap_and_a_paired_one_is_narrower():
    predictions, truth = random_case(15)
    other = {name: found * [1, 1, 1, 1, 0.99] for name, found in predictions.items()}
    other["5"] = other["5"][2:]
    alone = ap_interval(predictions, truth)
    paired = ap_difference(predictions, other, truth)
    assert ((alone.low <= alone.AP) & (alone.AP <= alone.high)).all()
    difference = widerface_ap(other, truth)["hard"] - widerface_ap(predictions, truth)["hard"]
    assert paired.difference["hard"] == pytest.approx(difference)
    assert paired.high["hard"] - paired.low["hard"] < alone.high["hard"] - alone.low["hard"]
    same = ap_difference(predictions, predictions, truth)
    assert (same == 0).all(axis=None)


def test_a_setting_without_faces_has_no_interval():
    truth = {"i": image([A]) | {"easy": np.array([False])}, "j": image([], [])}
    table = ap_interval({"i": rows((*A, 0.9))}, truth)
    assert table.loc["easy"].isna().all()
    assert table.loc["hard"].tolist() == [1, 1, 1]


# Agreement between two detectors.

REFERENCE = {"i": rows((*A, 0.9), (*B, 0.5), (*FAR, 0.49)), "j": rows()}
LATE = {"i": rows((*A, 0.8), (*B, 0.1)), "j": rows((*A, 0.3))}
SURE = {"i": rows((*A, 0.9))}


@pytest.mark.parametrize(
    "reference, other, options, expected",
    [
        (REFERENCE, REFERENCE, {}, 1),
        # FAR is ignored; of two faces one is found.
        (REFERENCE, {"i": rows((*FAR, 1.0), (*A, 0.8))}, {}, 0.5),
        # After the first face comes a mistake where j has nothing.
        (REFERENCE, LATE, {}, 5 / 6),
        (REFERENCE, LATE, {"score_threshold": 0.6}, 1),
        (REFERENCE, {}, {}, 0),
        ({"j": rows()}, {"j": rows((*A, 0.9))}, {}, math.nan),
        # Equal scores count together, in any order; close ones are told apart.
        (SURE, {"i": rows((*A, 0.7), (*FAR, 0.7))}, {}, 0.5),
        (SURE, {"i": rows((*FAR, 0.7), (*A, 0.7))}, {}, 0.5),
        (SURE, {"i": rows((*A, 0.80002), (*FAR, 0.80001))}, {}, 1),
        # 15 of 25 columns overlap.
        (SURE, {"i": rows((15, 10, 34, 29, 0.9))}, {}, 1),
        (SURE, {"i": rows((15, 10, 34, 29, 0.9))}, {"iou_threshold": 0.7}, 0),
    ],
)
def test_agreement_by_hand(reference, other, options, expected):
    assert agreement_ap(reference, other, **options) == pytest.approx(expected, nan_ok=True)


# Landmarks.


def test_landmark_error_by_hand():
    truth = np.zeros((3, 5, 2))
    predicted = np.zeros((3, 5, 2))
    predicted[0] += [3, 4]  # each point 5 px off, on a face of 16 x 25
    predicted[1, 0] += [0, 6]  # one of two known points 6 px off, on a face of 10 x 10
    truth[1, 2:] = np.nan
    truth[2] = np.nan
    boxes = [[0, 0, 16, 25], [0, 0, 10, 10], [0, 0, 10, 10]]
    found = landmark_error(torch.from_numpy(predicted), truth, boxes)
    np.testing.assert_allclose(found, [0.25, 0.3, np.nan])
    assert landmark_error(np.empty((0, 5, 2)), np.empty((0, 5, 2)), np.empty((0, 4))).shape == (0,)


# A model on a data set.

FACE, SMALL = (8.0, 8.0, 48.0, 56.0), (30.0, 40.0, 33.0, 43.0)


class BrightnessDetector(nn.Module):
    """Finds ``FACE`` in bright images (the first pixel is above the mean), else nothing."""

    def forward(self, x):
        priors = prior_boxes(tuple(x.shape[2:]))
        conf = torch.tensor([9.0, -9.0]).repeat(1, len(priors), 1)
        if x[0, 0, 0, 0] > 0:
            conf[0, 5] = torch.tensor([0.0, 2.0])
        loc = encode_boxes(torch.tensor([FACE]), priors)
        return loc[None], conf, torch.zeros(1, len(priors), 10)


def sample(name, brightness, *boxes):
    count = len(boxes)
    zeros, ones = np.zeros(count), np.ones(count)
    landmarks = np.full((count, 5, 2), np.nan)
    labels = FaceLabels(np.reshape(boxes, (-1, 4)), landmarks, zeros, zeros, ones, zeros, ones)
    return Sample(name, np.full((64, 64, 3), brightness, np.uint8), labels)


def test_ground_truth_holds_boxes_and_difficulty():
    truth = ground_truth([sample("a", 0, FACE, SMALL), sample("b", 0)])
    assert truth["a"]["boxes"].tolist() == [list(FACE), list(SMALL)]
    assert truth["a"]["easy"].tolist() == truth["a"]["hard"].tolist() == [True, False]
    assert truth["b"]["boxes"].shape == (0, 4) and truth["b"]["medium"].shape == (0,)


def test_a_detector_that_finds_one_face_of_two():
    dataset = [sample("found", 200, FACE, SMALL), sample("missed", 20, FACE)]
    expected = dict.fromkeys(SETTINGS, 0.5)
    assert evaluate(BrightnessDetector(), dataset) == pytest.approx(expected)


def test_images_without_labels_are_named():
    unlabelled = Sample("holiday.jpg", np.zeros((8, 8, 3), np.uint8), None)
    with pytest.raises(ValueError, match="holiday.jpg: has no labels"):
        evaluate(BrightnessDetector(), [unlabelled])
