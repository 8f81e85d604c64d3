"""diagnose: one table of cases, what it must leave alone, the stages, the table that is shown."""

import copy
import os
import platform
import random
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import torch.ao.quantization as tq
import torchvision
import torchvision.models as zoo
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, QuantWrapper, quantize_fx
from torch.nn import functional as F
from torch.nn.utils import parametrizations, rnn
from torchao import quantization as torchao_quantization

from blaze_utils.detector import Blaze, QuantizableBlaze
from blaze_utils.diagnose import CODES, InFloat, diagnose, findings

SUPPORTED = torch.backends.quantized.supported_engines
ENGINES = [engine for engine in ("x86", "onednn", "qnnpack") if engine in SUPPORTED]
pytestmark = [
    pytest.mark.skipif(not ENGINES, reason="this PyTorch has no quantized engine"),
    pytest.mark.filterwarnings("ignore"),
]
X = torch.randn(2, 3, 12, 12, generator=torch.manual_seed(0))
WORDS = torch.randn(2, 5, 16, generator=torch.manual_seed(1))


@pytest.fixture(autouse=True)
def leaves_engine_and_seed():
    engine = torch.backends.quantized.engine
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch.backends.quantized.engine = engine


class Net(nn.Module):
    """A model with stubs whose forward pass is a function of the model and the inputs."""

    def __init__(self, run, **modules):
        super().__init__()
        self.quant, self.dequant, self.run = QuantStub(), DeQuantStub(), [run]
        for name, module in modules.items():
            setattr(self, name, module)
        self.eval()

    def forward(self, *args, **kwargs):
        return self.run[0](self, *args, **kwargs)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = [function]

    def forward(self, *args):
        return self.function[0](*args)


def chain(*layers):
    return nn.Sequential(QuantStub(), *layers, DeQuantStub()).eval()


def conv(inputs=3, outputs=8, **options):
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1} | options)


def between(function):
    """A function between two convolutions, as module "2"."""
    return chain(conv(), Function(function), conv(8))


def branches(small, method="add"):
    model = Net(
        lambda m, x: m.dequant(getattr(m.add, method)(m.a(m.quant(x)), m.b(m.quant2(x)))),
        a=conv(), b=conv(), add=FloatFunctional(), quant2=QuantStub(),
    )  # fmt: skip
    for parameter in model.a.parameters():
        parameter.mul_(small)
    return model


def recurrent(layer, x=WORDS):
    return Net(lambda m, x: m.dequant(m.layer(m.quant(x))[0]), layer=layer), x


def packed(m, x):
    x = rnn.pack_padded_sequence(m.quant(x), [5, 3], batch_first=True)
    return m.dequant(m.head(rnn.pad_packed_sequence(m.lstm(x)[0], batch_first=True)[0]))


def with_statistics(norm):
    for name, low in (("running_mean", -1), ("running_var", 0.5), ("weight", 0.5), ("bias", -1)):
        getattr(norm, name).data.uniform_(low, 2)
    return norm


class Norm(nn.BatchNorm2d):
    def __init__(self, channels, act=None):
        super().__init__(channels)
        self.act = act or nn.Identity()  # a module or a function
        del self.eps  # DETR's frozen one has it in the code

    def forward(self, x):
        state = self.running_mean, self.running_var, self.weight, self.bias
        return self.act(F.batch_norm(x, *state, eps=1e-5))


def per_tensor(model):
    for module in model.modules():
        if "ConvTranspose" in type(module).__name__:
            module.qconfig = tq.default_qconfig


def signed(model):
    observer = tq.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    model.qconfig = tq.QConfig(observer, observer)


