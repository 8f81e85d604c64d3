"""One line each for the mistakes in quantization that raise no error.

This file imports nothing but PyTorch: copy it into a project of your own. Notebook 08 shows every
mistake with its symptom. A check returns None if all is well and raises ``CheckError`` otherwise;
the message names the modules and says what to do. ``diagnose`` uses the same functions.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.nn.quantized.modules.conv import _ConvNd, _ConvTransposeNd
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

SHOWN = 3  # so many modules are named in a message
WRONG = 1e-3
"""So large a share of a kernel's results may be more than one step beside exact arithmetic. On all
engines that we tried, right kernels had none, and wrong ones hundredths or more."""
SHAREABLE = (DeQuantStub, nnq.DeQuantize, nn.Flatten, nn.Dropout, nn.Upsample, nn.PixelShuffle)
SHAREABLE += (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Modules that only move numbers: they keep no scale and are not fused, so they may run twice."""
FUNCTIONAL = (nnq.FloatFunctional, nnq.FXFloatFunctional, nnq.QFunctional)
METHODS = ("add", "add_scalar", "mul", "mul_scalar", "cat", "add_relu", "matmul")  # of FUNCTIONAL


class CheckError(AssertionError):
    """A silent mistake was found; ``modules`` are the dotted names of all modules concerned."""

    def __init__(self, message: str, modules: Iterable[str] = ("",)) -> None:
        super().__init__(message)
        self.modules = list(modules)


def fail_for(names: Iterable[str], problem: str) -> None:
    """``CheckError`` about these modules, if there are any; ``problem`` follows their names."""
    if names := list(names):
        shown = ", ".join(name or "the model" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckError(f"{shown}{more}: {problem}", names)


def is_observer(module: nn.Module) -> bool:
    """Whether ``prepare`` has put the module in: an observer or a fake quantization."""
    return isinstance(module, (ObserverBase, FakeQuantizeBase))


def is_int8(module: nn.Module) -> bool:
    """Whether ``convert`` has put the module in; those of dynamic quantization do not count."""
    path = type(module).__module__
    static = path.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized."))
    return static and "dynamic" not in path and not isinstance(module, FUNCTIONAL[:2])


def _observers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, ObserverBase)}


def assert_prepared(model: nn.Module) -> None:
    """``prepare`` or ``prepare_qat`` has put in observers: there was a qconfig for it to apply."""
    if not any(map(is_observer, model.modules())):
        raise CheckError("no observers: set model.qconfig, then call prepare")


def assert_converted(model: nn.Module) -> None:
    """``convert`` has done something: there are int8 layers, and no observers any more."""
    fail_for(_observers(model), "still observing: call convert, and use what it returns")
    if not any(isinstance(module, WeightedQuantizedModule) for module in model.modules()):
        raise CheckError("no int8 layer: set model.qconfig, call prepare, then convert")


def assert_calibrated(model: nn.Module) -> None:
    """Every observer of a prepared model, every scale of a converted one, comes from data.

    A converted module that never saw data has the default scale 1.0 and zero point 0. An observer
    that is never used counts as well: remove it.
    """
    observers, modules = _observers(model), model.named_modules()
    int8 = {n: m for n, m in modules if hasattr(m, "scale") and hasattr(m, "zero_point")}
    int8 = {name: m for name, m in int8.items() if not isinstance(m, FakeQuantizeBase)}
    if not observers and not int8:
        raise CheckError("neither observers nor scales: call prepare first")
    blind = [name for name, observer in observers.items() if not _has_seen_data(observer)]
    blind += [n for n, m in int8.items() if float(m.scale) == 1.0 and int(m.zero_point) == 0]
    fail_for(blind, "never saw data: calibrate between prepare and convert, through the same path")


def _has_seen_data(observer: nn.Module) -> bool:
    low = getattr(observer, "min_val", None)
    # Some observers, such as the placeholder of dynamic quantization, keep no range.
    return low is None or (low.numel() > 0 and bool(torch.isfinite(low).all()))


def assert_no_batch_norm(model: nn.Module) -> None:
    """No batch norm is left, float or int8, that ``fuse_modules`` should have folded.

    Those inside the fused modules of quantization-aware training are meant to be there.
    """
    parts = {part for m in model.modules() if isinstance(m, _FusedModule) for part in m.modules()}
    norms = {n: m for n, m in model.named_modules() if "BatchNorm" in type(m).__name__}
    left = [name for name, module in norms.items() if module not in parts]
    fail_for(left, "batch norm left: fuse it with the convolution before it, before prepare")


