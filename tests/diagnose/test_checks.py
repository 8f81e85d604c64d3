"""Every check fails on its mistake, names the module, and passes once it is mended."""

import subprocess
import sys

import pytest
import torch
import torch.ao.quantization as tq
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization.observer import MinMaxObserver, default_weight_observer

from blaze_utils.detector import QuantizableBlaze
from blaze_utils.diagnose import checks
from blaze_utils.diagnose.checks import CheckError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
X = torch.linspace(-2, 3, 3 * 8 * 8).reshape(1, 3, 8, 8)
# 7 bits for activations, and per-tensor weights: every engine takes it.
QCONFIG = tq.QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=127), default_weight_observer)


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    # Every test begins with the engine of this machine, and leaves the engine that it found.
    engines = torch.backends.quantized.supported_engines
    monkeypatch.setattr(
        torch.backends.quantized, "engine", "x86" if "x86" in engines else "qnnpack"
    )


def small(*layers, qconfig=QCONFIG):
    model = tq.QuantWrapper(nn.Sequential(*(layers or [nn.Conv2d(3, 4, 3)]))).eval()
    model.qconfig = qconfig
    return model


def prepared(*layers, data=X, qconfig=QCONFIG):
    model = tq.prepare(small(*layers, qconfig=qconfig))
    model(data)
    return model


def for_qat(qconfig):
    model = small(qconfig=qconfig).train()
    return tq.prepare_qat(model)


def test_prepare_without_a_qconfig_is_found():
    with pytest.raises(CheckError, match="no observers: set model.qconfig"):
        checks.assert_prepared(tq.prepare(nn.Sequential(nn.Conv2d(3, 4, 3)).eval()))
    checks.assert_prepared(prepared())
    checks.assert_prepared(for_qat(tq.get_default_qat_qconfig("x86")))


def test_convert_without_prepare_and_no_convert_are_found():
    with pytest.raises(CheckError, match="no int8 layer"):
        checks.assert_converted(tq.convert(small()))
    # A float model with FloatFunctional, whose class lives among the quantized ones.
    with pytest.raises(CheckError, match="no int8 layer"):
        checks.assert_converted(QuantizableBlaze())
    with pytest.raises(CheckError, match="quant.activation_post_process.*still observing"):
        checks.assert_converted(prepared())
    checks.assert_converted(tq.convert(prepared()))
    checks.assert_converted(tq.convert(prepared(nn.Linear(8, 2))))


def test_uncalibrated_modules_are_found_before_and_after_convert():
    model = tq.prepare(small())
    with pytest.raises(CheckError, match=r"quant\.activation_post_process, module\.0.*saw data"):
        checks.assert_calibrated(model)
    with pytest.raises(CheckError, match=r"^module\.0, quant: never saw data|^quant, module\.0: "):
        checks.assert_calibrated(tq.convert(model))
    with pytest.raises(CheckError, match="neither observers nor scales"):
        checks.assert_calibrated(small())
    checks.assert_calibrated(prepared())
    checks.assert_calibrated(tq.convert(prepared()))