UNSUPPORTED, SWAPPED, KERNEL = "UNSUPPORTED_MODULE", "SWAPPED_MODULE", "WRONG_KERNEL"
# name: model (and input, if not X); what is found first, code and module, on every engine or by
# engine (nothing on others); what is done once the model has a qconfig.
CASES = {
    # A module that prepare swaps for another
    "attention, batch first": (lambda: attention(True), (SWAPPED, "layer")),
    "attention": (lambda: attention(False), None),
    "attention with a mask": (lambda: attention(False, attn_mask=torch.zeros(2, 2)), None),
    "LSTM": (lambda: recurrent(nn.LSTM(16, 16)), None),
    "LSTM with a projection": (
        lambda: recurrent(nn.LSTM(16, 8, proj_size=4)), (UNSUPPORTED, "layer")),
    "GRU": (lambda: recurrent(nn.GRU(16, 8)), (UNSUPPORTED, "layer")),
    "an encoder, which looks at its layer": (
        lambda: (chain(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 1)), WORDS),
        (UNSUPPORTED, "1.layers.0")),
    "encoder layer": (
        lambda: (chain(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)), WORDS),
        (UNSUPPORTED, "1")),
    "PackedSequence": (
        lambda: (Net(packed, lstm=nn.LSTM(16, 8, batch_first=True), head=nn.Linear(8, 4)), WORDS),
        (UNSUPPORTED, "lstm")),
    "PackedSequence by name": (
        lambda: (Net(lambda m, x: m.dequant(m.lstm(input=rnn.pack_sequence([*m.quant(x)]))[0][0]),
                     lstm=nn.LSTM(16, 8)), WORDS), (UNSUPPORTED, "lstm")),
    # A kernel that is wrong
    "transposed, stride 2": (
        lambda: chain(conv(3, 32), nn.ConvTranspose2d(32, 16, 2, stride=2)),
        {"x86": (KERNEL, "2"), "onednn": (KERNEL, "2")}, per_tensor),
    "transposed, per channel": (
        lambda: chain(conv(), nn.ConvTranspose2d(8, 8, 4, stride=2)),
        {"x86": (UNSUPPORTED, "2"), "onednn": (UNSUPPORTED, "2")}),
    "interpolation from 1x1": (
        lambda: (chain(Function(lambda x: F.interpolate(x, size=(4, 4))), conv(64)),
                 torch.randn(1, 64, 1, 1)), (KERNEL, "1")),
    "three dimensions": (
        lambda: (chain(nn.Conv3d(3, 4, 3)), torch.randn(1, 3, 5, 6, 6)),
        {"qnnpack": (UNSUPPORTED, "1")}),  # it cannot be stored
    "ReLU6 behind a pool": (lambda: chain(conv(), nn.MaxPool2d(2), nn.ReLU6(), conv(8)),
                            {"qnnpack": ("CLAMP_ON_QNNPACK", "3")}),
    "clamp": (lambda: between(lambda x: x.clamp(-0.5, 0.5)),
              {"qnnpack": ("CLAMP_ON_QNNPACK", "2")}),
    "branches of unlike size": (lambda: branches(1e-6), {"qnnpack": (UNSUPPORTED, "add")}),
    # Convert stops
    "padding replicate": (lambda: chain(conv(padding_mode="replicate")), (UNSUPPORTED, "1")),
    "padding reflect": (lambda: chain(conv(padding_mode="reflect")), None),
    "padding in words": (lambda: chain(conv(padding="same")), (UNSUPPORTED, "1")),
    "padding in words, even": (
        lambda: chain(nn.Conv2d(3, 8, 4, padding="same")), (UNSUPPORTED, "1")),
    "weight_norm": (lambda: chain(parametrizations.weight_norm(conv())), (UNSUPPORTED, "1")),
    "spectral_norm": (lambda: chain(parametrizations.spectral_norm(conv())), (UNSUPPORTED, "1")),
    "a subclass": (lambda: chain(type("Own", (nn.Conv2d,), {})(3, 8, 3)), (UNSUPPORTED, "1")),
    "PReLU": (lambda: chain(conv(), nn.PReLU(8)), (UNSUPPORTED, "2")),
    "embedding": (
        lambda: (Net(lambda m, x: m.dequant(m.head(m.quant(m.words(x)))),
                     words=nn.Embedding(4, 8), head=nn.Linear(8, 8)), torch.tensor([[1, 2]])),
        (UNSUPPORTED, "words")),
    "embedding bag": (lambda: (nn.Sequential(nn.EmbeddingBag(4, 8), chain(nn.Linear(8, 8))),
                               torch.tensor([[1, 2]])), (UNSUPPORTED, "0")),
    "half": (lambda: (chain(conv()).half(), X.half()), ("NOT_FLOAT32", "1")),
    "a double constant": (
        lambda: (net := chain(conv())).register_buffer("mean", X.double()) or net, None),
    # The qconfig
    "signed activations": (lambda: chain(conv()), ("WRONG_QCONFIG", "1"), signed),
    "a dynamic qconfig": (
        lambda: chain(conv()), ("WRONG_QCONFIG", "1"),
        lambda model: setattr(model, "qconfig", tq.default_dynamic_qconfig)),
    # Foldable, of another class
    "frozen batch norm": (
        lambda: chain(conv(), with_statistics(torchvision.ops.FrozenBatchNorm2d(8))),
        (UNSUPPORTED, "2")),
    "frozen, eps in the code": (
        lambda: chain(conv(), with_statistics(Norm(8))), (UNSUPPORTED, "2")),
    "batch norm with its Hardswish": (
        lambda: chain(conv(), with_statistics(Norm(8, nn.Hardswish()))), (UNSUPPORTED, "2")),
    "synchronized batch norm": (
        lambda: chain(conv(), with_statistics(nn.SyncBatchNorm(8))), (UNSUPPORTED, "2")),
    "batch norm with its ReLU": (
        lambda: chain(conv(), with_statistics(Norm(8, F.relu))), (UNSUPPORTED, "2")),
    # Little is left
    "tanh of small values": (
        lambda: (chain(conv(bias=False), nn.Tanh(), conv(8, bias=False)), X / 300),
        ("LOW_SQNR", "2")),
    "mean of zero": (
        lambda: (chain(conv(bias=False), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1, bias=False)),
                 X - X.mean((2, 3), keepdim=True)), ("LOW_SQNR", "2")),
    "a product of small values": (lambda: branches(1e-6, "mul"), ("LOW_SQNR", "a")),
    "not a number": (lambda: (chain(conv()), X * torch.nan), ("TRIAL_FAILED", "0")),
    "nothing comes out": (
        lambda: Net(lambda m, x: iter(lambda: m.dequant(m.a(m.quant(x))), 0), a=conv()),
        ("TRIAL_FAILED", "")),
    # No kernel
    "a weight where int8 has a function": (
        lambda: Net(lambda m, x: m.dequant(m.a(m.quant(x))) * m.a.weight.mean(), a=conv()),
        ("TRIAL_FAILED", "")),
    "SiLU": (lambda: chain(conv(), nn.SiLU(), conv(8)), (UNSUPPORTED, "2")),
    "softmax": (lambda: chain(conv(), nn.Softmax(1)), (UNSUPPORTED, "2")),
    "an addition": (lambda: between(lambda x: x + x), ("FUNCTIONAL_OP", "2")),
    "a bare cat": (
        lambda: Net(lambda m, x: m.dequant(torch.cat([m.a(m.quant(x)), m.b(m.quant2(x))], 1)),
                    a=conv(), b=conv(), quant2=QuantStub()), ("CAT_QUANTIZED", "")),
    # Stubs
    "none": (lambda: nn.Sequential(conv()).eval(), ("NO_STUBS", "")),
    "a layer before the stub": (
        lambda: nn.Sequential(conv(3, 3), QuantStub(), conv(), DeQuantStub()),
        ("STUB_MISPLACED", "0")),
    "no way out": (lambda: nn.Sequential(QuantStub(), conv()), ("STUB_MISPLACED", "")),
    "stub on int8": (
        lambda: nn.Sequential(QuantStub(), QuantStub(), conv(), DeQuantStub()),
        ("STUB_MISPLACED", "1")),
    "two outputs in a QuantWrapper": (
        lambda: QuantWrapper(Function(lambda x: (x, x))), ("TUPLE_IN_QUANTWRAPPER", "")),
    "a sum for two places": (
        lambda: Net(lambda m, x: m.dequant(m.add.add(*[m.add.add(*[m.a(m.quant(x))] * 2)] * 2)),
                    a=conv(), add=FloatFunctional()), ("SHARED_MODULE", "add")),
    # Right already
    "a stub that is not used": (
        lambda: Net(lambda m, x: m.dequant(m.a(m.quant(x))), a=conv(), spare=QuantStub()), None),
    "squeeze and excitation": (
        lambda: Net(lambda m, x: (lambda x: m.dequant(m.mul.mul(x, m.gate(x))))(m.a(m.quant(x))),
                    a=conv(), mul=FloatFunctional(),
                    gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())),
        None),
    "norms and activations": (
        lambda: chain(conv(), nn.GroupNorm(2, 8), nn.Hardswish(), conv(8), nn.LayerNorm(12),
                      nn.ELU(), conv(8), nn.InstanceNorm2d(8), nn.LeakyReLU(), nn.GELU()), None),
    "pools and shapes": (
        lambda: chain(conv(), nn.MaxPool2d(2), nn.PixelShuffle(2), nn.Upsample(scale_factor=2),
                      nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(288, 4)), None),
    "a dictionary": (lambda: Net(lambda m, x: {"a": m.dequant(m.a(m.quant(x)))}, a=conv()), None),
    "a float head": (
        lambda: Net(lambda m, x: m.b(m.dequant(m.a(m.quant(x)))).exp(), a=conv(), b=conv(8)), None,
        lambda model: setattr(model.b, "qconfig", None)),
    "control flow on values": (
        lambda: Net(lambda m, x: m.dequant(m.a(m.quant(x if x[0, 0].sum() else -x))), a=conv()),
        None),
}  # fmt: skip