def assert_fake_quantized(model: nn.Module) -> None:
    """A model after ``prepare_qat`` really rounds: fake quantization is there, everywhere, and on.

    It is not there with a qconfig of post-training quantization, off after ``disable_fake_quant``.
    """
    fakes = {name: m for name, m in model.named_modules() if isinstance(m, FakeQuantizeBase)}
    only_observe = [name for name in _observers(model) if name.rpartition(".")[0] not in fakes]
    fail_for(only_observe, "observes but does not round: use get_default_qat_qconfig")
    if not fakes:
        raise CheckError("no fake quantization: set model.qconfig, then call prepare_qat")
    off = [name for name, fake in fakes.items() if not bool(fake.fake_quant_enabled[0])]
    fail_for(off, "fake quantization is off: model.apply(torch.ao.quantization.enable_fake_quant)")


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


@contextmanager
def watching(model: nn.Module, around: Callable) -> Iterator[None]:
    """For as long as it lasts, ``around(name, module, run, *args, **kwargs)`` is called instead.

    ``run`` is a module's ``forward``, or a method of a ``FloatFunctional``. Scripted modules cannot
    be watched.
    """
    watched = []
    for name, module in model.named_modules():
        for method in METHODS if isinstance(module, FUNCTIONAL) else ("forward",):
            if not isinstance(module, torch.jit.ScriptModule):
                run = getattr(module, method)
                setattr(module, method, partial(around, name, module, run))
                watched.append((module, method))
    try:
        yield
    finally:
        for module, method in watched:
            delattr(module, method)


def dequantized(leaf):
    """A quantized tensor as float, contiguous as in a float model; anything else as it is."""
    int8 = isinstance(leaf, Tensor) and leaf.is_quantized
    return leaf.dequantize().contiguous() if int8 else leaf


def wrong_share(exact: Tensor, int8: Tensor) -> float:
    """The share of a quantized result that is more than one step beside ``exact``, rounded."""
    grid = int8.q_scale(), int8.q_zero_point(), int8.dtype
    steps = torch.quantize_per_tensor(exact.float(), *grid).int_repr().int() - int8.int_repr().int()
    return float((steps.abs() > 1).float().mean())


def exact(module: nn.Module, method: str, x, *others, **kwargs) -> Tensor | None:
    """What an int8 layer should give, not yet rounded: its very integers, computed in float32.

    ``x`` and the others are its arguments, dequantized, ``method`` is "forward", or the one called
    of a ``QFunctional``. None if it is not known here.
    """
    if isinstance(module, nnq.QFunctional):
        return getattr(nnq.FXFloatFunctional(), method)(x, *others, **kwargs)
    if isinstance(module, nnq.PReLU):
        return F.prelu(x, module.weight.dequantize())
    if isinstance(module, nnq.ReLU6):
        return F.relu6(x)
    if isinstance(module, (nnq.Linear, _ConvNd)):
        if x.dim() == 5 and torch.backends.quantized.engine == "qnnpack":
            return None  # which does not hand such weights back
        result = _weighted(module, x)
    else:
        kinds = [k for k in type(module).__mro__ if k.__module__.startswith("torch.nn.modules.")]
        if kinds[0] is nn.Module or list(module.children()):
            return None
        twin = copy.copy(module)
        twin.training = False  # convert makes norms in training mode; int8 has none
        result = kinds[0].forward(twin, x)  # the float layer that this one is derived from
    relu = type(module).__name__.startswith(("ConvReLU", "LinearReLU", "BNReLU"))
    return result.relu() if relu else result


def _weighted(module: nn.Module, x: Tensor) -> Tensor:
    given = module.weight().dequantize().contiguous(), module.bias()
    if isinstance(module, nnq.Linear):
        return F.linear(x, *given)
    kind, padding, more = "conv", module.padding, (module.dilation, module.groups)
    if isinstance(module, _ConvTransposeNd):
        kind, more = "conv_transpose", (module.output_padding, module.groups, module.dilation)
    elif module.padding_mode != "zeros":
        both = [amount for amount in reversed(padding) for _ in range(2)]
        x, padding = F.pad(x, both, mode=module.padding_mode), 0
    return getattr(F, f"{kind}{x.dim() - 2}d")(x, *given, module.stride, padding, *more)


