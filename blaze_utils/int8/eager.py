"""Eager-mode static quantization in one call, and its parts: calibrate, convert, simulate.

The notebooks show each step in the open; here is what they share. ``quantize_static`` follows
torchvision's convention for quantizable models: stubs on the model, ``fuse_model(is_qat)``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    FakeQuantizeBase,
    QConfig,
    QuantStub,
    convert,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
    get_default_qat_qconfig,
    get_default_qconfig,
    prepare,
    prepare_qat,
)
from torch.ao.quantization.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)

from blaze_utils.detector.finding import evaluating, preprocess
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.quantizable import QuantizableBlaze

ENGINES = ("x86", "fbgemm", "qnnpack", "onednn")
"""Quantized engines in the order in which ``default_engine`` prefers them."""


def default_engine() -> str:
    """The engine to use on this machine: ``x86`` on Intel and AMD, ``qnnpack`` on Arm."""
    supported = torch.backends.quantized.supported_engines
    return next(engine for engine in ENGINES if engine in supported)


def check_engine(engine: str | None) -> str:
    """The engine asked for, or the default one for None; ValueError if it is not built in here."""
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    engine = default_engine() if engine is None else engine
    if engine not in supported:
        raise ValueError(f"engine: {engine!r} is not in this build of PyTorch, which has {supported}")
    return engine


def quantizable_copy(model: nn.Module) -> nn.Module:
    """A copy of a float model with stubs and ``fuse_model``, on the CPU, in evaluation mode.

    A ``Blaze`` becomes a ``QuantizableBlaze`` with the same weights; a model that has ``fuse_model``
    and a ``QuantStub`` already, as torchvision's quantizable ones, is copied.

    Raises:
        TypeError: any other model, or one that has been converted already.
    """
    if type(model) is Blaze:
        twin = QuantizableBlaze()
        twin.load_state_dict(model.state_dict())
    elif hasattr(model, "fuse_model") and any(isinstance(m, QuantStub) for m in model.modules()):
        twin = copy.deepcopy(model)
    else:
        raise TypeError(
            f"{type(model).__name__}: expected a float Blaze, or a model with QuantStub, DeQuantStub "
            "and fuse_model() that has not been converted (blaze_utils.diagnose says what a model "
            "still needs)"
        )
    return twin.cpu().eval()


def calibrate(
    prepared: nn.Module, images: Iterable[np.ndarray | Tensor], long_side: int | None = 640
) -> int:
    """Show images to a prepared model, so that its observers see the range of every activation.

    Args:
        prepared: what ``prepare`` or ``prepare_qat`` gave; it runs in evaluation mode.
        images: uint8 arrays [H, W, 3] BGR, which are preprocessed as for detection, or tensors
            float32 [N, 3, H, W] that have been preprocessed already.
        long_side: larger images are reduced to it, see ``detect.preprocess``; not for tensors.

    Returns:
        The number of images.

    Raises:
        ValueError: there are no images, or one has another type or shape (its number is named).
    """
    count = 0
    with evaluating(prepared), torch.inference_mode():
        for number, image in enumerate(images):
            prepared(_network_input(image, number, long_side))
            count += 1
    if not count:
        raise ValueError("images: there are none, and without images no range is known")
    return count


def _network_input(image: np.ndarray | Tensor, number: int, long_side: int | None) -> Tensor:
    if not isinstance(image, Tensor):
        try:
            return preprocess(image, long_side)[0]
        except ValueError as error:
            raise ValueError(f"images: number {number}: {error}") from error
    if image.dim() != 4 or image.shape[1] != 3 or not image.numel() or image.dtype != torch.float32:
        raise ValueError(
            f"images: number {number}: expected a preprocessed float32 tensor [N, 3, H, W] or a "
            f"uint8 array [H, W, 3], got {image.dtype} {list(image.shape)}"
        )
    if not torch.isfinite(image).all():
        raise ValueError(f"images: number {number}: holds NaN or infinite values")
    return image


def quantize_static(
    float_model: nn.Module,
    images: Iterable[np.ndarray | Tensor],
    engine: str | None = None,
    qconfig: QConfig | None = None,
) -> nn.Module:
    """Post-training static quantization: copy, fuse, prepare, calibrate, convert.

    Args:
        float_model: a ``Blaze``, or a model after torchvision's quantizable convention; it is not
            changed.
        images: what to calibrate with, as for ``calibrate``; 32 are plenty for this network.
        engine: ``x86``, ``fbgemm``, ``onednn`` or ``qnnpack``; None takes ``default_engine()``.
            ``torch.backends.quantized.engine`` is set to it and stays so: the model needs it to run.
        qconfig: None takes the engine's default.

    Returns:
        The int8 model, on the CPU, in evaluation mode.

    Raises:
        TypeError: the model cannot be quantized this way (see ``quantizable_copy``).
        ValueError: the engine is not here, or the images are unfit (see ``calibrate``).
        RuntimeError: the model has been fused already.
    """
    engine = check_engine(engine)
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    model.qconfig = get_default_qconfig(engine) if qconfig is None else qconfig
    prepared = prepare(model, inplace=True)
    calibrate(prepared, images)
    torch.backends.quantized.engine = engine
    return convert(prepared, inplace=True)


def weight_bits_qconfig(bits: int, *, per_channel: bool, engine: str | None = None) -> QConfig:
    """A QAT qconfig with symmetric weights of ``bits`` bits: integers from -(2**(bits-1) - 1) up.

    Activations are fake-quantized as in ``get_default_qat_qconfig(engine)``. The weights are stored
    as int8 all the same, since PyTorch has no convolution with fewer bits: what changes is the
    number of different values that a weight can have.

    Raises:
        ValueError: ``bits`` below 2 or above 8, or the engine is not here.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: expected 2 to 8, got {bits}")
    highest = 2 ** (bits - 1) - 1
    observer, scheme = (
        (MovingAveragePerChannelMinMaxObserver, torch.per_channel_symmetric)
        if per_channel
        else (MovingAverageMinMaxObserver, torch.per_tensor_symmetric)
    )
    # An averaging constant of 1 takes the range of the weights as they are now: they do not jump
    # from batch to batch as activations do.
    weight = FakeQuantize.with_args(
        observer=observer, quant_min=-highest, quant_max=highest, dtype=torch.qint8,
        qscheme=scheme, averaging_constant=1.0,
    )
    return QConfig(get_default_qat_qconfig(check_engine(engine)).activation, weight)


