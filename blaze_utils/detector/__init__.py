"""The detector: from an image to its faces, in float or prepared for int8.

Begin with ``detect(load_float("data/checkpoints/blaze_float.pth"), image)``. ``Blaze`` is the
float network, ``QuantizableBlaze`` its twin that eager quantization can convert (``model.py``,
``quantizable.py``). Both give offsets from ``prior_boxes`` (``anchors.py``, which also matches
faces to them for training). ``preprocess``, ``detect`` and ``predict`` (``finding.py``) go from an
image to its faces with any model that has Blaze's inputs and outputs, int8 ones too.
``load_float`` and ``save_float`` (``checkpoint.py``) store weights. Not here: quantizing and int8
files (``int8``), how good detections are (``measure``), the loss (``training``).
"""

from blaze_utils.detector.anchors import prior_boxes
from blaze_utils.detector.checkpoint import CheckpointError, load_float, save_float
from blaze_utils.detector.finding import Detections, detect, evaluating, predict, preprocess
from blaze_utils.detector.model import MEAN_BGR, Blaze, BlazeBlock, join_heads
from blaze_utils.detector.quantizable import QuantizableBlaze

__all__ = [
    "MEAN_BGR",
    "Blaze",
    "BlazeBlock",
    "CheckpointError",
    "Detections",
    "QuantizableBlaze",
    "detect",
    "evaluating",
    "join_heads",
    "load_float",
    "predict",
    "preprocess",
    "prior_boxes",
    "save_float",
]
