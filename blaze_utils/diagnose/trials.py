"""What eager int8 makes of a model and of its parts, found out by doing it to copies.

``Run`` is one run of a float model, written down. Beside every tensor that would be int8 after
``convert`` runs a quantized *shadow*, and every operator is tried on the shadows: whether int8 has
a kernel for it, and a right one, is PyTorch's own answer. A *unit* is a module that ``convert``
makes one int8 operator of. ``attempt`` takes a model, or one module as a model, to int8.
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
import torch.ao.quantization as tq
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.quantization.fuser_method_mappings import get_fuser_method
from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings
from torch.ao.quantization.quantize import _remove_activation_post_process
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from blaze_utils.int8 import default_qconfig

from . import checks
from .checks import FUNCTIONAL, METHODS, dequantized, watching

type_of = parametrize.type_before_parametrizations
QUANT, DEQUANT = (tq.QuantStub, nnq.Quantize), (tq.DeQuantStub, nnq.DeQuantize)
CUSTOM = (nn.LSTM, nn.MultiheadAttention)  # prepare itself puts another module in their place
SWAPPED = {*get_default_static_quant_module_mappings(), *CUSTOM} - {nn.Dropout, nn.ReLU6}
TORCH = str(Path(torch.__file__).parent) + os.sep
TORCH_MODULES = str(Path(TORCH, "nn", "modules")) + os.sep
HERE = str(Path(__file__).parent) + os.sep
INFINITE, NAN = float("inf"), float("nan")

GOOD = 20.0
"""Decibels that int8 must reach, against float; a layer alone has 30 to 40."""
SAME = 60.0
"""Decibels between two ways to compute the same in float; rounding in float32 leaves 100."""
DEAD = 3e-4
"""Below this largest value a layer has no signal: an observer's smallest step is 1e-7, and int8
keeps nothing of it. Networks with random weights and untouched batch norms have such layers."""


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
    int8 = getattr(leaf, "_shadow", None) if isinstance(leaf, Tensor) else None
    return leaf if int8 is None else int8


def is_channels_last(leaf) -> bool:
    """Whether it is a quantized tensor that lies in memory with its channels last."""
    dense = is_quantized(leaf) and leaf.dim() == 4 and not leaf.is_contiguous()
    return dense and leaf.is_contiguous(memory_format=torch.channels_last)


def first_sentence(error: Exception) -> str:
    """What an exception says, up to its first full stop or line end."""
    lines = str(error).split(". ")[0].strip().splitlines()
    return lines[0][:200].rstrip(" .:") if lines else type(error).__name__


def largest(tree) -> float:
    """The largest absolute value in all tensors of real numbers; 0.0 if there is none."""
    real = [leaf for leaf in tensors(tree) if is_real(leaf) and leaf.numel()]
    return max((float(leaf.abs().max()) for leaf in real), default=0.0)


def decibels(expected, actual, other_shape: float = NAN) -> float:
    """SQNR of the worst tensor of ``actual``; infinite if equal, NaN if nothing can be compared."""
    found = []
    for want, got in zip(tensors(expected), map(dequantized, tensors(actual)), strict=False):
        if want.shape != got.shape:
            return other_shape
        if is_real(want) and bool(want.isfinite().all()):
            noise = (want.double() - got.double()).square().mean()
            ratio = want.double().square().mean() / noise
            found.append(10 * float(ratio.log10()) if noise else INFINITE)
    return min(found, default=NAN)


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


@dataclass
class Call:
    """One operator or unit as it ran. Values are numbered; one changed in place is a new one."""

    module: str  # dotted name of the innermost module
    op: str  # the operator, or the class of the unit
    place: str  # file and line in the user's code, such as model.py:109
    builtin: bool  # called by a module of torch.nn, not by the user's code
    unit: bool
    inputs: list[int]
    inside: bool  # an input is int8 in the converted model
    scales: list[float]  # of those inputs
    outputs: list[int] = field(default_factory=list)
    error: str = ""  # what PyTorch says to int8 inputs; for a unit what is wrong with them
    wrong: float = 0.0  # share of the int8 result more than one step beside exact arithmetic
    decibels: float = INFINITE  # the int8 result against float arithmetic on the same inputs


class _Recorder(TorchFunctionMode):
    """Writes down what runs under it. A tensor carries its number and its shadow as attributes."""

    def __init__(self, units: set[str], everything_inside: bool) -> None:
        super().__init__()
        self.units, self.everything_inside = units, everything_inside
        self.calls, self.names, self.given = [], [""], {}
        self.depth = self.count = 0

    def mark(self, tensor: Tensor, int8=None) -> int:
        self.count += 1
        tensor._number, tensor._shadow = self.count, int8 if is_quantized(int8) else None
        return self.count

    def quantized(self, leaf, channels_last: bool = False):
        """A float tensor as int8, with a scale that no other has; anything else as it is."""
        if not is_real(leaf) or leaf.is_nested:
            return leaf
        self.count += 1
        leaf = leaf.detach().nan_to_num()
        if channels_last and leaf.dim() == 4:  # as int8 convolutions return their output
            empty = torch.empty(leaf.shape, memory_format=torch.channels_last)
            leaf = empty.copy_(leaf)  # contiguous() would keep the strides of 1 x 1
        low, high = map(float, nn.functional.pad(leaf.flatten(), (0, 1)).aminmax())  # and zero
        scale = max((high - low) / 255, 1e-7) * (1 + 1e-6 * self.count)
        return torch.quantize_per_tensor(leaf, scale, round(-low / scale), torch.quint8)

    def call(self, op: str, given: list[Tensor], unit: bool = False) -> Call:
        int8 = [tensor for tensor in map(shadow, given) if tensor.is_quantized]
        scales = [t.q_scale() for t in int8 if t.qscheme() == torch.per_tensor_affine]
        numbers = [getattr(t, "_number", None) or self.mark(t) for t in given]
        return Call(self.names[-1], op, *place_of_caller(), unit, numbers, bool(int8), scales)

    def finish(self, call: Call, result, int8) -> None:
        results, shadows = tensors(result), tensors(int8)
        shadows = shadows if len(shadows) == len(results) else results
        call.outputs = [self.mark(*pair) for pair in zip(results, shadows, strict=True)]
        self.calls.append(call)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        if self.depth or not given:
            made = func(*args, **kwargs)
            _ = [self.mark(tensor) for tensor in tensors(made) if not self.depth]
            return made
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as x.shape or x.T
            name = getattr(func.__self__, "__name__", name)
        versions, call = [tensor._version for tensor in given], self.call(name.strip("_"), given)
        result = func(*args, **kwargs)
        changed = [t for t, old in zip(given, versions, strict=True) if t._version != old]
        if not tensors(result) and not changed:
            return result  # asks about a tensor, not for its values
        int8 = self.in_int8(call, func, args, kwargs, result) if call.inside else result
        if not changed and all(any(out is t for t in given) for out in tensors(result)):
            if not isinstance(int8, Tensor) or int8.is_quantized or not call.inside:
                return result  # hands on what it was given
            result = result.view_as(result)  # x.dequantize() of a float x is x itself
        others = [t for t in changed if not any(t is out for out in tensors(result))]
        self.finish(call, (result, others), (int8, [shadow(tensor) for tensor in others]))
        return result

    def in_int8(self, call: Call, func, args: tuple, kwargs: dict, result):
        """What int8 gives in the place of ``result``, compared with exact arithmetic."""
        args, kwargs = tree_map(shadow, (args, kwargs))
        floats = tree_map(dequantized, (args, kwargs))  # now: func may change its input in place
        try:
            int8 = func(*args, **kwargs)
        except Exception as error:  # any exception is an answer here
            call.error = first_sentence(error)
            last = any(map(is_channels_last, tensors(args)))
            return tree_map(partial(self.quantized, channels_last=last), result)
        if is_quantized(int8) and int8.qscheme() == torch.per_tensor_affine and int8.numel():
            exact = func(*floats[0], **floats[1])
            if is_real(exact) and exact.shape == int8.shape:
                call.wrong = checks.wrong_share(exact, int8)
                call.decibels = decibels(exact, int8)
        return int8

    def around(self, name: str, module: nn.Module, run, *args, **kwargs):
        """A module runs (see ``watching``); a unit is written down as one call."""
        self.names.append(name)
        if name not in self.units or self.depth:
            if not self.depth:
                self.given.setdefault(name, (tree_map(shadow, (args, kwargs)), run.__name__))
            result = run(*args, **kwargs)
        else:
            result = self.unit(module, run, args, kwargs)
        self.names.pop()
        return result

    def unit(self, module: nn.Module, run, args: tuple, kwargs: dict):
        self.depth += 1  # what PyTorch does inside, and what is done here, is not written down
        for tensor in tensors(args[:3]):
            if not hasattr(tensor, "_number"):  # of a scripted function: taken to be int8
                self.mark(tensor, self.quantized(tensor))
        self.given.setdefault(self.names[-1], (tree_map(shadow, (args, kwargs)), run.__name__))
        given = tensors((args, kwargs))
        call = self.call(type(module).__name__, given, unit=True)
        call.error = self.input_error(module, call, args)
        int8 = result = run(*args, **kwargs)
        if isinstance(module, QUANT + DEQUANT):  # which return the very tensor in float
            int8 = result = tree_map(lambda x: x.view_as(x) if torch.is_tensor(x) else x, result)
        inside = isinstance(module, QUANT) or call.inside or self.everything_inside
        if inside and not isinstance(module, DEQUANT):
            last = any(part in type(module).__name__ for part in ("Conv", "BatchNorm"))
            last = last or any(map(is_channels_last, map(shadow, given)))
            int8 = tree_map(partial(self.quantized, channels_last=last), result)
        self.finish(call, result, int8)
        self.depth -= 1
        return result

    def input_error(self, module: nn.Module, call: Call, args: tuple) -> str:
        if isinstance(module, QUANT + DEQUANT) and isinstance(args[0], (tuple, list, dict)):
            return "tuple"
        if isinstance(module, QUANT):
            return "int8" if call.inside else ""
        if isinstance(module, DEQUANT) or self.everything_inside:
            return ""
        # Behind the third argument of an attention come masks, which stay float.
        return "float" if any(is_real(shadow(tensor)) for tensor in tensors(args[:3])) else ""


class Run:
    """One run of a float model, written down, and what the rules ask about it.

    Attributes:
        modules, units: by dotted name, without the inside of units; the names of the units.
        qconfigs: of each module, its own or inherited; "" if none was ever set.
        stays_float: names without a qconfig where others have one: convert leaves them.
        calls, by_module, users: what ran; by module; by the number of an input.
        given: by name, the arguments of a module's first call, as shadows, and the method called.
        failure, failed_in: what the run raised, and in which module; None if it came to its end.
        returns, returns_int8: numbers of what the model returned; whether any of it is int8.
    """

    def __init__(self, model: nn.Module, inputs: tuple[tuple, dict]) -> None:
        self.qconfigs, every = {}, list(model.named_modules(remove_duplicate=False))
        for name, module in every:
            inherited = self.qconfigs[name.rpartition(".")[0]] if name else ""
            self.qconfigs[name] = getattr(module, "qconfig", inherited)
        without = {name for name, qconfig in self.qconfigs.items() if qconfig is None}
        self.stays_float = without if len(without) < len(self.qconfigs) else set()
        self.modules, self.units = {}, set()
        for name, module in model.named_modules():
            if not any(name.startswith(f"{unit}.") for unit in self.units):
                self.modules[name] = module
                swapped = type_of(module) in SWAPPED or is_of_torch_ao(module)
                self.units |= {name} if swapped and name not in self.stays_float else set()
        ids = [id(module) for _, module in every]
        self.aliases = {name for name, m in self.modules.items() if ids.count(id(m)) > 1}
        self.has_stub = any(isinstance(module, QUANT) for module in self.modules.values())
        self._record(copy.deepcopy(model), *copy.deepcopy(inputs))
        self.users, self.by_module = defaultdict(list), defaultdict(list)
        for call in self.calls:
            self.by_module[call.module].append(call)
            for value in call.inputs:
                self.users[value].append(call)

    def _record(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        recorder = _Recorder(self.units, everything_inside=not self.has_stub)
        self.calls, self.given = recorder.calls, recorder.given
        self.failure, self.failed_in, self.returns, self.returns_int8 = None, "", set(), False
        for tensor in [*model.parameters(), *model.buffers()]:
            recorder.mark(tensor)
        for tensor in tensors((args, kwargs)):
            recorder.mark(tensor, None if self.has_stub else recorder.quantized(tensor))
        try:
            with watching(model, recorder.around), recorder:
                output = model(*args, **kwargs)
        except Exception as error:  # whatever the user's code raises is a finding
            self.failure, self.failed_in = error, recorder.names[-1]
            return
        others = [leaf for leaf in tree_leaves(output) if not isinstance(leaf, (Tensor, nn.Module))]
        returned = tensors([output, *(getattr(leaf, "__dict__", None) for leaf in others)])
        self.returns = {getattr(tensor, "_number", 0) for tensor in returned}
        self.returns_int8 = any(shadow(tensor).is_quantized for tensor in returned)

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
                best = list(chain) if self._fuses(chain) else best
            chains += [best] if best and used.isdisjoint(best) else []
            used.update(*chains[-1:])
        return chains

    def _fuses(self, chain: list[str]) -> bool:
        modules = [self.modules[name] for name in chain]
        try:
            get_fuser_method(tuple(map(type_of, modules)))
        except AssertionError:
            return False
        statistics = all(getattr(module, "running_mean", 0) is not None for module in modules)
        return statistics and not (self.stays_float | self.aliases).intersection(chain)

    def positions(self) -> dict[int, str]:
        """Where a call stands, by ``id``: "before", "between" or "behind" the layers."""
        units, outer = [c for c in self.calls if c.unit], QUANT + DEQUANT + FUNCTIONAL
        layers = {id(c) for c in units if not isinstance(self.modules[c.module], outer)}
        computed, needed, follows, positions = set(), set(), set(), {}
        for call in self.calls:
            follows |= {id(call)} if computed.intersection(call.inputs) else set()
            computed.update(call.outputs if id(call) in layers | follows else ())
        for call in reversed(self.calls):
            leads = bool(needed.intersection(call.outputs))
            needed.update(call.inputs if leads or id(call) in layers else ())
            between = "between" if id(call) in follows else "before"
            positions[id(call)] = between if leads else "behind"
        return positions


def is_of_torch_ao(module: nn.Module) -> bool:
    """Whether PyTorch's quantization has made the class: fused, observed or int8."""
    return type(module).__module__.startswith("torch.ao.nn.")


