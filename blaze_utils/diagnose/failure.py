"""Findings about a model that cannot be copied, does not run, or cannot be watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import FunctionType

from torch import nn

from .anatomy import Anatomy
from .finding import Finding, finding
from .running import Recording

KNOWN = [
    (
        r"Didn't find engine for operation", "ENGINE_MISSING",
        "The weights of the converted model are packed for an engine that is not in use here",
        "torch.backends.quantized.engine = ...  # the engine of the qconfig, before convert",
    ),
    (
        r"Could not run 'quantized::.+' with arguments from the 'CPU' backend", "STUB_MISPLACED",
        "An int8 operator is given float: no QuantStub stands before it",
        "x = self.quant(x)  # before this operator",
    ),
    (
        r"(CUDA|cuda)", "ON_CUDA",
        "Something in the model asks for the GPU, where converted modules do not run",
        "model.cpu()  # and feed it tensors that are on the CPU",
    ),
    (
        r"must be Tensor, not method|got \(.*\bmethod\b", "FUNCTIONAL_OP",
        "A function such as F.linear uses the weight of a module that was converted; call the "
        "module",
        "x = self.layer(x)  # instead of F.linear(x, self.layer.weight)",
    ),
    (
        r"QuantizedCPU|on quantized tensors|quantized numbers|quantized Tensor", "FUNCTIONAL_OP",
        "An operator without an int8 kernel is given int8",
        "x = self.dequant(x)  # before this operator",
    ),
]
"""Messages of PyTorch that tell their cause: pattern, code, explanation, fix."""


def first_line(error: Exception) -> str:
    """The class of an exception and the first line of its message, without its full stop."""
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:200]}".rstrip(" .!:,")


def check_forward(model: nn.Module) -> Finding | None:
    """For a model of which a copy would still work with the original's modules; None for others."""
    for name, module in model.named_modules():
        if isinstance(vars(module).get("forward"), FunctionType):
            return finding(
                "NOT_COPYABLE", name,
                "Its forward has been replaced by a function, which in a copy still works with "
                "the old modules: what prepare and convert return would run the float model. It "
                "was not run.",
                "module.forward = types.MethodType(function, module)  # or write a subclass",
            )
    return None


def check_run(recording: Recording, anatomy: Anatomy) -> Iterator[Finding]:
    """A finding if the run did not come to its end, unless a call of an int8 model says why."""
    if recording.not_followed is not None:
        yield finding(
            "NOT_FOLLOWED", "",
            "The model runs, but not while its operators are watched: operators and chains are "
            f"missing from this list. {first_line(recording.not_followed)}",
            "# look for additions, cat and softmax between the stubs yourself",
        )
    error = recording.failure or recording.not_copied
    explained = anatomy.stage == "converted" and any(call.error for call in recording.calls)
    if error is None or explained:
        return
    for pattern, code, explanation, fix in KNOWN:
        if re.search(pattern, str(error)):
            yield finding(code, "", f"{explanation}. {first_line(error)}", fix)
            return
    if recording.not_copied is not None:
        yield finding(
            "NOT_COPYABLE", "",
            "prepare and convert copy the model, and so does this check; it cannot be copied: "
            f"{first_line(error)}. It was not run.",
            "# remove attributes that hold results (old weight_norm, cached outputs), or use\n"
            "# inplace=True on a freshly built model",
        )
        return
    yield finding(
        "RUN_FAILED", "",
        f"The model does not run with these inputs: {first_line(error)}. The rest of this list "
        "is what can be seen without a complete run.",
        "model.eval()(*example_inputs)  # must run before it can be quantized",
    )
