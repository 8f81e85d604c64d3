"""Eager-mode static quantization in one call, and its parts: engine, calibration, simulation.

The notebooks show each step in the open; here is what they share. ``quantize_static`` follows
torchvision's convention for quantizable models: stubs on the model, ``fuse_model(is_qat)``.
"""

import copy
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.ao import quantization as aoq
from torch.ao.nn import intrinsic as nni

from blaze_utils.detector import Blaze, QuantizableBlaze, evaluating, preprocess
from blaze_utils.measure import compare

X86 = ("x86_64", "AMD64")  # ``platform.machine()`` on Intel and AMD: Linux and macOS, Windows


def has_vnni(engine: str = "onednn") -> bool:
    """Whether an engine's kernels add int8 products in 32 bits on this machine (VNNI).

    Without it, on x86, they add two products of 8 bits in 16 bits, where the sum saturates, unless
    activations have 7 bits (https://github.com/pytorch/pytorch/issues/44939). The engines ``x86``
    and ``fbgemm`` know AVX-512 VNNI only; ``onednn``, torch.compile, ONNX Runtime and OpenVINO take
    the AVX-VNNI of laptops too. Variables that limit FBGEMM's or oneDNN's instructions count.
    """
    flags = torch.cpu.get_capabilities()
    if engine in ("x86", "fbgemm"):
        limit = os.environ.get("FBGEMM_ENABLE_INSTRUCTIONS", "VNNI")
        return bool(flags.get("avx512_vnni")) and "VNNI" in limit.upper()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    limited = limit in ("SSE41", "AVX", "AVX2", "AVX512_CORE")
    return bool(flags.get("avx512_vnni") or flags.get("avx_vnni")) and not limited


def saturates(engine: str) -> bool:
    """Whether sums of 8-bit products can saturate in an engine on this machine."""
    return engine != "qnnpack" and platform.machine() in X86 and not has_vnni(engine)


def default_engine() -> str:
    """The engine to use on this machine, by its processor's flags; nothing is measured.

    ``x86`` on Intel and AMD with AVX-512 VNNI, where it runs oneDNN's kernels. Without, it runs
    FBGEMM's, and ``onednn`` is faster. ``qnnpack`` on Arm.
    """
    if platform.machine() not in X86:
        order = ("qnnpack", "onednn")
    else:
        order = ("x86", "onednn") if has_vnni("x86") else ("onednn", "x86")
    supported = torch.backends.quantized.supported_engines
    return next(engine for engine in (*order, "fbgemm", "qnnpack") if engine in supported)


def check_engine(engine: str | None) -> str:
    """The engine asked for, or the default one for None; ValueError if it is not built in here."""
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    engine = default_engine() if engine is None else engine
    if engine not in supported:
        raise ValueError(
            f"engine: {engine!r} is not in this build of PyTorch, which has {supported}"
        )
    return engine


def default_qconfig(engine: str | None = None, is_qat: bool = False) -> aoq.QConfig:
    """PyTorch's default qconfig for an engine, safe from saturation on this machine.

    PyTorch's own (``get_default_qconfig``, ``get_default_qat_qconfig``) gives ``onednn`` 8 bits and
    a warning where there is no VNNI. Here it then gets the 7 bits that ``x86`` always has.
    """
    engine = check_engine(engine)
    engine = "x86" if engine == "onednn" and saturates(engine) else engine
    return (aoq.get_default_qat_qconfig if is_qat else aoq.get_default_qconfig)(engine)


