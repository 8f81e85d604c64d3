"""The multibox loss on cases worked out by hand."""

import math

import pytest
import torch

from blaze_utils.training import multibox_loss

PRIORS = 80


def zeros(batch=1):
    """Outputs and targets of nothing: all background, every logit 0."""
    outputs = tuple(torch.zeros(batch, PRIORS, values) for values in (4, 2, 10))
    labels = torch.zeros(batch, PRIORS, dtype=torch.long)
    return outputs, labels, torch.zeros(batch, PRIORS, 4), torch.zeros(batch, PRIORS, 10)


def test_an_image_without_faces_teaches_40_negatives():
    losses = multibox_loss(*zeros())
    assert losses.classes == pytest.approx(40 * math.log(2))
    assert losses.box == 0 and losses.landmark == 0


def test_one_face_by_hand():
    outputs, labels, boxes, landmarks = zeros()
    labels[0, 3] = 1
    boxes[0, 3] = torch.tensor([0.5, -0.5, 2.0, 0.0])  # smooth L1: 0.125 + 0.125 + 1.5
    landmarks[0, 3, :2] = torch.tensor([1.0, -3.0])  # 0.5 + 2.5
    losses = multibox_loss(outputs, labels, boxes, landmarks)
    assert losses.box == pytest.approx(1.75)
    assert losses.landmark == pytest.approx(3.0)
    assert losses.classes == pytest.approx(41 * math.log(2))
    assert losses.total == pytest.approx(2 * 1.75 + 41 * math.log(2) + 0.25 * 3.0)


def test_seven_negatives_for_each_face():
    outputs, labels, *targets = zeros()
    labels[0, :8] = 1
    classes = multibox_loss(outputs, labels, *targets).classes
    assert classes == pytest.approx((8 + 56) / 8 * math.log(2))


def test_the_hardest_negatives_count():
    outputs, labels, *targets = zeros()
    labels[0, 0] = 1
    outputs[1][0, 38:, 1] = 2.0  # 42 background priors look more like a face than the other 37
    classes = multibox_loss(outputs, labels, *targets).classes
    assert classes == pytest.approx(math.log(2) + 40 * math.log(1 + math.exp(2)))


def test_priors_left_out_do_not_contribute():
    outputs, labels, *targets = zeros()
    labels[0, 0] = 1
    labels[0, 1:8] = -1
    outputs[1].requires_grad_()
    outputs[0].requires_grad_()
    with torch.no_grad():
        outputs[1][0, 1:8, 1] = 9.0  # would be the hardest negatives
        outputs[0][0, 1:8] = 9.0
    losses = multibox_loss(outputs, labels, *targets)
    assert losses.classes == pytest.approx(41 * math.log(2))
    losses.total.backward()
    assert (outputs[1].grad[0, 1:8] == 0).all() and (outputs[0].grad[0, 1:8] == 0).all()
    assert (outputs[1].grad[0, 0] != 0).all()


def test_unknown_landmarks_do_not_contribute():
    outputs, labels, boxes, landmarks = zeros()
    labels[0, 3] = 1
    outputs[2][0, 3] = -1.0
    outputs[2].requires_grad_()
    landmarks[0, 3] = torch.nan
    landmarks[0, 3, 4] = 1.0
    losses = multibox_loss(outputs, labels, boxes, landmarks)
    assert losses.landmark == pytest.approx(1.5)
    losses.total.backward()
    assert outputs[2].grad[0, 3].nonzero().flatten().tolist() == [4]


def test_all_priors_left_out():
    outputs, labels, *targets = zeros()
    assert multibox_loss(outputs, labels - 1, *targets).total == 0


def test_images_are_mined_one_by_one():
    outputs, labels, *targets = zeros(batch=2)
    labels[0, :2] = 1
    assert multibox_loss(outputs, labels, *targets).classes == pytest.approx(
        (2 + 40 + 40) / 2 * math.log(2)
    )