def attention(batch_first, **options):
    layer = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    return Net(lambda m, x: m.dequant(m.layer(*[m.quant(x)] * 3, **options)[0]), layer=layer), WORDS


def silent(findings):
    """Those about what is wrong, not about what could be fused."""
    about_fusion = ("NOT_FUSED", "ACTIVATION_NOT_FUSABLE", "FUNCTIONAL_RELU")
    return [found for found in findings if found.code not in about_fusion]


def decibels(model, x, fixes=()):
    """SQNR of eager int8 after these fixes, done by hand."""
    model, x = copy.deepcopy(model), x.float() if x.is_floating_point() else x
    want = model.float()(x)
    for fix in fixes:
        exec(fix, {"model": model, "nn": nn, "torch": torch})
    prepared = tq.prepare(model)
    prepared(x)
    got = tq.convert(prepared)(x)
    want, got = (y["a"] if isinstance(y, dict) else y for y in (want, got))
    return float(10 * torch.log10(want.square().mean() / (want - got).square().mean()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_case(name, engine):
    torch.backends.quantized.engine = engine
    make, expected, *touch = CASES[name]
    made = make()
    model, x = made if isinstance(made, tuple) else (made, X)
    model.eval().qconfig = tq.get_default_qconfig(engine)
    for change in touch:
        change(model)
    findings = diagnose(model, x)
    expected = expected.get(engine) if isinstance(expected, dict) else expected
    found = [(f.code, f.module) for f in silent(findings)]
    assert (found[0] if found else None) == expected, findings
    fixes = dict.fromkeys(f.fix for f in silent(findings) if "model" in f.fix)
    if fixes:
        assert decibels(model, x, fixes) > 25, fixes
    if not found:
        assert findings.decibels > 20 and decibels(model, x) > 20


def test_sums_that_saturate_are_tried_where_there_is_no_vnni(tmp_path):
    script = tmp_path / "tanh.py"
    script.write_text(WITHOUT_VNNI)
    run = [sys.executable, "-W", "ignore", str(script)]
    out = subprocess.run(run, env=os.environ | AVX2, capture_output=True, text=True, check=True)
    if "x86" in ENGINES and "x86" in platform.machine():
        assert out.stdout == "WRONG_KERNEL 3 True\nWRONG_QCONFIG 1\nNOT_FUSED\n"


AVX2 = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
WITHOUT_VNNI = """
import torch
import torch.ao.quantization as tq
from torch import nn
from torchvision.models.quantization import resnet18
from blaze_utils.diagnose import diagnose

torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
torch.manual_seed(0)
layers = nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 8, 3)
model = nn.Sequential(tq.QuantStub(), *layers, tq.DeQuantStub()).eval()
x = 3 * torch.randn(1, 3, 20, 20)
for found in diagnose(model, x)[:1]:
    exec(found.fix, {"model": model, "nn": nn})
    print(found.code, found.module, diagnose(model, x) == [])
model.qconfig = tq.get_default_qconfig("qnnpack")
for found in diagnose(model, x)[:1]:
    print(found.code, found.module)
# PyTorch's own default for onednn has 8 bits, which saturate here; ours has 7.
torch.backends.quantized.engine = "onednn"
print(*{found.code for found in diagnose(resnet18(weights=None).eval(), 3 * x)})
"""


def exported(model):
    return torch.export.export(model, (X,)).module()


def with_fx(model):
    mapping = tq.get_default_qconfig_mapping("x86")
    return quantize_fx.prepare_fx(model, mapping, (X,))


def by_torchao(model):
    torchao_quantization.quantize_(model, torchao_quantization.Int8WeightOnlyConfig())
    return model


SCOPES = {
    "exported": exported,
    "prepared by FX": with_fx,
    "converted by FX": lambda model: quantize_fx.convert_fx(with_fx(model)),
    "scripted": torch.jit.script,
    "dynamic": lambda model: tq.quantize_dynamic(model, {nn.Linear}),
    "torchao": by_torchao,
}


@pytest.mark.parametrize("way", SCOPES)
def test_what_is_not_eager_and_static_is_refused_in_a_sentence(way):
    model = SCOPES[way](nn.Sequential(conv(), nn.Linear(12, 12)).eval())
    (found,) = diagnose(model, X)
    assert found.code == "NOT_EAGER" and "only models of static quantization" in found.explanation


def test_a_traced_float_model_is_judged():
    traced = torch.fx.symbolic_trace(nn.Sequential(conv()).eval())
    assert [f.code for f in diagnose(traced, X)] == ["NO_STUBS"]


def test_arguments_by_name_and_lists():
    model = Net(lambda m, *, pixels: m.dequant(m.a(m.quant(pixels))), a=conv())
    by_name = lambda self, *, pixels: Net.forward(self, pixels=pixels)  # noqa: E731
    model.forward = types.MethodType(by_name, model)
    assert diagnose(model, {"pixels": X}) == diagnose(model, (), {"pixels": X}) == []
    two = Net(lambda m, a, b: m.dequant(m.a(m.quant(a))) + b, a=conv(3, 3))
    assert "diagnose(model, tuple(example_inputs))" in diagnose(two, [X, X])[0].fix
    assert diagnose(two, (X, X)) == []


class Keyword(nn.Module):
    def forward(self, *, pixels):
        return pixels


def test_a_model_that_does_not_run_is_a_finding_with_arguments_that_work():
    (found, _) = diagnose(Keyword(), X)
    assert found.code == "RUN_FAILED" and "TypeError" in found.explanation
    found = diagnose(chain(conv()), (X, X))[0]
    assert found.code == "RUN_FAILED" and "must run" in found.fix
    with pytest.raises(TypeError, match="model: expected an nn.Module, got str"):
        diagnose("blaze.pth", X)


def test_models_that_cannot_be_copied():
    with torch.enable_grad():
        model = chain(nn.utils.weight_norm(conv()))
    (found,) = diagnose(model, X)
    assert (found.code, found.module) == ("NOT_COPYABLE", "1")
    exec(found.fix, {"model": model, "nn": nn})
    assert diagnose(model, X) == []
    assert [f.code for f in diagnose(chain(conv()).to("meta"), X)] == ["NOT_COPYABLE"]
    model.forward = lambda x: x
    assert [f.code for f in diagnose(model, X)] == ["NOT_COPYABLE"]


# Blaze and torchvision


def test_blaze_at_every_stage():
    findings = diagnose(Blaze().eval(), torch.rand(1, 3, 32, 32))
    codes = [found.code for found in findings]
    expected = {"NO_STUBS": 1, "FUNCTIONAL_OP": 11, "CAT_QUANTIZED": 1, "NOT_FUSED": 1}
    assert {code: codes.count(code) for code in codes} == expected
    assert all("self.skip_add_relu.add_relu(a, b)" in f.fix for f in findings if "add" in f.fix)
    assert "model.py:" in findings[1].explanation and findings[1].module == "conv2"
    model, reference = QuantizableBlaze().eval(), QuantizableBlaze().eval()
    (found,) = diagnose(model, torch.rand(1, 3, 32, 32))
    assert found.code == "NOT_FUSED" and ("conv1.0", "conv1.1", "conv1.2") in found.chains
    tq.fuse_modules(model, [list(names) for names in found.chains], inplace=True)
    reference.fuse_model()
    assert str(model) == str(reference)
    findings = diagnose(model, torch.rand(1, 3, 32, 32))
    assert findings == [] and findings.decibels > 20


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "shufflenet_v2_x0_5"])
def test_torchvisions_quantizable_models_want_nothing_but_fusing(name):
    model = getattr(zoo.quantization, name)(weights=None, quantize=False).eval()
    image = torch.randn(1, 3, 64, 64)
    assert {found.code for found in diagnose(model, image)} == {"NOT_FUSED"}
    model.fuse_model()
    assert diagnose(model, image) == []


