"""What eager int8 makes of a model and of its parts, found out by doing it on copies.

``Run`` is one run of a copy, written down call by call. Beside every tensor that would be int8 after
``convert`` runs a quantized *shadow*, and every operator is tried on the shadows: whether int8 has a
kernel for it, and a right one, is PyTorch's own answer. A *unit* is a module that ``convert`` makes
one int8 operator of. ``try_alone`` takes one module through prepare, convert and int8, ``try_whole``
the model.
"""

import copy
import os
import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.quantization import (
    DeQuantStub,
    FakeQuantizeBase,
    QConfig,
    QuantStub,
    convert,
    get_default_qconfig,
    prepare,
)
from torch.ao.quantization.fuser_method_mappings import get_fuser_method
from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings
from torch.ao.quantization.quantize import _remove_activation_post_process
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .checks import (
    FUNCTIONAL_METHODS,
    WRONG,
    dequantized,
    inexact_layers,
    is_int8,
    is_observer,
    wrong_share,
)

FUNCTIONAL = (nnq.FloatFunctional, nnq.FXFloatFunctional, nnq.QFunctional)
QUANT, DEQUANT = (QuantStub, nnq.Quantize), (DeQuantStub, nnq.DeQuantize)
SWAPPED = get_default_static_quant_module_mappings().keys() | {nn.LSTM, nn.MultiheadAttention}
SWAPPED -= {nn.Dropout, nn.ReLU6}  # these keep the scale of their input, swapped or not
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TORCH = str(Path(torch.__file__).parent) + os.sep
TORCH_MODULES = str(Path(TORCH, "nn", "modules")) + os.sep
HERE = str(Path(__file__).parent) + os.sep

GOOD = 20.0
"""Decibels that int8 must reach, against float. A layer alone has 30 to 40; below 20 one notices."""
SAME = 60.0
"""Decibels between two ways to compute the same in float: rounding in float32 leaves 100 and more."""
DEAD = 3e-4
"""A layer whose largest value is below this has no signal: an observer's smallest step is 1e-7, so
int8 keeps nothing of it. Networks with random weights and untouched batch norms have such layers."""


class InFloat(nn.Module):
    """A module in float between int8 neighbours; in a float model it changes nothing.

    The first tensor of the result becomes int8 again, any others stay float. Of a ``FloatFunctional``
    the methods can be called as before. Put it in before ``prepare``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.dequant, self.quant = module, DeQuantStub(), QuantStub()
        module.qconfig = None

    def __getattr__(self, name: str):
        if name in FUNCTIONAL_METHODS:
            return partial(self._run, getattr(self.module, name))
        return super().__getattr__(name)

    def forward(self, *args, **options):
        """What the module gives, its first tensor quantized."""
        return self._run(self.module, *args, **options)

    def _run(self, function, *args, **options):
        args, options = tree_map(
            lambda x: self.dequant(x) if is_real(x) or is_quantized(x) else x, (args, options)
        )
        leaves, structure = tree_flatten(function(*args, **options))
        first = next(number for number, leaf in enumerate(leaves) if is_real(leaf))
        leaves[first] = self.quant(leaves[first])
        return tree_unflatten(leaves, structure)


@dataclass
class Call:
    """One operator or unit as it ran.

    Attributes:
        module: dotted name of the innermost module.
        op: the operator's name without underscores, or the class of the unit.
        place: file and line in the user's code, such as ``model.py:109``.
        builtin: the operator is called by a module of ``torch.nn``, not by the user's code.
        inputs, outputs: numbers of the values; a tensor changed in place is a new value.
        inside, scales: an input is int8 in the converted model; the scales of those inputs.
        error: what PyTorch says to int8 inputs, for a unit what is wrong with them; "" if nothing.
        wrong: share of the int8 result more than one step beside exact arithmetic.
        decibels: the int8 result against float arithmetic on the same inputs.
    """

    module: str
    op: str
    place: str
    builtin: bool
    unit: bool
    inputs: list[int]
    inside: bool
    scales: list[float]
    outputs: list[int] = field(default_factory=list)
    error: str = ""
    wrong: float = 0.0
    decibels: float = float("inf")


def is_quantized(leaf) -> bool:
    """Whether it is a quantized tensor."""
    return isinstance(leaf, Tensor) and leaf.is_quantized


def is_real(leaf) -> bool:
    """Whether it is a dense tensor of floating point numbers."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.layout == torch.strided


