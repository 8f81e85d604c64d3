"""Evaluation: predictions of a whole data set, its ground truth, and the two together."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from blaze_utils.detector.anchors import encode_boxes, prior_boxes
from blaze_utils.data import Sample
from blaze_utils.detector import predict
from blaze_utils.measure.evaluation import evaluate, ground_truth
from blaze_utils.data import FaceLabels

FACE = (8.0, 8.0, 48.0, 56.0)
SMALL = (30.0, 40.0, 33.0, 43.0)


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
    labels = FaceLabels(np.array(boxes).reshape(-1, 4), np.full((count, 5, 2), np.nan),
                        np.zeros(count), np.zeros(count), np.ones(count), np.zeros(count),
                        np.ones(count))
    return Sample(name, np.full((64, 64, 3), brightness, np.uint8), labels)


def test_predictions_are_by_name_with_the_score_last():
    dataset = [sample("bright", 200), sample("dark", 20)]
    predictions = predict(BrightnessDetector(), dataset, progress=False)
    assert list(predictions) == ["bright", "dark"]
    assert predictions["dark"].shape == (0, 5)
    score = 1 / (1 + math.exp(-2))
    np.testing.assert_allclose(predictions["bright"], [[*FACE, score]], atol=1e-3)
    assert predictions["bright"].dtype == np.float32


def test_thresholds_and_size_reach_the_detector():
    dataset = [sample("bright", 200)]
    strict = predict(BrightnessDetector(), dataset, score_threshold=0.95, progress=False)
    assert len(strict["bright"]) == 0
    half = predict(BrightnessDetector(), dataset, long_side=32, progress=False)
    np.testing.assert_allclose(half["bright"][0, :4], [16, 16, 64, 64], atol=1e-3)


def test_ground_truth_holds_boxes_and_difficulty():
    truth = ground_truth([sample("a", 0, FACE, SMALL), sample("b", 0)])
    assert truth["a"]["boxes"].tolist() == [list(FACE), list(SMALL)]
    assert truth["a"]["easy"].tolist() == truth["a"]["hard"].tolist() == [True, False]
    assert truth["b"]["boxes"].shape == (0, 4) and truth["b"]["medium"].shape == (0,)


def test_average_precision_of_a_detector_that_finds_one_face_of_two():
    dataset = [sample("found", 200, FACE, SMALL), sample("missed", 20, FACE)]
    expected = {"easy": 0.5, "medium": 0.5, "hard": 0.5}
    assert evaluate(BrightnessDetector(), dataset, progress=False) == pytest.approx(expected)


def test_images_without_labels_are_named():
    unlabelled = Sample("holiday.jpg", np.zeros((8, 8, 3), np.uint8), None)
    with pytest.raises(ValueError, match="holiday.jpg: has no labels"):
        evaluate(BrightnessDetector(), [unlabelled], progress=False)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_can_be_switched_off(progress, capsys):
    predict(BrightnessDetector(), [sample("a", 0)], progress=progress)
    assert ("detecting" in capsys.readouterr().err) == progress
