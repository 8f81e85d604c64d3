"""AP, SQNR, latency, bytes."""
from blaze_utils.measure.cost import compare, count_macs, count_operators, latency, stored_bytes
from blaze_utils.measure.evaluation import evaluate, ground_truth
from blaze_utils.measure.metrics import (
    SETTINGS, agreement_ap, landmark_error, precision_recall, widerface_ap,
)
from blaze_utils.measure.sqnr import head_sqnr, layer_sqnr, sqnr
from blaze_utils.measure.widerface import load_widerface_ground_truth
