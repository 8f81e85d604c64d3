"""The figures: drawn where the data says, in the palette of the series."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from blaze_utils import plots
from blaze_utils.data import FaceLabels
from blaze_utils.detector import Detections
from blaze_utils.measure import SETTINGS, PrecisionRecall


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_truth_float_and_int8_never_share_a_colour():
    assert len({plots.TRUTH, plots.FLOAT, plots.INT8, plots.OTHER}) == 4
    assert len(set(plots.LINE_STYLES.values())) == 3


def test_images_are_shown_in_the_right_channel_order(ax):
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 0] = 255  # BGR
    plots.show_image(ax, blue, "title")
    assert ax.images[0].get_array()[0, 0].tolist() == [0, 0, 255]
    assert ax.get_title() == "title"


def test_only_sure_detections_are_drawn(ax):
    boxes = torch.tensor([[1.0, 2, 11, 22], [30, 30, 40, 40]])
    found = Detections(boxes, torch.tensor([0.9, 0.4]), torch.ones(2, 5, 2))
    plots.draw_detections(ax, found, plots.INT8, score_threshold=0.5)
    (outline,) = ax.patches
    assert outline.get_bbox().bounds == (1, 2, 10, 20)
    assert to_hex(outline.get_edgecolor()) == plots.INT8.lower()
    assert [text.get_text() for text in ax.texts] == ["0.90"]
    assert len(ax.collections) == 5, "a point for each landmark"


def test_the_contact_sheet_shows_every_image_with_its_labels():
    images = [np.full((8, 10, 3), value, np.uint8) for value in range(5)]
    zeros = [np.zeros(1) for _ in range(5)]
    labels = FaceLabels(np.array([[1, 1, 4, 5]]), np.zeros((1, 5, 2)), *zeros)
    figure = plots.contact_sheet(images, columns=3, labels=[labels] * 5)
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert [len(ax.patches) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]
    plt.close(figure)


def test_curves_carry_their_ap(ax):
    perfect = PrecisionRecall(np.ones(3), np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0]))
    plots.plot_precision_recall(ax, dict.fromkeys(SETTINGS, perfect), plots.FLOAT, "float")
    assert ax.lines[0].get_label() == "float, easy: AP 1.000"
    assert {line.get_linestyle() for line in ax.lines} == {"-", "--", ":"}


def test_the_network_drawing_has_a_box_a_layer(ax):
    plots.draw_network(ax, {"a": (1, 8, 64, 64), "b": (1, 16, 32, 32)}, {"b": "heads"})
    assert len(ax.patches) == 2
    assert {"a", "b", "8×64×64", "16×32×32", "heads"} <= {text.get_text() for text in ax.texts}
