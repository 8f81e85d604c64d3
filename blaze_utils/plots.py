"""Figures of the series, in one palette: ground truth, float and int8 never share a colour.

Every function draws into matplotlib axes, or makes a figure and returns it; none calls
``plt.show``. The colours are Okabe and Ito's, which stay apart for colour-blind readers; curves
differ in line style too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blaze_utils.data import FaceLabels
from blaze_utils.detector import Detections
from blaze_utils.measure import SETTINGS, PrecisionRecall, average_precision

TRUTH = "#009E73"  # bluish green
FLOAT = "#0072B2"  # blue
INT8 = "#D55E00"  # vermilion
OTHER = "#7F7F7F"  # grey: whatever is none of the three
PALE = "#DCE6F2"  # the area of what is drawn in blue
LINE_STYLES = {"easy": "-", "medium": "--", "hard": ":"}
# One colour for each landmark, in the order of FaceLabels.
LANDMARK_COLOURS = ("#F0E442", "#F0E442", "#56B4E9", "#CC79A7", "#CC79A7")


def show_image(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """Show an image, uint8 [H, W, 3] BGR, without ticks; returns the axes."""
    ax.imshow(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    ax.set(title=title, xticks=[], yticks=[])
    ax.autoscale(False)  # what is drawn later must not move the borders of the image
    return ax


def draw_boxes(
    ax: Axes,
    boxes: np.ndarray,
    colour: str,
    scores: Sequence[float] | None = None,
    style: str = "-",
) -> None:
    """Outline boxes [N, 4] (x1, y1, x2, y2 in pixels), with their scores if they are given."""
    for x1, y1, x2, y2 in np.asarray(boxes, float):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.5, ls=style))
    paper = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.8}
    ink: dict[str, Any] = {
        "color": "white",
        "fontsize": 7,
        "va": "bottom",
        "clip_on": True,
        "bbox": paper,
    }
    for box, score in zip(boxes, [] if scores is None else scores, strict=False):
        ax.text(box[0], box[1], f"{score:.2f}", **ink)


def draw_landmarks(ax: Axes, landmarks: np.ndarray, size: float = 12) -> None:
    """Mark five points a face, [N, 5, 2] in pixels: eyes yellow, nose blue, mouth pink."""
    points = np.asarray(landmarks, float)
    style: dict[str, Any] = {"s": size, "edgecolors": "black", "linewidths": 0.3, "zorder": 3}
    for index, colour in enumerate(LANDMARK_COLOURS):
        ax.scatter(*points[:, index].T, color=colour, **style)


def draw_truth(ax: Axes, labels: FaceLabels, landmarks: bool = False) -> None:
    """Outline the labelled faces of an image in the colour of the ground truth."""
    draw_boxes(ax, labels.boxes, TRUTH)
    if landmarks:
        draw_landmarks(ax, labels.landmarks)


def draw_detections(
    ax: Axes,
    detections: Detections,
    colour: str = FLOAT,
    score_threshold: float = 0.5,
    scores: bool = True,
    landmarks: bool = True,
) -> None:
    """Draw the detections that score at least ``score_threshold``: boxes, scores, landmarks."""
    keep = detections.scores >= score_threshold
    shown = detections.scores[keep].tolist() if scores else None
    draw_boxes(ax, detections.boxes[keep].numpy(), colour, shown)
    if landmarks:
        draw_landmarks(ax, detections.landmarks[keep].numpy())


def contact_sheet(
    images: Sequence[np.ndarray], columns: int = 6, labels: Sequence[FaceLabels] | None = None
) -> Figure:
    """Many images on one sheet, uint8 [H, W, 3] BGR of one shape, with their labels if given."""
    rows = -(-len(images) // columns)
    height, width = images[0].shape[:2]
    size = (7, 7 / columns * height / width * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in grid.flat:
        ax.axis("off")
    for number, (ax, image) in enumerate(zip(grid.flat, images, strict=False)):
        show_image(ax, image)
        if labels is not None:
            draw_truth(ax, labels[number])
    return figure


def plot_precision_recall(
    ax: Axes, curves: Mapping[str, PrecisionRecall], colour: str, name: str
) -> None:
    """Draw the curves of one detector, keyed by setting, each in the setting's line style."""
    for setting in SETTINGS:
        curve = curves[setting]
        label = f"{name}, {setting}: AP {average_precision(curve):.3f}"
        ax.plot(curve.recall, curve.precision, color=colour, ls=LINE_STYLES[setting], label=label)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    ax.set_title("Precision and recall")
    ax.legend(loc="lower left")


def draw_network(ax: Axes, outputs: Mapping[str, tuple[int, ...]], taps: Mapping[str, str]) -> None:
    """Draw a chain of layers as boxes: as tall as their output is large, as wide as it is deep.

    Args:
        outputs: name of each layer, in order, and the shape [N, C, H, W] of its output.
        taps: name of a layer and what leaves it there, drawn as an arrow with that text.
    """
    x = 0.0
    below: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8}
    below["arrowprops"] = {"arrowstyle": "<-", "color": OTHER}
    for name, (_, channels, height, width) in outputs.items():
        tall, wide = height**0.5, 0.6 + channels / 48
        middle, shape = x + wide / 2, f"{channels}×{height}×{width}"
        ax.add_patch(Rectangle((x, -tall / 2), wide, tall, fc=PALE, ec=FLOAT))
        ax.text(middle, tall / 2 + 0.5, name, ha="center", va="bottom", fontsize=8, rotation=45)
        ax.text(middle, 0, shape, ha="center", va="center", fontsize=7, rotation=90)
        if name in taps:
            ax.annotate(taps[name], (middle, -tall / 2), (middle, -12), **below)
        x += wide + 0.5
    ax.set(xlim=(-0.5, x), ylim=(-16, 13))
    ax.axis("off")
