"""diagnose: its findings on Blaze at every stage, on torchvision's models, on made-up traps."""
import copy
import random
import types
import warnings

import numpy as np
import pytest
import torch
import torchvision.models as zoo
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import (
    DeQuantStub,
    FixedQParamsObserver,
    MinMaxObserver,
    QConfig,
    QuantStub,
    QuantWrapper,
    convert,
    default_qconfig,
    disable_fake_quant,
    float_qparams_weight_only_qconfig,
    fuse_modules,
    get_default_qat_qconfig,
    get_default_qconfig,
    prepare,
    prepare_qat,
)
from torch.nn import functional as F

from blaze_utils.diagnose import CODES, Finding, Findings, diagnose, structure
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.measure.sqnr import sqnr

ENGINE = torch.backends.quantized.engine
# One scale for all weights of a layer and a simple observer: quick, and alike on every engine.
QCONFIG = default_qconfig
needs_engine = pytest.mark.skipif(ENGINE == "none", reason="this PyTorch has no quantized engine")
pytestmark = [
    needs_engine,
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, "),
    pytest.mark.filterwarnings("ignore:must run observer before calling"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script"),
]
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.manual_seed(0))
X = torch.randn(2, 8, 8, 8, generator=torch.manual_seed(1))


def codes(findings):
    return [found.code for found in findings]


def only(findings, code):
    """The findings of one code; there must be at least one."""
    chosen = [found for found in findings if found.code == code]
    assert chosen, f"no {code} in {codes(findings)}"
    return chosen


def conv():
    return nn.Conv2d(8, 8, 3, padding=1)


class Net(nn.Module):
    """A model with stubs, whose forward pass is a function of the model and the input."""

    def __init__(self, run, **modules):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.run = [run]
        for name, module in modules.items():
            setattr(self, name, module)
        self.eval()

    def forward(self, x):
        return self.run[0](self, x)


def prepared(model, qconfig=QCONFIG):
    model = copy.deepcopy(model).eval()
    model.qconfig = qconfig
    return prepare(model, inplace=True)


def converted(model, x, qconfig=QCONFIG):
    """Calibrated with x and converted."""
    ready = prepared(model, qconfig)
    with torch.no_grad():
        ready(x)
    return convert(ready, inplace=True)


def qat_ready(qconfig=None):
    model = QuantizableBlaze().train()
    model.fuse_model(is_qat=True)
    model.qconfig = get_default_qat_qconfig(ENGINE) if qconfig is None else qconfig
    return prepare_qat(model, inplace=True)


@pytest.fixture(scope="module")
def fused():
    model = QuantizableBlaze().eval()
    model.fuse_model()
    return model


@pytest.fixture(scope="module")
def blaze():
    return diagnose(Blaze().eval(), IMAGE)


# Blaze along the series


def test_blaze_has_no_stubs(blaze):
    (found,) = only(blaze, "NO_STUBS")
    assert blaze[0] is found
    assert found.module == "" and found.notebook == "03_quant_stubs" and "QuantStub()" in found.fix


def test_every_addition_of_blaze_is_named_with_its_line(blaze):
    found = only(blaze, "FUNCTIONAL_OP")
    assert [f.module for f in found] == [f"conv{number}" for number in range(2, 13)]
    code = BlazeBlockSource.lines[BlazeBlockSource.line_of("self.actvation(h + x)") - 1]
    place = f"model.py:{BlazeBlockSource.line_of('self.actvation(h + x)')}"
    assert "h + x" in code and all(place in f.explanation for f in found)
    assert all("add_relu(a, b)" in f.fix and f.notebook == "04_residual_add" for f in found)
    assert all("'aten::add.out' with arguments from the 'QuantizedCPU'" in f.explanation
               for f in found)


class BlazeBlockSource:
    """The file that Blaze is written in, to look up lines."""

    with open(Blaze.__init__.__code__.co_filename, encoding="utf-8") as file:
        lines = file.read().splitlines()

    @classmethod
    def line_of(cls, text):
        return next(number for number, line in enumerate(cls.lines, 1) if text in line)


def test_the_joining_of_the_heads_is_attributed_to_the_model(blaze):
    (found,) = only(blaze, "CAT_QUANTIZED")
    line = BlazeBlockSource.line_of("return torch.cat(rows, dim=1)")
    assert found.module == "" and f"torch.cat at model.py:{line} " in found.explanation
    assert "self.dequant(t)" in found.fix, "behind the last layer the remedy is a DeQuantStub"
    assert not any("reshape" in f.explanation for f in blaze), "reshape does no harm to int8"


