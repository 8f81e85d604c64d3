"""Checks of what runs inside the quantized region, from a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .anatomy import FUNCTIONAL, QUANT_STUBS, STUBS, SWAPPED, Anatomy, type_of
from .calls import Call
from .finding import Finding, finding
from .remedies import IN_FLOAT, MODULE_REMEDIES, remedy_for
from .running import Recording
from .watching import FLOAT_INPUT, NOT_A_TENSOR, QUANTIZED_INPUT, UNSEEN_INPUT

JOINS = frozenset("cat concat concatenate stack hstack vstack dstack column_stack".split())

SINGLY = 3
"""Up to so many operators of a module have a finding each, more share one."""

BEFORE, BETWEEN, BEHIND = "before the first layer", "between int8 layers", "behind the last layer"
POSITION_FIX = {
    BEFORE: "x = self.quant(x)  # behind these operators",
    BETWEEN: "self.quant_2 = QuantStub()  # in __init__\n"
    "x = self.dequant(x)  # before these operators\n"
    "x = self.quant_2(x)  # behind them",
    BEHIND: "x = self.dequant(x)  # before these operators",
}


def check_operators(anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    """Findings about single calls: units with a wrong input, operators without an int8 kernel."""
    flow = Flow(anatomy, recording)
    failing: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in recording.calls:
        if call.unit:
            yield from _unit(call, anatomy)
        elif call.inside and call.op in JOINS and len(set(call.scales)) > 1:
            yield _join(call, flow)
        elif call.error and call.builtin:
            yield _module(call, anatomy)
        elif call.error:
            failing[call.module, flow.position(call)].append(call)
    for (module, position), calls in failing.items():
        if position == BETWEEN and len({(call.op, call.place) for call in calls}) <= SINGLY:
            yield from (_operator(call, flow) for call in calls)
        else:
            yield _operators(module, position, calls)
    yield from _called_again(anatomy, recording)


class Flow:
    """Where a call stands: before, between or behind the layers (the units with a scale)."""

    def __init__(self, anatomy: Anatomy, recording: Recording) -> None:
        self._consumers: dict[int, list[Call]] = defaultdict(list)
        self._from_layers: set[int] = set()
        self._to_layers: set[int] = set()
        self._complete = recording.complete
        for call in recording.calls:
            for value in call.inputs:
                self._consumers[value].append(call)
            if _is_layer(call, anatomy) or self._from_layers.intersection(call.inputs):
                self._from_layers.update(call.outputs)
        for call in reversed(recording.calls):
            if _is_layer(call, anatomy) or self._to_layers.intersection(call.outputs):
                self._to_layers.update(call.inputs)

    def position(self, call: Call) -> str:
        """Where a call stands: ``BEFORE``, ``BETWEEN`` or ``BEHIND``."""
        if not self._complete:
            return BETWEEN
        if not self._to_layers.intersection(call.outputs):
            return BEHIND
        return BETWEEN if self._from_layers.intersection(call.inputs) else BEFORE

    def is_followed_by_relu(self, call: Call) -> bool:
        """Nothing but one ReLU uses the result."""
        consumers = [user for value in call.outputs for user in self._consumers[value]]
        return len(consumers) == 1 and consumers[0].op == "relu"


def _is_layer(call: Call, anatomy: Anatomy) -> bool:
    return call.unit and not isinstance(anatomy.modules[call.module], (*STUBS, *FUNCTIONAL))


def _unit(call: Call, anatomy: Anatomy) -> Iterator[Finding]:
    if call.error == FLOAT_INPUT:
        yield finding(
            "STUB_MISPLACED", call.module,
            "Its input has not come through a QuantStub, or has left int8 through a "
            "DeQuantStub: after convert it is given float, and stops with \"Could not run "
            "'quantized::...' with arguments from the 'CPU' backend\".",
            "x = self.quant(x)  # before this module; a new QuantStub if the old one is in use\n"
            "module.qconfig = None  # or let it stay float, before prepare",
        )
    elif call.error == QUANTIZED_INPUT:
        yield finding(
            "STUB_MISPLACED", call.module,
            "This QuantStub is given a tensor that is int8 already, which stops with \"Could "
            "not run 'aten::quantize_per_tensor' with arguments from the 'QuantizedCPU' "
            "backend\".",
            "# delete this stub, or put a DeQuantStub before it",
        )
    elif call.error == UNSEEN_INPUT:
        yield finding(
            "NOT_FOLLOWED", call.module,
            "Its input was computed out of sight, by a scripted function or an extension: "
            "whether int8 runs there is not known.",
            "# write that function in Python, or try it on a tensor from torch.quantize_per_tensor",
        )
    elif call.error == NOT_A_TENSOR:
        wrapped = call.module == "dequant" or call.module.endswith(".dequant")
        yield finding(
            "TUPLE_IN_QUANTWRAPPER", call.module.rpartition(".")[0] if wrapped else call.module,
            "A stub takes one tensor and is given a tuple or a list, as by QuantWrapper around "
            "a model with several outputs: \"'tuple' object has no attribute 'dequantize'\".",
            "self.quant, self.dequant = QuantStub(), DeQuantStub()  # without QuantWrapper\n"
            "return tuple(self.dequant(output) for output in outputs)",
        )


def _join(call: Call, flow: Flow) -> Finding:
    fix = f"x = torch.{call.op}([self.dequant(t) for t in tensors], dim=1)"
    if flow.position(call) == BETWEEN:
        fix = f"x = self.quant_2({fix[4:]})"
        if call.op.startswith(("cat", "conc")):
            fix = "self.cat = FloatFunctional()  # in __init__\nx = self.cat.cat(tensors, dim=1)"
    return finding(
        "CAT_QUANTIZED", call.module,
        f"torch.{call.op} at {call.place} joins int8 tensors with different scales. It runs, but "
        "all of them get the scale of the first: larger values are clipped.",
        fix,
    )


def _module(call: Call, anatomy: Anatomy) -> Finding:
    kind = type_of(anatomy.modules[call.module])
    if kind in SWAPPED and call.module not in anatomy.units:
        return finding(
            "STUB_MISPLACED", call.module,
            f"This {kind.__name__} stays float, since its qconfig is None, but it is given int8: "
            f"\"{call.error}\".",
            "x = self.quant_2(self.module(self.dequant(x)))  # stubs around it\n"
            "model.module.qconfig = model.qconfig  # or quantize it, before prepare",
        )
    base = next((base for base in kind.__mro__[1:] if base in SWAPPED), None)
    if base is not None:
        why = f"convert goes by the exact type, so it leaves this subclass of {base.__name__} float"
    else:
        why = "convert has no int8 form for it, and int8 no kernel"
    return finding(
        "UNSUPPORTED_MODULE", call.module, f"{kind.__name__}: {why}: \"{call.error}\".",
        MODULE_REMEDIES.get(kind, IN_FLOAT),
    )


def _operator(call: Call, flow: Flow) -> Finding:
    remedy = remedy_for(
        call.op, len(call.inputs), len(call.scales), flow.is_followed_by_relu(call)
    )
    return finding(
        "FUNCTIONAL_OP", call.module,
        f"{remedy.name} at {call.place} runs between int8 layers. {remedy.why} After convert: "
        f"\"{call.error}\".",
        remedy.fix,
    )


def _operators(module: str, position: str, calls: list[Call]) -> Finding:
    """One finding for many operators of a module, or for those that need not be in the region."""
    places = list(dict.fromkeys(f"{call.op} ({call.place})" for call in calls))
    shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
    return finding(
        "FUNCTIONAL_OP", module,
        f"Operators without an int8 kernel, {position}: {shown}. After convert the first one "
        f"stops with \"{calls[0].error}\". Compute them in float, outside the quantized region.",
        POSITION_FIX[position],
    )


def _called_again(anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    """Units with a scale of their own that are called for several tensors."""
    counts: dict[str, int] = defaultdict(int)
    for call in recording.calls:
        counts[call.module] += call.unit
    for name, count in counts.items():
        module = anatomy.modules[name]
        if count < 2 or (isinstance(module, STUBS) and not isinstance(module, QUANT_STUBS)):
            continue
        kind = type(module).__name__
        if isinstance(module, (*FUNCTIONAL, *QUANT_STUBS)):
            fix = f"self.a, self.b = {kind}(), {kind}()  # in __init__: one for each call"
        else:
            fix = "self.b = copy.deepcopy(self.a)  # one for each call, if their ranges differ much"
        yield finding(
            "SHARED_MODULE", name,
            f"This {kind} is called {count} times a run and has one scale for all of them, "
            "which is too coarse where the values are small.",
            fix,
        )