def test_what_is_lost_in_a_slice_is_said_with_what_the_fix_gives():
    def first_part(m, x):
        return m.dequant(m.head(m.add.cat([m.a(m.quant(x)), m.b(m.quant2(x))], 1)[:, :8]))

    model = branches(1e-3)
    model.run, model.head = [first_part], conv(8, bias=False)
    (found,) = diagnose(model, X)
    assert found.code == "LOW_SQNR" and "The fix was tried: ≈ 0 dB" in found.explanation


def test_a_detector_of_torchvision():
    build = zoo.detection.ssdlite320_mobilenet_v3_large
    model = build(weights=None, weights_backbone=None).eval()
    findings = diagnose(model, ([torch.rand(3, 64, 64)],))
    outside = [f for f in findings if "outside the quantized region" in f.explanation]
    assert [f.module for f in outside] == ["transform", ""]
    assert {"NO_STUBS", "CAT_QUANTIZED", "NOT_FUSED", "ACTIVATION_NOT_FUSABLE"} <= {
        found.code for found in findings
    }


# Chains


def test_chains_follow_the_flow_and_nothing_is_fused_that_somebody_else_uses():
    def run(m, x):
        return m.dequant(m.act(m.norm(m.a(m.quant(x)))))

    def used_twice(m, x):
        x = m.a(m.quant(x))
        return m.dequant(m.norm(x)), m.dequant(x)

    parts = {"act": nn.ReLU(), "norm": nn.BatchNorm2d(8), "a": conv()}
    (found,) = diagnose(Net(run, **parts), X)
    assert found.chains == (("a", "norm", "act"),)
    assert diagnose(Net(used_twice, a=conv(), norm=nn.BatchNorm2d(8), spare=nn.ReLU()), X) == []
    without = nn.BatchNorm2d(8, track_running_stats=False)
    assert "NOT_FUSED" not in {f.code for f in diagnose(chain(conv(), without), X)}


