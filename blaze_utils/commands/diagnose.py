"""``diagnose``: what stands between a model of your own and int8."""

from __future__ import annotations

import argparse
import importlib
import inspect
import operator
import re
import sys
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

from blaze_utils.diagnose import diagnose

from .common import one_line, report

HELP = "say what stands between a model of your own and int8"
EXAMPLE = "diagnose torchvision.models:resnet18 --input 1x3x224x224"
MORE = """
The exit status is 0 if there are no findings, 1 if there are, 2 if the model cannot be had.
"""

NO_DOWNLOAD = {"weights": None, "weights_backbone": None}
"""Handed to a factory that takes them, as torchvision's do: the structure is what counts."""


class FactoryError(ValueError):
    """The model cannot be imported or made; the message names module and line."""

    status = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "model", metavar="MODULE:NAME",
        help="a class or function that gives the model when called without arguments, or the model",
    )
    parser.add_argument(
        "--input", dest="inputs", type=_input, action="append", metavar="SIZES",
        help="of the tensor to call it with (default: 1x3x224x224), repeated for more arguments; "
        "in brackets a list of tensors: [3x320x320,3x240x320]",
    )


def _input(text: str) -> Tensor | list[Tensor]:
    """Random numbers from 0 to 1, always the same ones."""
    if not re.fullmatch(r"\d+(x\d+)*|\[\d+(x\d+)*(,\d+(x\d+)*)*\]", text):
        raise argparse.ArgumentTypeError(f"expected sizes such as 1x3x224x224, got {text!r}")
    generator = torch.Generator().manual_seed(0)
    shapes = [[int(size) for size in part.split("x")] for part in text.strip("[]").split(",")]
    tensors = [torch.rand(shape, generator=generator) for shape in shapes]
    return tensors if text.startswith("[") else tensors[0]


def run(options: argparse.Namespace) -> int:
    """Print the findings."""
    inputs = options.inputs or [_input("1x3x224x224")]
    findings = diagnose(load_model(options.model), tuple(inputs))
    report(findings.to_frame().to_dict("records"), repr(findings), options.json)
    return 1 if findings else 0


def load_model(name: str) -> nn.Module:
    """Import ``module:name`` and call it, unless it is a model already.

    Raises:
        FactoryError: it cannot be imported or called, or gives something else.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise FactoryError(f"{name!r}: expected MODULE:NAME, such as torchvision.models:resnet18")
    if str(Path.cwd()) not in sys.path:  # so that the reader's own modules are found
        sys.path.insert(0, str(Path.cwd()))
    # Whatever the reader's code raises is said in one line.
    try:
        model = operator.attrgetter(attribute)(importlib.import_module(module))
        if not isinstance(model, nn.Module):
            model = model(**_without_download(model))
    except Exception as error:
        where = _where(error)
        raise FactoryError(f"{name}: {type(error).__name__}: {one_line(error)}{where}") from error
    if not isinstance(model, nn.Module):
        raise FactoryError(f"{name}: gives a {type(model).__name__}, expected an nn.Module")
    return model


def _where(error: Exception) -> str:
    """File and line of the reader's code that an error comes from, if it comes from there."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = frame.filename == __file__ or frame.filename.startswith("<")
    return "" if ours else f" ({frame.filename}:{frame.lineno})"


def _without_download(factory: object) -> dict[str, None]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # as for some built-in functions
        return {}
    return {key: value for key, value in NO_DOWNLOAD.items() if key in parameters}
