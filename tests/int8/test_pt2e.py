"""Quantization by export: what comes out, how it is kept, and what is refused."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchao.quantization.pt2e import qat_utils
from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import ArmInductorQuantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

from blaze_utils.detector import evaluating
from blaze_utils.int8 import pt2e, runtimes
from blaze_utils.measure import sqnr
from tests.int8.conftest import QUIET, pictures, run, same

pytestmark = QUIET


@pytest.fixture(scope="module")
def stage(float_model):
    """The first two stages of a Blaze."""
    return nn.Sequential(float_model.conv1, float_model.conv2).eval()


@pytest.fixture(scope="module")
def graph(stage):
    return pt2e.quantize_pt2e(stage, pictures())


def operators(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def norms_learn(graph):
    return {node.args[5] for node in graph.graph.nodes if "batch_norm" in str(node.target)}


def test_a_float_model_is_quantized_and_left_as_it_was(stage):
    before = copy.deepcopy(stage.state_dict())
    graph = pt2e.quantize_pt2e(stage, pictures())
    assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())
    names = operators(graph)
    assert sum("dequantize_per_channel" in name for name in names) == 3
    assert not [name for name in names if "batch_norm" in name]
    for picture in pictures(2, 1) + pictures(2, 1, (128, 96)):
        with torch.inference_mode():
            assert 15 < sqnr(stage(picture), graph(picture)) < 80
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    assert set(graph.state_dict()) == used, "no float weights beside the integers"
    assert not graph.train().eval().training, "the modes that torchao forbids do nothing"


def test_a_size_can_be_fixed(stage):
    picture = pictures(0, 1)[0]
    for graph in (
        pt2e.export_graph(stage, picture),
        pt2e.quantize_pt2e(stage, [picture], None, picture),
    ):
        assert graph(picture).shape == (1, 24, 32, 32)
        with pytest.raises(AssertionError, match="Guard failed"):
            graph(pictures(0, 1, (96, 64))[0])


def test_a_relu_used_twice_is_no_obstacle():
    """Exported otherwise: ``Input partition has more than one output node``."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().train()
    with torch.no_grad():
        network(torch.cat(pictures(1, 8)) / 60)
    example = pictures(0, 1)[0] / 60
    graph = pt2e.quantize_pt2e(network.eval(), [example])
    assert sum("conv2d" in name for name in operators(graph)) == 20
    with torch.no_grad():
        assert sqnr(network(example), graph(example)) > 15


@pytest.mark.filterwarnings("ignore:.*set_global")
def test_what_cannot_be_quantized_is_refused(stage):
    with pytest.raises(ValueError, match="there are none"):
        pt2e.quantize_pt2e(stage, [])
    with pytest.raises(ValueError, match="training mode"):
        pt2e.quantize_pt2e(copy.deepcopy(stage).train(), pictures())
    with pytest.raises(ValueError, match="put integers nowhere.*set_global"):
        pt2e.quantize_pt2e(stage, pictures(), X86InductorQuantizer())
    with pytest.raises(ValueError, match="evaluation mode"):
        pt2e.prepare_qat(stage)


def only_conv2d(monkeypatch):
    """torchao first traces every pattern that it knows, for 20 seconds: here those of conv2d."""

    def restricted(whole):
        return lambda graph, conv, *args, **options: (
            whole(graph, conv, *args, **options) if conv is F.conv2d else graph
        )

    for name in ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper"):
        monkeypatch.setattr(qat_utils, name, restricted(getattr(qat_utils, name)))


def test_qat_learns_also_after_an_evaluation_and_converts(monkeypatch, stage):
    only_conv2d(monkeypatch)
    graph = pt2e.prepare_qat(copy.deepcopy(stage[:1]).train())
    assert norms_learn(graph) == {True}
    with evaluating(graph):
        assert norms_learn(graph) == {False} and not graph.training
    assert norms_learn(graph) == {True} and graph.training
    other = copy.deepcopy(graph).eval()
    assert norms_learn(other) == {False} and norms_learn(graph) == {True}
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.01)
    graph(torch.cat(pictures())).square().mean().backward()
    optimizer.step()
    changed = {k for k, value in graph.state_dict().items() if not torch.equal(value, before[k])}
    assert any("weight" in key for key in changed) and any("running_var" in key for key in changed)
    int8 = pt2e.convert_qat(graph)
    assert not [name for name in operators(int8) if "batch_norm" in name]
    assert int8(pictures()[0]).shape == (1, 24, 32, 32)


