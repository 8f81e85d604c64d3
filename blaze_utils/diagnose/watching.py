"""Tells a ``Recorder`` which module is running, and reports each unit as one call.

The ``error`` of a unit's call is one of the constants below.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from .anatomy import DEQUANT_STUBS, FUNCTIONAL, QUANT_STUBS, STUBS, Anatomy
from .calls import Call, dequantized, tensors_in
from .recording import Recorder

FLOAT_INPUT = "float input"
"""A unit is given float where it will need int8: the tensor has not come through a QuantStub."""
QUANTIZED_INPUT = "quantized input"
"""A QuantStub is given int8."""
NOT_A_TENSOR = "not a tensor"
"""A stub is given a tuple or a list."""
UNSEEN_INPUT = "unseen input"
"""A unit is given a tensor that no operator has returned which was seen; taken to be int8."""

FUNCTIONAL_METHODS = ("add", "add_scalar", "mul", "mul_scalar", "cat", "add_relu", "matmul")


def watch(model: nn.Module, anatomy: Anatomy, recorder: Recorder) -> None:
    """Attach a recorder to a copy of the model, which is good for nothing else afterwards."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in anatomy.modules:
        if isinstance(modules[name], FUNCTIONAL):
            _Watcher(name, modules[name], anatomy, recorder).attach_to_methods()
        elif not isinstance(modules[name], torch.jit.ScriptModule):  # which takes no hooks
            _Watcher(name, modules[name], anatomy, recorder).attach()


class _Watcher:
    """Watches one module."""

    def __init__(self, name: str, module: nn.Module, anatomy: Anatomy, recorder: Recorder) -> None:
        self.name, self.module, self.recorder = name, module, recorder
        self.unit = name in anatomy.units
        self.converted = anatomy.stage == "converted"
        self.everything_inside = not anatomy.has_quant_stub
        # Int8 convolutions and batch norms return tensors with the channels last in memory.
        self.channels_last = "Conv" in type(module).__name__ or "BatchNorm" in type(module).__name__
        self.running: list[tuple[Call, bool] | None] = []

    def attach(self) -> None:
        """Watch the calls of a module."""

        def before(module, args, kwargs):
            return self.enter(args, kwargs), kwargs

        def after(module, args, kwargs, output):
            return self.leave(output)

        self.module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        self.module.register_forward_hook(after, with_kwargs=True, always_call=True)

    def attach_to_methods(self) -> None:
        """Watch a ``FloatFunctional``, which is not called itself, so that hooks would not run."""

        def watched(method, *args, **kwargs):
            output = None
            args = self.enter(args, kwargs)
            try:
                output = method(*args, **kwargs)
            finally:
                output = self.leave(output)
            return output

        for name in FUNCTIONAL_METHODS:
            setattr(self.module, name, functools.partial(watched, getattr(self.module, name)))

    def enter(self, args: tuple, kwargs: dict) -> tuple:
        """The module starts. Returns the arguments for it to go on with."""
        recorder = self.recorder
        recorder.modules.append(self.name)
        report = self.unit and not recorder.quiet
        recorder.quiet += self.unit
        self.running.append(None)
        if not report:
            return args
        given = tensors_in((args, kwargs))
        unseen = [tensor for tensor in given if not recorder.knows(tensor)]
        for tensor in unseen:
            recorder.assign(tensor, recorder.quantized(tensor))
        call = recorder.begin(type(self.module).__name__, given, unit=True)
        call.error = UNSEEN_INPUT if unseen else self.error(call, args)
        self.running[-1] = call, self.channels_last or recorder.has_channels_last(given)
        return self.repaired(call, args) if self.converted else args

    def error(self, call: Call, args: tuple) -> str:
        """What is wrong with the arguments."""
        if isinstance(self.module, STUBS) and args and isinstance(args[0], (tuple, list, dict)):
            return NOT_A_TENSOR
        if isinstance(self.module, QUANT_STUBS):
            return QUANTIZED_INPUT if call.inside else ""
        if isinstance(self.module, DEQUANT_STUBS) or self.everything_inside:
            return ""
        floats = [tensor for tensor in tensors_in(args) if tensor.is_floating_point()]
        return "" if all(self.recorder.int8(t).is_quantized for t in floats) else FLOAT_INPUT

    def repaired(self, call: Call, args: tuple) -> tuple:
        """Arguments with which a converted unit runs, whatever it was given."""
        if isinstance(self.module, QUANT_STUBS):
            return tree_map(dequantized, args)
        if isinstance(self.module, DEQUANT_STUBS):
            return args
        return tree_map(self.recorder.quantized, args)

    def leave(self, output: Any) -> Any:
        """The module has ended, perhaps by an exception. Returns its output."""
        running = self.running.pop()
        if running is not None:
            output, shadow = self.shadowed(*running, output)
            self.recorder.finish(running[0], output, shadow)
        self.recorder.quiet -= self.unit
        self.recorder.modules.pop()
        return output

    def shadowed(self, call: Call, channels_last: bool, output: Any) -> tuple[Any, Any]:
        """A unit's output, and what int8 gives in its place."""
        if isinstance(self.module, STUBS) and not self.converted:
            # In float a stub returns the very tensor it was given, which then would be inside the
            # region and outside at once.
            output = tree_map(lambda x: x.view_as(x) if torch.is_tensor(x) else x, output)
        if isinstance(self.module, DEQUANT_STUBS):
            return output, output
        inside = isinstance(self.module, QUANT_STUBS) or call.inside or self.everything_inside
        if not inside:
            return output, output
        return output, tree_map(lambda leaf: self.recorder.quantized(leaf, channels_last), output)
