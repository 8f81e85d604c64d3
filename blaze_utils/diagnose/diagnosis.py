"""``diagnose``: looks at a model, runs a copy of it, and collects what the checks find."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .anatomy import anatomy_of, stage_of
from .calibration import check_calibration
from .chains import check_chains
from .conversion import check_conversion
from .failure import check_forward, check_run
from .finding import Finding, Findings, finding
from .operators import check_operators
from .running import Recording, record
from .structure import check_structure


def diagnose(model: nn.Module, example_inputs: Tensor | tuple) -> Findings:
    """What stands between a model and a working int8 conversion in eager mode.

    A copy of the model runs once on the CPU (if it fails, another copy runs too), in evaluation
    mode and without gradients. The model itself is only read: weights, buffers, mode, hooks,
    observers and the random generators are the same afterwards.

    Args:
        model: any eager module, at any stage from float to converted, on any device.
        example_inputs: what to call it with: a tensor, or a tuple of the arguments (for the
            detectors of torchvision a tuple with a list of images). They are not changed.

    Returns:
        Findings in the order in which a reader would meet them; an empty list if nothing is known
        to stand in the way. A model that does not run is a finding, not an exception.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    findings = _without_repetition(_findings(model, inputs))
    return Findings(findings, type(model).__name__, stage_of(model))


def _without_repetition(findings: Iterator[Finding]) -> Iterator[Finding]:
    """One finding about a module that int8 does not have, though several checks stumble over it."""
    unsupported = set()
    for found in findings:
        if found.code == "UNSUPPORTED_MODULE":
            if found.module in unsupported:
                continue
            unsupported.add(found.module)
        yield found


def _findings(model: nn.Module, inputs: tuple) -> Iterator[Finding]:
    if isinstance(model, torch.jit.ScriptModule):
        yield finding(
            "NOT_EAGER", "",
            "This is a ScriptModule: prepare and convert work on the nn.Module that it was made "
            "from.",
            "torch.jit.script(converted)  # quantize first, script afterwards",
        )
        return
    anatomy, recording = anatomy_of(model), Recording()
    obstacle = check_forward(model)
    if obstacle is not None:
        yield obstacle
    else:
        recording = record(model, inputs, anatomy)
        yield from check_run(recording, anatomy)
    yield from check_structure(model, anatomy, recording)
    yield from check_conversion(anatomy)
    yield from check_operators(anatomy, recording)
    yield from check_chains(anatomy, recording)
    yield from check_calibration(anatomy, recording)
