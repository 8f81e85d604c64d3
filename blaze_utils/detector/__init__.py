"""The detector: network, prior boxes, checkpoints, image in, faces out."""

from blaze_utils.detector.anchors import prior_boxes
from blaze_utils.detector.checkpoint import CheckpointError, load_float, save_float
from blaze_utils.detector.finding import Detections, detect, evaluating, predict, preprocess
from blaze_utils.detector.model import MEAN_BGR, Blaze, BlazeBlock, join_heads
from blaze_utils.detector.quantizable import QuantizableBlaze