@pytest.mark.parametrize("is_qat", [False, True])
@pytest.mark.parametrize("saturates, highest", [(False, 255), (True, 127)])
def test_where_products_saturate_activations_get_seven_bits(
    monkeypatch, is_qat, saturates, highest
):
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(pt2e, "saturates", lambda engine: saturates)
    quantizer = pt2e.inductor_quantizer(is_qat)
    assert type(quantizer) is X86InductorQuantizer
    assert quantizer.global_config.input_activation.quant_max == highest
    monkeypatch.setattr(pt2e.platform, "machine", lambda: "aarch64")
    assert type(pt2e.inductor_quantizer(is_qat)) is ArmInductorQuantizer


def test_a_graph_is_kept_small_and_read(graph, tmp_path):
    pt2e.save_graph(graph, tmp_path / "stage.pt2")
    content = (tmp_path / "stage.pt2").read_bytes()
    assert b"site-packages" not in content and b".py" not in content, "paths of this machine"
    loaded = pt2e.load_graph(tmp_path / "stage.pt2")
    for picture in pictures(0, 1) + pictures(0, 1, (96, 64)):
        assert same(run(loaded, picture), run(graph, picture)) and not loaded.eval().training


class Pair(nn.Sequential):
    """Gives two outputs, as detectors give several."""

    def forward(self, x):
        x = super().forward(x)
        return x, x + 1


@pytest.mark.skipif(pt2e.lowering_obstacle() is not None, reason=str(pt2e.lowering_obstacle()))
def test_a_package_runs_without_us_as_it_runs_here(stage, tmp_path):
    graph = pt2e.quantize_pt2e(Pair(*stage[0]).eval(), pictures())
    pt2e.package(graph, tmp_path / "stage.pt2")
    model = runtimes.packaged(tmp_path / "stage.pt2")
    for picture in pictures(0, 1) + pictures(0, 1, (96, 128)):
        for exact, found in zip(run(graph, picture), run(model, picture), strict=True):
            assert sqnr(exact, found) > 25, "a value on the border may round to the other side"
    with pytest.raises(RuntimeError, match="unmatched dim value at 1"):
        run(model, picture[:, :1])
    torch.save((picture, run(model, picture)), tmp_path / "pair.pt")
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("blaze_utils", "torchao"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import torch
torch.set_num_threads({torch.get_num_threads()})
x, wanted = torch.load("pair.pt")
with torch.inference_mode():
    found = torch._inductor.aoti_load_package("stage.pt2")(x)
print([torch.equal(a, b) for a, b in zip(found, wanted, strict=True)])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[True, True]\n", done.stderr


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
    for lower in (pt2e.lower, pt2e.package):
        with pytest.raises(RuntimeError, match="this one is arm64"):
            lower(stage, pictures()[0])


@pytest.mark.parametrize("freezing", [False, True])
def test_lowering_freezes_while_it_compiles_and_only_then(monkeypatch, stage, freezing):
    seen = []

    def compiler(model, dynamic, options):
        assert dynamic is False and options == {"freezing": freezing}

        def compiled(x):
            modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            seen.append((pt2e.inductor_config.freezing, *modes, torch.get_num_threads()))
            return model(x)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(pt2e, "lowering_obstacle", lambda: None)
    image, other = pictures()
    before = torch.get_num_threads()
    lowered = pt2e.lower(stage, image, freezing, threads=3)
    assert torch.get_num_threads() == before
    assert same(run(lowered, other), run(stage, other))
    assert seen == [(freezing, False, False, 3), (False, False, False, 3)]
    with pytest.raises(ValueError, match=r"compiled for \[1, 3, 64, 64\], got \[1, 3, 32, 32\]"):
        lowered(torch.zeros(1, 3, 32, 32))
