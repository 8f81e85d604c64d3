"""The compact file of an int8 model: bare integers, biases and scales, and little else.

``torch.save`` stores every tensor of a converted model as an entry of a zip archive, and with every
scale of a weight a zero point that is always 0. Here they lie in six arrays (``int8_arrays``) in
one flat file with a checksum (``flat_file``). Import the two functions from ``checkpoint``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blaze_utils.int8.flat_file import read_flat, write_flat
from blaze_utils.int8.int8_arrays import fill, fingerprint, int8_layers, to_arrays, unfilled_int8
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.int8.eager import ENGINES, check_engine, default_engine
from blaze_utils.detector.storage import CheckpointError

FORMAT, VERSION = "blaze_utils int8", "1"


def save_int8(model: nn.Module, path: str | Path) -> None:
    """Store a converted int8 model on ``path``, whole or not at all.

    The engine noted in the file is the one that is set now (``torch.backends.quantized.engine``).
    Scales are stored as float32 where that loses nothing, which is so for all that PyTorch's
    observers give, and as float64 otherwise: ``load_int8`` gives a model with the same bits.

    Args:
        model: after ``fuse_model``, ``prepare``, calibration and ``convert``: a
            ``QuantizableBlaze``, or another model of convolutions, linear layers,
            ``FloatFunctional`` and stubs. Weights symmetric, per tensor or per channel;
            activations quint8.

    Raises:
        ValueError: a layer is not converted, a batch norm is left, or the file cannot hold a layer;
            the layer is named.
        OSError: the folder does not exist or cannot be written; an older file stays as it is.
    """
    layers = int8_layers(model)
    notes = {
        "format": FORMAT,
        "version": VERSION,
        "engine": check_engine(torch.backends.quantized.engine),
        "model": type(model).__name__,
        "layers": fingerprint(layers),
    }
    write_flat(path, to_arrays(layers), notes)


def read_int8(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the notes of a compact file, as they are stored.

    Returns:
        Arrays, each in the model's order: ``weights`` int8; ``biases`` float32; ``weight_scales``
        and ``output_scales`` float32 or float64; ``output_zero_points`` uint8; ``per_channel``
        uint8, 1 for a layer with a scale for each output channel. Notes: ``format``, ``version``,
        ``engine``, ``model`` (its class) and ``layers`` (a digest of their kinds and shapes).

    Raises:
        CheckpointError: the file is missing, damaged, cut short, of another kind or of a later
            version.
    """
    arrays, notes = read_flat(path)
    if notes.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a flat file, but not one that save_int8 wrote")
    if notes.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: format version {notes.get('version')}; "
            f"this blaze_utils reads version {VERSION}"
        )
    return arrays, notes


def load_int8(
    path: str | Path, model_factory: Callable[[], nn.Module] = QuantizableBlaze
) -> nn.Module:
    """Build the int8 model that ``save_int8`` stored; its outputs are bit-identical.

    ``torch.backends.quantized.engine`` is set to the file's engine and stays so. Where this build
    of PyTorch has not got it, a warning says so and ``default_engine()`` is set: the weights are
    the same, but another engine may round otherwise, and ``x86`` without VNNI may saturate.

    Args:
        model_factory: gives the float model that was quantized, as ``quantizable_copy`` takes it;
            its weights do not matter.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: as for ``read_int8``, or the file holds other layers than those of
            ``model_factory``'s model. The engine then stays as it was.
        TypeError: ``model_factory`` gives a model that cannot be quantized.
    """
    arrays, notes = read_int8(path)
    stored, before = notes.get("engine"), torch.backends.quantized.engine
    here = stored in ENGINES and stored in torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = engine = stored if here else default_engine()
    try:
        model = _build(model_factory(), arrays, notes, path)
    except BaseException:
        torch.backends.quantized.engine = before
        raise
    if not here:
        warnings.warn(
            f"{path}: saved for the engine {stored!r}, which this build of PyTorch has not got; "
            f"{engine!r} is used, and may round otherwise",
            stacklevel=2,
        )
    return model


def _build(
    float_model: nn.Module, arrays: dict[str, np.ndarray], notes: dict[str, str], path: str | Path
) -> nn.Module:
    model = unfilled_int8(float_model)
    layers = int8_layers(model)
    if fingerprint(layers) != notes.get("layers"):
        raise CheckpointError(
            f"{path}: holds an int8 {notes.get('model')}, whose layers are not those of this "
            f"{type(model).__name__}: give the model_factory that it was made with"
        )
    try:
        fill(layers, arrays)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model