def tensors(tree) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def shadow(leaf):
    """The quantized form of a tensor that would be int8; anything else as it is."""
    other = getattr(leaf, "_shadow", None) if isinstance(leaf, Tensor) else None
    return leaf if other is None else other


def first_sentence(error: Exception) -> str:
    """What an exception says, up to its first full stop or line end."""
    lines = str(error).split(". ")[0].strip().splitlines()
    return lines[0][:200].rstrip(" .:") if lines else type(error).__name__


def decibels(expected, actual) -> float:
    """SQNR of the worst tensor of ``actual``; infinite if equal, NaN if nothing can be compared."""
    worst = float("nan")
    for want, got in zip(tensors(expected), map(dequantized, tensors(actual)), strict=False):
        if not is_real(want) or want.shape != got.shape or not bool(want.isfinite().all()):
            continue
        noise = (want.double() - got.double()).square().mean()
        ratio = want.double().square().mean() / noise if noise else torch.tensor(float("inf"))
        worst = (
            min(10 * float(ratio.log10()), worst) if worst == worst else 10 * float(ratio.log10())
        )
    return worst


def place_of_caller() -> tuple[str, bool]:
    """Where the user's code called an operator, and whether torch.nn stands in between."""
    frame, builtin = sys._getframe(1), False
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((TORCH, HERE)):
            notebook = "ipykernel" in file or "<ipython" in file  # whose file names say nothing
            return f"{'notebook cell' if notebook else Path(file).name}:{frame.f_lineno}", builtin
        builtin = builtin or file.startswith(TORCH_MODULES)
        frame = frame.f_back
    return "", builtin


