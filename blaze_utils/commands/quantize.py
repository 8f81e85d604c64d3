"""``quantize``: a float checkpoint and photographs in, a compact int8 file out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Subset

from blaze_utils.measure.cost import compare
from blaze_utils.detector.checkpoint import load_float
from blaze_utils.int8.int8_file import save_int8
from blaze_utils.data.datasets import DatasetError, PhotoFolder
from blaze_utils.detector.finding import preprocess
from blaze_utils.detector import predict
from blaze_utils.measure.metrics import agreement_ap
from blaze_utils.progress import tqdm
from blaze_utils.int8.eager import ENGINES, check_engine, quantize_static
from blaze_utils.measure.sqnr import head_sqnr

from .common import (
    BUILD,
    CHECKPOINT,
    DATA,
    holds_int8,
    note,
    prepare_output,
    report,
    two_columns,
    whole_number,
)

HELP = "make an int8 detector from a float one, calibrated on your photographs"
EXAMPLE = "quantize my_photographs --output build/mine_int8.safetensors"

SQNR_IMAGES = 8
"""So many calibration images are enough for an SQNR to one decimal."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=DATA / "calibration",
        help="photographs to calibrate with, labels are not needed")
    add("--checkpoint", type=Path, default=CHECKPOINT, metavar="FILE", help="float, not int8")
    add("--images", type=whole_number(1), default=32, metavar="N",
        help="how many photographs to use at most, spread over the folder")
    add("--engine", choices=ENGINES, help="the default depends on this machine's processor")
    add("--output", type=Path, metavar="FILE",
        help="the int8 file (default: build/NAME_int8.safetensors, NAME being the checkpoint's)")


def run(options: argparse.Namespace) -> int:
    """Quantize, store, and compare with float on the calibration images."""
    name = f"{options.checkpoint.stem}_int8.safetensors"
    engine = check_engine(options.engine)
    if holds_int8(options.checkpoint):
        raise ValueError(f"{options.checkpoint}: is int8 already, expected a float checkpoint")
    model = load_float(options.checkpoint)
    folder = PhotoFolder(options.folder)
    output = prepare_output(options.output or BUILD / name)
    chosen = np.unique(np.linspace(0, len(folder) - 1, options.images).round().astype(int)).tolist()
    readable: list[int] = []
    int8 = quantize_static(model, _inputs(folder, chosen, readable), engine)
    save_int8(int8, output)
    result = {"output": str(output), "engine": engine, "images": len(readable),
              "skipped": len(chosen) - len(readable),
              "float_bytes": options.checkpoint.stat().st_size, "int8_bytes": output.stat().st_size}
    result |= _comparison(model, int8, Subset(folder, readable))
    report(result, _table(result), options.json)
    return 0


def _inputs(folder: PhotoFolder, chosen: list[int], readable: list[int]) -> Iterator[Tensor]:
    """The network's inputs from photographs; notes which can be read, and which cannot, and why."""
    for index in tqdm(chosen, "calibrating", unit="image"):
        try:
            image = folder[index].image
        except (OSError, DatasetError) as error:
            note(f"skipped: {error}")
            continue
        readable.append(index)
        yield preprocess(image)[0]
    if not readable:
        raise DatasetError(f"{folder.root}: no image in it can be read")


def _comparison(model: nn.Module, int8: nn.Module, images: Subset) -> dict[str, object]:
    """What int8 changes: detections, outputs, and time on one thread."""
    inputs = [preprocess(images[i].image)[0] for i in range(min(len(images), SQNR_IMAGES))]
    float_found, int8_found = predict(model, images), predict(int8, images)
    latency = compare({"float": model, "int8": int8}, inputs[0], rounds=4, min_run_time=0.4)
    return {
        "agreement_ap": agreement_ap(float_found, int8_found),
        "sqnr_db": head_sqnr(model, int8, inputs).to_dict(),
        "float_ms": float(latency["median_ms"]["float"]),
        "int8_ms": float(latency["median_ms"]["int8"]),
    }


def _table(result: dict) -> str:
    before, after = result["float_bytes"], result["int8_bytes"]
    ratios = ", ".join(f"{head} {value:.1f}" for head, value in result["sqnr_db"].items())
    skipped = f" ({result['skipped']} skipped)" if result["skipped"] else ""
    return two_columns({
        "int8 file": result["output"],
        "engine": result["engine"],
        "calibration images": f"{result['images']}{skipped}",
        "size in bytes": f"{before:,} -> {after:,} ({after / before:.2f})",
        "ms an image, 1 thread": f"{result['float_ms']:.1f} -> {result['int8_ms']:.1f}",
        "agreement AP with float": f"{result['agreement_ap']:.4f}",
        "SQNR of the outputs in dB": ratios,
    })
