"""Metrics against hand-computed cases and against the official protocol, written out slowly."""
import math

import numpy as np
import pytest
import torch

from blaze_utils.measure.metrics import agreement_ap, landmark_error, precision_recall, widerface_ap

SETTINGS = ("easy", "medium", "hard")


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


def random_case(seed, ties):
    """Ten small images: some without faces, some without detections, one not predicted at all."""
    rng = np.random.default_rng(seed)
    predictions, truth = {}, {}
    for index in range(10):
        count = 0 if index == 0 else int(rng.integers(1, 8))
        corners = rng.integers(0, 80, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(0, 30, (count, 2))], axis=1)
        hard = rng.random(count) < 0.8
        medium = hard & (rng.random(count) < 0.6)
        easy = medium & (rng.random(count) < 0.6)
        truth[f"{index}"] = {"boxes": boxes.astype(float), "easy": easy, "medium": medium,
                             "hard": hard}
        near = np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (2 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        far = rng.integers(0, 50, (5, 4)) + [0, 0, 50, 50]
        rows = np.concatenate([near, far])
        scores = rng.integers(0, 8, len(rows)) / 8 if ties else rng.random(len(rows)) ** 3
        predictions[f"{index}"] = np.concatenate([rows, scores[:, None]], axis=1).astype(float)
    predictions["3"] = np.empty((0, 5))
    del predictions["4"]
    return predictions, truth


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_protocol_written_out(seed, ties):
    predictions, truth = random_case(seed, ties)
    expected = {setting: slow_ap(predictions, truth, setting) for setting in SETTINGS}
    assert widerface_ap(predictions, truth) == pytest.approx(expected, abs=1e-9)
    assert len(set(expected.values())) == 3, "the settings do not differ: the case shows nothing"


# Cases computed by hand.

def image(boxes, wanted=None):
    wanted = np.ones(len(boxes), bool) if wanted is None else np.array(wanted, bool)
    return {"boxes": np.array(boxes, float).reshape(-1, 4), **dict.fromkeys(SETTINGS, wanted)}


def rows(*detections):
    return np.array(detections, float).reshape(-1, 5)


A, B, FAR = (10, 10, 29, 29), (50, 50, 69, 69), (80, 10, 99, 29)


def hard_ap(predictions, truth):
    return widerface_ap(predictions, truth)["hard"]


def test_both_found_above_a_mistake():
    predictions = {"i": rows((*A, 0.9), (*B, 0.8), (*FAR, 0.1))}
    assert hard_ap(predictions, {"i": image([A, B])}) == pytest.approx(1.0)


def test_a_mistake_between_two_hits():
    # Points (recall, precision): (1/2, 1), (1/2, 1/2), (1, 2/3); area 1/2 + 1/2 * 2/3.
    predictions = {"i": rows((*A, 0.9), (*FAR, 0.5), (*B, 0.1))}
    assert hard_ap(predictions, {"i": image([A, B])}) == pytest.approx(5 / 6)


def test_a_second_detection_of_a_face_is_a_mistake():
    predictions = {"i": rows((*A, 0.9), (*A, 0.5), (*B, 0.1))}
    assert hard_ap(predictions, {"i": image([A, B])}) == pytest.approx(5 / 6)


def test_ignored_faces_and_detections_on_them_count_neither_way():
    predictions = {"i": rows((*B, 0.95), (*A, 0.9), (*B, 0.5), (*FAR, 0.1))}
    assert hard_ap(predictions, {"i": image([A, B], [True, False])}) == pytest.approx(1.0)


def test_detections_where_all_faces_are_ignored_are_mistakes_but_not_where_none_is():
    predictions = {"i": rows((*A, 0.5)), "j": rows((*FAR, 0.9))}
    ignored = {"i": image([A]), "j": image([B], [False])}
    assert hard_ap(predictions, ignored) == pytest.approx(0.5)
    assert hard_ap(predictions, {"i": image([A]), "j": image([])}) == pytest.approx(1.0)


def test_overlap_counts_both_ends_of_a_box():
    # 10 x 10 pixels against 10 x 5: half of the area with both ends, 4/9 without.
    truth = {"i": image([(0, 0, 9, 9)])}
    assert hard_ap({"i": rows((0, 0, 9, 4, 0.9))}, truth) == pytest.approx(1.0)
    assert hard_ap({"i": rows((0, 0, 9, 3.9, 0.9))}, truth) == 0.0


def test_scores_are_normalised_over_all_images_and_scale_does_not_matter():
    predictions, truth = random_case(11, ties=False)
    scaled = {name: found * [1, 1, 1, 1, 40] - [0, 0, 0, 0, 7]
              for name, found in predictions.items()}
    assert widerface_ap(scaled, truth) == pytest.approx(widerface_ap(predictions, truth), abs=1e-3)


def test_tensors_in_any_order_give_the_same_and_stay_as_they_are():
    predictions, truth = random_case(12, ties=False)
    expected = widerface_ap(predictions, truth)
    tensors = {name: torch.from_numpy(found.copy()).flip(0) for name, found in predictions.items()}
    before = {name: found.clone() for name, found in tensors.items()}
    assert widerface_ap(tensors, truth) == pytest.approx(expected, abs=1e-12)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_no_predictions_no_faces_equal_scores():
    truth = {"i": image([A, B])}
    assert widerface_ap({}, truth) == dict.fromkeys(SETTINGS, 0.0)
    assert widerface_ap({"i": np.empty((0, 5))}, truth) == dict.fromkeys(SETTINGS, 0.0)
    nobody = widerface_ap({"i": rows((*A, 0.5))}, {"i": image([A], [False])})
    assert all(math.isnan(value) for value in nobody.values())
    assert all(math.isnan(value) for value in widerface_ap({}, {}).values())
    # One point: recall 1/2, precision 1/2.
    assert hard_ap({"i": rows((*A, 0.3), (*FAR, 0.3))}, truth) == pytest.approx(1 / 4)


def test_curve_has_the_area_that_widerface_ap_gives():
    predictions, truth = random_case(13, ties=False)
    curve = precision_recall(predictions, truth, "medium")
    assert len(curve.recall) == len(curve.precision) == len(curve.thresholds) == 1000
    assert (np.diff(curve.recall) >= 0).all() and (np.diff(curve.thresholds) < 0).all()
    assert 0 <= curve.precision.min() and curve.precision.max() <= 1
    area = slow_area(curve.recall, curve.precision)
    assert area == pytest.approx(widerface_ap(predictions, truth)["medium"])
    with pytest.raises(ValueError, match="'middling': expected one of easy, medium, hard"):
        precision_recall(predictions, truth, "middling")


@pytest.mark.parametrize("found, reason", [
    (np.zeros((2, 4)), r"expected shape \[N, 5\], got \[2, 4\]"),
    (np.zeros(5), r"got \[5\]"),
    (rows((*A, np.nan)), "not finite"),
    (rows((29, 10, 10, 29, 0.5)), "x2 < x1"),
])
def test_wrong_predictions_are_named(found, reason):
    with pytest.raises(ValueError, match=f"'a.jpg': .*{reason}"):
        widerface_ap({"a.jpg": found}, {"a.jpg": image([A])})
    with pytest.raises(ValueError, match=f"'a.jpg': .*{reason}"):
        agreement_ap({"a.jpg": rows((*A, 0.9))}, {"a.jpg": found})
    with pytest.raises(ValueError, match=f"'a.jpg': .*{reason}"):
        agreement_ap({"a.jpg": found}, {})


def test_wrong_ground_truth_and_unknown_images_are_named():
    with pytest.raises(ValueError, match="unknown images, first 'b.jpg'"):
        widerface_ap({"b.jpg": rows()}, {"a.jpg": image([A])})
    with pytest.raises(ValueError, match="unknown images, first 'b.jpg'"):
        agreement_ap({"a.jpg": rows()}, {"b.jpg": rows()})
    with pytest.raises(ValueError, match=r"'a.jpg': 'easy' must be bool \[1\]"):
        widerface_ap({}, {"a.jpg": image([A]) | {"easy": np.array([1])}})
    with pytest.raises(ValueError, match=r"ground truth of 'a.jpg': expected shape \[N, 4\]"):
        widerface_ap({}, {"a.jpg": image([A]) | {"boxes": np.zeros((1, 5))}})


# Agreement between two detectors.

def test_a_detector_agrees_with_itself():
    predictions, _ = random_case(20, ties=True)
    assert agreement_ap(predictions, predictions) == pytest.approx(1.0)


def test_agreement_by_hand():
    reference = {"i": rows((*A, 0.9), (*B, 0.5), (*FAR, 0.49)), "j": rows()}
    # FAR is ignored; of two faces one is found, and after it comes a mistake where j has nothing.
    assert agreement_ap(reference, {"i": rows((*FAR, 1.0), (*A, 0.8))}) == pytest.approx(0.5)
    found_late = {"i": rows((*A, 0.8), (*B, 0.1)), "j": rows((*A, 0.3))}
    assert agreement_ap(reference, found_late) == pytest.approx(5 / 6)
    assert agreement_ap(reference, found_late, score_threshold=0.6) == pytest.approx(1.0)
    assert agreement_ap(reference, {}) == 0.0
    assert math.isnan(agreement_ap({"j": rows()}, {"j": rows((*A, 0.9))}))


def test_agreement_takes_equal_scores_together():
    reference = {"i": rows((*A, 0.9))}
    for order in ((A, FAR), (FAR, A)):
        other = {"i": rows(*((*box, 0.7) for box in order))}
        assert agreement_ap(reference, other) == pytest.approx(0.5)


def test_agreement_tells_close_scores_apart():
    other = {"i": rows((*A, 0.80002), (*FAR, 0.80001))}
    assert agreement_ap({"i": rows((*A, 0.9))}, other) == pytest.approx(1.0)


def test_agreement_overlap_threshold():
    reference, shifted = {"i": rows((*A, 0.9))}, {"i": rows((15, 10, 34, 29, 0.9))}
    assert agreement_ap(reference, shifted) == pytest.approx(1.0)  # 15 / 25 columns
    assert agreement_ap(reference, shifted, iou_threshold=0.7) == 0.0


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


def test_landmark_error_empty_and_wrong():
    points, box = np.zeros((1, 5, 2)), np.array([[0, 0, 5, 5.0]])
    assert landmark_error(np.empty((0, 5, 2)), np.empty((0, 5, 2)), np.empty((0, 4))).shape == (0,)
    with pytest.raises(ValueError, match=r"predicted: expected \[1, 5, 2\], got \[1, 10\]"):
        landmark_error(points.reshape(1, 10), points, box)
    with pytest.raises(ValueError, match="finite landmarks"):
        landmark_error(points * np.nan, points, box)
    with pytest.raises(ValueError, match="x1 < x2"):
        landmark_error(points, points, [[5, 0, 5, 5]])