def test_one_uncalibrated_branch_is_named():
    model = tq.prepare(small(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    model.module[0](model.quant(X))
    with pytest.raises(CheckError, match=r"^module\.1\.activation_post_process: never"):
        checks.assert_calibrated(model)
    with pytest.raises(CheckError, match=r"^module\.1: never"):
        checks.assert_calibrated(tq.convert(model))


def test_batch_norm_that_was_not_fused_is_found():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    with pytest.raises(CheckError, match=r"^module\.1: batch norm left"):
        checks.assert_no_batch_norm(small(*layers))
    with pytest.raises(CheckError, match=r"^module\.1: batch norm left"):
        checks.assert_no_batch_norm(tq.convert(prepared(*layers)))
    checks.assert_no_batch_norm(tq.fuse_modules(small(*layers), [["module.0", "module.1"]]))


def test_batch_norm_inside_the_layers_of_qat_is_meant_to_be_there():
    model = small(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), qconfig=tq.get_default_qat_qconfig("x86"))
    model = tq.fuse_modules_qat(model.train(), [["module.0", "module.1"]])
    checks.assert_no_batch_norm(model)
    checks.assert_no_batch_norm(tq.prepare_qat(model))


def test_qat_with_the_qconfig_of_ptq_or_with_nothing_is_found():
    with pytest.raises(CheckError, match=r"quant\.activation_post_process.*does not round"):
        checks.assert_fake_quantized(for_qat(tq.get_default_qconfig("x86")))
    with pytest.raises(CheckError, match="no fake quantization"):
        checks.assert_fake_quantized(small())
    checks.assert_fake_quantized(for_qat(tq.get_default_qat_qconfig("x86")))
    # Weights that only observe
    qat = tq.get_default_qat_qconfig("x86")
    with pytest.raises(CheckError, match=r"^module\.0\.weight_fake_quant: observes but"):
        checks.assert_fake_quantized(for_qat(tq.QConfig(qat.activation, default_weight_observer)))


def test_fake_quantization_that_is_off_is_found():
    model = for_qat(tq.get_default_qat_qconfig("x86"))
    model.module[0].activation_post_process.apply(tq.disable_fake_quant)
    with pytest.raises(CheckError, match=r"^module\.0\.activation_post_process: .* is off"):
        checks.assert_fake_quantized(model)


@pytest.mark.parametrize("calibrated_with", [X / 255, 255 * X, X + 2.5])
def test_another_preprocessing_is_found(calibrated_with):
    with pytest.raises(CheckError, match="the input from -2 to 3: calibrate with the same"):
        checks.assert_input_covered(tq.convert(prepared(data=calibrated_with)), X)


def test_the_same_preprocessing_passes_also_with_a_little_clipping():
    int8 = tq.convert(prepared())
    checks.assert_input_covered(int8, X)
    checks.assert_input_covered(int8, 0.7 * X)
    with pytest.raises(CheckError, match="calibrate with the same"):
        checks.assert_input_covered(int8, 0.7 * X, used=0.9)
    with pytest.raises(CheckError, match="no Quantize"):
        checks.assert_input_covered(small(), X)


def test_a_signed_quantizer_is_read_as_such():
    signed = tq.convert(tq.prepare(small(nn.ReLU())))
    signed.quant.scale, signed.quant.zero_point = torch.tensor([0.05]), torch.tensor([0])
    signed.quant.dtype = torch.qint8
    checks.assert_input_covered(signed, X)
    signed.quant.dtype = torch.quint8
    with pytest.raises(CheckError, match="reaches from 0 to"):
        checks.assert_input_covered(signed, X)


EIGHT_BITS = tq.QConfig(MinMaxObserver, default_weight_observer)
ENGINES = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]


def test_the_file_needs_nothing_but_torch():
    command = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    run = [sys.executable, "-W", "ignore", "-I", "-c", command, checks.__file__]
    modules = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules and not [m for m in modules if m.startswith(("blaze", "pandas"))]


