"""Static quantization in one call, and its parts: what they give, and what they refuse."""
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    FakeQuantize,
    QConfig,
    convert,
    default_observer,
    default_per_channel_weight_observer,
    default_qconfig,
    disable_fake_quant,
    prepare,
)

from blaze_utils.detector.finding import preprocess
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.int8.eager import (
    ENGINES, calibrate, check_engine, default_engine, quantizable_copy, quantize_static, simulate,
    weight_bits_qconfig,
)
from maintainers.train import initialise

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning",
                                        "ignore:.*(quantize_per_tensor|reduce_range):UserWarning")
HERE = [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]
QUICK = QConfig(default_observer, default_per_channel_weight_observer)
"""Weights per channel; min and max are found sooner than histograms."""


@pytest.fixture(autouse=True)
def engine_as_before():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module")
def float_model():
    return initialise(Blaze(), seed=5).eval()


def pictures(seed=0, count=2, size=64):
    generator = torch.Generator().manual_seed(seed)
    return [60 * torch.randn(1, 3, size, size, generator=generator) for _ in range(count)]


def run(model):
    with torch.no_grad():
        return model(pictures(9, 1)[0])


def error(found, wanted):
    """The power of the difference, as a share of what is wanted, in the worst of the heads."""
    pairs = zip(found, wanted, strict=True)
    return max(((a - b).square().mean() / b.square().mean()).item() for a, b in pairs)


def prepared_copy(model, qconfig=default_qconfig):
    twin = quantizable_copy(model)
    twin.fuse_model()
    twin.qconfig = qconfig
    return prepare(twin, inplace=True)


def test_the_default_engine_is_here_and_comes_first():
    assert default_engine() == HERE[0] == check_engine(None)
    assert [check_engine(engine) for engine in HERE] == HERE


@pytest.mark.parametrize("engine", ["none", "X86", "cray", ""])
def test_an_engine_that_is_not_here(engine):
    with pytest.raises(ValueError, match=f"engine: '{engine}' is not in this build of PyTorch, "
                                         f"which has .*{HERE[0]}"):
        check_engine(engine)


