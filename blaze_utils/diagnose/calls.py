"""What a recording consists of: ``Call``, and where in the user's code it was made."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

TORCH = str(Path(torch.__file__).parent) + os.sep
TORCH_MODULES = str(Path(TORCH, "nn", "modules")) + os.sep
HERE = str(Path(__file__).parent) + os.sep


@dataclass
class Call:
    """One operator, or one unit (see ``anatomy``), as it was called.

    Attributes:
        module: dotted name of the innermost module.
        op: the operator's name without underscores (``add``, also for ``+`` and ``+=``), or the
            class of the unit.
        place: file and line of the call in the user's code, such as ``model.py:109``.
        builtin: the operator is called by a module of ``torch.nn`` rather than by the user's code.
        unit: whether it is a unit.
        inputs, outputs: numbers of the values; a tensor changed in place is a new value.
        inside: an input is int8 in the converted model.
        error: what PyTorch says to int8 inputs (for units see ``watching``); "" if all is well.
        scales: scales of the int8 inputs; equal ones mean that the tensors share a scale.
    """

    module: str
    op: str
    place: str
    builtin: bool
    unit: bool
    inputs: list[int]
    inside: bool
    scales: list[float]
    outputs: list[int] = field(default_factory=list)
    error: str = ""


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def dequantized(leaf: Any) -> Any:
    """A quantized tensor as float, contiguous as in a float model; anything else as it is."""
    is_int8 = isinstance(leaf, Tensor) and leaf.is_quantized
    return leaf.dequantize().contiguous() if is_int8 else leaf


def first_sentence(error: Exception) -> str:
    """What an exception says, up to its first full stop or line end."""
    lines = str(error).split(". ")[0].strip().splitlines()
    return lines[0] if lines else type(error).__name__


def place_of_caller() -> tuple[str, bool]:
    """Where the user's code called an operator, and whether torch.nn stands in between."""
    frame, builtin = sys._getframe(1), False
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((TORCH, HERE)):
            return f"{_file_name(file)}:{frame.f_lineno}", builtin
        builtin = builtin or file.startswith(TORCH_MODULES)
        frame = frame.f_back
    return "", builtin


def _file_name(file: str) -> str:
    """A file's base name; the cells of a notebook are files with a name that says nothing."""
    return "notebook cell" if "ipykernel" in file or "<ipython" in file else Path(file).name
