"""The numbers of a converted int8 model as a few flat arrays, and back into a model.

All weights lie in one array, all biases in another, and so on, in the model's order. What the class
brings (names, kinds and shapes of the layers) is not repeated: a digest of it is enough to notice
another class. The zero points of the weights are left out, since symmetric weights have only zeros.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import quantized as nniq
from torch.ao.quantization import QConfig, convert, default_weight_observer, prepare
from torch.ao.quantization.observer import MinMaxObserver

from blaze_utils.int8.eager import quantizable_copy

WITH_WEIGHTS = (nnq.Conv2d, nniq.ConvReLU2d, nnq.Linear, nniq.LinearReLU)
STORED = (*WITH_WEIGHTS, nnq.QFunctional, nnq.Quantize)
"""Each of these has an output scale and an output zero point."""

WITHOUT_NUMBERS = (nnq.DeQuantize, nnq.Dropout, nnq.ReLU6)
GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")


def int8_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a converted model that hold numbers, by dotted name, in the model's order.

    Raises:
        ValueError: a layer is not converted, is a batch norm, or of a kind that cannot be stored;
            or there are no int8 layers.
    """
    layers = dict(_walk(model, ""))
    if not any(type(layer) in WITH_WEIGHTS for layer in layers.values()):
        raise ValueError(f"{type(model).__name__}: no int8 layer in it; convert the model first")
    return layers


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) in STORED:
        yield name, module
        return
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ValueError(f"{name}: a batch norm is left; call fuse_model() before prepare()")
    numbers = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    kind = f"{type(module).__module__}.{type(module).__name__}"
    if numbers or (kind.startswith("torch.ao.") and type(module) not in WITHOUT_NUMBERS):
        raise ValueError(
            f"{name or 'the model'}: {kind} is no int8 layer that the file can hold; "
            "expected a model after fuse_model, prepare, calibration and convert"
        )
    for key, child in module.named_children():
        yield from _walk(child, f"{name}.{key}" if name else key)


def fingerprint(layers: dict[str, nn.Module]) -> str:
    """A digest of what the class brings: names, kinds, shapes, strides and the like."""
    lines = []
    for name, layer in layers.items():
        facts: list[object] = [name, type(layer).__name__]
        if type(layer) in WITH_WEIGHTS:
            facts += [list(layer.weight().shape), *(getattr(layer, key, None) for key in GEOMETRY)]
        lines.append(" ".join(map(str, facts)))
    return sha256("\n".join(lines).encode()).hexdigest()


def to_arrays(layers: dict[str, nn.Module]) -> dict[str, np.ndarray]:
    """The numbers of ``int8_layers`` without loss, one array a kind; see ``int8_file.read_int8``.

    Raises:
        ValueError: weights that are not symmetric qint8, or activations that are not quint8.
    """
    weighted = {name: layer for name, layer in layers.items() if type(layer) in WITH_WEIGHTS}
    weights = {name: layer.weight() for name, layer in weighted.items()}
    biases = [_bias(layer) for layer in weighted.values()]
    scales = [_weight_scales(name, weight) for name, weight in weights.items()]
    outputs = [_output(name, layer) for name, layer in layers.items()]
    flags = [_is_per_channel(weight) for weight in weights.values()]
    return {
        "weights": torch.cat([w.int_repr().reshape(-1) for w in weights.values()]).numpy(),
        "biases": torch.cat(biases).numpy(),
        "weight_scales": _shortest(torch.cat(scales)),
        "per_channel": np.array(flags, np.uint8),
        "output_scales": _shortest(torch.tensor([s for s, _ in outputs], dtype=torch.float64)),
        "output_zero_points": np.array([zero_point for _, zero_point in outputs], np.uint8),
    }


def _bias(layer: nn.Module) -> Tensor:
    """One for each output channel. Zeros where there is none, as qnnpack does in packing."""
    bias = layer.bias()
    return torch.zeros(len(layer.weight())) if bias is None else bias.detach()


def _is_per_channel(weight: Tensor) -> bool:
    return weight.qscheme() == torch.per_channel_affine