def test_large_neighbouring_weights_can_saturate_without_vnni():
    layer = nn.Conv2d(4, 4, 1)
    nn.init.ones_(layer.weight)
    x = torch.rand(1, 4, 8, 8)
    eight = tq.convert(prepared(layer, data=x, qconfig=EIGHT_BITS))
    with pytest.raises(CheckError, match=r"^module\.0: wrong sums"):
        checks.assert_no_saturation(eight, x, vnni=False)
    checks.assert_no_saturation(eight, x / 2.1, vnni=False)
    checks.assert_no_saturation(tq.convert(prepared(layer, data=x)), x, vnni=False)
    alternating = nn.Conv2d(4, 4, 1)
    nn.init.ones_(alternating.weight)
    alternating.weight.data[:, ::2] = -1  # neighbours of unlike sign do not add up
    eight = tq.convert(prepared(alternating, data=x, qconfig=EIGHT_BITS))
    checks.assert_no_saturation(eight, x, vnni=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_right_kernels_are_right_and_wrong_ones_are_not(engine, monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    x = torch.randn(2, 8, 12, 12)
    right = (
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.GroupNorm(2, 8),
        nn.ELU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Hardswish(),
        nn.Linear(10, 5),
        nn.LayerNorm(5),
        nn.LeakyReLU(0.1),
        nn.InstanceNorm2d(8),
    )
    shares = checks.inexact_layers(tq.convert(prepared(*right, data=x)), x)
    assert set(shares.values()) == {0.0} and len(shares) == len(right)
    wrong = tq.convert(prepared(nn.Conv2d(8, 8, 1), nn.ReLU6(inplace=True), data=3 * x))
    assert (checks.inexact_layers(wrong, 3 * x)["module.1"] > 0.1) == (engine == "qnnpack")
    if engine == "qnnpack":
        with pytest.raises(CheckError, match=r"^module\.1"):
            checks.assert_no_saturation(wrong, 3 * x)


def test_watching_leaves_no_trace():
    model = Twice(shared=False)
    names = []
    with checks.watching(model, lambda name, module, run, *args: names.append(name) or run(*args)):
        model(X)
    assert names.count("add") == 1 and "" in names
    assert "forward" not in vars(model) and "add" not in vars(model.add)


class Twice(nn.Module):
    """Two convolutions and two additions, with shared modules or with one each."""

    def __init__(self, shared):
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.pool = nn.Conv2d(3, 3, 1), nn.MaxPool2d(2)
        self.relu, self.add = nn.ReLU(), FloatFunctional()
        self.relu2, self.add2 = (None, None) if shared else (nn.ReLU(), FloatFunctional())

    def forward(self, x):
        x = self.pool(self.pool(self.conv(self.quant(x))))
        y = self.add.add(self.relu(x), x)
        y = (self.add2 or self.add).add((self.relu2 or self.relu)(y), x)
        return self.dequant(x), self.dequant(y)


def test_shared_modules_are_found_and_harmless_sharing_is_not():
    with pytest.raises(CheckError, match=r"^relu, add\.activation_post_process: runs more than"):
        checks.assert_called_once(Twice(shared=True), X)
    checks.assert_called_once(Twice(shared=False), X)
    checks.assert_called_once(QuantizableBlaze(), torch.zeros(1, 3, 32, 32))


def test_a_prepared_model_is_looked_at_without_showing_it_the_input():
    model = Twice(shared=True).eval()
    model.qconfig = QCONFIG
    model = tq.prepare(model)
    with pytest.raises(CheckError, match="add.activation_post_process"):
        checks.assert_called_once(model, X)
    with pytest.raises(CheckError, match="never saw data"):
        checks.assert_calibrated(model)


class Joined(nn.Module):
    def __init__(self, dequantize_first):
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)
        self.dequantize_first = dequantize_first

    def forward(self, x):
        x = self.quant(x)
        parts = [self.first(x), self.second(x)]
        if self.dequantize_first:
            parts = [self.dequant(part) for part in parts]
        return self.dequant(torch.cat(parts, dim=1))


def converted(model):
    model.eval().qconfig = QCONFIG
    model = tq.prepare(model)
    model(X)
    return tq.convert(model)


def test_a_cat_of_different_scales_is_found():
    model = converted(Joined(dequantize_first=False))
    with pytest.raises(CheckError, match="torch.cat of 2 quantized tensors with different scales"):
        checks.assert_cat_keeps_scales(model, X)
    checks.assert_cat_keeps_scales(converted(Joined(dequantize_first=True)), X)
    model.second.scale, model.second.zero_point = model.first.scale, model.first.zero_point
    checks.assert_cat_keeps_scales(model, X)


def test_the_float_functional_cat_has_a_scale_of_its_own():
    class Cat(Joined):
        def __init__(self):
            super().__init__(False)
            self.cat = FloatFunctional()

        def forward(self, x):
            x = self.quant(x)
            return self.dequant(self.cat.cat([self.first(x), self.second(x)], dim=1))

    checks.assert_cat_keeps_scales(converted(Cat()), X)


def test_the_module_of_a_bare_layer_is_called_the_model():
    with pytest.raises(CheckError, match="^the model: batch norm left"):
        checks.assert_no_batch_norm(nn.BatchNorm2d(3))
