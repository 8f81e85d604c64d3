"""Static quantization in one call, and its parts: what they give, and what they refuse."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization as aoq
from torch.ao.nn.intrinsic import quantized as nniq

from blaze_utils.detector import Blaze, QuantizableBlaze, preprocess
from blaze_utils.int8 import (
    calibrate,
    default_engine,
    default_qconfig,
    eager,
    fuse_add,
    has_vnni,
    load_int8,
    quantizable_copy,
    quantize_static,
    save_int8,
    sensitivity,
    simulate,
    weight_bits_qconfig,
)
from tests.int8.conftest import QUIET, pictures, quick, run, same

pytestmark = QUIET

HERE = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]


def error(found, wanted):
    """The power of the difference, as a share of what is wanted, in the worst of the heads."""
    pairs = zip(found, wanted, strict=True)
    return max(((a - b).square().mean() / b.square().mean()).item() for a, b in pairs)


def prepared_copy(float_model, fuse=lambda model: None):
    model = quantizable_copy(float_model)
    model.fuse_model()
    fuse(model)
    model.qconfig = quick()
    return aoq.prepare(model)


@pytest.mark.parametrize(
    "flags, variable, value, fbgemm, onednn",
    [
        ({}, "UNSET", "", False, False),
        ({"avx512_vnni": True}, "UNSET", "", True, True),
        ({"avx_vnni": True}, "UNSET", "", False, True),
        ({"avx512_vnni": True}, "FBGEMM_ENABLE_INSTRUCTIONS", "avx2", False, True),
        ({"avx512_vnni": True}, "ONEDNN_MAX_CPU_ISA", "AVX2", True, False),
        ({"avx512_vnni": True}, "ONEDNN_MAX_CPU_ISA", "AVX2_VNNI", True, True),
    ],
)
def test_each_flag_is_about_its_own_kernels(monkeypatch, flags, variable, value, fbgemm, onednn):
    for name in ("FBGEMM_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(eager.platform, "machine", lambda: "AMD64")
    assert (has_vnni("x86"), has_vnni("fbgemm")) == (fbgemm, fbgemm)
    assert (has_vnni("onednn"), has_vnni()) == (onednn, onednn)
    assert eager.saturates("onednn") is not onednn and not eager.saturates("qnnpack")
    bits = 255 if onednn else 127
    assert default_qconfig("onednn").activation().quant_max == bits
    assert (
        default_qconfig("onednn", is_qat=True).activation().activation_post_process.quant_max
        == bits
    )
    assert default_engine() == ("x86" if fbgemm else "onednn")
    monkeypatch.setattr(eager.platform, "machine", lambda: "arm64")
    assert default_engine() == "qnnpack" and not eager.saturates("onednn")


@pytest.mark.skipif("x86" not in HERE, reason="the kernels that saturate are for x86")
def test_without_vnni_no_default_saturates():
    """A layer made to saturate, in a process whose kernels may not use VNNI."""
    program = """
import torch, warnings
from torch import nn
from torch.ao.quantization import DeQuantStub, QuantStub
from blaze_utils.int8 import default_engine, quantize_static
from blaze_utils.measure import sqnr
warnings.simplefilter("ignore")
class Full(nn.Sequential):
    def fuse_model(self, is_qat):
        pass
conv = nn.Conv2d(64, 8, 3)
nn.init.uniform_(conv.weight, 0.9, 1)
model, x = Full(QuantStub(), conv, DeQuantStub()).eval(), 0.8 + 0.2 * torch.rand(1, 64, 16, 16)
eight = torch.ao.quantization.get_default_qconfig("onednn")
for engine, qconfig in (("x86", None), ("fbgemm", None), ("onednn", None), ("onednn", eight)):
    print(float(sqnr(model(x), quantize_static(model, [x], engine, qconfig)(x))))