def test_relus_that_cannot_be_fused():
    relu = nn.ReLU()
    (found,) = diagnose(chain(conv(), relu, conv(8), relu), X)
    assert (found.code, found.module) == ("SHARED_MODULE", "2")
    (found,) = diagnose(between(F.relu), X)
    assert found.code == "FUNCTIONAL_RELU" and "test_diagnose.py:" in found.explanation


# Stages


def prepared(model, qconfig=tq.default_qconfig):
    model = copy.deepcopy(model)
    model.qconfig = qconfig
    return tq.prepare(model)


def test_calibration_is_missed_before_and_after_convert():
    ready = prepared(chain(conv(), conv(8)))
    assert [f.code for f in diagnose(ready, X)] == ["NOT_CALIBRATED"]
    assert [f.code for f in diagnose(tq.convert(ready), X)] == ["NOT_CALIBRATED"]
    ready(X)
    assert diagnose(ready, X) == diagnose(tq.convert(ready), X) == []
    assert [f.code for f in diagnose(ready.train(), X)] == ["TRAINING_MODE"]
    assert [f.code for f in diagnose(prepared(chain(conv()), None), X)] == ["NO_QCONFIG"]


def test_a_layer_that_is_not_used_needs_no_calibration():
    ready = prepared(Net(lambda m, x: m.dequant(m.a(m.quant(x))), a=conv(), b=conv()))
    ready(X)
    assert diagnose(ready, X) == diagnose(tq.convert(ready), X) == []


