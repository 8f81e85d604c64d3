"""What to write instead of an operator or a module for which int8 has no kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

NEEDS_SCALE = "Its result needs a scale of its own, which a bare operator has no place to keep."


@dataclass(frozen=True)
class Remedy:
    """What to say about an operator: its name as written, why it fails, and the fix as code."""

    name: str
    why: str
    fix: str


AS_MODULE = {
    "hardswish": "Hardswish", "elu": "ELU", "prelu": "PReLU", "linear": "Linear",
    "conv1d": "Conv1d", "conv2d": "Conv2d", "conv3d": "Conv3d",
    "conv_transpose2d": "ConvTranspose2d", "batch_norm": "BatchNorm2d", "layer_norm": "LayerNorm",
    "group_norm": "GroupNorm", "instance_norm": "InstanceNorm2d",
}
"""Functions whose module convert replaces by an int8 one."""

SYMBOLS = {"add": "+", "mul": "*", "matmul": "@", "bmm": "@"}
SCALAR_FORM = {
    "add": "add_scalar(x, number)", "sub": "add_scalar(x, -number)",
    "mul": "mul_scalar(x, number)", "div": "mul_scalar(x, 1 / number)",
}


def remedy_for(op: str, tensors: int, quantized: int, relu_follows: bool) -> Remedy:
    """The remedy for an operator between layers.

    Args:
        op: its name, as in ``Call.op``.
        tensors, quantized: how many of its arguments are tensors, and how many of these int8.
        relu_follows: nothing but a ReLU uses the result.
    """
    if op in AS_MODULE:
        kind = AS_MODULE[op]
        return Remedy(
            op, f"Only the module nn.{kind} becomes int8, the function does not.",
            f"self.{op} = nn.{kind}(...)  # in __init__\nx = self.{op}(x)",
        )
    if op == "view":
        return Remedy(
            op, "Int8 convolutions return tensors with the channels last in memory.",
            "x = x.reshape(...)  # instead of view",
        )
    if op in SCALAR_FORM and tensors == 1:
        return _functional(op, SCALAR_FORM[op], f"x {SYMBOLS.get(op, op)} number")
    if op in ("cat", "concat", "concatenate"):
        return _functional(op, "cat([a, self.quant_2(b)], dim=1)", "cat, where b is float")
    if op in SYMBOLS:
        method = "matmul" if SYMBOLS[op] == "@" else op
        written = f"a {SYMBOLS[op]} b"
        if quantized < tensors:
            return _functional(op, f"{method}(a, self.quant_2(b))", f"{written}, where b is float")
        if op == "add" and relu_follows:
            return _functional(op, "add_relu(a, b)", "relu(a + b)")
        return _functional(op, f"{method}(a, b)", written)
    return Remedy(
        op, "It has no int8 kernel.",
        "self.quant_2 = QuantStub()  # in __init__\n"
        f"x = self.quant_2({op}(self.dequant(x)))  # this operator in float",
    )


def _functional(op: str, call: str, instead_of: str) -> Remedy:
    method = call.partition("(")[0]
    name = f"skip_{method}" if op == "add" else method
    attributes, values = f"self.{name}", "FloatFunctional()"
    if "quant_2" in call:
        attributes, values = f"{attributes}, self.quant_2", f"{values}, QuantStub()"
    return Remedy(
        SYMBOLS.get(op, op), NEEDS_SCALE,
        f"{attributes} = {values}  # in __init__: one for each place\n"
        f"x = self.{name}.{call}  # instead of {instead_of}",
    )


def _replace(kind: type[nn.Module], by: str, note: str) -> str:
    return (
        "for name, module in list(model.named_modules()):\n"
        f"    if type(module) is nn.{kind.__name__}:\n"
        f"        model.set_submodule(name, {by})  # {note}"
    )


IN_FLOAT = (
    "self.quant_2 = QuantStub()  # in __init__\n"
    "x = self.quant_2(self.module(self.dequant(x)))  # this module in float"
)
BEHIND = "x = self.module(self.dequant(x))  # behind the DeQuantStub"

MODULE_REMEDIES: dict[type, str] = {
    nn.SiLU: _replace(nn.SiLU, "nn.Hardswish()", "close to it, and int8; then train on"),
    nn.Mish: _replace(nn.Mish, "nn.Hardswish()", "int8; then train on"),
    nn.CELU: _replace(nn.CELU, "nn.ELU(module.alpha)", "int8; the same for alpha=1"),
    nn.SELU: _replace(nn.SELU, "nn.ELU()", "int8; then train on"),
    nn.BatchNorm1d: "# fuse it with the Linear or Conv1d before it: see NOT_FUSED",
    nn.Softmax: BEHIND, nn.LogSoftmax: BEHIND, nn.Softmax2d: BEHIND,
}
"""The fix for a module by its type; ``IN_FLOAT`` for all others."""
