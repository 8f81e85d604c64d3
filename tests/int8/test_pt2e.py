"""Quantization by export: what comes out, and what is refused."""
import copy
import shutil

import pytest
import torch
from torch import nn

from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import ArmInductorQuantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

from blaze_utils.int8 import pt2e
from blaze_utils.detector.model import Blaze
from blaze_utils.measure.sqnr import sqnr

pytestmark = [
    pytest.mark.filterwarnings("ignore:The input of maxpool2d"),
    pytest.mark.filterwarnings("ignore:.*reduce_range"),
]


def images(count=3, size=(64, 96)):
    generator = torch.Generator().manual_seed(0)
    return [100 * torch.rand(1, 3, *size, generator=generator) - 50 for _ in range(count)]


@pytest.fixture(scope="module")
def stage():
    """The first two stages of a Blaze with random weights and batch norms that are not idle."""
    torch.manual_seed(0)
    model = Blaze()
    stage = nn.Sequential(model.conv1, model.conv2).train()
    with torch.no_grad():
        for image in images():
            stage(image)
    return stage.eval()


@pytest.fixture(scope="module")
def int8(stage):
    return pt2e.quantize_pt2e(stage, images())


def operators(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_a_float_model_is_quantized_and_left_as_it_was(stage):
    before = copy.deepcopy(stage.state_dict())
    graph = pt2e.quantize_pt2e(stage, images())
    assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())
    assert {buffer.dtype for buffer in graph.buffers()} >= {torch.int8}
    assert not graph.training


def test_it_computes_nearly_what_float_does_also_at_other_sizes(stage, int8):
    with torch.inference_mode():
        for image in images(1) + images(1, (128, 160)):
            assert 15 < sqnr(stage(image), int8(image)) < 80


def test_batch_norms_are_folded_and_every_weight_is_quantized(int8):
    names = operators(int8)
    assert not [name for name in names if "batch_norm" in name]
    assert sum("conv2d" in name for name in names) == 3
    assert sum("dequantize_per_channel" in name for name in names) == 3


def test_a_size_can_be_fixed(stage):
    graph = pt2e.export_graph(stage, images(1)[0])
    with torch.inference_mode():
        assert torch.equal(graph(images(1)[0]), stage(images(1)[0]))
        with pytest.raises((AssertionError, RuntimeError), match="Guard failed"):
            graph(images(1, (128, 160))[0])


def test_uint8_pictures_calibrate_too(stage):
    picture = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8).numpy()
    assert "conv2d" in " ".join(operators(pt2e.quantize_pt2e(stage, [picture])))


def test_what_cannot_be_calibrated_is_refused(stage):
    with pytest.raises(ValueError, match="there are none"):
        pt2e.quantize_pt2e(stage, [])
    with pytest.raises(ValueError, match="training mode"):
        pt2e.quantize_pt2e(copy.deepcopy(stage).train(), images())


# Takes long for any network, however small: torchao traces all its patterns first.
def test_qat_trains_weights_and_batch_norms_and_converts(stage):
    prepared = pt2e.prepare_qat(copy.deepcopy(stage[:1]).train())
    before = {key: value.clone() for key, value in prepared.state_dict().items()}
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    prepared(torch.cat(images())).square().mean().backward()
    optimizer.step()
    changed = [key for key, value in prepared.state_dict().items()
               if key in before and not torch.equal(value, before[key])]
    assert any("weight" in key for key in changed) and any("running_var" in key for key in changed)
    int8 = pt2e.convert_qat(prepared)
    assert not [name for name in operators(int8) if "batch_norm" in name]
    with torch.inference_mode():
        assert int8(images(1)[0]).shape == (1, 24, 32, 48)


def test_qat_in_evaluation_mode_is_refused(stage):
    with pytest.raises(ValueError, match="evaluation mode"):
        pt2e.prepare_qat(stage)


@pytest.mark.parametrize("flags, vnni", [
    ({}, False), ({"avx512_f": True}, False), ({"avx512_vnni": True}, True),
    ({"avx_vnni": True}, True), ({"avx512_vnni": False}, False),
])
def test_vnni_of_either_kind_counts(monkeypatch, flags, vnni):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert pt2e.has_vnni() is vnni


@pytest.mark.parametrize("is_qat", [False, True])
@pytest.mark.parametrize("vnni, highest", [(True, 255), (False, 127)])
def test_without_vnni_x86_activations_get_seven_bits(monkeypatch, is_qat, vnni, highest):
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(pt2e, "has_vnni", lambda: vnni)
    quantizer = pt2e.inductor_quantizer(is_qat)
    assert type(quantizer) is X86InductorQuantizer
    assert quantizer.global_config.input_activation.quant_max == highest


def test_arm_gets_its_own_quantizer(monkeypatch):
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "aarch64")
    assert type(pt2e.inductor_quantizer()) is ArmInductorQuantizer


def test_what_is_in_the_way_of_lowering_is_named(monkeypatch, stage, tmp_path):
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("CXX", "a-compiler")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "there is no a-compiler here" in pt2e.lowering_obstacle()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(pt2e.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h is missing" in pt2e.lowering_obstacle()
    (tmp_path / "Python.h").touch()
    assert pt2e.lowering_obstacle() is None
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "arm64")
    assert "this one is arm64" in pt2e.lowering_obstacle()
    with pytest.raises(RuntimeError, match="this one is arm64"):
        pt2e.lower(stage, images(1)[0])


@pytest.mark.parametrize("freezing", [False, True])
def test_lowering_freezes_while_it_compiles_and_only_then(monkeypatch, stage, freezing):
    seen = []

    def compiler(model, dynamic, options):
        assert dynamic is False and options == {"freezing": freezing}

        def compiled(x):
            seen.append((pt2e.inductor_config.freezing, torch.is_grad_enabled(),
                         torch.is_inference_mode_enabled(), torch.get_num_threads()))
            return model(x)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(pt2e, "lowering_obstacle", lambda: None)
    image, other = images(2)
    before = torch.get_num_threads()
    lowered = pt2e.lower(stage, image, freezing, threads=3)
    assert torch.get_num_threads() == before
    with torch.inference_mode():
        assert torch.equal(lowered(other), stage(other))
    assert seen == [(freezing, False, False, 3), (False, False, False, 3)]
    with pytest.raises(ValueError, match=r"compiled for \[1, 3, 64, 96\], got \[1, 3, 32, 32\]"):
        lowered(torch.zeros(1, 3, 32, 32))
