"""How far a quantized network's numbers are from float's: signal-to-quantization-noise ratios.

SQNR = 10 log10(sum(x**2) / sum((x - y)**2)) decibels for a float tensor x and its quantized
counterpart y: 0 dB is an error as large as the signal, 20 dB one of a tenth, 40 dB one of a hundredth.
It sees changes long before average precision does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor, nn

HEADS = ("loc", "conf", "landm")


class Sqnr:
    """An SQNR over tensors that come one after the other; ``float(ratio)`` is the decibels so far.

    Infinite where nothing differs, NaN before the first tensor.
    """

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, reference: Tensor, other: Tensor) -> Sqnr:
        """Take in a float tensor and its counterpart of the same shape, float or quantized."""
        if reference.shape != other.shape:
            raise ValueError(
                f"cannot compare {list(reference.shape)} with {list(other.shape)}: expected tensors "
                "of one shape"
            )
        x, y = (t.dequantize() if t.is_quantized else t for t in (reference, other))
        self.signal += float(x.double().square().sum())
        self.noise += float((x.double() - y.double()).square().sum())
        return self

    def __float__(self) -> float:
        if self.noise == 0:
            return math.inf if self.signal else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def sqnr(reference: Tensor, other: Tensor) -> float:
    """SQNR of one tensor in decibels; ValueError if the shapes differ."""
    return float(Sqnr().add(reference, other))


def head_sqnr(reference: nn.Module, other: nn.Module, inputs: Iterable[Tensor]) -> pd.Series:
    """SQNR of a detector's three outputs in decibels, indexed ``loc``, ``conf``, ``landm``.

    Args:
        reference: the float model; both are in evaluation mode.
        other: the same network, quantized or fake-quantized.
        inputs: network inputs, float32 [N, 3, H, W], as ``detect.preprocess`` makes them.
    """
    ratios = {head: Sqnr() for head in HEADS}
    with torch.inference_mode():
        for x in inputs:
            for ratio, exact, rounded in zip(ratios.values(), reference(x), other(x)):
                ratio.add(exact, rounded)
    return pd.Series({head: float(ratio) for head, ratio in ratios.items()}, name="SQNR in dB")


def layer_sqnr(reference: nn.Module, other: nn.Module, inputs: Iterable[Tensor]) -> pd.Series:
    """SQNR of every module's output in decibels, in the order in which the modules run.

    Args:
        reference: a float model with the module names of ``other``: fused, if ``other`` is.
        other, inputs: as for ``head_sqnr``.

    Returns:
        Indexed by dotted name, for the modules of both that return one tensor; those that only pass
        their input on (``Identity``, and containers) are left out.
    """
    ratios: dict[str, Sqnr] = {}
    with _outputs(reference) as exact, _outputs(other) as rounded, torch.inference_mode():
        for x in inputs:
            reference(x)
            other(x)
            for name in rounded:
                if name in exact:
                    ratios.setdefault(name, Sqnr()).add(exact[name], rounded[name])
    return pd.Series({name: float(ratio) for name, ratio in ratios.items()}, name="SQNR in dB")


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity)


@contextmanager
def _outputs(model: nn.Module):
    """The outputs of a model's modules while it runs: dotted name -> tensor, of the last call."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output

        return hook

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        # Fused modules are Sequentials as well, but do the work themselves.
        if name and type(module) not in _CONTAINERS and _is_observed(name, model)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _is_observed(name: str, model: nn.Module) -> bool:
    """Whether a module is a layer of the network itself, not a part of a fused one or an observer."""
    parent = model.get_submodule(name.rpartition(".")[0])
    fused = isinstance(parent, nn.Sequential) and type(parent) is not nn.Sequential
    return not fused and "post_process" not in name and "fake_quant" not in name