@contextmanager
def using_engine(engine: str) -> Iterator[None]:
    """Set ``torch.backends.quantized.engine`` for a while."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def quantizable_copy(model: nn.Module) -> nn.Module:
    """A copy of a float model with stubs and ``fuse_model``, on the CPU, in evaluation mode.

    A ``Blaze`` becomes a ``QuantizableBlaze`` with the same weights; a model that has
    ``fuse_model`` and a ``QuantStub`` already, as torchvision's quantizable ones, is copied.
    TypeError for any other model, or one that has been converted.
    """
    if type(model) is Blaze:
        twin = QuantizableBlaze()
        twin.load_state_dict(model.state_dict())
    elif hasattr(model, "fuse_model") and any(
        isinstance(m, aoq.QuantStub) for m in model.modules()
    ):
        twin = copy.deepcopy(model)
    else:
        raise TypeError(
            f"{type(model).__name__}: expected a float Blaze, or a model with QuantStub, "
            "DeQuantStub and fuse_model() that has not been converted (blaze_utils.diagnose says "
            "what a model still needs)"
        )
    return twin.cpu().eval()


class AddFused(nn.Module):
    """A single ``QuantizableBlazeBlock`` whose last convolution adds the shortcut and rectifies."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first, last = block.conv[0][0], block.conv[0][3]
        self.shortcut = getattr(block, "shortcut", nn.Identity())
        self.last = nni.ConvAddReLU2d(last, torch.add, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.last(self.first(x), self.shortcut(x))


def fuse_add(model: QuantizableBlaze) -> None:
    """Fuse convolution, addition and ReLU into one operator, in place; for the engine ``onednn``.

    Five of the eleven blocks: in the others a ReLU stands between convolution and addition. Other
    engines say ``Didn't find engine for operation quantized::conv2d_add``. The operator writes its
    result, and its scale, over the block's input: nothing else may need that.

    Args:
        model: in evaluation mode, after ``fuse_model``, before ``prepare``.
    """
    for name, block in list(model.named_children()):
        if hasattr(block, "skip_add_relu") and len(block.conv) == 1:
            setattr(model, name, AddFused(block).eval())


def calibrate(
    prepared: nn.Module, images: Iterable[np.ndarray | Tensor], long_side: int | None = 640
) -> int:
    """Show images to a prepared model, so that its observers see the range of every activation.

    Args:
        prepared: runs in evaluation mode.
        images: uint8 arrays [H, W, 3] BGR, which are preprocessed as for detection, or tensors
            float32 [N, 3, H, W] that have been preprocessed already.
        long_side: larger images are reduced to it, see ``preprocess``; not for tensors.

    Returns the number of images; ValueError if there are none.
    """
    count = 0
    with evaluating(prepared), torch.inference_mode():
        for image in images:
            prepared(image if isinstance(image, Tensor) else preprocess(image, long_side)[0])
            count += 1
    if not count:
        raise ValueError("images: there are none, and without images no range is known")
    return count


def quantize_static(
    float_model: nn.Module,
    images: Iterable[np.ndarray | Tensor],
    engine: str | None = None,
    qconfig: aoq.QConfig | None = None,
) -> nn.Module:
    """Post-training static quantization: copy, fuse, prepare, calibrate, convert.

    Args:
        float_model: a ``Blaze``, or a model after torchvision's quantizable convention; it is not
            changed.
        images: what to calibrate with, as for ``calibrate``.
        engine: ``x86``, ``fbgemm``, ``onednn`` or ``qnnpack``; None takes ``default_engine()``,
            ``"fastest"`` what ``fastest_engine`` finds with the first image, in some seconds.
            ``torch.backends.quantized.engine`` is set to it and stays so: the model needs it.
        qconfig: None takes ``default_qconfig(engine)``, with which no engine saturates.

    Returns the int8 model, on the CPU, in evaluation mode.

    Raises:
        TypeError: the model cannot be quantized this way (see ``quantizable_copy``).
        ValueError: the engine is not here, or there are no images.
        RuntimeError: the model has been fused already.
    """
    if engine == "fastest":
        first = list(islice(images := iter(images), 1))
        engine, images = fastest_engine(float_model, first, qconfig), chain(first, images)
    engine = check_engine(engine)
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    model.qconfig = default_qconfig(engine) if qconfig is None else qconfig
    prepared = aoq.prepare(model, inplace=True)
    calibrate(prepared, images)
    torch.backends.quantized.engine = engine
    return aoq.convert(prepared, inplace=True)


def fastest_engine(
    float_model: nn.Module, images: list[np.ndarray | Tensor], qconfig: aoq.QConfig | None = None
) -> str:
    """The engine that takes least CPU time for the first image, measured in turns, on one thread.

    ``onednn`` (8 bits where VNNI makes them safe), ``fbgemm`` or ``qnnpack``: ``x86`` always runs
    the kernels of one of the first two. Arguments as for ``quantize_static``.
    """

    def arm(engine: str) -> Callable[[Tensor], object]:
        int8 = quantize_static(float_model, images[:1], engine, qconfig)

        def run(x: Tensor) -> object:
            torch.backends.quantized.engine = engine
            return int8(x)

        return run

    supported = torch.backends.quantized.supported_engines
    with using_engine(torch.backends.quantized.engine):
        arms = {name: arm(name) for name in ("onednn", "fbgemm", "qnnpack") if name in supported}
        x = images[0] if isinstance(images[0], Tensor) else preprocess(images[0])[0]
        return compare(arms, x, rounds=5, min_run_time=0.25).cpu_ms.idxmin()


def weight_bits_qconfig(bits: int, *, per_channel: bool, engine: str | None = None) -> aoq.QConfig:
    """A QAT qconfig with symmetric weights of ``bits`` bits: integers from -(2**(bits-1) - 1) up.

    Activations are fake-quantized as in ``default_qconfig(engine, is_qat=True)``. Weights are kept
    as int8 all the same, since PyTorch has no convolution with fewer bits: what changes is the
    number of values that a weight can have. ValueError unless 2 <= bits <= 8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: expected 2 to 8, got {bits}")
    highest = 2 ** (bits - 1) - 1
    observers = aoq.MovingAverageMinMaxObserver, aoq.MovingAveragePerChannelMinMaxObserver
    weight = aoq.FakeQuantize.with_args(
        observer=observers[per_channel],
        quant_min=-highest,
        quant_max=highest,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        # The range of the weights as they are now: unlike activations they do not jump.
        averaging_constant=1.0,
    )
    return aoq.QConfig(default_qconfig(engine, is_qat=True).activation, weight)


def simulate(
    float_model: nn.Module, images: Iterable[np.ndarray | Tensor], qconfig: aoq.QConfig
) -> nn.Module:
    """Post-training quantization in fake: float arithmetic, rounded as int8 would round.

    The batch norms are folded, the ranges calibrated and frozen. What comes back, on the CPU and in
    evaluation mode, can be switched layer by layer (``disable_fake_quant``), and converted.

    Args:
        float_model, images: as for ``quantize_static``; same errors.
        qconfig: with fake quantization for activations and weights, as a QAT qconfig has. With
            observers only, nothing would be rounded: ValueError.
    """
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    model.qconfig = qconfig
    prepared = aoq.prepare_qat(model.train(), inplace=True).eval()
    if not any(isinstance(module, aoq.FakeQuantizeBase) for module in prepared.modules()):
        raise ValueError("qconfig: has no fake quantization; get_default_qat_qconfig's has")
    prepared.apply(aoq.enable_observer).apply(aoq.disable_fake_quant)
    calibrate(prepared, images)
    return prepared.apply(aoq.disable_observer).apply(aoq.enable_fake_quant)


def sensitivity(simulated: nn.Module, measure: Callable[[nn.Module], float]) -> pd.DataFrame:
    """What the rounding in each part of a network costs.

    Args:
        simulated: a model from ``simulate``; at the end all of it rounds again.
        measure: gives the quality of a model, such as an SQNR or an AP.

    Returns one row for each child module that rounds, in order, indexed by name: the measure with
    ``alone`` (this child rounds, the rest is float) and ``left_float`` (all but this child).
    """
    rows = {}
    for name, child in simulated.named_children():
        if any(isinstance(module, aoq.FakeQuantizeBase) for module in child.modules()):
            simulated.apply(aoq.disable_fake_quant)
            child.apply(aoq.enable_fake_quant)
            alone = measure(simulated)
            simulated.apply(aoq.enable_fake_quant)
            child.apply(aoq.disable_fake_quant)
            rows[name] = {"alone": alone, "left_float": measure(simulated)}
    simulated.apply(aoq.enable_fake_quant)
    return pd.DataFrame.from_dict(rows, orient="index")