def test_a_copy_of_a_float_blaze(float_model):
    float_model = copy.deepcopy(float_model).train()
    twin = quantizable_copy(float_model)
    assert type(twin) is QuantizableBlaze and not twin.training and float_model.training
    assert twin.conv1[0].weight is not float_model.conv1[0].weight
    for ours, theirs in zip(run(twin), run(float_model.eval()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_of_a_quantizable_model():
    model = QuantizableBlaze().train()
    twin = quantizable_copy(model)
    twin.fuse_model()
    assert model.training and isinstance(model.conv1[1], nn.BatchNorm2d)


class Unready(Blaze):
    """Has no stubs and no fuse_model."""


@pytest.mark.parametrize("make", [
    Unready, lambda: nn.Linear(2, 2),
    pytest.param(lambda: quantize_static(Blaze(), pictures(), qconfig=QUICK), id="converted")])
def test_what_cannot_be_quantized_is_refused(make):
    model = make()
    with pytest.raises(TypeError, match=f"{type(model).__name__}: expected a float Blaze"):
        quantizable_copy(model)
    with pytest.raises(TypeError, match="expected a float Blaze"):
        quantize_static(model, pictures())


def test_calibrating_records_the_ranges_of_every_image(float_model):
    small, large = 10 * torch.ones(1, 3, 32, 32), 90 * torch.ones(1, 3, 32, 32)
    prepared = prepared_copy(float_model)
    assert calibrate(prepared, iter([small, -large])) == 2
    observer = prepared.quant.activation_post_process
    assert observer.min_val == -90 and observer.max_val == 10


def test_calibrating_takes_images_as_detection_does(float_model):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    by_image, by_tensor = prepared_copy(float_model), prepared_copy(float_model)
    calibrate(by_image, [image], long_side=48)
    calibrate(by_tensor, [preprocess(image, 48)[0]])
    for ours, theirs in zip(by_image.buffers(), by_tensor.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_calibrating_keeps_the_mode_and_needs_no_gradients(float_model, training):
    prepared = prepared_copy(float_model).train(training)
    modes = []
    prepared.quant.register_forward_hook(
        lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    calibrate(prepared, pictures(count=1))
    assert modes == [(False, False)] and prepared.training is training


@pytest.fixture(scope="module")
def prepared(float_model):
    return prepared_copy(float_model)


GOOD = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(("images", "message"), [
    ([], "images: there are none"),
    ([GOOD, GOOD[0]], r"images: number 1: .*\[N, 3, H, W\].* got torch.float32 \[3, 32, 32\]"),
    ([GOOD[:, :1]], r"images: number 0: .* got torch.float32 \[1, 1, 32, 32\]"),
    ([GOOD.to(torch.uint8)], r"images: number 0: expected a preprocessed float32 .* got torch.uint8"),
    ([GOOD, GOOD, GOOD / 0], "images: number 2: holds NaN or infinite values"),
    ([np.zeros((32, 32, 3), np.float32)], "images: number 0: .*uint8 array .* got float32"),
    ([np.zeros((32, 32), np.uint8)], "images: number 0: .*uint8 array"),
    (["face.jpg"], "images: number 0: .*uint8 array .* got str"),
])
def test_unfit_images_are_named(prepared, images, message):
    with pytest.raises(ValueError, match=message):
        calibrate(prepared, images)


@pytest.mark.parametrize("engine", HERE)
def test_quantized_in_one_call(float_model, engine):
    before = copy.deepcopy(float_model.state_dict())
    int8 = quantize_static(float_model, pictures(), engine)
    assert torch.backends.quantized.engine == engine
    assert type(int8) is QuantizableBlaze and not int8.training
    kind = torch.per_tensor_affine if engine == "qnnpack" else torch.per_channel_affine
    assert int8.conv1[0].weight().qscheme() == kind
    assert error(run(int8), run(float_model)) < 0.1
    after = float_model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_it_is_what_the_steps_give_one_by_one(float_model):
    torch.backends.quantized.engine = default_engine()
    prepared = prepared_copy(float_model, QUICK)
    calibrate(prepared, pictures())
    by_hand, at_once = convert(prepared), quantize_static(float_model, pictures(), qconfig=QUICK)
    assert str(by_hand) == str(at_once)
    assert all(torch.equal(a, b) for a, b in zip(run(by_hand), run(at_once), strict=True))


def test_a_failure_leaves_the_engine_alone(float_model):
    torch.backends.quantized.engine = HERE[-1]
    with pytest.raises(ValueError, match="there are none"):
        quantize_static(float_model, [], HERE[0])
    with pytest.raises(ValueError, match="not in this build"):
        quantize_static(float_model, pictures(), "cray")
    assert torch.backends.quantized.engine == HERE[-1]


@pytest.mark.parametrize(("bits", "per_channel"), [(2, True), (3, False), (8, True), (8, False)])
def test_weights_take_as_many_values_as_the_bits_allow(float_model, bits, per_channel):
    torch.backends.quantized.engine = default_engine()
    simulated = simulate(
        float_model, pictures(count=1), weight_bits_qconfig(bits, per_channel=per_channel))
    for module in convert(simulated).modules():
        if isinstance(module, torch.ao.nn.quantized.Conv2d):
            integers = module.weight().int_repr()
            assert -integers.min().item() <= 2 ** (bits - 1) - 1 >= integers.max().item()
            kind = torch.per_channel_affine if per_channel else torch.per_tensor_affine
            assert module.weight().qscheme() == kind
            assert integers.abs().max() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", [1, 0, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=f"bits: expected 2 to 8, got {bits}"):
        weight_bits_qconfig(bits, per_channel=True)


def test_bits_for_an_engine_that_is_not_here():
    with pytest.raises(ValueError, match="engine: 'cray'"):
        weight_bits_qconfig(4, per_channel=True, engine="cray")


def test_fewer_bits_cost_more(float_model):
    wanted = run(float_model)
    errors = [
        error(run(simulate(float_model, pictures(), weight_bits_qconfig(bits, per_channel=True))),
              wanted)
        for bits in (8, 5, 3)
    ]
    assert errors[0] < 0.1 and 2 * errors[0] < errors[1] and 2 * errors[1] < errors[2]


def test_the_simulation_is_close_to_what_it_converts_to_and_can_be_switched_off(float_model):
    torch.backends.quantized.engine = default_engine()
    qconfig = weight_bits_qconfig(4, per_channel=True)
    simulated = simulate(float_model, pictures(), qconfig)
    assert not simulated.training
    found, wanted = run(simulated), run(float_model)
    assert error(run(convert(simulated)), found) < 0.1 * error(found, wanted)
    simulated.apply(disable_fake_quant)
    assert error(run(simulated), wanted) < 1e-6


def test_the_ranges_of_the_simulation_are_frozen(float_model):
    simulated = simulate(float_model, pictures(), weight_bits_qconfig(8, per_channel=False))
    fakes = [m for m in simulated.modules() if isinstance(m, FakeQuantize)]
    ranges = [fake.activation_post_process.calculate_qparams()[0] for fake in fakes]
    with torch.no_grad():
        simulated(1000 * pictures()[0])
    assert len(fakes) > 100
    for fake, scale in zip(fakes, ranges):
        assert torch.allclose(fake.scale, scale)  # the fused kernel may round otherwise
