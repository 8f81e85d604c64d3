"""One line each for the mistakes in quantization that raise no error.

This file imports nothing but PyTorch: copy it into a project of your own. Notebook 08 shows every
mistake with its symptom. A check returns None if all is well and raises ``CheckError`` otherwise;
the message names the modules and says what to do. ``diagnose`` uses the same functions.
"""

import copy
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

SHOWN = 3
"""So many modules are named in a message."""

WRONG = 1e-3
"""So large a share of a kernel's results may be more than one step beside exact arithmetic: ties
and orders of summation account for less than one in a thousand, on every engine that we tried."""

SHAREABLE = (
    DeQuantStub, nnq.DeQuantize, nn.Flatten, nn.Dropout, nn.Upsample, nn.PixelShuffle,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
"""Modules that only move numbers: they keep no scale and are not fused, so they may run twice."""

FUNCTIONAL_METHODS = ("add", "add_scalar", "mul", "mul_scalar", "cat", "add_relu", "matmul")
"""What a ``FloatFunctional`` is called by: it is not called itself, so hooks do not see it."""


class CheckError(AssertionError):
    """A silent mistake was found; the message names the modules and the remedy.

    Attributes:
        modules: the dotted names of all modules concerned ("" is the model).
    """

    def __init__(self, message: str, modules: Iterable[str] = ("",)) -> None:
        super().__init__(message)
        self.modules = list(modules)


def _fail_for(names: Iterable[str], problem: str) -> None:
    """Raise ``CheckError`` if there are names; ``problem`` follows them in the message."""
    names = list(names)
    if names:
        shown = ", ".join(name or "the model" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckError(f"{shown}{more}: {problem}", names)


def is_observer(module: nn.Module) -> bool:
    """Whether ``prepare`` has put the module in: an observer or a fake quantization."""
    return isinstance(module, (ObserverBase, FakeQuantizeBase))


def is_int8(module: nn.Module) -> bool:
    """Whether ``convert`` has put the module in; those of dynamic quantization do not count."""
    path = type(module).__module__
    return (
        path.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized."))
        and not any(part in path for part in ("dynamic", "reference"))
        and not isinstance(module, (nnq.FloatFunctional, nnq.FXFloatFunctional))
    )


def _observers(model: nn.Module) -> dict[str, nn.Module]:
    """Observers by dotted name, those inside fake quantization included."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ObserverBase)}


def assert_prepared(model: nn.Module) -> None:
    """``prepare`` or ``prepare_qat`` has put in observers: there was a qconfig for it to apply."""
    if not any(map(is_observer, model.modules())):
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


def dequantized(leaf):
    """A quantized tensor as float, contiguous as in a float model; anything else as it is."""
    is_quantized = isinstance(leaf, Tensor) and leaf.is_quantized
    return leaf.dequantize().contiguous() if is_quantized else leaf


def wrong_share(exact: Tensor, int8: Tensor) -> float:
    """The share of a quantized result that is more than one step beside ``exact``, rounded."""
    grid = int8.q_scale(), int8.q_zero_point(), int8.dtype
    steps = torch.quantize_per_tensor(exact.float(), *grid).int_repr().int() - int8.int_repr().int()
    return float((steps.abs() > 1).float().mean())


def exact(module: nn.Module, x: Tensor) -> Tensor | None:
    """What an int8 layer should give for ``x``: the same integers, multiplied and added in float32.

    Args:
        module: a layer that ``convert`` has put in.
        x: its input, quantized or the same values in float.

    Returns:
        The result before it is rounded to the layer's output scale; None for layers whose
        arithmetic is not known here.
    """
    name, x = type(module).__name__, dequantized(x)
    if isinstance(module, nnq.PReLU):
        return F.prelu(x, module.weight.dequantize())
    if isinstance(module, nnq.ReLU6):
        return F.relu6(x)
    if isinstance(module, (nnq.Linear, nnq.modules.conv._ConvNd)):
        if x.dim() == 5 and torch.backends.quantized.engine == "qnnpack":
            return None  # which does not hand such weights back
        result = _weighted(module, x)
    else:
        kinds = [k for k in type(module).__mro__ if k.__module__.startswith("torch.nn.modules.")]
        if kinds[0] is nn.Module or not is_int8(module) or list(module.children()):
            return None
        twin = copy.copy(module)
        twin.training = False  # convert makes norms in training mode; int8 has none
        result = kinds[0].forward(twin, x)  # the float layer that this one is derived from
    return result.relu() if name.startswith(("ConvReLU", "LinearReLU", "BNReLU")) else result


def _weighted(module: nn.Module, x: Tensor) -> Tensor:
    weight, bias = module.weight().dequantize().contiguous(), module.bias()
    if isinstance(module, nnq.Linear):
        return F.linear(x, weight, bias)
    dims, padding = x.dim() - 2, module.padding
    if isinstance(module, nnq.modules.conv._ConvTransposeNd):
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        sizes = module.stride, padding, module.output_padding, module.groups, module.dilation
        return function(x, weight, bias, *sizes)
    if module.padding_mode != "zeros":
        both = [amount for amount in reversed(padding) for _ in range(2)]
        x, padding = F.pad(x, both, mode=module.padding_mode), 0
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return function(x, weight, bias, module.stride, padding, module.dilation, module.groups)


class _Comparison(TorchFunctionMode):
    """Compares what runs under it with exact arithmetic: int8 layers by their hooks, other operators.

    ``shares`` is by the dotted name of the layer, or of the module that calls the operator.
    """

    def __init__(self, int8: nn.Module) -> None:
        super().__init__()
        self.shares, self.running, self.inside, self.undo = {}, [("", None)], 0, []
        for name, module in int8.named_modules():
            if isinstance(module, nnq.QFunctional):  # it is not called itself
                for method in FUNCTIONAL_METHODS:
                    self.watch_method(name, module, method)
            elif not isinstance(module, torch.jit.ScriptModule):
                before = module.register_forward_pre_hook(
                    lambda m, args, name=name: self.enter(name, m, *args)
                )
                after = module.register_forward_hook(lambda m, _, result: self.leave(m, result))
                self.undo += [before.remove, after.remove]

    def watch_method(self, name: str, module: nn.Module, method: str) -> None:
        run, in_float = getattr(module, method), getattr(nnq.FXFloatFunctional(), method)

        def watched(*args, **kwargs):
            self.enter(name, module)
            result = run(*args, **kwargs)
            self.compare(in_float(*tree_map(dequantized, args), **kwargs), result)
            self.leave(module)
            return result

        setattr(module, method, watched)
        self.undo.append(lambda: delattr(module, method))

    def enter(self, name: str, module: nn.Module, x=None, *_) -> None:
        layer = is_int8(module) and not isinstance(module, (nnq.Quantize, nnq.DeQuantize))
        self.running.append((name, dequantized(x) if layer else None))  # it may be changed in place
        self.inside += is_int8(module)

    def leave(self, module: nn.Module, result=None) -> None:
        if isinstance(result, Tensor) and self.running[-1][1] is not None:
            self.compare(exact(module, self.running[-1][1]), result)
        self.inside -= is_int8(module)
        self.running.pop()

    def compare(self, expected, result) -> None:
        both = isinstance(expected, Tensor) and isinstance(result, Tensor)
        if both and result.is_quantized and not expected.is_quantized and expected.shape == result.shape:
            name, share = self.running[-1][0], wrong_share(expected, result)
            self.shares[name] = max(share, self.shares.get(name, 0.0))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = args, kwargs or {}
        if self.inside:
            return func(*args, **given[1])
        floats = tree_map(dequantized, given)  # now: func may change its input in place
        result = func(*args, **given[1])
        if isinstance(result, Tensor) and result.is_quantized:
            self.compare(func(*floats[0], **floats[1]), result)
        return result


def inexact_layers(int8: nn.Module, *inputs, **options) -> dict[str, float]:
    """How far a converted model is from exact arithmetic on its own integers.

    The model runs once. What computes what it should has 0.0, on every processor. A sum that
    saturates, or a kernel that reads what was never written, has more.

    Returns:
        By dotted name of the layer, or of the module that calls an operator, the share of results
        that are more than one step away (``wrong_share``), the largest of all calls.
    """
    comparison = _Comparison(int8)
    try:
        with torch.no_grad(), comparison:
            int8(*inputs, **options)
    finally:
        for step in comparison.undo:
            step()
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
        vnni: None tries the kernels of this machine. False asks about a machine without VNNI: could
            two neighbouring products of a layer, with the largest integer that its input has here,
            leave 16 bits?
    """
    names = []
    if vnni is not False:
        names = [name for name, share in inexact_layers(int8, *inputs).items() if share > WRONG]
    else:
        int8 = copy.deepcopy(int8)
        for name, module in int8.named_modules():
            if isinstance(module, (nnq.Linear, nnq.modules.conv._ConvNd)):
                module.register_forward_hook(
                    lambda m, args, _, name=name: names.extend([name] * _can_saturate(m, args[0]))
                )
        with torch.no_grad():
            int8(*inputs)
    _fail_for(
        dict.fromkeys(names),
        "wrong sums, as of 8-bit activations without VNNI: use get_default_qconfig('x86'), and "
        "Tanh or Sigmoid in float",
    )


def _can_saturate(layer: nn.Module, x: Tensor) -> bool:
    """Whether two neighbouring products can leave 16 bits (neighbours are input channels)."""
    weight = layer.weight().int_repr().int().movedim(1, -1).flatten(1)
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))
    extreme = max(int(pairs.clamp(min=0).sum(-1).max()), int((-pairs).clamp(min=0).sum(-1).max()))
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
    _fail_for(
        (name for name, count in calls.items() if count > 1),
        "runs more than once in a call: make one instance for each use",
    )


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