def test_the_fusable_chains_are_those_of_fuse_model(blaze):
    (found,) = only(blaze, "NOT_FUSED")
    model = QuantizableBlaze().eval()
    exec(found.fix, {"model": model, "fuse_modules": fuse_modules})
    reference = QuantizableBlaze().eval()
    reference.fuse_model()
    assert str(model) == str(reference)
    assert '["conv7.conv.0.3", "conv7.conv.0.4", "conv7.conv.1"],' in found.fix


def test_blaze_has_no_further_findings(blaze):
    assert sorted(set(codes(blaze))) == ["CAT_QUANTIZED", "FUNCTIONAL_OP", "NOT_FUSED", "NO_STUBS"]


@pytest.mark.parametrize("training", [False, True])
def test_quantizable_blaze_only_wants_to_be_fused(training):
    assert codes(diagnose(QuantizableBlaze().train(training), IMAGE)) == ["NOT_FUSED"]


def test_fused_there_is_nothing_left_with_and_without_qconfig(fused):
    assert diagnose(fused, IMAGE) == []
    with_qconfig = copy.deepcopy(fused)
    with_qconfig.qconfig = get_default_qconfig(ENGINE)
    assert diagnose(with_qconfig, IMAGE) == []


def test_the_ranges_are_missed_before_calibration_and_not_after(fused):
    ready = prepared(fused)
    (found,) = diagnose(ready, IMAGE)
    assert (found.code, found.module, found.notebook) == ("NOT_CALIBRATED", "", "06_calibration")
    assert "In all 62 layers" in found.explanation
    (found,) = diagnose(convert(ready), IMAGE)
    assert found.code == "NOT_CALIBRATED" and "1.0 and 0" in found.explanation
    with torch.no_grad():
        ready(IMAGE)
    assert diagnose(ready, IMAGE) == []
    assert diagnose(convert(ready), IMAGE) == []


def test_quantization_aware_training_from_beginning_to_end():
    model = qat_ready()
    (found,) = diagnose(model, IMAGE)
    assert found.code == "NOT_CALIBRATED" and "training" in found.fix
    model(IMAGE.repeat(2, 1, 1, 1))
    assert diagnose(model, IMAGE) == []
    assert diagnose(convert(model.eval()), IMAGE) == []


def test_the_naive_model_of_notebook_02_is_told_everything_at_once():
    naive = convert(prepared(Blaze()))
    findings = diagnose(naive, IMAGE)
    assert findings.stage == "converted"
    assert [f.module for f in only(findings, "FUNCTIONAL_OP")] == [f"conv{n}" for n in range(2, 13)]
    assert "38 batch norms" in only(findings, "BATCH_NORM_LEFT")[0].explanation
    assert {"NO_STUBS", "NOT_CALIBRATED"} < set(codes(findings))


# torchvision


QUANTIZABLE = [
    "resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x0_5", "googlenet",
    "inception_v3",
]


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_torchvisions_quantizable_models_want_nothing_but_fusing(name):
    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(zoo.quantization, name)(weights=None, quantize=False, **arguments).eval()
    image = torch.randn(1, 3, 96, 96)
    if name in ("resnet18", "mobilenet_v3_large"):
        assert codes(diagnose(model, image)) == ["NOT_FUSED"]
    model.fuse_model()
    assert diagnose(model, image) == []


FLOAT_MODELS = {
    "resnet18": {"NO_STUBS", "FUNCTIONAL_OP", "SHARED_MODULE", "NOT_FUSED"},
    "mobilenet_v2": {"NO_STUBS", "FUNCTIONAL_OP", "NOT_FUSED", "ACTIVATION_NOT_FUSABLE"},
    "squeezenet1_1": {"NO_STUBS", "CAT_QUANTIZED", "NOT_FUSED"},
    "googlenet": {"NO_STUBS", "CAT_QUANTIZED", "NOT_FUSED", "FUNCTIONAL_RELU"},
    "efficientnet_b0": {"NO_STUBS", "UNSUPPORTED_MODULE", "FUNCTIONAL_OP", "NOT_FUSED"},
    "convnext_tiny": {"NO_STUBS", "FUNCTIONAL_OP"},
    "segmentation.lraspp_mobilenet_v3_large": {"NO_STUBS", "FUNCTIONAL_OP", "NOT_FUSED"},
    "detection.ssdlite320_mobilenet_v3_large": {
        "NO_STUBS", "FUNCTIONAL_OP", "CAT_QUANTIZED", "NOT_FUSED", "ACTIVATION_NOT_FUSABLE"},
}


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_torchvisions_float_models(name):
    folder, _, function = name.rpartition(".")
    arguments = {"weights_backbone": None} if folder else {}
    arguments |= {"init_weights": False} if name == "googlenet" else {}
    build = getattr(getattr(zoo, folder) if folder else zoo, function)
    model = build(weights=None, **arguments).eval()
    image = torch.rand(3, 64, 64)
    inputs = ([image],) if folder == "detection" else image[None]
    findings = diagnose(model, inputs)
    assert set(codes(findings)) == FLOAT_MODELS[name]
    assert len(repr(findings).splitlines()) < 120, "the table must stay readable"