class _Comparison(TorchFunctionMode):
    """Compares int8 layers, and operators outside them, with exact arithmetic, as they run."""

    def __init__(self) -> None:
        super().__init__()
        self.shares, self.running, self.inside = {}, [""], 0

    def around(self, name, module, run, *args, **kwargs):
        int8 = is_int8(module)
        layer = int8 and not isinstance(module, (nnq.Quantize, nnq.DeQuantize))
        floats = tree_map(dequantized, args) if layer else ()  # now: run may change its input
        self.running.append(name)
        self.inside += int8
        result = run(*args, **kwargs)
        if layer:
            self.compare(exact(module, run.__name__, *floats, **kwargs), result)
        self.inside -= int8
        self.running.pop()
        return result

    def compare(self, expected, result) -> None:
        quantized = isinstance(result, Tensor) and result.is_quantized
        if quantized and isinstance(expected, Tensor) and expected.is_floating_point():
            if expected.shape == result.shape:
                name, share = self.running[-1], wrong_share(expected, result)
                self.shares[name] = max(share, self.shares.get(name, 0.0))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.inside:
            return func(*args, **(kwargs or {}))
        args_, kwargs_ = tree_map(dequantized, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_quantized:  # whatever else may not run twice
            self.compare(func(*args_, **kwargs_), result)
        return result


def inexact_layers(int8: nn.Module, *inputs, **options) -> dict[str, float]:
    """How far a converted model is from exact arithmetic on its own integers; it runs once.

    What computes what it should has 0.0, on every processor. A sum that saturates, or a kernel that
    reads what was never written, has more.

    Returns:
        By dotted name of the layer, or of the module that calls an operator, the share of results
        that are more than one step away (``wrong_share``), the largest of all calls.
    """
    comparison = _Comparison()
    with torch.no_grad(), watching(int8, comparison.around), comparison:
        int8(*inputs, **options)
    return comparison.shares


def assert_no_saturation(int8: nn.Module, *inputs: Tensor, vnni: bool | None = None) -> None:
    """The int8 kernels give what exact arithmetic gives on the same integers.

    On x86 without VNNI, the kernels add two products of an activation and a weight in 16 bits,
    where 8-bit activations can saturate; 7-bit ones (``reduce_range=True``) cannot. Tanh, Sigmoid
    and Softmax give 8 bits whatever the qconfig. See
    https://github.com/pytorch/pytorch/issues/44939.

    Args:
        int8: a converted model.
        inputs: to call it with, float32, preprocessed: nothing saturates on zeros.
        vnni: None tries the kernels of this machine. False asks about one without VNNI: could two
            neighbouring products of a layer, with the largest integer that its input has here,
            leave 16 bits?
    """
    names = []

    def around(name, module, run, *args, **kwargs):
        if isinstance(module, (nnq.Linear, _ConvNd)) and _can_saturate(module, args[0]):
            names.append(name)
        return run(*args, **kwargs)

    if vnni is False:
        with torch.no_grad(), watching(int8, around):
            int8(*inputs)
    else:
        names += [name for name, share in inexact_layers(int8, *inputs).items() if share > WRONG]
    problem = "wrong sums, as of 8-bit activations without VNNI: use get_default_qconfig('x86')"
    fail_for(dict.fromkeys(names), f"{problem}, and Tanh or Sigmoid in float")


def _can_saturate(layer: nn.Module, x: Tensor) -> bool:
    weight = layer.weight().int_repr().int().movedim(1, -1).flatten(1)
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))  # of input channels
    extreme = max(int((sign * pairs).clamp(min=0).sum(-1).max()) for sign in (1, -1))
    return extreme * int(x.int_repr().max()) > 2**15 - 1


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
    often = [name for name, count in calls.items() if count > 1]
    fail_for(often, "runs more than once in a call: make one instance for each use")


class _CatWatcher(TorchFunctionMode):
    """Raises ``CheckError`` where quantized tensors of different scales are concatenated."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.cat, torch.concat, torch.concatenate, torch.stack):
            parts = args[0] if args else kwargs["tensors"]
            scales = {(part.q_scale(), part.q_zero_point()) for part in parts if part.is_quantized}
            if len(scales) > 1:
                raise CheckError(
                    f"torch.{func.__name__} of {len(parts)} quantized tensors with different "
                    "scales: dequantize them first, or use FloatFunctional().cat"
                )
        return func(*args, **(kwargs or {}))


def assert_cat_keeps_scales(int8: nn.Module, *inputs: Tensor) -> None:
    """A converted model concatenates no quantized tensors of different scales.

    ``torch.cat`` gives the result the first tensor's scale, and clips the others to its range.
    """
    with torch.inference_mode(), _CatWatcher():
        int8(*inputs)