def test_a_converted_model_that_is_wrong_or_stops():
    for engine in ENGINES:
        torch.backends.quantized.engine = engine
        model = chain(conv(), nn.ReLU6(), conv(8))
        model.qconfig = tq.default_qconfig
        (found,) = diagnose(model, X)  # one place, one finding
        assert (found.code, found.module) == ("ACTIVATION_NOT_FUSABLE", "2")
        assert decibels(model, X, [found.fix]) > 25
        ready = prepared(model)
        ready(X)
        codes = [f.code for f in diagnose(tq.convert(ready), X)]
        assert codes == (["WRONG_KERNEL"] if engine == "qnnpack" else [])
    joined = Net(lambda m, x: m.dequant(torch.cat([m.quant(x), m.a(m.quant(x))])), a=conv(3, 3))
    ready = prepared(joined)
    ready(X)
    assert [f.code for f in diagnose(tq.convert(ready), X)] == ["CAT_QUANTIZED"]
    ready = prepared(between(torch.exp))
    ready(X)
    (found,) = diagnose(tq.convert(ready), X)
    assert (found.code, found.module) == ("TRIAL_FAILED", "2") and "aten::exp" in found.explanation


def test_quantization_aware_training():
    model = chain(conv(), nn.ReLU()).train()
    model.qconfig = tq.get_default_qat_qconfig(torch.backends.quantized.engine)
    model = tq.prepare_qat(model)
    assert [f.code for f in diagnose(model, X)] == ["NOT_CALIBRATED"]
    model(X)
    assert diagnose(model, X) == []
    model.apply(tq.disable_fake_quant)
    assert [f.code for f in diagnose(model, X)] == ["FAKE_QUANT_OFF"]


