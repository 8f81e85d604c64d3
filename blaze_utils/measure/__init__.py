"""What a detector is worth and what it costs: average precision, SQNR, time, bytes.

Begin with ``evaluate`` (a model on a labelled data set) and ``compare`` (the time of several models
in turns). ``accuracy`` holds the metrics of detections and their bootstrap intervals, ``widerface``
reads the official ground truth, ``sqnr`` compares the numbers inside two networks, ``cost`` has
time, page faults, operators, multiply-adds and bytes, and ``text`` prints figures that differ from
one processor to the next. How a model is quantized is not in here: see ``blaze_utils.int8``.
"""

from blaze_utils.measure.accuracy import (
    SETTINGS,
    PrecisionRecall,
    agreement_ap,
    ap_difference,
    ap_interval,
    average_precision,
    evaluate,
    ground_truth,
    landmark_error,
    precision_recall,
    widerface_ap,
)
from blaze_utils.measure.cost import (
    Latency,
    compare,
    count_macs,
    count_operators,
    keep_heap,
    latency,
    operator_times,
    page_faults,
    stored_bytes,
)
from blaze_utils.measure.sqnr import head_sqnr, layer_sqnr, sqnr
from blaze_utils.measure.text import approx
from blaze_utils.measure.widerface import load_widerface_ground_truth

__all__ = [
    "SETTINGS",
    "Latency",
    "PrecisionRecall",
    "agreement_ap",
    "ap_difference",
    "ap_interval",
    "approx",
    "average_precision",
    "compare",
    "count_macs",
    "count_operators",
    "evaluate",
    "ground_truth",
    "head_sqnr",
    "keep_heap",
    "landmark_error",
    "latency",
    "layer_sqnr",
    "load_widerface_ground_truth",
    "operator_times",
    "page_faults",
    "precision_recall",
    "sqnr",
    "stored_bytes",
    "widerface_ap",
]
