"""One line each for the mistakes in quantization that raise no error.

Notebook 08 shows every one of them with its symptom. A check returns None if all is well and raises
``CheckError`` otherwise; the message names the modules and says what to do.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase
from torch.overrides import TorchFunctionMode

SHOWN = 3
"""So many modules are named in a message."""

SATURATING_ENGINES = ("x86", "fbgemm", "onednn")
"""Engines that, on an x86 processor without VNNI, add pairs of products in 16 bits."""

SHAREABLE = (
    DeQuantStub, nnq.DeQuantize, nn.Flatten, nn.Dropout, nn.Upsample, nn.PixelShuffle,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)
"""Modules that only move numbers: they keep no scale and are not fused, so they may run twice."""


class CheckError(AssertionError):
    """A silent mistake was found; the message names the modules and the remedy."""


def _fail_for(names: Iterable[str], problem: str) -> None:
    """Raise ``CheckError`` if there are names; ``problem`` follows them in the message."""
    names = [name or "the model" for name in names]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckError(f"{', '.join(names[:SHOWN])}{more}: {problem}")


def _observers(model: nn.Module) -> dict[str, nn.Module]:
    """Observers by dotted name, those inside fake quantization included."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ObserverBase)}


def assert_prepared(model: nn.Module) -> None:
    """``prepare`` or ``prepare_qat`` has put in observers: there was a qconfig for it to apply."""
    if not _observers(model):
        raise CheckError("no observers: set model.qconfig, then call prepare")


def assert_converted(model: nn.Module) -> None:
    """``convert`` has done something: there are int8 layers, and no observers any more."""
    _fail_for(_observers(model), "still observing: call convert, and use what it returns")
    if not any(isinstance(module, WeightedQuantizedModule) for module in model.modules()):
        raise CheckError("no int8 layer: set model.qconfig, call prepare, then convert")


def assert_calibrated(model: nn.Module) -> None:
    """Every observer of a prepared model, every scale of a converted one, comes from data.

    A converted module that never saw data has the default scale 1.0 and zero point 0.

    Raises:
        CheckError: some have seen nothing (an observer that is never used counts: remove it), or
            there is neither an observer nor a scale to look at.
    """
    observers = _observers(model)
    int8 = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "zero_point") and not isinstance(module, FakeQuantizeBase)
    }
    if not observers and not int8:
        raise CheckError("neither observers nor scales: call prepare first")
    _fail_for(
        [name for name, observer in observers.items() if not _has_seen_data(observer)]
        + [n for n, m in int8.items() if float(m.scale) == 1.0 and int(m.zero_point) == 0],
        "never saw data: calibrate between prepare and convert, through the same path",
    )


def _has_seen_data(observer: nn.Module) -> bool:
    low = getattr(observer, "min_val", None)
    # Some observers, such as the placeholder of dynamic quantization, keep no range.
    return low is None or (low.numel() > 0 and bool(torch.isfinite(low).all()))


def assert_no_batch_norm(model: nn.Module) -> None:
    """No batch norm is left, float or int8, that ``fuse_modules`` should have folded.

    Those inside the fused modules of quantization-aware training are meant to be there.
    """
    parts = {part for m in model.modules() if isinstance(m, _FusedModule) for part in m.modules()}
    _fail_for(
        (
            name
            for name, module in model.named_modules()
            if "BatchNorm" in type(module).__name__ and module not in parts
        ),
        "batch norm left: fuse it with the convolution before it, before prepare",
    )


def assert_fake_quantized(model: nn.Module) -> None:
    """A model after ``prepare_qat`` really rounds: fake quantization is there, everywhere, and on.

    Raises:
        CheckError: there is none, a place only observes (a qconfig of post-training quantization),
            or one is switched off (``disable_fake_quant``).
    """
    fakes = {name: m for name, m in model.named_modules() if isinstance(m, FakeQuantizeBase)}
    _fail_for(
        (name for name in _observers(model) if name.rpartition(".")[0] not in fakes),
        "observes but does not round: use get_default_qat_qconfig",
    )
    if not fakes:
        raise CheckError("no fake quantization: set model.qconfig, then call prepare_qat")
    _fail_for(
        (name for name, fake in fakes.items() if not bool(fake.fake_quant_enabled[0])),
        "fake quantization is off: model.apply(torch.ao.quantization.enable_fake_quant)",
    )