class Recorder(TorchFunctionMode):
    """Writes down what runs under it. A tensor carries its number and its shadow as attributes."""

    def __init__(self, converted: bool, everything_inside: bool) -> None:
        super().__init__()
        self.converted, self.everything_inside = converted, everything_inside
        self.calls: list[Call] = []
        self.names, self.given, self.left = [""], {}, []
        self.depth = self.count = 0

    def mark(self, tensor: Tensor, int8=None) -> int:
        """Give a tensor a new number, and a shadow if ``int8`` is quantized."""
        self.count += 1
        tensor._number = self.count
        tensor._shadow = int8 if is_quantized(int8) and not tensor.is_quantized else None
        return self.count

    def quantized(self, leaf, channels_last: bool = False):
        """A float tensor as int8, with a scale that no other has; anything else as it is."""
        if not is_real(leaf) or leaf.is_nested or not leaf.numel():
            return leaf
        self.count += 1
        leaf = leaf.detach().float().nan_to_num()
        if channels_last and leaf.dim() == 4:  # as int8 convolutions return their output
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        low, high = min(float(leaf.min()), 0.0), max(float(leaf.max()), 0.0)
        scale = max((high - low) / 255, 1e-7) * (1 + 1e-6 * self.count)
        return torch.quantize_per_tensor(leaf, scale, round(-low / scale), torch.quint8)

    def call(self, op: str, given: list[Tensor], unit: bool = False) -> Call:
        """A call that is about to happen, with its inputs."""
        int8 = [tensor for tensor in map(shadow, given) if tensor.is_quantized]
        scales = [t.q_scale() for t in int8 if t.qscheme() == torch.per_tensor_affine]
        numbers = [getattr(t, "_number", None) or self.mark(t) for t in given]
        place, builtin = place_of_caller()
        return Call(self.names[-1], op, place, builtin, unit, numbers, bool(int8), scales)

    def finish(self, call: Call, result, int8) -> None:
        """Write a call down, with the shadows of its result."""
        results, shadows = tensors(result), tensors(int8)
        shadows = shadows if len(shadows) == len(results) else results
        call.outputs = [self.mark(*pair) for pair in zip(results, shadows, strict=True)]
        self.calls.append(call)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        if self.depth or not given:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as x.shape or x.T
            name = getattr(func.__self__, "__name__", name)
        versions = [tensor._version for tensor in given]
        real = any(tensor.is_quantized for tensor in given)
        call = self.call(name.strip("_"), given)
        result = None if real else func(*args, **kwargs)
        changed = [t for t, old in zip(given, versions, strict=True) if t._version != old]
        int8 = result
        if real or call.inside and (changed or tensors(result)):
            int8, in_float = self.attempt(call, func, *tree_map(shadow, (args, kwargs)))
            if real:
                result = tree_map(self.quantized, in_float) if call.error else int8
                changed = [t for t, old in zip(given, versions, strict=True) if t._version != old]
            elif call.error:
                last = any(map(is_channels_last, map(shadow, given)))
                int8 = tree_map(partial(self.quantized, channels_last=last), result)
        if not tensors(result) and not changed:
            return result  # asks about a tensor, not for its values
        handed_on = all(any(output is tensor for tensor in given) for output in tensors(result))
        if handed_on and not changed:
            if real or not call.inside or not isinstance(int8, Tensor) or int8.is_quantized:
                return result
            result = result.view_as(result)  # x.dequantize() of a float x is x itself
        if handed_on:
            self.finish(call, result, int8)
        else:
            self.finish(call, (result, changed), (int8, [shadow(tensor) for tensor in changed]))
        return result

    def attempt(self, call: Call, func, args: tuple, kwargs: dict):
        """The result on int8 (None with ``call.error``) and the one on the same values in float."""
        floats = tree_map(dequantized, (args, kwargs))  # now: func may change its input in place
        int8 = in_float = None
        try:
            int8 = func(*args, **kwargs)
        except Exception as error:  # any exception is an answer here
            call.error = first_sentence(error)
        if call.error or is_quantized(int8):
            in_float = func(*floats[0], **floats[1])
        if is_quantized(int8) and is_real(in_float) and int8.shape == in_float.shape:
            if int8.qscheme() == torch.per_tensor_affine and int8.numel():
                call.wrong = wrong_share(in_float, int8)
                call.decibels = decibels(in_float, int8)
        return int8, in_float

    def watch(self, name: str, module: nn.Module, unit: bool) -> None:
        """Have a module of the copy report when it runs; a unit reports as one call."""
        running = []

        def enter(args, kwargs, method=""):
            self.names.append(name)
            if not self.depth:
                self.given.setdefault(name, (tree_map(shadow, (args, kwargs)), method))
            call = None
            if unit and not self.depth:
                for tensor in tensors((args, kwargs)):
                    if not hasattr(tensor, "_number"):  # from a scripted function: taken to be int8
                        self.mark(tensor, self.quantized(tensor))
                call = self.call(type(module).__name__, tensors((args, kwargs)), unit=True)
                call.error = self.input_error(module, call, args)
                if self.converted and not isinstance(module, DEQUANT):
                    to = dequantized if isinstance(module, QUANT) else self.quantized
                    args = tree_map(to, args)
            self.depth += unit
            running.append((call, args))
            return args, kwargs

        def leave(output):
            call, args = running.pop()
            if call is not None:
                if isinstance(module, QUANT + DEQUANT) and not self.converted:
                    output = tree_map(lambda x: x.view_as(x) if torch.is_tensor(x) else x, output)
                last = any(part in type(module).__name__ for part in ("Conv", "BatchNorm"))
                last = last or any(map(is_channels_last, map(shadow, tensors(args))))
                inside = isinstance(module, QUANT) or call.inside or self.everything_inside
                if inside and not isinstance(module, DEQUANT):
                    int8 = tree_map(partial(self.quantized, channels_last=last), output)
                else:
                    int8 = output
                if isinstance(module, DEQUANT):
                    self.left.append((call, output))
                self.finish(call, output, int8)
            self.depth -= unit
            self.names.pop()
            return output

        if isinstance(module, FUNCTIONAL):  # it is not called itself, so that hooks would not run
            for method in FUNCTIONAL_METHODS:
                run = getattr(module, method)

                def watched(*args, run=run, method=method, **kwargs):
                    args, kwargs = enter(args, kwargs, method)
                    return leave(run(*args, **kwargs))

                setattr(module, method, watched)
        elif not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            module.register_forward_pre_hook(
                lambda _, args, kwargs: enter(args, kwargs), prepend=True, with_kwargs=True
            )
            module.register_forward_hook(lambda _, args, output: leave(output))

    def input_error(self, module: nn.Module, call: Call, args: tuple) -> str:
        """What is wrong with a unit's arguments."""
        if (
            isinstance(module, QUANT + DEQUANT)
            and args
            and isinstance(args[0], (tuple, list, dict))
        ):
            return "tuple"
        if isinstance(module, QUANT):
            return "int8" if call.inside else ""
        if isinstance(module, DEQUANT) or self.everything_inside:
            return ""
        # Behind the third argument of an attention come masks, which stay float.
        return "float" if any(is_real(shadow(tensor)) for tensor in tensors(args[:3])) else ""


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a quantized tensor lies in memory with its channels last."""
    last = {"memory_format": torch.channels_last}
    dense = tensor.is_quantized and tensor.dim() == 4 and not tensor.is_contiguous()
    return dense and tensor.is_contiguous(**last)


def float_type(module: nn.Module) -> type | None:
    """The ``torch.nn`` type of a float, QAT or int8 module: ``nn.Conv2d`` for all three kinds."""
    kind = type_before_parametrizations(module)
    if kind.__module__.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.qat.")):
        return getattr(nn, kind.__name__, None)
    return kind


def stage_of(model: nn.Module) -> str:
    """How far the model has come: float, prepared, prepared for QAT, or converted."""
    modules = list(model.modules())
    if any(map(is_int8, modules)):
        return "converted"
    if any(isinstance(m, FakeQuantizeBase) or hasattr(m, "weight_fake_quant") for m in modules):
        return "prepared for QAT"
    return "prepared" if any(map(is_observer, modules)) else "float"


def without_observers(model: nn.Module) -> nn.Module:
    """The model, changed in place: what ``prepare`` has put in is taken out again."""
    for module in list(model.modules()):
        _remove_activation_post_process(module)
        for name, child in module.named_children():
            if is_observer(child):  # the weights' of QAT, or inside a FloatFunctional
                setattr(module, name, nn.Identity())
        if isinstance(module, nnq.FloatFunctional) and not hasattr(
            module, "activation_post_process"
        ):
            module.activation_post_process = nn.Identity()
    return model


class Run:
    """One run of a model, written down, and what the rules ask about it.

    Attributes:
        modules: by dotted name, without observers and the inside of units.
        qconfigs: the qconfig of each, its own or inherited.
        stays_float: names without a qconfig where others have one: convert leaves them.
        given: by name, the arguments of a module's first call, as shadows, and the method called.
        failure: what the run raised, in the module ``failed_in``; None if it came to its end.
        returns, returns_int8: numbers of what the model returned; whether any of it is int8.
        results: the tensors that left int8 for good or, without a DeQuantStub, those returned.
    """

    def __init__(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self.stage = stage_of(model)
        self.qconfigs = {}
        for name, module in model.named_modules(remove_duplicate=False):
            inherited = self.qconfigs.get(name.rpartition(".")[0]) if name else None
            self.qconfigs[name] = getattr(module, "qconfig", inherited)
        without = {name for name, qconfig in self.qconfigs.items() if qconfig is None}
        self.stays_float = without if len(without) < len(self.qconfigs) else set()
        self.modules, self.units = {}, set()
        for name, module in model.named_modules():
            if any(name.startswith(f"{unit}.") for unit in self.units) or is_observer(module):
                continue
            self.modules[name] = module
            self.units |= {name} if self.is_unit(name, module) else set()
        names = [id(m) for _, m in model.named_modules(remove_duplicate=False)]
        self.aliases = {n for n, m in self.modules.items() if names.count(id(m)) > 1}
        self.has_stub = any(isinstance(module, QUANT) for module in self.modules.values())
        self.record(model, args, kwargs)
        self.users, self.by_module = defaultdict(list), defaultdict(list)
        for call in self.calls:
            self.by_module[call.module].append(call)
            for value in call.inputs:
                self.users[value].append(call)
        self.position_of = self.positions()
        left = [out for call, out in self.left if self.position_of[id(call)] == "behind"]
        self.results = left or self.results

    def is_unit(self, name: str, module: nn.Module) -> bool:
        """Whether the module is, or will be, one int8 operator."""
        if self.stage == "converted":
            return is_int8(module)
        kind = type_before_parametrizations(module)
        swapped = kind in SWAPPED or kind.__module__.startswith("torch.ao.nn.")
        return swapped and name not in self.stays_float

    def record(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        """Run ``model``, which is good for nothing else afterwards."""
        converted = self.stage == "converted"
        recorder = Recorder(converted, everything_inside=not self.has_stub)
        self.calls, self.given, self.left = recorder.calls, recorder.given, recorder.left
        self.failure, self.failed_in, self.results = None, "", []
        self.returns, self.returns_int8 = set(), False
        watched = dict(model.named_modules())
        for name in self.modules:
            recorder.watch(name, watched[name], name in self.units)
        for tensor in [*model.parameters(), *model.buffers()]:
            recorder.mark(tensor)
        for tensor in tensors((args, kwargs)):
            starts_here = not converted and not self.has_stub
            recorder.mark(tensor, recorder.quantized(tensor) if starts_here else None)
        try:
            with recorder:
                output = model(*args, **kwargs)
        except Exception as error:  # whatever the user's code raises is a finding
            self.failure, self.failed_in = error, recorder.names[-1]
            return
        others = [leaf for leaf in tree_leaves(output) if not isinstance(leaf, (Tensor, nn.Module))]
        self.results = tensors([output, *(getattr(leaf, "__dict__", None) for leaf in others)])
        self.returns = {tensor._number for tensor in self.results if hasattr(tensor, "_number")}
        self.returns_int8 = any(shadow(tensor).is_quantized for tensor in self.results)

    def only_user(self, call: Call) -> Call | None:
        """The one call that uses what this call has computed, if there is exactly one."""
        users = self.users[call.outputs[0]] if len(call.outputs) == 1 else []
        return users[0] if len(users) == 1 and call.outputs[0] not in self.returns else None

    def next(self, name: str) -> str | None:
        """The module that works on this one's output alone, as often as this one is called."""
        users = [self.only_user(call) for call in self.by_module[name]]
        if not users or None in users or len({user.module for user in users}) != 1:
            return None
        return users[0].module if len(self.by_module[users[0].module]) == len(users) else None

    def chains(self) -> list[list[str]]:
        """Lists of dotted names that ``fuse_modules`` takes, in the order of the calls."""
        chains, used = [], set()
        for name in list(self.by_module):
            chain, best = [name], []
            while len(chain) < 3 and (following := self.next(chain[-1])) is not None:
                chain.append(following)
                best = list(chain) if self.fuses(chain) else best
            if best and used.isdisjoint(best):
                chains.append(best)
                used.update(best)
        return chains

    def fuses(self, chain: list[str]) -> bool:
        """Whether ``fuse_modules`` takes these modules: PyTorch is asked."""
        modules = [self.modules[name] for name in chain]
        try:
            get_fuser_method(tuple(map(float_type, modules)))
        except AssertionError:
            return False
        norms = [module for module in modules if float_type(module) in NORMS]
        statistics = all(getattr(norm, "running_mean", 0) is not None for norm in norms)
        return statistics and not (self.stays_float | self.aliases).intersection(chain)

    def positions(self) -> dict[int, str]:
        """Where each call stands, by its ``id``: "before", "between" or "behind" the layers."""
        others = QUANT + DEQUANT + FUNCTIONAL
        layers = {
            id(c) for c in self.calls if c.unit and not isinstance(self.modules[c.module], others)
        }
        after, before, positions = set(), set(), {}
        for call in self.calls:
            positions[id(call)] = bool(after.intersection(call.inputs))
            if id(call) in layers or positions[id(call)]:
                after.update(call.outputs)
        for call in reversed(self.calls):
            leads_to_layer = bool(before.intersection(call.outputs))
            if id(call) in layers or leads_to_layer:
                before.update(call.inputs)
            follows = positions[id(call)]
            positions[id(call)] = (
                "between"
                if follows and leads_to_layer
                else ("before" if leads_to_layer else "behind")
            )
        return positions


