"""What the commands share: defaults, types of options, opening a detector, reporting."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.ao.nn.quantized import Conv2d

from blaze_utils.detector.checkpoint import load_float
from blaze_utils.int8.int8_file import load_int8
from blaze_utils.progress import tqdm

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
CHECKPOINT = DATA / "checkpoints" / "blaze_float.pth"
BUILD = Path("build")
"""Below it a command writes what it is not told where to write."""


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A type of option: a whole number from ``least`` to ``most``."""
    wanted = f"expected a whole number from {least} " + (f"to {most}" if most < math.inf else "up")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{wanted}, got {text!r}")
        return value

    return parse


def share(text: str) -> float:
    """A type of option: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option of every command."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_detector(parser: argparse.ArgumentParser) -> None:
    """The options of commands that run a detector."""
    parser.add_argument(
        "--checkpoint", type=Path, default=CHECKPOINT, metavar="FILE",
        help="a float checkpoint, or an int8 file that quantize wrote",
    )
    parser.add_argument(
        "--long-side", type=whole_number(0), default=640, metavar="PIXELS",
        help="larger images are reduced to it; 0 keeps their size",
    )


def load_detector(path: Path) -> nn.Module:
    """The detector in a file, float or int8: its first bytes tell, not its name.

    Raises:
        CheckpointError: as ``load_float`` or ``load_int8``.
    """
    return load_int8(path) if holds_int8(path) else load_float(path)


def holds_int8(path: Path) -> bool:
    """Whether a file begins as a compact int8 file does: a length of eight bytes, then JSON."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def is_int8(model: nn.Module) -> bool:
    """Whether a detector has int8 convolutions."""
    return any(isinstance(module, Conv2d) for module in model.modules())


def prepare_output(path: Path) -> Path:
    """Make the folder of a file that a long run will write, and refuse a folder in its place."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def note(message: object) -> None:
    """One line on stderr, beside the progress bar if there is one."""
    tqdm.write(f"blaze_utils: {one_line(message)}", file=sys.stderr)


def one_line(message: object) -> str:
    """A message or an error without line breaks; of one in a worker process the error alone."""
    if isinstance(message, OSError) and message.filename is not None and message.strerror:
        return f"{message.filename}: {message.strerror}"
    text = str(message)
    if "DataLoader worker process" in text and "Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(message).__name__


def report(result: Any, table: str, as_json: bool) -> None:
    """Print a result: ``table``, or the plain values of ``result`` as JSON."""
    print(json.dumps(_plain(result), indent=2, ensure_ascii=False) if as_json else table)


def _plain(value: Any) -> Any:
    """The value as JSON has it; a number that is not finite is null there."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def two_columns(rows: dict[str, str]) -> str:
    """A table of names and values."""
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())