def assert_input_covered(
    int8: nn.Module, x: Tensor, clipped: float = 0.01, used: float = 0.2
) -> None:
    """The input's quantizer fits ``x``: what the model was calibrated with looked like it.

    Args:
        int8: a converted model; the ``Quantize`` that comes first in it is looked at.
        x: an input as the model will get it, preprocessed, float32.
        clipped: so large a share of the values may lie outside the quantizer's range.
        used: the values must span at least so large a share of that range.
    """
    quantizer = next((m for m in int8.modules() if isinstance(m, nnq.Quantize)), None)
    if quantizer is None:
        raise CheckError("no Quantize in the model: convert a model with a QuantStub")
    scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
    limits = torch.iinfo(torch.int8 if quantizer.dtype == torch.qint8 else torch.uint8)
    low, high = (scale * (limit - zero_point) for limit in (limits.min, limits.max))
    # Half a step beyond the end still rounds to the end.
    outside = float(((x < low - scale / 2) | (x > high + scale / 2)).float().mean())
    span = float(x.max() - x.min()) / (high - low)
    if outside > clipped or span < used:
        raise CheckError(
            f"the quantizer reaches from {low:.4g} to {high:.4g}, the input from "
            f"{float(x.min()):.4g} to {float(x.max()):.4g}: calibrate with the same preprocessing"
        )


def assert_no_saturation(
    model: nn.Module, engine: str | None = None, vnni: bool | None = None
) -> None:
    """No sum of products can saturate in 16 bits where the model will run.

    On x86 without VNNI, the kernels add two products of an 8-bit activation and an 8-bit weight in
    16 bits. Activations of 7 bits (``reduce_range=True``) leave room for the sum. See
    https://github.com/pytorch/pytorch/issues/44939.

    Args:
        model: after ``prepare`` or ``prepare_qat``; a converted model does not tell.
        engine: that will run it; None takes ``torch.backends.quantized.engine``.
        vnni: whether the processor that will run it has AVX-512 VNNI; None asks this machine, where
            processors other than x86 count as having it.
    """
    assert_prepared(model)
    if vnni is None:
        features = torch.cpu.get_capabilities()
        vnni = features.get("avx512_vnni", False) or not features["architecture"].startswith("x86")
    if vnni or (engine or torch.backends.quantized.engine) not in SATURATING_ENGINES:
        return
    _fail_for(
        (
            name
            for name, observer in _observers(model).items()
            if observer.dtype == torch.quint8 and observer.quant_max - observer.quant_min > 127
        ),
        "activations of 8 bits, which saturate without VNNI: use get_default_qconfig('x86')",
    )


def assert_called_once(model: nn.Module, *inputs: Tensor) -> None:
    """No module that has a scale, or could be fused, runs more often than once in a call.

    An observer that runs twice gets one range for two places; of a ReLU that is used twice, fusion
    takes one use away. Modules in ``SHAREABLE`` may run as often as they like. The call is made
    with a copy of the model, in evaluation mode: observers and batch norms do not see ``inputs``.
    """
    model, calls = copy.deepcopy(model).eval(), Counter()
    for name, module in model.named_modules():
        if not list(module.children()) and not isinstance(module, SHAREABLE):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.inference_mode():
        model(*inputs)
    _fail_for(
        (name for name, count in calls.items() if count > 1),
        "runs more than once in a call: make one instance for each use",
    )


class _CatWatcher(TorchFunctionMode):
    """Raises ``CheckError`` where quantized tensors of different scales are concatenated."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.cat, torch.concat, torch.concatenate, torch.stack):
            parts = args[0] if args else kwargs["tensors"]
            if len({(part.q_scale(), part.q_zero_point()) for part in parts if part.is_quantized}) > 1:
                raise CheckError(
                    f"torch.{func.__name__} of {len(parts)} quantized tensors with different scales: "
                    "dequantize them first, or use FloatFunctional().cat"
                )
        return func(*args, **(kwargs or {}))


def assert_cat_keeps_scales(int8: nn.Module, *inputs: Tensor) -> None:
    """A converted model concatenates no quantized tensors of different scales.

    ``torch.cat`` gives the result the first tensor's scale, and clips the others to its range.
    """
    with torch.inference_mode(), _CatWatcher():
        int8(*inputs)