@contextmanager
def undisturbed() -> Iterator[None]:
    """No gradients, no warnings, the random generators afterwards as they were before."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def engine_qconfig(name: str = "") -> QConfig:
    """The default qconfig of an engine; without a name that of the one in use."""
    name = name or torch.backends.quantized.engine
    return get_default_qconfig("x86" if name == "none" else name)


@dataclass
class Trial:
    """What eager int8 made of a module or a model.

    Attributes:
        step: what was done last: "fix", "prepare", "calibration", "convert", "storing" or "int8".
        error: what was said against it there; "" if nothing.
        in_float: decibels of what ``prepare`` puts in its place, against the original.
        decibels: of int8 against float; NaN if nothing could be compared.
        wrong: by layer, the share of results more than one step beside exact arithmetic.
        dead: the float result has no signal, so that its decibels say nothing.
        run: the converted model's run, if the model was tried.
    """

    step: str = "fix"
    error: str = ""
    in_float: float = float("inf")
    decibels: float = float("nan")
    wrong: dict[str, float] = field(default_factory=dict)
    dead: bool = False
    run: Run | None = None

    @property
    def bad(self) -> str:
        """What is not as it should be: "error", "swapped", "wrong", "low", or "" if nothing."""
        if self.error:
            return "error"
        if self.in_float < SAME:
            return "swapped"
        if max(self.wrong.values(), default=0.0) > WRONG:
            return "wrong"
        return "low" if self.decibels < GOOD and not self.dead else ""


class Alone(nn.Module):
    """One module as a model, ``method`` for a ``FloatFunctional``."""

    def __init__(self, unit: nn.Module, method: str) -> None:
        super().__init__()
        self.unit, self.method = copy.deepcopy(unit), method

    def forward(self, *args, **kwargs):
        """What the module gives."""
        return (getattr(self.unit, self.method) if self.method else self.unit)(*args, **kwargs)


def try_alone(module: nn.Module, given: tuple, qconfig: QConfig, fix: str = "") -> Trial:
    """Take one module through prepare, calibration, convert and int8.

    Args:
        module: in float; it is copied.
        given: arguments of a call, int8 where they would be, and the method called (``Run.given``).
        qconfig: for all that has none of its own.
        fix: code that is run first; ``model.unit`` is the module.
    """
    (args, kwargs), method = given
    trial, alone = Trial(), Alone(module, method)
    floats = tree_map(dequantized, (args, kwargs))
    try:
        want = alone(*copy.deepcopy(floats[0]), **floats[1])
        trial.dead = (
            max((float(t.abs().max()) for t in tensors(want) if is_real(t)), default=1) < DEAD
        )
        alone.qconfig = qconfig
        exec(fix, {"model": alone, "nn": nn, "torch": torch})
        trial.step = "prepare"
        prepare(alone, inplace=True)
        trial.step = "calibration"
        trial.in_float = decibels(want, alone(*copy.deepcopy(floats[0]), **floats[1]))
        trial.step = "convert"
        observers = [partial(quantized_by, alone.qconfig), copy.deepcopy(floats)]
        convert(alone, inplace=True)
        trial.step = "storing"
        alone.state_dict()
        trial.step = "int8"
        args, kwargs = tree_map(*observers)
        trial.decibels = decibels(want, alone(*args, **kwargs))
        trial.wrong = inexact_layers(alone, *args, **kwargs)
    except Exception as error:  # whatever is raised is the result
        trial.error = first_sentence(error)
    return trial


def quantized_by(qconfig: QConfig, leaf):
    """A float tensor as a ``QuantStub`` with this qconfig would give it; anything else as it is."""
    if not is_real(leaf):
        return leaf
    observer = qconfig.activation()
    observer(leaf)
    scale, zero_point = observer.calculate_qparams()
    return torch.quantize_per_tensor(leaf, float(scale), int(zero_point), observer.dtype)


def try_whole(model: nn.Module, inputs: tuple, want: list[Tensor], fix: str = "") -> Trial:
    """Take a model through prepare, calibration with ``inputs``, convert and int8.

    Args:
        model: float with stubs, or prepared for QAT; it is copied.
        inputs: positional and keyword arguments.
        want: the float model's ``Run.results``.
        fix: code that is run first, on the copy.
    """
    trial, model = Trial(), copy.deepcopy(model)
    try:
        exec(fix, {"model": model, "nn": nn, "torch": torch})
        trial.step = "prepare"
        if stage_of(model) == "float":
            if not any(getattr(module, "qconfig", None) for module in model.modules()):
                model.qconfig = engine_qconfig()
            prepare(model, inplace=True)
        trial.step = "calibration"
        args, kwargs = copy.deepcopy(inputs)
        model(*args, **kwargs)
        trial.step = "convert"
        convert(model, inplace=True)
        trial.step = "storing"
        model.state_dict()
        trial.step = "int8"
        args, kwargs = copy.deepcopy(inputs)
        trial.wrong = inexact_layers(model, *args, **kwargs)
    except Exception as error:
        trial.error = first_sentence(error)
    if trial.step == "int8":
        trial.run = Run(model, *copy.deepcopy(inputs))
        trial.decibels = decibels(want, trial.run.results) if not trial.error else float("nan")
    return trial
