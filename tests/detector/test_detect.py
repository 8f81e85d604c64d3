"""Detection: preprocessing, and the way back from the network's outputs to the image's pixels."""

import numpy as np
import pytest
import torch
from torch import nn

from blaze_utils.data import Sample
from blaze_utils.detector import (
    MEAN_BGR,
    Blaze,
    detect,
    evaluating,
    predict,
    preprocess,
    prior_boxes,
)
from blaze_utils.detector.anchors import encode_boxes, encode_landmarks


class Planted(nn.Module):
    """A network that answers every input with given faces, in pixels of the input.

    Each face is a box, a score and a prior's index; all other priors are sure of background.
    """

    def __init__(self, faces):
        super().__init__()
        self.faces = faces
        self.seen = []
        self.inner = nn.Dropout()

    def forward(self, x):
        self.seen.append((x.shape, self.training, self.inner.training, torch.is_grad_enabled()))
        priors = prior_boxes(tuple(x.shape[2:]))
        loc, landm = torch.zeros(len(priors), 4), torch.zeros(len(priors), 10)
        conf = torch.tensor([20.0, -20.0]).repeat(len(priors), 1)
        for box, score, index in self.faces:
            box, prior = torch.tensor(box)[None], priors[index][None]
            points = box[:, None, :2] + torch.arange(5.0)[None, :, None]
            loc[index] = encode_boxes(box, prior)[0]
            landm[index] = encode_landmarks(points, prior)[0]
            conf[index] = torch.tensor([0.0, np.log(score / (1 - score))])
        return loc[None], conf[None], landm[None]


def grey_image(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def test_input_is_the_image_minus_the_mean_padded_with_zeros():
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    x, scale = preprocess(image)
    assert x.shape == (1, 3, 32, 48) and x.dtype == torch.float32 and scale == 1.0
    expected = image.astype(np.float32) - np.float32(MEAN_BGR)
    np.testing.assert_array_equal(x[0, :, :20, :33].permute(1, 2, 0).numpy(), expected)
    assert x[0, :, 20:].abs().max() == 0 and x[0, :, :, 33:].abs().max() == 0


@pytest.mark.parametrize(
    "size, long_side, scale, input_size",
    [
        ((300, 1280), 640, 0.5, (160, 640)),
        ((1280, 300), 640, 0.5, (640, 160)),
        ((100, 200), 640, 1.0, (112, 208)),
        ((1000, 800), None, 1.0, (1008, 800)),
        ((1, 5000), 500, 0.1, (16, 512)),
    ],
)
def test_larger_images_are_reduced_and_smaller_ones_kept(size, long_side, scale, input_size):
    x, found = preprocess(grey_image(*size), long_side)
    assert found == scale and tuple(x.shape[2:]) == input_size


def test_reduction_averages_areas():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    x, _ = preprocess(stripes, 32)
    np.testing.assert_allclose(x[0, 0].numpy(), 100 - MEAN_BGR[0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        None,
    ],
)
def test_what_is_no_bgr_image_is_refused(image):
    with pytest.raises(ValueError, match=r"expected a uint8 array \[H, W, 3\]"):
        preprocess(image)


def test_long_side_below_one():
    with pytest.raises(ValueError, match="long_side"):
        preprocess(grey_image(8, 8), 0)


def test_faces_come_back_in_pixels_of_the_image_scores_falling():
    model = Planted([((10.0, 20.0, 40.0, 60.0), 0.6, 3), ((80.0, 90.0, 120.0, 140.0), 0.9, 700)])
    found = detect(model, grey_image(400, 500), long_side=250)
    assert len(found) == 2
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6]))
    expected = torch.tensor([[160.0, 180, 240, 280], [20, 40, 80, 120]])
    torch.testing.assert_close(found.boxes, expected, atol=1e-3, rtol=0)
    points = expected[:, None, :2] + 2 * torch.arange(5.0)[None, :, None]
    torch.testing.assert_close(found.landmarks, points, atol=1e-3, rtol=0)
    assert {part.dtype for part in vars(found).values()} == {torch.float32}


def test_boxes_are_clipped_to_the_image_not_to_the_padding():
    model = Planted([((-10.0, -5.0, 39.0, 39.0), 0.9, 0)])
    boxes = detect(model, grey_image(35, 36)).boxes
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 36.0, 35.0]]))


def test_overlapping_boxes_leave_the_best_one():
    faces = [((10.0, 10.0, 50.0, 50.0), 0.8, 0), ((10.0, 10.0, 50.0, 40.0), 0.9, 1)]
    assert detect(Planted(faces), grey_image(64, 64)).scores.tolist() == pytest.approx([0.9])
    assert len(detect(Planted(faces), grey_image(64, 64), nms_threshold=0.8)) == 2


def test_score_threshold_and_nothing_found():
    faces = [((10.0, 10.0, 20.0, 20.0), 0.3, 0), ((40.0, 40.0, 60.0, 60.0), 0.7, 1)]
    assert len(detect(Planted(faces), grey_image(64, 64), score_threshold=0.5)) == 1
    nothing = detect(Planted(faces), grey_image(64, 64), score_threshold=0.8)
    shapes = [tuple(part.shape) for part in (nothing.boxes, nothing.scores, nothing.landmarks)]
    assert len(nothing) == 0 and shapes == [(0, 4), (0,), (0, 5, 2)]


def test_model_runs_in_evaluation_mode_and_every_module_gets_its_mode_back():
    model = Planted([])
    model.train()
    model.inner.eval()
    detect(model, grey_image(16, 16))
    assert model.seen == [((1, 3, 16, 16), False, False, False)]
    assert model.training and not model.inner.training


def test_modes_are_restored_after_an_error():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    model = Failing().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        detect(model, grey_image(16, 16))
    assert model.training


def test_an_exported_graph_gets_its_training_mode_back():
    """Its flag ``training`` says nothing: torchao's ``eval()`` rewrites the batch norms."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    graph = torch.export.export(net, (torch.zeros(2, 3, 8, 8),)).module()
    pt2e.allow_exported_model_train_eval(graph)

    def learns():
        return [node.args[5] for node in graph.graph.nodes if "batch_norm" in str(node.target)]

    for mode in (True, False):
        graph.train(mode)
        with evaluating(graph):
            assert learns() == [False]
        assert learns() == [mode]


def test_predict_names_its_images_and_gives_rows():
    model = Planted([((10.0, 10.0, 20.0, 20.0), 0.3, 0), ((40.0, 40.0, 60.0, 60.0), 0.7, 1)])
    samples = [
        Sample("e/a.jpg", grey_image(64, 64), None),
        Sample("b.jpg", grey_image(48, 64), None),
    ]
    found = predict(model, samples, score_threshold=0.2)
    assert list(found) == ["e/a.jpg", "b.jpg"] and found["b.jpg"].dtype == np.float32
    expected = [[40, 40, 60, 60, 0.7], [10, 10, 20, 20, 0.3]]
    np.testing.assert_allclose(found["e/a.jpg"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["b.jpg"][0], [40, 40, 60, 48, 0.7], rtol=1e-5)


@pytest.mark.parametrize("size", [(37, 101), (1, 1), (1, 10_000), (10_000, 1), (17, 3)])
def test_the_real_network_takes_an_image_of_any_size(size):
    torch.manual_seed(0)
    found = detect(Blaze(), grey_image(*size), score_threshold=0.0)
    assert len(found) > 0 and (found.scores.diff() <= 0).all()
    limits = torch.tensor([size[1], size[0]] * 2)
    assert (found.boxes >= 0).all() and (found.boxes <= limits).all()