print(default_engine())
"""
    limits = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=os.environ | limits, capture_output=True, text=True, check=True
    )
    *ratios, engine = done.stdout.split()
    assert min(map(float, ratios[:3])) > 40 and float(ratios[3]) < 20
    assert engine == "onednn"


@pytest.mark.parametrize("engine", HERE)
def test_quantized_in_one_call(float_model, engine):
    before = copy.deepcopy(float_model.state_dict())
    found = quantize_static(float_model, iter(pictures()), engine)
    assert torch.backends.quantized.engine == engine
    assert type(found) is QuantizableBlaze and not found.training
    kind = torch.per_tensor_affine if engine == "qnnpack" else torch.per_channel_affine
    assert found.conv1[0].weight().qscheme() == kind
    assert error(run(found), run(float_model)) < 0.1
    assert all(torch.equal(before[key], value) for key, value in float_model.state_dict().items())


def test_it_is_what_the_steps_give_one_by_one(float_model, int8):
    torch.backends.quantized.engine = default_engine()
    prepared = prepared_copy(float_model)
    calibrate(prepared, pictures())
    by_hand = aoq.convert(prepared)
    assert str(by_hand) == str(int8) and same(run(by_hand), run(int8))


def test_the_fastest_engine_is_measured(float_model, monkeypatch):
    asked = {}

    def compare(arms, x, **options):
        assert x.shape == (1, 3, 48, 48) and all(isinstance(arm(x), tuple) for arm in arms.values())
        asked.update(arms)
        return eager.pd.DataFrame({"cpu_ms": {name: float(name != "qnnpack") for name in arms}})

    monkeypatch.setattr(eager, "compare", compare)
    images = [np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)] * 2
    found = quantize_static(float_model, iter(images), "fastest")
    assert torch.backends.quantized.engine == "qnnpack" and set(asked) == set(HERE) - {"x86"}
    assert same(run(found), run(quantize_static(float_model, images, "qnnpack")))


def test_a_failure_leaves_the_engine_alone(float_model):
    torch.backends.quantized.engine = HERE[-1]
    for engine, images, message in (
        (HERE[0], [], "there are none"),
        ("fastest", [], "there are none"),
        ("cray", pictures(), "engine: 'cray' is not in this build"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_static(float_model, images, engine)
    assert torch.backends.quantized.engine == HERE[-1]


class Unready(Blaze):
    """Has no stubs and no fuse_model."""


@pytest.mark.parametrize("model", [Unready(), nn.Linear(2, 2), "int8"], ids=str)
def test_what_cannot_be_quantized_is_refused(request, model):
    model = request.getfixturevalue(model) if isinstance(model, str) else model
    with pytest.raises(TypeError, match=f"{type(model).__name__}: expected a float Blaze"):
        quantize_static(model, pictures())


def test_a_copy_is_one(float_model):
    for model in (copy.deepcopy(float_model).train(), QuantizableBlaze().train()):
        twin = quantizable_copy(model)
        assert type(twin) is QuantizableBlaze and not twin.training and model.training
        twin.fuse_model()
        assert isinstance(model.conv1[1], nn.BatchNorm2d)


@pytest.mark.parametrize("training", [False, True])
def test_calibrating_records_every_range_in_evaluation_mode(float_model, training):
    prepared = prepared_copy(float_model).train(training)
    modes = []
    prepared.quant.register_forward_hook(
        lambda module, *_: modes.append((module.training, torch.is_grad_enabled()))
    )
    assert (
        calibrate(prepared, iter([torch.full((1, 3, 32, 32), value) for value in (10.0, -90.0)]))
        == 2
    )
    observer = prepared.quant.activation_post_process
    assert observer.min_val == -90 and observer.max_val == 10
    assert modes == [(False, False)] * 2 and prepared.training is training


def test_calibrating_takes_images_as_detection_does(float_model):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    by_image, by_tensor = prepared_copy(float_model), prepared_copy(float_model)
    calibrate(by_image, [image], long_side=48)
    calibrate(by_tensor, [preprocess(image, 48)[0]])
    assert same(by_image.buffers(), by_tensor.buffers())
    with pytest.raises(ValueError, match="uint8 array"):
        calibrate(by_image, ["face.jpg"])


@pytest.mark.skipif("onednn" not in HERE, reason="only onednn has the operator")
def test_convolution_addition_and_relu_in_one_operator(float_model, tmp_path):
    prepared = prepared_copy(float_model, fuse_add)
    assert error(run(prepared), run(float_model)) < 1e-6
    calibrate(prepared, pictures())
    torch.backends.quantized.engine = "onednn"
    fused = aoq.convert(prepared)
    assert sum(type(module) is nniq.ConvAddReLU2d for module in fused.modules()) == 5
    plain = quantize_static(float_model, pictures(), "onednn", quick())
    lost = [error(run(model), run(float_model)) for model in (fused, plain)]
    assert lost[0] < lost[1], "in each block one rounding less"
    save_int8(fused, tmp_path / "fused")
    assert same(run(load_int8(tmp_path / "fused")), run(fused))


@pytest.mark.parametrize(("bits", "per_channel"), [(2, True), (3, False), (8, True), (8, False)])
def test_weights_take_as_many_values_as_the_bits_allow(float_model, bits, per_channel):
    torch.backends.quantized.engine = default_engine()
    qconfig = weight_bits_qconfig(bits, per_channel=per_channel)
    for module in aoq.convert(simulate(float_model, pictures(count=1), qconfig)).modules():
        if isinstance(module, torch.ao.nn.quantized.Conv2d):
            kind = torch.per_channel_affine if per_channel else torch.per_tensor_affine
            assert module.weight().qscheme() == kind
            assert module.weight().int_repr().abs().max() == 2 ** (bits - 1) - 1


def test_what_weight_bits_and_simulate_refuse(float_model):
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"bits: expected 2 to 8, got {bits}"):
            weight_bits_qconfig(bits, per_channel=True)
    with pytest.raises(ValueError, match="engine: 'cray'"):
        weight_bits_qconfig(4, per_channel=True, engine="cray")
    with pytest.raises(ValueError, match="no fake quantization"):
        simulate(float_model, pictures(), quick())


def test_the_simulation_is_close_to_what_it_converts_to_and_can_be_switched_off(float_model):
    torch.backends.quantized.engine = default_engine()
    simulated = simulate(float_model, pictures(), weight_bits_qconfig(4, per_channel=True))
    fakes = [m for m in simulated.modules() if isinstance(m, aoq.FakeQuantize)]
    scales = [fake.activation_post_process.calculate_qparams()[0] for fake in fakes]
    found, wanted = run(simulated), run(float_model)
    run(simulated, 1000 * pictures()[0])
    assert len(fakes) > 100 and not simulated.training
    for fake, scale in zip(fakes, scales, strict=True):
        assert torch.allclose(fake.scale, scale)  # frozen; the fused kernel may round otherwise
    assert error(run(aoq.convert(simulated)), found) < 0.1 * error(found, wanted)
    simulated.apply(aoq.disable_fake_quant)
    assert error(run(simulated), wanted) < 1e-6


def test_sensitivity_switches_one_part_at_a_time(float_model):
    simulated = simulate(float_model, pictures(), weight_bits_qconfig(3, per_channel=True))
    wanted, whole = run(float_model), run(simulated)
    table = sensitivity(simulated, lambda model: error(run(model), wanted))
    assert list(table.columns) == ["alone", "left_float"]
    assert list(table.index[:2]) == ["conv1", "conv2"] and "dequant" not in table.index
    assert table["alone"].max() < error(whole, wanted) and same(run(simulated), whole)