def stage_of(model: nn.Module) -> str:
    """How far the model has come: float, prepared, prepared for QAT, or converted."""
    modules = list(model.modules())
    if any(map(checks.is_int8, modules)):
        return "converted"
    if any(isinstance(m, tq.FakeQuantizeBase) or hasattr(m, "weight_fake_quant") for m in modules):
        return "prepared for QAT"
    return "prepared" if any(map(checks.is_observer, modules)) else "float"


def without_observers(model: nn.Module) -> nn.Module:
    """The model, changed in place: what ``prepare`` has put in is taken out again."""
    for module in model.modules():
        _remove_activation_post_process(module)
        if isinstance(module, nnq.FloatFunctional):
            module.activation_post_process = nn.Identity()
    return model


def engine_qconfig(engine: str = "") -> tq.QConfig:
    """The default qconfig of an engine; without a name ours of the one in use, which is safe."""
    used = torch.backends.quantized.engine
    if engine or used == "none":
        return tq.get_default_qconfig(engine or "x86")
    return default_qconfig(used)


def without_histogram(qconfig: tq.QConfig) -> tq.QConfig:
    """The same with a plain range: histograms take most of the time, and are not what is tried."""
    observer = qconfig.activation()
    if type(observer) is not tq.HistogramObserver:
        return qconfig
    same = {key: getattr(observer, key) for key in ("dtype", "qscheme", "quant_min", "quant_max")}
    return tq.QConfig(tq.MinMaxObserver.with_args(**same), qconfig.weight)


