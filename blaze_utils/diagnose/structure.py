"""Checks of what the model is made of: engine, device, stubs, qconfig, modes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.ao.quantization import FakeQuantizeBase

from .anatomy import STUBS, Anatomy, engine_in_use
from .finding import Finding, counted, finding
from .running import Recording


def check_structure(model: nn.Module, anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    """All findings that do not depend on what is computed, only on what is there."""
    yield from _engine()
    yield from _device(model, anatomy)
    yield from _stubs(anatomy, recording)
    yield from _script_modules(anatomy)
    yield from _qconfig(model, anatomy)
    yield from _training_mode(model, anatomy)
    yield from _fake_quantization(model, anatomy)


def _engine() -> Iterator[Finding]:
    if engine_in_use() == "none":
        engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
        yield finding(
            "ENGINE_MISSING", "",
            "The quantized engine is 'none', so convert stops with \"Didn't find engine for "
            f"operation\". This build of PyTorch has: {', '.join(engines) or 'no engine at all'}.",
            f'torch.backends.quantized.engine = "{engines[0] if engines else "qnnpack"}"',
        )


def _device(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    tensors = [*model.parameters(), *model.buffers()]
    devices = sorted({str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"})
    if not devices:
        return
    advice = "Train there, but move it to the CPU before convert." if "QAT" in anatomy.stage else (
        "Prepare, calibrate and convert it on the CPU."
    )
    yield finding(
        "ON_CUDA", "",
        f"The model is on {', '.join(devices)}, and int8 modules hold weights packed for the "
        f"CPU. {advice}",
        "model.cpu()  # and feed it tensors that are on the CPU",
    )


def _stubs(anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    stubs = anatomy.named(*STUBS)
    for name in [stub for stub in stubs if stub in anatomy.stays_float]:
        yield finding(
            "STUB_MISPLACED", name,
            "This stub has no qconfig while other modules have one: convert leaves it as it is, "
            "and it does nothing.",
            "module.qconfig = qconfig  # the same as that of the layers, before prepare",
        )
    if not anatomy.has_quant_stub:
        have = "There is a DeQuantStub, but no QuantStub" if stubs else "There are no stubs"
        yield finding(
            "NO_STUBS", "",
            f"{have}: nothing turns the input into int8, and the first converted layer stops "
            "with \"Could not run 'quantized::conv2d.new' with arguments from the 'CPU' "
            "backend\" or the like.",
            "self.quant, self.dequant = QuantStub(), DeQuantStub()  # in __init__\n"
            "x = self.quant(x)  # in forward, before the first layer\n"
            "return self.dequant(x)  # behind the last layer, once for each output",
        )
        return
    if not recording.complete:
        return
    called = {call.module for call in recording.calls}
    for name in stubs:
        if name in anatomy.units and name not in called:
            yield finding(
                "STUB_MISPLACED", name, "This stub is never called.",
                f"x = self.{name.rpartition('.')[2]}(x)  # in forward; or delete the stub",
            )
    if recording.returns_int8:
        yield finding(
            "STUB_MISPLACED", "",
            "The converted model returns a quantized tensor: there is no DeQuantStub on its way "
            "out.",
            "return self.dequant(x)  # once for each output",
        )


def _script_modules(anatomy: Anatomy) -> Iterator[Finding]:
    for name in anatomy.named(torch.jit.ScriptModule):
        yield finding(
            "NOT_EAGER", name,
            "This is a ScriptModule: prepare and convert cannot change what is inside it.",
            "# quantize the nn.Module first, and script the converted model: "
            "torch.jit.script(converted)",
        )


def _qconfig(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    if anatomy.stage != "float" or not anatomy.units:
        return
    if all(getattr(anatomy.modules[name], "qconfig", "") is None for name in anatomy.units):
        yield finding(
            "NO_QCONFIG", "",
            "prepare has run without a qconfig: it has put in no observers, and convert will "
            "change nothing.",
            "model.qconfig = get_default_qconfig(torch.backends.quantized.engine)\n"
            "prepared = prepare(model)",
        )


def _training_mode(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    if anatomy.stage == "prepared" and model.training:
        yield finding(
            "TRAINING_MODE", "",
            "The model is prepared for calibration, but in training mode: batch norms and "
            "dropout change what the observers see, and each image changes the batch norms.",
            "prepared.eval()",
        )


def _fake_quantization(model: nn.Module, anatomy: Anatomy) -> Iterator[Finding]:
    if anatomy.stage != "prepared for QAT":
        return
    weights = [m.weight_fake_quant for m in model.modules() if hasattr(m, "weight_fake_quant")]
    if weights and not any(isinstance(weight, FakeQuantizeBase) for weight in weights):
        yield finding(
            "PTQ_QCONFIG_IN_QAT", "",
            "prepare_qat was given a qconfig for post-training quantization: the weights "
            f"({counted(len(weights), 'module')}) have an observer where a fake quantization "
            "should be, so training never feels the rounding.",
            "model.qconfig = get_default_qat_qconfig(torch.backends.quantized.engine)\n"
            "prepared = prepare_qat(model.train())  # again, from the float model",
        )
    fakes = [m for m in model.modules() if isinstance(m, FakeQuantizeBase)]
    if fakes and not any(bool(fake.fake_quant_enabled[0]) for fake in fakes):
        yield finding(
            "FAKE_QUANT_OFF", "",
            f"Every fake quantization ({len(fakes)}) is switched off: the model trains and is "
            "evaluated as float, and its int8 version will differ.",
            "prepared.apply(torch.ao.quantization.enable_fake_quant)",
        )
