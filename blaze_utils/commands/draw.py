"""``draw``: draw scenes with faces into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from blaze_utils.data.datasets import draw_dataset

from .common import report, whole_number

HELP = "draw a folder of labelled scenes"
EXAMPLE = "draw build/scenes --count 100 --seed 7"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("folder", type=Path, help="made if need be")
    parser.add_argument("--count", type=whole_number(1), required=True, help="number of scenes")
    parser.add_argument(
        "--seed", type=whole_number(0), required=True, help="another seed draws other scenes"
    )
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes")
    parser.add_argument(
        "--quality", type=whole_number(0, 100), default=95, help="of the JPEG files, 0 to 100"
    )


def run(options: argparse.Namespace) -> int:
    """Draw, or go on where an interrupted run stopped."""
    folder = draw_dataset(
        options.folder, options.count, options.seed, options.workers, options.quality
    )
    result = {"folder": str(options.folder), "scenes": len(folder)}
    report(result, f"{options.folder}: {len(folder)} scenes", options.json)
    return 0
