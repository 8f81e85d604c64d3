"""The compact int8 file: the same bits back, small, and never a wrong model from a damaged file."""
import copy
import io
import json
import os
import pickle
import random

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    DeQuantStub,
    QConfig,
    QuantStub,
    convert,
    default_observer,
    default_per_channel_weight_observer,
    fuse_modules,
    get_default_qconfig,
    prepare,
)

from blaze_utils.measure.cost import stored_bytes
from blaze_utils.detector.checkpoint import CheckpointError, save_float
from blaze_utils.int8.int8_file import load_int8, save_int8
from blaze_utils.int8.flat_file import read_flat, write_flat
from blaze_utils.int8.int8_file import read_int8
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.int8.eager import (
    ENGINES, default_engine, quantize_static, simulate, weight_bits_qconfig,
)
from maintainers.train import initialise

HERE = [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning",
                                        "ignore:.*(quantize_per_tensor|reduce_range):UserWarning")


def pictures(seed, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [60 * torch.randn(1, 3, 64, 64, generator=generator) for _ in range(count)]


def outputs(model):
    with torch.inference_mode():
        found = model(pictures(7, 1)[0])
    return found if isinstance(found, tuple) else (found,)


def quickly(engine):
    """A qconfig with the engine's weights; min and max are found sooner than histograms."""
    return QConfig(default_observer, get_default_qconfig(engine).weight)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def engine_as_before():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module")
def float_model():
    return initialise(Blaze(), seed=3).eval()


@pytest.fixture(scope="module")
def models(float_model):
    before = torch.backends.quantized.engine
    made = {engine: quantize_static(float_model, pictures(1), engine, quickly(engine))
            for engine in HERE}
    torch.backends.quantized.engine = before
    return made


@pytest.fixture
def model(models):
    torch.backends.quantized.engine = default_engine()
    return models[default_engine()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "blaze.int8"


@pytest.mark.parametrize("engine", HERE)
def test_the_same_bits_come_back(models, path, engine):
    torch.backends.quantized.engine = engine
    expected = outputs(models[engine])
    save_int8(models[engine], path)
    torch.backends.quantized.engine = HERE[0]
    loaded = load_int8(path)
    assert torch.backends.quantized.engine == engine
    assert type(loaded) is QuantizableBlaze and not loaded.training
    assert same(outputs(loaded), expected)
    assert str(loaded) == str(models[engine]), "names, kinds, output scales and zero points"
    assert stored_bytes(loaded) == stored_bytes(models[engine])


@pytest.mark.parametrize("engine", HERE)
def test_saving_again_makes_the_same_file(models, path, engine):
    torch.backends.quantized.engine = engine
    save_int8(models[engine], path)
    first = path.read_bytes()
    save_int8(load_int8(path), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("engine", HERE)
def test_at_least_four_times_smaller_than_float(models, float_model, path, engine):
    torch.backends.quantized.engine = engine
    save_int8(models[engine], path)
    assert stored_bytes(float_model) > 4.0 * path.stat().st_size


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [4, 3])
def test_weights_of_fewer_bits_come_back_too(float_model, path, bits, per_channel):
    torch.backends.quantized.engine = default_engine()
    qconfig = weight_bits_qconfig(bits, per_channel=per_channel)
    model = convert(simulate(float_model, pictures(1), qconfig))
    save_int8(model, path)
    arrays, _ = read_int8(path)
    assert abs(arrays["weights"]).max() == 2 ** (bits - 1) - 1
    assert set(arrays["per_channel"]) == {int(per_channel)}
    assert same(outputs(load_int8(path)), outputs(model))


class Small(nn.Module):
    """After torchvision's convention, with layers that Blaze has not got."""

    def __init__(self, features=10):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.drop = nn.Dropout(0.1)
        self.one = nn.Linear(4, features)
        self.relu = nn.ReLU()
        self.two = nn.Linear(features, 1, bias=False)

    def forward(self, x):
        x = self.conv(self.quant(x)).mean((2, 3))
        return self.dequant(self.two(self.relu(self.one(self.drop(x)))))

    def fuse_model(self, is_qat=None):
        fuse_modules(self, [["one", "relu"]], inplace=True)


@pytest.fixture(scope="module")
def calibrated_small():
    torch.manual_seed(0)
    qconfig = QConfig(default_observer, default_per_channel_weight_observer)
    return quantize_static(Small().eval(), pictures(1), qconfig=qconfig)


@pytest.fixture
def small(calibrated_small):
    torch.backends.quantized.engine = default_engine()
    return copy.deepcopy(calibrated_small)


def test_another_network_with_linear_layers_and_without_biases(small, path):
    save_int8(small, path)
    loaded = load_int8(path, Small)
    assert type(loaded) is Small and same(outputs(loaded), outputs(small))
    assert str(loaded) == str(small)


@pytest.mark.parametrize("engine", HERE)
def test_layers_without_biases_go_from_engine_to_engine(path, engine):
    torch.manual_seed(0)
    model = quantize_static(Small().eval(), pictures(1), engine, quickly(engine))
    expected = outputs(model)[0]
    save_int8(model, path)
    for other in HERE:
        rewritten(path, engine=other)
        difference = outputs(load_int8(path, Small))[0] - expected
        assert difference.abs().max() <= 3 * model.two.scale, "three int8 steps"


def test_a_bias_that_the_class_has_not_got_comes_back(small, path):
    small.two.set_weight_bias(small.two.weight(), torch.tensor([0.5]))
    save_int8(small, path)
    loaded = load_int8(path, Small)
    assert loaded.two.bias().item() == 0.5 and same(outputs(loaded), outputs(small))


def test_scales_that_are_no_float32_keep_every_digit(small, path):
    save_int8(small, path)
    assert read_int8(path)[0]["output_scales"].dtype == "float32"
    small.two.scale = 0.3
    save_int8(small, path)
    assert read_int8(path)[0]["output_scales"].dtype == "float64"
    loaded = load_int8(path, Small)
    assert loaded.two.scale == 0.3 and same(outputs(loaded), outputs(small))


def test_per_channel_and_per_tensor_weights_in_one_model(small, path):
    scales = torch.tensor([0.25], dtype=torch.float64)
    weight = torch.quantize_per_channel(
        torch.randn(1, 10), scales, torch.zeros(1, dtype=torch.int64), 0, torch.qint8)
    small.two.set_weight_bias(weight, None)
    small.one.set_weight_bias(
        torch.quantize_per_tensor(torch.randn(10, 4), 0.5, 0, torch.qint8), small.one.bias())
    save_int8(small, path)
    loaded = load_int8(path, Small)
    assert loaded.two.weight().qscheme() == torch.per_channel_affine
    assert loaded.one.weight().qscheme() == torch.per_tensor_affine
    assert same(outputs(loaded), outputs(small))


def rewritten(path, **changes):
    arrays, notes = read_flat(path)
    write_flat(path, arrays, notes | changes)


def test_an_engine_that_is_not_here_gives_way_to_the_default_one(model, path):
    save_int8(model, path)
    rewritten(path, engine="cray")
    with pytest.warns(UserWarning, match="blaze.int8: saved for the engine 'cray'.*is used"):
        loaded = load_int8(path)
    assert torch.backends.quantized.engine == default_engine()
    assert same(outputs(loaded), outputs(model))


@pytest.mark.parametrize("engine", HERE)
def test_another_engine_rounds_a_little_differently(model, path, engine):
    save_int8(model, path)
    expected = outputs(model)
    rewritten(path, engine=engine)
    for here, there in zip(outputs(load_int8(path)), expected):
        assert (here - there).square().mean() < 0.03 * there.square().mean()


def test_every_damaged_byte_and_every_cut_is_noticed(small, path):
    save_int8(small, path)
    good = path.read_bytes()
    chance = random.Random(0)
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= chance.randrange(1, 256)
        assert_refused(path, bytes(damaged))
    for length in range(len(good)):
        assert_refused(path, good[:length])
    assert_refused(path, good + b"\0")
    assert_refused(path, b"\0" + good)


def test_damage_is_noticed_in_the_real_file(model, path):
    save_int8(model, path)
    good = path.read_bytes()
    for place in random.Random(0).sample(range(len(good)), 60):
        assert_refused(path, good[:place] + bytes([good[place] ^ 1]) + good[place + 1:])
        assert_refused(path, good[:place])


def assert_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"blaze\.int8: ") as caught:
        read_int8(path)
    assert "damaged" in str(caught.value) or "zip archive" in str(caught.value)


def test_a_damaged_file_leaves_the_engine_alone(model, path):
    save_int8(model, path)
    torch.backends.quantized.engine = HERE[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged, cut short or another kind of file"):
        load_int8(path)
    assert torch.backends.quantized.engine == HERE[-1]


def test_a_missing_file(path):
    with pytest.raises(CheckpointError, match="blaze.int8: no such file"):
        load_int8(path)


def test_a_float_checkpoint_is_no_int8_file(float_model, path):
    save_float(float_model, path)
    with pytest.raises(CheckpointError, match="blaze.int8: a zip archive, as torch.save writes"):
        load_int8(path)


@pytest.mark.parametrize("content", [
    b"", b"hello", json.dumps({"engine": "x86"}).encode(), pickle.dumps([1]), bytes(300)])
def test_files_of_another_kind(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="blaze.int8: .*another kind of file"):
        load_int8(path)


def test_a_flat_file_of_another_kind(path):
    write_flat(path, {}, {"format": "something else"})
    with pytest.raises(CheckpointError, match="blaze.int8: .*not one that save_int8 wrote"):
        load_int8(path)


def test_a_file_of_the_future(model, path):
    save_int8(model, path)
    rewritten(path, version="2")
    with pytest.raises(CheckpointError, match="blaze.int8: format version 2; .* reads version 1"):
        load_int8(path)


@pytest.mark.parametrize("name", ["weights", "biases", "weight_scales", "per_channel",
                                  "output_scales", "output_zero_points"])
def test_arrays_of_another_length(small, path, name):
    save_int8(small, path)
    arrays, notes = read_flat(path)
    for other in (arrays | {name: arrays[name][:-1]},
                  {key: value for key, value in arrays.items() if key != name}):
        write_flat(path, other, notes)
        with pytest.raises(CheckpointError, match="blaze.int8: .*these layers need .* values"):
            load_int8(path, Small)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(model, path, tmp_path, monkeypatch):
    folder = tmp_path / "made by the pickle"
    archive = io.BytesIO()
    torch.save({"weights": Malicious(folder)}, archive)
    for content in (pickle.dumps(Malicious(folder)), archive.getvalue()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_int8(path)
    assert not folder.exists()

    def forbidden(*_, **__):
        raise AssertionError("unpickled")

    save_int8(model, path)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    load_int8(path)


def test_a_failed_save_leaves_the_old_file(model, path, monkeypatch):
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        save_int8(model, path)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def prepared_blaze():
    model = QuantizableBlaze().eval()
    model.fuse_model()
    model.qconfig = quickly(default_engine())
    return prepare(model)


def unfused_int8():
    model = QuantizableBlaze().eval()
    model.qconfig = quickly(default_engine())
    prepared = prepare(model)
    prepared(pictures(1, 1)[0])
    return convert(prepared)


def one_block_left_float():
    model = QuantizableBlaze().eval()
    model.fuse_model()
    model.qconfig = quickly(default_engine())
    model.conv7.qconfig = None
    return convert(prepare(model))


@pytest.mark.filterwarnings("ignore:.*must run observer:UserWarning")
@pytest.mark.parametrize(("make", "message"), [
    (Blaze, r"conv1\.0: torch\.nn\..*Conv2d is no int8 layer .* convert"),
    (prepared_blaze, r"conv1\.0: torch\.ao\.nn\.intrinsic.*ConvReLU2d is no int8 layer .* convert"),
    (unfused_int8, r"conv1\.1: a batch norm is left; call fuse_model\(\) before prepare"),
    (one_block_left_float, r"conv7\.conv\.0\.0: .*ConvReLU2d is no int8 layer"),
    (lambda: nn.Linear(2, 2), r"the model: torch\.nn\..*Linear is no int8 layer"),
    (nn.ReLU, "ReLU: no int8 layer in it"),
    (lambda: torch.ao.nn.quantized.dynamic.Linear(2, 2), "dynamic.*Linear is no int8 layer"),
])
def test_what_is_not_converted_is_refused(path, make, message):
    torch.backends.quantized.engine = default_engine()
    with pytest.raises(ValueError, match=message):
        save_int8(make(), path)
    assert not path.exists()


def test_weights_with_zero_points_are_refused(small, path):
    weight = torch.quantize_per_tensor(torch.randn(10, 4), 0.1, 3, torch.qint8)
    small.one.set_weight_bias(weight, small.one.bias())
    with pytest.raises(ValueError, match="one: expected symmetric qint8 weights"):
        save_int8(small, path)


def test_signed_activations_are_refused(small, path):
    small.quant.dtype = torch.qint8
    with pytest.raises(ValueError, match="quant: expected quint8 activations"):
        save_int8(small, path)


def test_another_class_than_the_files_is_refused(small, model, path):
    save_int8(small, path)
    before = torch.backends.quantized.engine
    with pytest.raises(CheckpointError, match="blaze.int8: holds an int8 Small.*QuantizableBlaze"):
        load_int8(path)
    with pytest.raises(CheckpointError, match="give the model_factory"):
        load_int8(path, lambda: Small(11))
    with pytest.raises(TypeError, match="Linear: expected a float Blaze"):
        load_int8(path, lambda: nn.Linear(1, 1))
    assert torch.backends.quantized.engine == before
    save_int8(model, path)
    assert same(outputs(load_int8(path, Blaze)), outputs(model)), "Blaze has the same layers"