def _weight_scales(name: str, weight: Tensor) -> Tensor:
    """One scale, or one for each output channel, float64."""
    if _is_per_channel(weight):
        scales, axis = weight.q_per_channel_scales(), weight.q_per_channel_axis()
        symmetric = axis == 0 and not weight.q_per_channel_zero_points().any()
    else:
        scales = torch.tensor([weight.q_scale()], dtype=torch.float64)
        symmetric = weight.q_zero_point() == 0
    if not symmetric or weight.dtype != torch.qint8:
        raise ValueError(f"{name}: expected symmetric qint8 weights, whose zero points are all 0")
    return scales


def _output(name: str, layer: nn.Module) -> tuple[float, int]:
    scale, zero_point = float(layer.scale), int(layer.zero_point)
    if not 0 <= zero_point <= 255 or getattr(layer, "dtype", torch.quint8) != torch.quint8:
        raise ValueError(f"{name}: expected quint8 activations, zero point {zero_point}")
    return scale, zero_point


def _shortest(scales: Tensor) -> np.ndarray:
    """As float32 if that is the same number for each scale, else as they are."""
    return (scales.float() if torch.equal(scales.float().double(), scales) else scales).numpy()


def unfilled_int8(float_model: nn.Module) -> nn.Module:
    """A float model's int8 twin, fused and converted without calibration, packed for the engine
    that is set: the layers are right, their numbers mean nothing.

    Raises:
        TypeError: the model cannot be quantized (see ``quantize.quantizable_copy``).
    """
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    model.qconfig = QConfig(MinMaxObserver, default_weight_observer)
    with warnings.catch_warnings():
        # That the observers have seen nothing is the point; the API is known to be deprecated.
        warnings.simplefilter("ignore")
        return convert(prepare(model, inplace=True), inplace=True)


def fill(layers: dict[str, nn.Module], arrays: dict[str, np.ndarray]) -> None:
    """Put the numbers of ``to_arrays`` into layers of the same ``fingerprint``, in place.

    Raises:
        ValueError: an array is missing or has another length than these layers need.
    """
    weighted = [layer for layer in layers.values() if type(layer) in WITH_WEIGHTS]
    parts = _split(arrays, list(layers.values()), weighted)
    columns = (parts[key] for key in ("weights", "biases", "weight_scales", "per_channel"))
    for layer, integers, bias, scales, per_channel in zip(weighted, *columns):
        integers = integers.view(layer.weight().shape)
        weight = _quantized(integers, scales.double(), bool(per_channel))
        absent = layer.bias() is None and not bias.any()
        # As convert makes it: a parameter with memory of its own.
        parameter = nn.Parameter(bias.clone(), requires_grad=False)
        layer.set_weight_bias(weight, None if absent else parameter)
    outputs = zip(layers.values(), parts["output_scales"], parts["output_zero_points"])
    for layer, scale, zero_point in outputs:
        if type(layer) is nnq.Quantize:
            layer.scale.fill_(scale.item())
            layer.zero_point.fill_(zero_point.item())
        else:
            layer.scale, layer.zero_point = scale.item(), zero_point.item()


def _split(
    arrays: dict[str, np.ndarray], layers: list[nn.Module], weighted: list[nn.Module]
) -> dict[str, tuple[Tensor, ...]]:
    """Every array cut into one piece a layer."""
    flags = arrays.get("per_channel", ())
    sizes = {
        "weights": [layer.weight().numel() for layer in weighted],
        "biases": [len(layer.weight()) for layer in weighted],
        "weight_scales": [len(x.weight()) if flag else 1 for x, flag in zip(weighted, flags)],
        "per_channel": [1] * len(weighted),
        "output_scales": [1] * len(layers),
        "output_zero_points": [1] * len(layers),
    }
    for name, parts in sizes.items():
        found = len(arrays.get(name, ()))
        if found != sum(parts):
            raise ValueError(f"{name}: these layers need {sum(parts)} values, there are {found}")
    return {name: torch.from_numpy(arrays[name]).split(parts) for name, parts in sizes.items()}


def _quantized(integers: Tensor, scales: Tensor, per_channel: bool) -> Tensor:
    """A quantized tensor with exactly these integers (quantizing float numbers would round)."""
    if not per_channel:
        return torch._make_per_tensor_quantized_tensor(integers, scales.item(), 0)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(integers, scales, zeros, 0)