def test_fusing_as_told_changes_no_output_and_leaves_nothing_to_fuse():
    model = zoo.densenet121(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    image = torch.randn(1, 3, 32, 32)
    fix = only(diagnose(model, image), "NOT_FUSED")[0].fix
    twin = copy.deepcopy(model)
    exec(fix, {"model": twin, "fuse_modules": fuse_modules})
    with torch.no_grad():
        torch.testing.assert_close(twin(image), model(image), rtol=1e-3, atol=1e-4)
    assert "NOT_FUSED" not in codes(diagnose(twin, image))


# It only looks


def state(model):
    """All that diagnose must leave alone."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()
               if isinstance(value, torch.Tensor)}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return tensors, modes, hooks, str(model)


def same(a, b):
    return a[1:] == b[1:] and a[0].keys() == b[0].keys() and all(
        torch.equal(value, b[0][name]) for name, value in a[0].items())


@pytest.mark.parametrize("stage", ["float", "prepared", "QAT", "converted"])
def test_it_changes_nothing(stage, fused):
    model = {"float": lambda: QuantizableBlaze().train(), "prepared": lambda: prepared(fused),
             "QAT": qat_ready, "converted": lambda: converted(fused, IMAGE)}[stage]()
    image = IMAGE.clone()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before, generators = state(model), (torch.get_rng_state(), random.getstate())
    gradients, numpy_state = torch.is_grad_enabled(), np.random.get_state()[1].copy()
    diagnose(model, image)
    assert same(before, state(model)) and torch.equal(image, IMAGE)
    assert torch.equal(generators[0], torch.get_rng_state()) and random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.is_grad_enabled() == gradients and torch.backends.quantized.engine == ENGINE


def test_a_model_that_is_noisy_and_changes_its_input_is_left_alone_too():
    def noisy(model, x):
        model.buffer.add_(1)
        return model.dequant(model.a(model.quant(x.mul_(2) + torch.randn(1) + random.random())))

    model, x = Net(noisy, a=conv()), X.clone()
    model.register_buffer("buffer", torch.zeros(1))
    generator = torch.get_rng_state()
    diagnose(model, x)
    assert torch.equal(x, X) and model.buffer == 0 and torch.equal(generator, torch.get_rng_state())


def test_it_shows_no_warnings():
    model = Net(lambda m, x: m.dequant(torch.cat([m.a(m.quant(x)), m.quant(x)])), a=conv())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = diagnose(model, X)
    assert "CAT_QUANTIZED" in codes(findings)


# Stubs


def test_a_layer_before_the_quant_stub():
    found, = diagnose(Net(lambda m, x: m.dequant(m.b(m.quant(m.a(x)))), a=conv(), b=conv()), X)
    assert (found.code, found.module) == ("STUB_MISPLACED", "a")


def test_a_layer_behind_the_dequant_stub_may_stay_float():
    model = nn.Sequential(QuantStub(), conv(), DeQuantStub(), conv()).eval()
    assert [f.module for f in only(diagnose(model, X), "STUB_MISPLACED")] == ["3"]
    model.qconfig, model[3].qconfig = QCONFIG, None
    assert diagnose(model, X) == []
    assert diagnose(converted(model, X), X) == []


def test_a_float_layer_between_int8_layers_without_stubs_around():
    model = nn.Sequential(QuantStub(), conv(), conv(), DeQuantStub()).eval()
    model.qconfig, model[2].qconfig = QCONFIG, None
    for stage in (model, prepare(model), converted(model, X)):
        (found,) = only(diagnose(stage, X), "STUB_MISPLACED")
        assert found.module == "2" and "stays float" in found.explanation


def test_a_way_out_without_a_dequant_stub():
    found, = only(diagnose(nn.Sequential(QuantStub(), conv()), X), "STUB_MISPLACED")
    assert "returns a quantized tensor" in found.explanation


def test_dequantize_in_the_forward_pass_is_a_way_out_as_well():
    model = nn.Sequential(QuantStub(), conv())
    head = Net(lambda m, x: m.body(x).dequantize().softmax(1), body=model)
    assert {f.module for f in diagnose(head, X)} == {"quant", "dequant"}, "the two unused stubs"


def test_a_stub_that_is_not_called_and_one_that_is_called_on_int8():
    model = Net(lambda m, x: m.dequant(m.a(m.quant(m.quant(x)))), a=conv(), spare=QuantStub())
    found = only(diagnose(model, X), "STUB_MISPLACED")
    assert {f.module for f in found} == {"quant", "spare"}


def test_a_stub_that_has_no_qconfig():
    model = nn.Sequential(QuantStub(), conv(), DeQuantStub()).eval()
    model[1].qconfig = QCONFIG
    assert {f.module for f in only(diagnose(model, X), "STUB_MISPLACED")} == {"0", "1", "2"}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        return self.a(x), self.b(x)


@pytest.mark.parametrize("stage", ["float", "converted"])
def test_a_quant_wrapper_around_several_outputs(stage):
    model = QuantWrapper(TwoHeads()).eval()
    model = converted(model, X) if stage == "converted" else model
    (found,) = diagnose(model, X)
    assert found.code == "TUPLE_IN_QUANTWRAPPER" and found.module == ""
    assert "'tuple' object has no attribute 'dequantize'" in found.explanation


# Operators


class Wrapped(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, between, behind=False):
        super().__init__()
        self.between, self.behind = [between], behind
        self.a, self.b = conv(), conv()

    def forward(self, x):
        x = self.a(x)
        return self.between[0](x) if self.behind else self.b(self.between[0](x))


OPERATORS = [
    (lambda x: x + x, "add(a, b)"),
    (lambda x: x * 2, "mul_scalar(x, number)"),
    (lambda x: x - 1, "add_scalar(x, -number)"),
    (lambda x: x / 255, "mul_scalar(x, 1 / number)"),
    (lambda x: x * torch.ones(1), "mul(a, self.quant_2(b))"),
    (lambda x: x @ x, "matmul(a, b)"),
    (lambda x: x.softmax(1), "self.dequant(x)"),
    (F.silu, "self.dequant(x)"),
    (F.hardswish, "nn.Hardswish("),
    (lambda x: F.layer_norm(x, [8]), "nn.LayerNorm("),
    (lambda x: F.conv2d(x, torch.ones(8, 8, 1, 1)), "nn.Conv2d("),
    (lambda x: x.view(2, -1).reshape(x.shape), "reshape("),
]


@pytest.mark.parametrize("number", range(len(OPERATORS)))
def test_operators_between_layers_and_the_error_that_they_will_raise(number):
    operator, remedy = OPERATORS[number]
    model = QuantWrapper(Wrapped(operator)).eval()
    (found,) = diagnose(model, X)
    assert (found.code, found.module) == ("FUNCTIONAL_OP", "module")
    assert remedy in found.fix and "test_diagnose.py:" in found.explanation
    with pytest.raises((NotImplementedError, RuntimeError)) as raised:
        converted(model, X)(X)
    first = str(raised.value).split(". ")[0].strip().splitlines()[0]
    assert first in found.explanation, "the message that the reader would meet"
    (again,) = diagnose(converted(model, X), X)
    assert (again.code, again.fix) == (found.code, found.fix)


HARMLESS = [
    F.relu, torch.sigmoid, F.leaky_relu, lambda x: F.max_pool2d(x, 3, 1, 1),
    lambda x: x.clamp(0, 1),
    lambda x: x.permute(0, 2, 3, 1).reshape(2, 8, 8, 8), lambda x: torch.cat([x, x])[:2],
    lambda x: F.interpolate(x, scale_factor=2)[..., ::2, ::2], lambda x: x.contiguous(),
]


@pytest.mark.parametrize("number", range(len(HARMLESS)))
def test_operators_with_an_int8_kernel_are_no_findings(number):
    model = QuantWrapper(Wrapped(HARMLESS[number])).eval()
    operators = [f for f in diagnose(model, X) if f.code != "FUNCTIONAL_RELU"]
    assert operators == []
    converted(model, X)(X)


def test_softmax_behind_the_last_layer_is_told_to_move_out():
    (found,) = diagnose(QuantWrapper(Wrapped(lambda x: x.softmax(1), behind=True)), X)
    assert found.code == "FUNCTIONAL_OP" and found.fix.startswith("x = self.dequant(x)")
    assert "behind the last layer: softmax" in found.explanation


def test_a_cell_of_a_notebook_is_called_that():
    names = {}
    exec(compile("def twice(x):\n    return x + x", "/tmp/ipykernel_71/1234567.py", "exec"), names)
    (found,) = diagnose(QuantWrapper(Wrapped(names["twice"])), X)
    assert "+ at notebook cell:2 " in found.explanation


def test_many_operators_of_a_module_share_a_finding():
    def many(x):
        return x.exp().sin().cos().log().tanh()

    (found,) = diagnose(QuantWrapper(Wrapped(many)), X)
    assert "exp (" in found.explanation and found.code == "FUNCTIONAL_OP"


def test_addition_in_place_and_into_a_float_buffer():
    def into(x):
        buffer = torch.zeros_like(x.dequantize())
        buffer[:1] = x[:1]
        return buffer

    def in_place(x):
        x += x.clamp(0, 1)
        return x

    (found,) = diagnose(QuantWrapper(Wrapped(in_place)), X)
    assert "+ at" in found.explanation
    findings = diagnose(QuantWrapper(Wrapped(into, behind=True)), X)
    assert any("setitem" in f.explanation for f in findings)


def test_concatenation_is_a_finding_only_if_the_scales_differ():
    def spatial_pyramid(x):
        return torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)[:, :8]

    assert diagnose(QuantWrapper(Wrapped(spatial_pyramid)), X) == []
    model = Net(lambda m, x: m.dequant(m.c(torch.cat([m.a(m.quant(x)), m.b(x)], 1))),
                a=conv(), b=nn.Sequential(QuantStub(), conv()), c=nn.Conv2d(16, 8, 1))
    (found,) = diagnose(model, X)
    assert found.code == "CAT_QUANTIZED" and "FloatFunctional()" in found.fix
    (found,) = diagnose(converted(model, X), X)
    assert found.code == "CAT_QUANTIZED"


# Modules


def sequence(*modules):
    return nn.Sequential(QuantStub(), *modules, DeQuantStub()).eval()


@pytest.mark.parametrize("module", [nn.SiLU(), nn.Mish(), nn.Softmax(1), nn.SELU(), nn.RMSNorm(8),
                                    nn.AdaptiveMaxPool2d(4), nn.ReplicationPad2d(1)])
def test_modules_without_an_int8_form_or_kernel(module):
    model = sequence(conv(), module)
    (found,) = diagnose(model, X)
    assert (found.code, found.module) == ("UNSUPPORTED_MODULE", "2")
    with pytest.raises(NotImplementedError):
        converted(model, X)(X)


@pytest.mark.parametrize("module", [
    nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.MaxPool2d(2),
    nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Upsample(scale_factor=2),
    nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.Flatten(), nn.PixelShuffle(2), nn.ZeroPad2d(1)])
def test_modules_that_int8_has(module):
    model = sequence(conv(), module)
    assert diagnose(model, X) == []
    assert diagnose(converted(model, X), X) == []


@pytest.mark.parametrize("module", [nn.ReLU6(), nn.LeakyReLU(0.1), nn.ELU()])
def test_activations_that_run_but_do_not_fuse(module):
    model = sequence(conv(), nn.BatchNorm2d(8), module)
    with pytest.raises(AssertionError, match="did not find fuser method"):
        fuse_modules(model, ["1", "2", "3"])
    converted(model, X)(X)
    findings = diagnose(fuse_modules(model, ["1", "2"]), X)
    (found,) = only(findings, "ACTIVATION_NOT_FUSABLE")
    exec(found.fix, {"model": model, "nn": nn})
    assert '["1", "2", "3"]' in only(diagnose(model, X), "NOT_FUSED")[0].fix


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("clamp", [
    nn.Hardtanh(-0.5, 0.5), Function(F.relu6), Function(lambda x: x.clamp(-0.5, 0.5)),
    Function(lambda x: torch.clip(x, -0.5, 0.5))])
@pytest.mark.parametrize("engine", [
    name for name in torch.backends.quantized.supported_engines if name != "none"])
def test_clamps_scramble_on_qnnpack(clamp, engine):
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        model = sequence(conv(), clamp)
        int8 = converted(copy.deepcopy(model), X, get_default_qconfig(engine))
        with torch.no_grad():
            scrambled = bool(sqnr(model(X), int8(X)) < 10)
        assert scrambled == (engine == "qnnpack")
        for stage in (model, int8):
            assert codes(diagnose(stage, X)).count("CLAMP_ON_QNNPACK") == scrambled
    finally:
        torch.backends.quantized.engine = previous


def test_silu_and_the_fix_that_is_offered():
    model = sequence(conv(), nn.SiLU())
    exec(diagnose(model, X)[0].fix, {"model": model, "nn": nn})
    assert isinstance(model[2], nn.Hardswish) and diagnose(model, X) == []


PER_CHANNEL = get_default_qconfig("x86")


def quality(model, reference):
    """Signal-to-quantization-noise ratio in decibels."""
    with torch.no_grad():
        exact, error = reference(X), reference(X) - model(X)
    return float(10 * torch.log10(exact.square().mean() / error.square().mean()))


@pytest.mark.filterwarnings("ignore:PReLU's weight observer")
def test_prelu_is_wrong_in_int8_unless_its_weights_can_express_one():
    model = sequence(nn.PReLU(8))
    model.qconfig = PER_CHANNEL
    with pytest.raises(IndexError):
        converted(model, X, PER_CHANNEL)
    wrong = converted(model, X)
    assert quality(wrong, model) < 20
    for stage in (sequence(nn.PReLU(8)), model, wrong):
        assert codes(diagnose(stage, X)) == ["UNSUPPORTED_MODULE"]
    model.qconfig = QCONFIG
    exec(diagnose(model, X)[0].fix, {"model": model, "nn": nn, "torch": torch, "QConfig": QConfig,
                                     "FixedQParamsObserver": FixedQParamsObserver})
    right = converted(model, X)
    assert diagnose(model, X) == diagnose(right, X) == [] and quality(right, model) > 25


def test_transposed_convolutions_take_no_weights_per_channel():
    model = sequence(nn.ConvTranspose2d(8, 8, 2))
    model.qconfig = PER_CHANNEL
    (found,) = diagnose(model, X)
    assert found.code == "UNSUPPORTED_MODULE" and found.module == "1"
    with pytest.raises(AssertionError):
        converted(model, X, PER_CHANNEL)
    exec(found.fix, {"model": model, "nn": nn, "default_qconfig": default_qconfig})
    assert diagnose(model, X) == []
    assert diagnose(converted(model, X, PER_CHANNEL), X) == []


def test_padding_in_words():
    model = sequence(nn.Conv2d(8, 8, 3, padding="same"))
    (found,) = diagnose(model, X)
    assert found.code == "UNSUPPORTED_MODULE" and "padding='same'" in found.explanation
    with pytest.raises(RuntimeError):
        converted(model, X)


def test_recurrent_layers():
    x = torch.randn(2, 3, 8)
    model = Net(lambda m, x: m.dequant(m.rnn(m.quant(x))[0]), rnn=nn.GRU(8, 8))
    (found,) = diagnose(model, x)
    assert (found.code, found.module) == ("UNSUPPORTED_MODULE", "rnn")
    with pytest.raises(AttributeError):
        converted(model, x)


def test_an_embedding_needs_a_qconfig_of_its_own():
    words = torch.tensor([[1, 2]])
    model = Net(lambda m, x: m.dequant(m.linear(m.quant(m.words(x)))),
                words=nn.Embedding(4, 8), linear=nn.Linear(8, 8))
    model.qconfig = QCONFIG
    (found,) = diagnose(model, words)
    assert (found.code, found.module) == ("UNSUPPORTED_MODULE", "words")
    exec(found.fix, {"model": model, "nn": nn,
                     "float_qparams_weight_only_qconfig": float_qparams_weight_only_qconfig})
    assert diagnose(model, words) == []


def test_a_subclass_is_not_converted():
    class Own(nn.Conv2d):
        pass

    (found,) = diagnose(sequence(Own(8, 8, 1)), X)
    assert found.code == "UNSUPPORTED_MODULE" and "subclass of Conv2d" in found.explanation


def test_shared_modules_with_a_scale():
    def twice(m, x):
        x = m.a(m.quant(x))
        return m.dequant(m.sum.add(m.sum.add(x, x), x))

    (found,) = diagnose(Net(twice, a=conv(), sum=FloatFunctional()), X)
    assert (found.code, found.module) == ("SHARED_MODULE", "sum")
    assert "2 times" in found.explanation


def test_a_shared_relu_is_a_finding_only_where_it_could_be_fused():
    relu = nn.ReLU()
    findings = diagnose(sequence(conv(), relu, conv(), relu), X)
    assert {(f.code, f.module) for f in findings} == {("SHARED_MODULE", "2")}
    assert diagnose(sequence(nn.MaxPool2d(2), relu, nn.MaxPool2d(2), relu), X) == []


# Chains


def chains(findings):
    fix = only(findings, "NOT_FUSED")[0].fix
    return [line.strip(" ,") for line in fix.splitlines() if line.startswith("    [")]


def test_nothing_is_fused_whose_inside_somebody_else_uses():
    def twice(m, x):
        x = m.a(m.quant(x))
        return m.dequant(m.sum.add(m.bn(x), x))

    def returned(m, x):
        x = m.a(m.quant(x))
        return m.dequant(x), m.dequant(m.bn(x))

    def hidden(m, x):
        x = m.dequant(m.a(m.quant(x)))
        return types.SimpleNamespace(features=x, result=m.bn(x))

    for run in (twice, returned, hidden):
        model = Net(run, a=conv(), bn=nn.BatchNorm2d(8), sum=FloatFunctional())
        assert "NOT_FUSED" not in codes(diagnose(model, X))


def test_chains_follow_the_flow_not_the_order_of_registration():
    def run(m, x):
        return m.dequant(m.act[0](m.norms.one(m.a(m.quant(x)))))

    norms = nn.ModuleDict({"one": nn.BatchNorm2d(8)})
    model = Net(run, act=nn.Sequential(nn.ReLU()), norms=norms, a=conv())
    model.norms.one = norms["one"]
    assert chains(diagnose(model, X)) == ['["a", "norms.one", "act.0"]']


def test_a_head_shared_between_levels_may_be_fused():
    def levels(m, x):
        return [m.dequant(m.relu(m.a(m.quant(x)))), m.dequant(m.relu(m.a(m.quant_2(x * 2))))]

    model = Net(levels, a=conv(), relu=nn.ReLU(), quant_2=QuantStub())
    assert chains(diagnose(model, X)) == ['["a", "relu"]']


def test_the_same_module_under_two_names_is_not_fused():
    a = conv()
    model = Net(lambda m, x: m.dequant(m.relu(m.a(m.quant(x)))), a=a, relu=nn.ReLU(), other=a)
    assert "NOT_FUSED" not in codes(diagnose(model, X))


def test_a_batch_norm_without_statistics_is_not_fused():
    model = sequence(conv(), nn.BatchNorm2d(8, track_running_stats=False))
    assert "NOT_FUSED" not in codes(diagnose(model, X))


def test_a_functional_relu_behind_a_layer():
    (found,) = only(diagnose(QuantWrapper(Wrapped(F.relu)), X), "FUNCTIONAL_RELU")
    assert found.module == "module" and "test_diagnose.py:" in found.explanation


def test_batch_norms_that_were_left_unfolded():
    model = sequence(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(), nn.ReLU())
    for stage in (prepared(model), converted(model, X)):
        findings = diagnose(stage, X)
        (left,), (rest,) = only(findings, "BATCH_NORM_LEFT"), only(findings, "NOT_FUSED")
        assert "1 batch norm " in left.explanation and '["1", "2", "3"]' in left.fix
        assert "2 chains" in rest.explanation


# Stages and places


def test_prepare_without_a_qconfig():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = prepare(sequence(conv()))
    assert codes(diagnose(model, X)) == ["NO_QCONFIG"]


def test_calibration_in_training_mode():
    assert "TRAINING_MODE" in codes(diagnose(prepared(sequence(conv())).train(), X))


def test_a_layer_that_calibration_did_not_reach():
    def maybe(m, x):
        return m.dequant(m.b(m.a(m.quant(x))) if m.whole[0] else m.a(m.quant(x)))

    model = prepared(Net(maybe, a=conv(), b=conv()))
    model.whole = [False]
    model(X)
    assert diagnose(model, X) == [], "b is not called, and so does no harm"
    model.whole = [True]
    (found,) = diagnose(model, X)
    assert (found.code, found.module) == ("NOT_CALIBRATED", "b")
    assert [f.module for f in diagnose(convert(model), X)] == ["b"]


def test_a_qconfig_for_post_training_quantization_in_training():
    findings = diagnose(qat_ready(get_default_qconfig(ENGINE)), IMAGE)
    (found,) = only(findings, "PTQ_QCONFIG_IN_QAT")
    assert "50 modules" in found.explanation and found.notebook == "07_qat"


def test_fake_quantization_that_was_never_switched_on_again():
    model = sequence(conv()).train()
    model.qconfig = get_default_qat_qconfig(ENGINE)
    model = prepare_qat(model)
    model(X)
    assert diagnose(model, X) == []
    model.apply(disable_fake_quant)
    assert codes(diagnose(model, X)) == ["FAKE_QUANT_OFF"]


def test_an_engine_that_is_missing(monkeypatch):
    monkeypatch.setattr(structure, "engine_in_use", lambda: "none")
    (found,) = diagnose(sequence(conv()), X)
    assert found.code == "ENGINE_MISSING" and f'engine = "{ENGINE}"' not in found.explanation
    assert any(engine in found.fix for engine in torch.backends.quantized.supported_engines)


def test_a_model_that_is_not_on_the_cpu():
    findings = diagnose(sequence(conv()).to("meta"), X)
    assert codes(findings) == ["ON_CUDA", "RUN_FAILED"] and "meta" in findings[0].explanation


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_model_on_the_gpu():
    model = sequence(conv()).cuda()
    assert codes(diagnose(model, X.cuda())) == codes(diagnose(model, X)) == ["ON_CUDA"]
    assert next(model.parameters()).is_cuda


# It never fails


def test_a_model_that_does_not_run_is_a_finding_among_others():
    findings = diagnose(Blaze().eval(), torch.zeros(1, 3, 30, 30))
    assert codes(findings) == ["RUN_FAILED", "NO_STUBS", "NOT_FUSED"]
    assert "ValueError: height and width must be multiples of 16" in findings[0].explanation
    assert '["conv1.0", "conv1.1", "conv1.2"],' in findings[2].fix, "as far as Sequentials tell"


def test_what_was_seen_before_the_failure_is_reported():
    def breaks(x):
        raise RuntimeError(f"out of luck\n{x + x}")

    findings = diagnose(QuantWrapper(Wrapped(breaks)), X)
    assert codes(findings) == ["RUN_FAILED", "FUNCTIONAL_OP"]
    assert "RuntimeError: out of luck. " in findings[0].explanation


def test_a_functional_layer_with_a_converted_weight():
    model = Net(lambda m, x: m.dequant(F.conv2d(m.b(m.quant(x)), m.a.weight)), a=conv(), b=conv())
    assert codes(diagnose(model, X)) == ["FUNCTIONAL_OP"]
    assert "FUNCTIONAL_OP" in codes(diagnose(converted(model, X), X))


@pytest.mark.parametrize("inputs", [(), (X, X), ([X],), torch.zeros(1), (None,)])
def test_unfit_inputs(inputs):
    assert codes(diagnose(sequence(conv()), inputs))[0] == "RUN_FAILED"


def test_models_that_cannot_be_copied():
    model = sequence(conv())
    model.forward = lambda x: nn.Sequential.forward(model, x)
    assert codes(diagnose(model, X)) == ["NOT_COPYABLE"]
    holder = sequence(conv())
    holder.last = holder(X)  # an output with its graph, as a cache would keep it
    (found,) = diagnose(holder, X)
    assert found.code == "NOT_COPYABLE" and "deepcopy" in found.explanation


def swish(x):
    return x * torch.sigmoid(x)


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


def test_what_cannot_be_seen_into():
    script, scripted = torch.jit.script(Doubled()), torch.jit.script(swish)
    assert codes(diagnose(script, X)) == ["NOT_EAGER"]
    findings = diagnose(sequence(conv(), script, conv()), X)
    assert ("NOT_EAGER", "2") in [(f.code, f.module) for f in findings]
    (found,) = diagnose(QuantWrapper(Wrapped(lambda x: scripted(x))), X)
    assert (found.code, found.module) == ("NOT_FOLLOWED", "module.b")


def test_a_compiled_model_is_unwrapped():
    assert diagnose(torch.compile(sequence(conv())), X) == []


def test_a_bare_layer_an_empty_model_and_no_model():
    assert codes(diagnose(conv(), X)) == codes(diagnose(nn.Sequential(), X)) == ["NO_STUBS"]
    with pytest.raises(TypeError, match="model: expected an nn.Module, got str"):
        diagnose("blaze.pth", X)


# The table


def test_each_finding_has_all_that_a_reader_needs(blaze):
    for found in blaze:
        assert found.notebook == CODES[found.code] and len(found.explanation) > 20 and found.fix
    frame = blaze.to_frame()
    assert list(frame.columns) == ["code", "module", "explanation", "fix", "notebook"]
    assert len(frame) == len(blaze) == 14
    assert list(Findings().to_frame().columns) == list(frame.columns)


def test_the_order_is_that_of_the_series():
    order = [CODES[code] for code in ("NO_STUBS", "FUNCTIONAL_OP", "NOT_FUSED", "NOT_CALIBRATED")]
    assert order == sorted(order)
    mixed = [Finding(code, "", "x", "y", "z") for code in ("NOT_CALIBRATED", "NO_STUBS")]
    assert codes(Findings(mixed)) == ["NO_STUBS", "NOT_CALIBRATED"]


def test_the_table_in_a_terminal(blaze):
    text = repr(blaze)
    assert text == str(blaze) and text.startswith("Blaze, float: 14 findings\n---")
    assert "(11 modules)" in text and text.count("FUNCTIONAL_OP") == 1
    assert max(map(len, text.splitlines())) <= 100
    assert "... 40 more lines" in text and text.count("\n") < 60


def test_the_table_in_a_notebook(blaze):
    html = blaze._repr_html_()
    assert html.count("<tr>") == 5 and '<a href="05_fusion.ipynb">05_fusion</a>' in html
    assert "<pre>self.skip_add_relu" in html and "(11 modules)" in html
    escaped = Findings([Finding("NO_STUBS", "", "a < b", "c & d", "03_quant_stubs")])._repr_html_()
    assert "a &lt; b" in escaped and "c &amp; d" in escaped


def test_an_empty_table_says_what_comes_next(fused):
    assert repr(diagnose(fused, IMAGE)) == (
        "QuantizableBlaze, float: no findings; it has not been prepared yet")
    done = converted(fused, IMAGE, QCONFIG._replace(activation=MinMaxObserver))
    assert repr(diagnose(done, IMAGE)) == "QuantizableBlaze, converted: no findings"
    assert diagnose(done, IMAGE)._repr_html_().startswith("<p>QuantizableBlaze, converted")


def test_long_module_names_break_at_their_dots():
    name = ".".join(["features"] * 6)
    text = repr(Findings([Finding("NO_STUBS", name, "x", "y", "z")]))
    assert "features.features." in text and max(map(len, text.splitlines())) <= 100
