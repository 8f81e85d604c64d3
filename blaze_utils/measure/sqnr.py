"""How far a quantized network's numbers are from float's: signal-to-quantization-noise ratios.

SQNR = 10 log10(sum(x**2) / sum((x - y)**2)) decibels for a float tensor x and its quantized
counterpart y: at 0 dB the error is as large as the signal, at 20 dB a tenth, at 40 dB a hundredth.
It sees changes long before average precision does. Over several tensors the two sums go on.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

HEADS = ("loc", "conf", "landm")


def sqnr(reference: Tensor, other: Tensor) -> float:
    """SQNR of one tensor in decibels: infinite where nothing differs, NaN where both are 0.

    Both may be float or quantized. ValueError if the shapes differ.
    """
    return _decibels(_sums(reference, other))


def head_sqnr(reference: nn.Module, other: nn.Module, inputs: Iterable[Tensor]) -> pd.Series:
    """SQNR of a detector's three outputs in decibels, indexed ``loc``, ``conf``, ``landm``.

    Args:
        reference: the float model; both are in evaluation mode.
        other: the same network, quantized or fake-quantized.
        inputs: network inputs, float32 [N, 3, H, W], as ``preprocess`` makes them.
    """
    sums = {head: np.zeros(2) for head in HEADS}
    with torch.inference_mode():
        for x in inputs:
            for head, exact, rounded in zip(HEADS, reference(x), other(x), strict=True):
                sums[head] += _sums(exact, rounded)
    return pd.Series({head: _decibels(pair) for head, pair in sums.items()}, name="SQNR in dB")


def layer_sqnr(reference: nn.Module, other: nn.Module, inputs: Iterable[Tensor]) -> pd.Series:
    """SQNR of every module's output in decibels, in the order in which the modules run.

    Args:
        reference: a float model with the module names of ``other``: fused, if ``other`` is.
        other, inputs: as for ``head_sqnr``.

    Returns:
        Indexed by dotted name, for the modules of both that return one tensor; those that only pass
        their input on (``Identity``, and containers) are left out.
    """
    sums: dict[str, np.ndarray] = {}
    with _outputs(reference) as exact, _outputs(other) as rounded, torch.inference_mode():
        for x in inputs:
            reference(x)
            other(x)
            for name in rounded:
                if name in exact:
                    sums[name] = sums.get(name, 0) + _sums(exact[name], rounded[name])
    return pd.Series({name: _decibels(pair) for name, pair in sums.items()}, name="SQNR in dB")


def _sums(reference: Tensor, other: Tensor) -> np.ndarray:
    """The sums of squares of the signal and of the noise."""
    if reference.shape != other.shape:
        raise ValueError(f"cannot compare {list(reference.shape)} with {list(other.shape)}")
    x, y = ((t.dequantize() if t.is_quantized else t).double() for t in (reference, other))
    return np.array([x.square().sum().item(), (x - y).square().sum().item()])


def _decibels(sums: np.ndarray) -> float:
    signal, noise = sums
    if noise == 0:
        return math.inf if signal else math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf


@contextmanager
def _outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The outputs of a model's modules while it runs: dotted name -> tensor, of the last call."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output

    hooks = [
        module.register_forward_hook(lambda m, x, output, name=name: keep(name, output))
        for name, module in model.named_modules()
        if name and _is_layer(name, module, model)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _is_layer(name: str, module: nn.Module, model: nn.Module) -> bool:
    """Whether a module does work of its own: no container, no observer, no part of a fused one."""
    # Fused modules are Sequentials as well, but of a class below it.
    if type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity):
        return False
    parent = model.get_submodule(name.rpartition(".")[0])
    fused = isinstance(parent, nn.Sequential) and type(parent) is not nn.Sequential
    return not fused and "post_process" not in name and "fake_quant" not in name
