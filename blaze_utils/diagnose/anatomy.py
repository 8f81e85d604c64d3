"""What kind of module is this? What ``convert`` would swap or has swapped, and the model's stage.

A *unit* is a module that is one int8 operator after ``convert``: a convolution, a fused pair, a
``FloatFunctional``, a stub. What happens inside it is PyTorch's affair, so nobody looks there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.ao.nn import quantized
from torch.ao.quantization import DeQuantStub, FakeQuantizeBase, ObserverBase, QConfig, QuantStub
from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

FUNCTIONAL = (quantized.FloatFunctional, quantized.FXFloatFunctional, quantized.QFunctional)
QUANT_STUBS = (QuantStub, quantized.Quantize)
DEQUANT_STUBS = (DeQuantStub, quantized.DeQuantize)
STUBS = QUANT_STUBS + DEQUANT_STUBS
SWAPPED = get_default_static_quant_module_mappings().keys() | {nn.LSTM, nn.MultiheadAttention}
"""Types that ``convert`` replaces. It compares types exactly: a subclass stays as it is. The last
two are replaced in two steps, the first one by ``prepare``."""

# These keep the scale of their input and work on int8 as they are, swapped or not.
TRANSPARENT = {nn.Dropout, nn.ReLU6}


def engine_in_use() -> str:
    """The quantized engine of this process, "none" if there is none."""
    return torch.backends.quantized.engine


def is_observer(module: nn.Module) -> bool:
    """An observer or a fake quantization, which ``prepare`` has put in."""
    return isinstance(module, (ObserverBase, FakeQuantizeBase))


def is_static_int8(module: nn.Module) -> bool:
    """One of the modules that ``convert`` puts in (those of dynamic quantization are not)."""
    path = type(module).__module__
    return (
        path.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized."))
        and "dynamic" not in path
        and "reference" not in path
        and not isinstance(module, (quantized.FloatFunctional, quantized.FXFloatFunctional))
    )


def float_type(module: nn.Module) -> type | None:
    """The ``torch.nn`` type of a float, QAT or int8 module: ``nn.Conv2d`` for all three kinds."""
    kind = type_of(module)
    if kind.__module__.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.qat.")):
        return getattr(nn, kind.__name__, None)
    return kind


def stage_of(model: nn.Module) -> str:
    """How far the model has come: float, prepared, prepared for QAT, or converted."""
    modules = list(model.modules())
    if any(is_static_int8(module) for module in modules):
        return "converted"
    if any(isinstance(m, FakeQuantizeBase) or hasattr(m, "weight_fake_quant") for m in modules):
        return "prepared for QAT"
    return "prepared" if any(map(is_observer, modules)) else "float"


@dataclass
class Anatomy:
    """The modules that matter, by their first dotted name, in the order of ``named_modules``.

    Attributes:
        stage: see ``stage_of``.
        modules: all of them but observers and the inside of units.
        units: the names of the units.
        qconfigs: the qconfig of each, its own or inherited; None if there is none.
        stays_float: the names of those without one where others have one; convert leaves them.
        aliases: names of modules that are registered under two names or more.
    """

    stage: str
    modules: dict[str, nn.Module]
    units: set[str]
    qconfigs: dict[str, QConfig | None]
    stays_float: set[str]
    aliases: set[str]

    def named(self, *types: type) -> list[str]:
        """The names of the modules of these types."""
        return [name for name, module in self.modules.items() if isinstance(module, types)]

    @property
    def has_quant_stub(self) -> bool:
        return bool(self.named(*QUANT_STUBS))


def anatomy_of(model: nn.Module) -> Anatomy:
    """Look at a model without changing or running it."""
    stage = stage_of(model)
    qconfigs = _effective_qconfigs(model)
    without = {name for name, qconfig in qconfigs.items() if qconfig is None}
    stays_float = without if len(without) < len(qconfigs) else set()

    def is_unit(name: str, module: nn.Module) -> bool:
        if stage == "converted":
            return is_static_int8(module)
        kind = type_of(module)
        return (
            name not in stays_float
            and kind not in TRANSPARENT
            and (kind in SWAPPED or kind.__module__.startswith("torch.ao.nn."))
        )

    every = list(_walk("", model, is_unit))
    modules: dict[str, nn.Module] = {}
    first_name: dict[int, str] = {}
    aliases = set()
    for name, module in every:
        if first_name.setdefault(id(module), name) == name:
            modules[name] = module
        else:
            aliases.add(first_name[id(module)])
    units = {name for name, module in modules.items() if is_unit(name, module)}
    return Anatomy(stage, modules, units, qconfigs, stays_float, aliases)


def _walk(
    name: str, module: nn.Module, is_unit: Callable[[str, nn.Module], bool]
) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    if is_unit(name, module) or isinstance(module, torch.jit.ScriptModule):
        return
    # Not named_children(), which leaves out a module that is registered twice.
    for child_name, child in module._modules.items():
        if child is not None and not is_observer(child):
            yield from _walk(f"{name}.{child_name}".lstrip("."), child, is_unit)


def _effective_qconfigs(model: nn.Module) -> dict[str, QConfig | None]:
    effective: dict[str, QConfig | None] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inherited = effective[name.rpartition(".")[0]] if name else None
        effective[name] = getattr(module, "qconfig", inherited)
    return effective
