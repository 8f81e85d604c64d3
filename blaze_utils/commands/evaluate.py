"""``evaluate``: average precision on labelled images, with WIDER FACE's files if there are any."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from blaze_utils.data.datasets import PhotoFolder, load_widerface_ground_truth, open_dataset
from blaze_utils.detector import predict
from blaze_utils.measure.evaluation import ground_truth
from blaze_utils.measure.metrics import widerface_ap
from blaze_utils.measure.submission import read_submission, write_submission

from .common import DATA, add_detector, load_detector, note, report, two_columns

HELP = "average precision on labelled images, by the protocol of WIDER FACE"
EXAMPLE = """evaluate data/widerface/WIDER_val/images \\
      --ground-truth data/widerface/ground_truth --submission build/submission"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=DATA / "val",
        help="images with label.txt or with the annotations of WIDER FACE; with --ground-truth any")
    add("--ground-truth", type=Path, metavar="FOLDER", help="the official .mat files of WIDER FACE")
    results = parser.add_mutually_exclusive_group()
    results.add_argument("--submission", type=Path, metavar="FOLDER",
                         help="also write the detections, one text file an image")
    results.add_argument("--results", type=Path, metavar="FOLDER",
                         help="read detections written before instead of running a detector")
    add_detector(parser)


def run(options: argparse.Namespace) -> int:
    """Measure; images without labels are only detected in and written."""
    model = None if options.results else load_detector(options.checkpoint)
    dataset = _dataset(options)
    truth = _truth(options, dataset)
    if model is None:
        predictions = read_submission(options.results)
    else:
        predictions = predict(model, dataset, options.long_side or None)
    if options.submission:
        write_submission(options.submission, predictions)
    result = {"images": len(predictions), "faces": None}
    shown = {"images": str(len(predictions))}
    if truth is not None:
        _note_missing(truth, predictions)
        precision = widerface_ap(predictions, truth)
        result |= {"faces": sum(len(image["boxes"]) for image in truth.values()), "ap": precision}
        shown |= {"faces": str(result["faces"])}
        shown |= {f"AP {setting}": f"{value:.4f}" for setting, value in precision.items()}
    report(result, two_columns(shown), options.json)
    return 0


def _dataset(options: argparse.Namespace) -> Dataset | None:
    """The images; None where neither their pixels nor their labels are needed."""
    if options.results and options.ground_truth:
        return None
    return open_dataset(options.folder)


def _truth(
    options: argparse.Namespace, dataset: Dataset | None
) -> dict[str, dict[str, np.ndarray]] | None:
    if options.ground_truth:
        return load_widerface_ground_truth(options.ground_truth)
    if not isinstance(dataset, PhotoFolder):
        return ground_truth(dataset)
    if not options.submission:
        raise ValueError(
            f"{options.folder}: has no label.txt to evaluate against; give --ground-truth for the "
            "official files of WIDER FACE, or --submission to only write the detections"
        )
    return None


def _note_missing(truth: dict[str, object], predictions: dict[str, object]) -> None:
    missing = [name for name in truth if name not in predictions]
    if missing:
        note(f"{len(missing)} of {len(truth)} images of the ground truth were not looked at, such "
             f"as {missing[0]}: their faces count as missed")