class InFloat(nn.Module):
    """A module in float between int8 neighbours, put in before ``prepare``.

    The first tensor of its result becomes int8 again, any others stay float. The methods of a
    ``FloatFunctional`` can be called, and the module's parts be seen, as before. In a float model
    it changes nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.dequant, self.quant = module, tq.DeQuantStub(), tq.QuantStub()
        module.qconfig = None

    def __getattr__(self, name: str):
        if name in METHODS:
            return partial(self._run, getattr(self.module, name))
        parts = self._modules if name in self._modules else self.module._modules
        return parts[name] if name in parts else super().__getattr__(name)

    def forward(self, *args, **options):
        """What the module gives."""
        return self._run(self.module, *args, **options)

    def _run(self, function, *args, **options):
        args, options = tree_map(partial(_through, self.dequant), (args, options))
        leaves, structure = tree_flatten(function(*args, **options))
        first = next(number for number, leaf in enumerate(leaves) if is_real(leaf))
        leaves[first] = self.quant(leaves[first])
        return tree_unflatten(leaves, structure)


def _through(dequant: nn.Module, leaf):
    return dequant(leaf) if is_real(leaf) or is_quantized(leaf) else leaf


class Alone(nn.Module):
    """One module as a model of its own: stubs where its inputs are int8, and behind it.

    ``unit`` is in float, ``given`` of a call as in ``Run.given``; ``qconfig`` is for all that has
    none of its own.
    """

    def __init__(self, unit: nn.Module, given: tuple, qconfig: tq.QConfig) -> None:
        super().__init__()
        (inputs, self.method), self.unit, self.qconfig = given, unit, without_histogram(qconfig)
        leaves, self.structure = tree_flatten(inputs)
        int8 = [is_quantized(leaf) for leaf in leaves]
        self.int8 = int8 if any(int8) else [is_real(leaf) for leaf in leaves]
        self.stubs = nn.ModuleList(tq.QuantStub() for _ in leaves)
        self.dequant = tq.DeQuantStub()

    def forward(self, *leaves):
        """What the module gives, given the leaves of its arguments in float."""
        stubs = zip(self.stubs, leaves, self.int8, strict=True)
        leaves = [stub(leaf) if int8 else leaf for stub, leaf, int8 in stubs]
        args, kwargs = tree_unflatten(leaves, self.structure)
        run = self.unit if self.method == "forward" else getattr(self.unit, self.method)
        return tree_map(partial(_through, self.dequant), run(*args, **kwargs))


@dataclass
class Trial:
    """What eager int8 made of a model."""

    step: str = "fix"  # done last: "fix", "prepare", "calibration", "convert", "storing" or "int8"
    error: str = ""  # what was said against it there; "" if nothing
    called: list[str] = field(default_factory=lambda: [""])  # modules as they ran in that step
    running: list[str] = field(default_factory=lambda: [""])  # those that had not come to an end
    in_float: float = INFINITE  # decibels of what prepare puts in its place, against the original
    decibels: float = NAN  # of int8 against float; NaN if nothing could be compared
    wrong: dict[str, float] = field(default_factory=dict)  # as checks.inexact_layers gives it
    small: bool = False  # the float result has no signal
    dead: bool = False  # nor had an input: the signal was lost before, and the decibels say nothing

    def share(self, name: str) -> float:
        """Of what a module and its parts computed, the largest share that is wrong."""
        inside = (s for n, s in self.wrong.items() if f"{n}.".startswith(f"{name}."))
        return max(inside, default=0.0)

    @property
    def bad(self) -> str:
        """What is not as it should be: "error", "swapped", "wrong", "low", or "" if nothing."""
        if self.error:
            return "error"
        if self.in_float < SAME:
            return "swapped"
        if max(self.wrong.values(), default=0.0) > checks.WRONG:
            return "wrong"
        return "low" if self.decibels < GOOD and not self.dead else ""


def attempt(model: nn.Module, inputs: tuple[tuple, dict], fix: str = "") -> Trial:
    """Take a copy of a model from where it is to int8, and run it there.

    The inputs, positional and by name, are for calibration too. ``fix`` is code about ``model``
    that is run first, on the copy.
    """
    trial, model, want = Trial(), duplicate(model), []
    try:
        if stage_of(model) == "float":
            want, before = leaving(model, inputs, trial)
            given = min(map(largest, filter(is_real, tensors(inputs))), default=0.0)
            trial.small = 0 < largest(want) < DEAD
            trial.dead = trial.small and given <= 1000 * largest(want)
            exec(fix, {"model": model, "nn": nn, "torch": torch})
            want = leaving(model, inputs, trial)[0] if fix else want
            trial.step = "prepare"
            if not any(getattr(module, "qconfig", None) for module in model.modules()):
                model.qconfig = engine_qconfig()
            tq.prepare(model, inplace=True)
        if stage_of(model) != "converted":
            trial.step = "calibration"
            prepared, returned = leaving(model, inputs, trial)
            trial.in_float = decibels(before, returned, -INFINITE) if want else INFINITE
            want, trial.step = want or prepared, "convert"
            tq.convert(model, inplace=True)
        trial.step = "storing"
        model.state_dict()
        trial.step = "int8"
        trial.decibels = decibels(want, leaving(model, inputs, trial)[0])
        args, kwargs = copy.deepcopy(inputs)
        trial.wrong = checks.inexact_layers(model, *args, **kwargs)
    except Exception as error:  # whatever is raised is the result
        trial.error = first_sentence(error)
    return trial


def leaving(model: nn.Module, inputs: tuple, trial: Trial) -> tuple[list[Tensor], list[Tensor]]:
    """Run a model: the tensors that leave int8 through a stub (or all), and those returned."""
    left, inside = [], [" "]
    inside += [f"{name}." for name, module in model.named_modules() if is_of_torch_ao(module)]
    trial.called, trial.running = [""], [""]

    def around(name, module, run, *args, **kwargs):
        trial.called.append(name)
        trial.running.append(name.removesuffix(".activation_post_process"))
        result = run(*args, **kwargs)
        trial.running.pop()
        if isinstance(module, DEQUANT) and not name.startswith(tuple(inside)):
            left.extend(tensors(result))  # an attention dequantizes inside, too
        return result

    args, kwargs = copy.deepcopy(inputs)
    with torch.random.fork_rng([]), watching(model, around):
        torch.manual_seed(0)
        output = model(*args, **kwargs)
    return left or tensors(output), tensors(output)


def duplicate(model: nn.Module) -> nn.Module:
    """A copy on which fixes can be run: ``remove_parametrizations`` changes a module's class."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            kind = type(module)
            own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
    return copied