# It only looks


@pytest.mark.parametrize("stage", ["float", "prepared", "converted"])
def test_it_changes_nothing(stage):
    def noisy(model, x):
        model.buffer.add_(1)
        return model.dequant(model.a(model.quant(x.mul_(2) + torch.randn(1) + random.random())))

    model = Net(noisy, a=parametrizations.spectral_norm(conv()) if stage == "float" else conv())
    model.register_buffer("buffer", torch.zeros(1))
    if stage != "float":
        model = prepared(model)
        model(X.clone())
        model = tq.convert(model) if stage == "converted" else model
    x, text = X.clone(), str(model)
    state = {name: copy.deepcopy(value) for name, value in model.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with torch.enable_grad():
        diagnose(model, x)
        assert torch.is_grad_enabled()
    assert torch.equal(x, X) and str(model) == text and "forward" not in vars(model)
    for name, value in model.state_dict().items():
        assert str(value) == str(state[name]), name
    assert torch.equal(generators[0], torch.get_rng_state()) and random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    model(X.clone())


def test_a_module_in_float_passes_everything_on():
    sum_ = InFloat(FloatFunctional())
    assert torch.equal(sum_.add(X, X), X + X)
    outputs, state = InFloat(nn.LSTM(16, 4))(WORDS, None)
    assert outputs.shape == (2, 5, 4) and len(state) == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sum_.nothing  # noqa: B018


# What is shown


def test_every_text_has_a_code_or_a_cause():
    codes = {code for code, _, _ in findings.MESSAGES.values()}
    assert codes - {""} == {*CODES} - {"SWAPPED_MODULE", "WRONG_QCONFIG"}
    general = {"saturated", "engine qconfig", "in float", "in float many", "outside"}
    keys = {key for key, (code, _, _) in findings.MESSAGES.items() if not code}
    assert keys == {*findings.CAUSES, *general}


def test_the_table():
    model = chain(conv(), *[nn.SiLU() for _ in range(5)])
    findings = diagnose(model, X)
    text, page = repr(findings), findings._repr_html_()
    assert text.startswith("Sequential, float: 5 findings\n---")
    assert "2, 3, 4, ... (5 modules)" in text and text.count("UNSUPPORTED_MODULE") == 1
    assert max(map(len, text.splitlines())) < 110
    assert page.count("<tr>") == 1 and '<a href="03_quant_stubs.ipynb">' in page
    frame = findings.to_frame()
    assert list(frame.notebook) == [CODES[code] for code in frame.code] and len(frame) == 5
    empty = diagnose(chain(conv()), X)
    assert repr(empty) == empty.title and "no findings; tried in int8: ≈ " in empty.title


def test_the_engine_that_is_missing(monkeypatch):
    monkeypatch.setattr(torch.backends.quantized.__class__, "engine", "none")
    findings = diagnose(chain(conv()), X)
    assert [f.code for f in findings] == ["ENGINE_MISSING"]
    assert any(engine in findings[0].fix for engine in ENGINES)