def simulate(
    float_model: nn.Module, images: Iterable[np.ndarray | Tensor], qconfig: QConfig
) -> nn.Module:
    """Post-training quantization in fake: float arithmetic, rounded as int8 would round.

    The batch norms are folded, the ranges calibrated and frozen. What comes back can be switched
    layer by layer (``torch.ao.quantization.disable_fake_quant``), and converted.

    Args:
        float_model, images: as for ``quantize_static``.
        qconfig: with fake quantization for activations and weights, as a QAT qconfig has.

    Returns:
        A fake-quantized model on the CPU, in evaluation mode.

    Raises:
        ValueError: the qconfig has observers only, with which nothing would be rounded.
        TypeError, RuntimeError: as ``quantize_static``.
    """
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    model.qconfig = qconfig
    prepared = prepare_qat(model.train(), inplace=True).eval()
    if not any(isinstance(module, FakeQuantizeBase) for module in prepared.modules()):
        raise ValueError("qconfig: has no fake quantization; get_default_qat_qconfig's has")
    prepared.apply(enable_observer).apply(disable_fake_quant)
    calibrate(prepared, images)
    return prepared.apply(disable_observer).apply(enable_fake_quant)


def sensitivity(simulated: nn.Module, measure: Callable[[nn.Module], float]) -> pd.DataFrame:
    """What the rounding in each part of a network costs.

    Args:
        simulated: a model from ``simulate``; at the end all of it rounds again.
        measure: gives the quality of a model, such as an SQNR or an AP.

    Returns:
        One row for each child module that rounds, in order, indexed by name: the measure with
        ``alone`` (this child rounds, the rest is float) and ``left_float`` (all but this child).
    """
    rows = {}
    for name, child in simulated.named_children():
        if any(isinstance(module, FakeQuantizeBase) for module in child.modules()):
            simulated.apply(disable_fake_quant)
            child.apply(enable_fake_quant)
            alone = measure(simulated)
            simulated.apply(enable_fake_quant)
            child.apply(disable_fake_quant)
            rows[name] = {"alone": alone, "left_float": measure(simulated)}
    simulated.apply(enable_fake_quant)
    return pd.DataFrame.from_dict(rows, orient="index")
