"""What a run of the model does, written down call by call: ``Recorder``.

Next to every tensor that would be int8 in the converted model runs a quantized *shadow*, and every
operator is tried on the shadows first: whether int8 has a kernel for it is PyTorch's own answer,
not a list of ours. A converted model has real quantized tensors, so there the try is the call;
after a failure the run goes on in float, to find the next one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from .calls import Call, dequantized, first_sentence, place_of_caller, tensors_in

METADATA = frozenset(
    "shape dtype device layout names ndim itemsize nbytes size dim numel nelement ndimension "
    "stride len hash version requires_grad grad grad_fn is_leaf is_quantized is_nested "
    "is_sparse is_mkldnn is_cpu is_cuda is_meta is_floating_point is_complex is_contiguous "
    "is_inference storage_offset "
    "element_size get_device qscheme".split()
)
"""Asks about a tensor, but not for its values."""


@dataclass
class _Value:
    number: int
    shadow: Tensor | None


class Recorder(TorchFunctionMode):
    """Writes down the operators that run under it, and the units that ``watching`` reports.

    Attributes:
        calls: what has been written down.
        modules: the dotted names of the modules that are running, the innermost last.
        quiet: above 0 nothing is written down: a unit is running.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.modules: list[str] = [""]
        self.quiet = 0
        self._values = WeakTensorKeyDictionary()
        self._count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _name(func)
        if self.quiet or name in METADATA:
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        if not given:
            result = func(*args, **kwargs)
            for tensor in tensors_in(result):
                self.assign(tensor)
            return result
        call = self.begin(name, given)
        channels_last = self.has_channels_last(given)
        versions = [tensor._version for tensor in given]
        shadow = None
        if call.inside:
            shadow, call.error = _attempt(func, *tree_map(self.int8, (args, kwargs)))
        if not any(tensor.is_quantized for tensor in given):
            result = func(*args, **kwargs)
        elif call.error:
            float_args, float_kwargs = tree_map(dequantized, (args, kwargs))
            result = tree_map(self.quantized, func(*float_args, **float_kwargs))
        else:
            result = shadow
        changed = [tensor for tensor, old in zip(given, versions) if tensor._version != old]
        if call.error:
            shadow = tree_map(lambda leaf: self.quantized(leaf, channels_last), result)
        elif torch.is_tensor(shadow) and not shadow.is_quantized:
            # x.dequantize() is x in float, which would be inside the region and outside at once.
            result = result.view_as(result) if any(result is t for t in given) else result
        self.finish(call, result, shadow, changed)
        return result

    def begin(self, op: str, given: list[Tensor], unit: bool = False) -> Call:
        """A call that is about to happen, with its inputs."""
        int8 = [tensor for tensor in map(self.int8, given) if tensor.is_quantized]
        per_tensor = [tensor for tensor in int8 if tensor.qscheme() == torch.per_tensor_affine]
        return Call(
            self.modules[-1], op, *place_of_caller(), unit,
            inputs=[self._number(tensor) for tensor in given],
            inside=bool(int8),
            scales=[tensor.q_scale() for tensor in per_tensor],
        )

    def finish(self, call: Call, result: Any, shadow: Any, changed: Sequence[Tensor] = ()) -> None:
        """Write a call down, unless it has only handed on what it was given.

        ``shadow`` is what int8 gives in the place of ``result``, ``changed`` are the inputs that
        the call has changed in place.
        """
        outputs, shadows = tensors_in(result), tensors_in(shadow)
        if len(shadows) != len(outputs):
            shadows = outputs
        known = {self._values[t].number for t in outputs if t in self._values}
        leaves = call.inside and not all(tensor.is_quantized for tensor in shadows)
        handed_on = outputs and len(known) == len(outputs) and known <= set(call.inputs)
        if handed_on and not (changed or leaves or call.error or call.unit):
            return
        for tensor in changed:
            if not any(tensor is output for output in outputs):
                call.outputs.append(self.assign(tensor, self._values[tensor].shadow))
        for tensor, other in zip(outputs, shadows):
            call.outputs.append(self.assign(tensor, other))
        self.calls.append(call)

    def assign(self, tensor: Tensor, shadow: Tensor | None = None) -> int:
        """Give a tensor a new value, whose number is returned; a float shadow counts as none."""
        self._count += 1
        if tensor.is_quantized or shadow is None or not shadow.is_quantized:
            shadow = None
        self._values[tensor] = _Value(self._count, shadow)
        return self._count

    def _number(self, tensor: Tensor) -> int:
        return self._values[tensor].number if tensor in self._values else self.assign(tensor)

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor comes from something that was seen (scripted functions are not)."""
        return tensor in self._values

    def int8(self, leaf: Any) -> Any:
        """The quantized form of a tensor that would be int8; anything else as it is."""
        if isinstance(leaf, Tensor) and leaf in self._values:
            shadow = self._values[leaf].shadow
            return leaf if shadow is None else shadow
        return leaf

    def has_channels_last(self, given: list[Tensor]) -> bool:
        """Whether an int8 tensor among these lies in memory with its channels last."""
        int8 = [tensor for tensor in map(self.int8, given) if tensor.is_quantized]
        return any(t.dim() == 4 and not t.is_contiguous() and _is_channels_last(t) for t in int8)

    def quantized(self, leaf: Any, channels_last: bool = False) -> Any:
        """A float tensor as int8, with a scale that no other has; anything else as it is."""
        if not isinstance(leaf, Tensor) or leaf.is_quantized or not leaf.is_floating_point():
            return leaf
        if leaf.layout != torch.strided or leaf.is_nested:
            return leaf
        self._count += 1
        scale = 0.05 * (1 + 1e-4 * self._count)
        if channels_last and leaf.dim() == 4:
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        return torch.quantize_per_tensor(leaf.detach().float(), scale, 128, torch.quint8)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _name(func: Callable) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property, such as x.shape or x.T
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


def _attempt(func: Callable, args: tuple, kwargs: dict) -> tuple[Any, str]:
    """The result, or what PyTorch says against it: any exception is an answer here."""
    try:
        return func(*args, **kwargs), ""
    except Exception as error:
        return None, first_sentence(error)
