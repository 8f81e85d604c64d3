"""The quantizable twin: the same network in float, and whole in int8."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import qat as nniqat
from torch.ao.quantization import (
    QConfig,
    convert,
    default_observer,
    default_weight_observer,
    get_default_qat_qconfig,
    prepare,
    prepare_qat,
)

from blaze_utils.detector import Blaze, QuantizableBlaze, join_heads, load_float
from blaze_utils.detector.quantizable import QuantizableBlazeBlock

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:DeprecationWarning",
    "ignore:.*(quantize_per_tensor|reduce_range):UserWarning",
)
SHIPPED = Path(__file__).parents[2] / "data" / "checkpoints" / "blaze_float.pth"
CONVOLUTIONS = sum(isinstance(m, nn.Conv2d) for m in Blaze().modules())
BLOCKS = 11


@pytest.fixture(autouse=True)
def engine():
    before = torch.backends.quantized.engine
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in engines else "qnnpack"
    yield torch.backends.quantized.engine
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module")
def trained():
    return load_float(SHIPPED)


@pytest.fixture
def twin(trained):
    model = QuantizableBlaze()
    model.load_state_dict(trained.state_dict())
    return model.eval()


def picture(seed=0, size=64):
    return 60 * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(model):
    with torch.no_grad():
        return model(picture())


def count(model, *kinds):
    return sum(type(module) in kinds for module in model.modules())


@pytest.fixture
def int8(twin):
    twin.fuse_model()
    twin.qconfig = QConfig(default_observer, default_weight_observer)
    prepared = prepare(twin)
    run(prepared)
    return convert(prepared)


def test_the_keys_are_those_of_the_float_model():
    assert list(QuantizableBlaze().state_dict()) == list(Blaze().state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_in_float_it_computes_exactly_the_same(trained, twin, training):
    # Copies, since in training mode the statistics change.
    float_model, twin = copy.deepcopy(trained).train(training), copy.deepcopy(twin).train(training)
    for ours, theirs in zip(run(twin), run(float_model), strict=True):
        assert torch.equal(ours, theirs)


def test_the_last_relu_of_a_block_is_one_with_its_addition(twin):
    blocks = [m for m in twin.modules() if isinstance(m, QuantizableBlazeBlock)]
    assert len(blocks) == BLOCKS and not any(hasattr(block, "actvation") for block in blocks)
    calls = []
    for block in blocks:
        block.skip_add_relu.activation_post_process.register_forward_hook(
            lambda module, inputs, output: calls.append(float(output.min()))
        )
    run(twin)
    assert len(calls) == BLOCKS and min(calls) >= 0


def test_another_block_class_can_be_given():
    class Block(QuantizableBlazeBlock):
        pass

    assert count(QuantizableBlaze(Block), Block) == BLOCKS


def test_fusing_leaves_no_batch_norm_and_no_relu(twin):
    assert twin.fuse_model(is_qat=False) is None
    assert count(twin, nn.BatchNorm2d) == 0
    relus = [name for name, m in twin.named_modules() if isinstance(m, nn.ReLU)]
    fused = [name for name, m in twin.named_modules() if isinstance(m, nn.intrinsic.ConvReLU2d)]
    assert sorted(relus) == sorted(f"{name}.1" for name in fused), "each inside its convolution"
    assert count(twin, nn.Conv2d) == CONVOLUTIONS


def test_fusing_changes_the_outputs_by_rounding_only(twin):
    before = run(twin)
    twin.fuse_model()
    for ours, theirs in zip(run(twin), before, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("training", [False, True])
def test_fusing_twice_is_refused_and_changes_nothing(twin, training):
    twin.train(training).fuse_model()
    before = str(twin)
    with pytest.raises(RuntimeError, match="this model has been fused already"):
        twin.fuse_model()
    assert str(twin) == before


def test_the_mode_decides_how_to_fuse(twin):
    trainable = copy.deepcopy(twin).train()
    trainable.fuse_model()
    inside = sum(isinstance(m, nn.BatchNorm2d) for m in trainable.modules())
    assert inside == sum(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
    twin.fuse_model()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in twin.modules()) == 0


def test_folding_in_training_mode_is_refused(twin):
    with pytest.raises(AssertionError):
        twin.train().fuse_model(is_qat=False)


def test_everything_between_the_stubs_is_int8(int8):
    assert count(int8, nnq.Conv2d, nn.intrinsic.quantized.ConvReLU2d) == CONVOLUTIONS
    assert count(int8, nnq.QFunctional) == BLOCKS
    assert list(int8.parameters()) == []
    assert count(int8, nn.BatchNorm2d, nn.ReLU, nn.Conv2d) == 0


def test_the_heads_are_dequantized_one_by_one_before_they_are_joined(int8):
    seen = []
    int8.dequant.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = run(int8)
    assert [x.shape[1] for x in seen] == [8, 24, 4, 12, 20, 60]
    assert all(x.is_quantized for x in seen) and len({x.q_scale() for x in seen}) == 6
    levels = [x.dequantize() for x in seen]
    expected = join_heads((levels[:2], levels[2:4], levels[4:]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_int8_is_close_to_float(trained, int8):
    for ours, theirs in zip(run(int8), run(trained), strict=True):
        assert (ours - theirs).square().mean() < 0.1 * theirs.square().mean()


def test_trained_with_fake_quantization_it_converts_to_the_same_layers(twin, int8, engine):
    twin = QuantizableBlaze().train()
    twin.fuse_model()
    twin.qconfig = get_default_qat_qconfig(engine)
    prepare_qat(twin, inplace=True)
    assert count(twin, nniqat.ConvBnReLU2d, nniqat.ConvBn2d, nniqat.ConvReLU2d) > 0
    before = twin.conv1[0].weight.detach().clone()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    sum(x.square().mean() for x in twin(picture().repeat(2, 1, 1, 1))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in twin.parameters())
    optimizer.step()
    assert not torch.equal(twin.conv1[0].weight, before)
    converted = convert(twin.eval())
    kinds = [(name, type(m)) for name, m in converted.named_modules()]
    assert kinds == [(name, type(m)) for name, m in int8.named_modules()]
    assert all(torch.isfinite(x).all() for x in run(converted))
