"""The compact int8 file and its ledger: the same bits back, and never a wrong model from damage."""

import copy
import json
import os
import pickle
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import nn
from torch.ao import quantization as aoq
from torch.ao.nn import quantized as nnq

from blaze_utils.detector import Blaze, CheckpointError, QuantizableBlaze, load_float, save_float
from blaze_utils.int8 import (
    byte_ledger,
    default_engine,
    files,
    load_int8,
    quantize_static,
    save_int8,
    simulate,
    weight_bits_qconfig,
)
from blaze_utils.measure import stored_bytes
from tests.int8.conftest import QUIET, pictures, quick, run, same

pytestmark = QUIET
HERE = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
WEIGHTS = sum(m.weight.numel() for m in Blaze().modules() if isinstance(m, nn.Conv2d))
CHANNELS = sum(m.out_channels for m in Blaze().modules() if isinstance(m, nn.Conv2d))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "blaze.int8"


@pytest.mark.parametrize("engine", HERE)
def test_the_same_bits_come_back_from_the_same_bytes(float_model, path, engine):
    model = quantize_static(float_model, pictures(), engine, quick(engine))
    expected = run(model)
    save_int8(model, path)
    first = path.read_bytes()
    torch.backends.quantized.engine = HERE[0]
    loaded = load_int8(path)
    assert torch.backends.quantized.engine == engine
    assert type(loaded) is QuantizableBlaze and not loaded.training
    assert same(run(loaded), expected) and stored_bytes(loaded) == stored_bytes(model)
    assert str(loaded) == str(model), "names, kinds, output scales and zero points"
    save_int8(loaded, path)
    assert path.read_bytes() == first
    assert stored_bytes(float_model) > 4.0 * len(first)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("bits", "per_channel"), [(4, True), (3, False)])
def test_weights_of_fewer_bits_come_back_too(float_model, path, bits, per_channel):
    torch.backends.quantized.engine = default_engine()
    qconfig = weight_bits_qconfig(bits, per_channel=per_channel)
    model = aoq.convert(simulate(float_model, pictures(count=1), qconfig))
    save_int8(model, path)
    arrays, notes = files.read_int8(path)
    assert arrays["weights"].abs().max() == 2 ** (bits - 1) - 1
    assert set(arrays["per_channel"].tolist()) == {int(per_channel)}
    assert notes["engine"] == default_engine() and notes["model"] == "QuantizableBlaze"
    assert same(run(load_int8(path)), run(model))


class Small(nn.Module):
    """After torchvision's convention, with layers that Blaze has not got."""

    def __init__(self, features=10):
        super().__init__()
        self.quant, self.dequant = aoq.QuantStub(), aoq.DeQuantStub()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.drop = nn.Dropout(0.1)
        self.one = nn.Linear(4, features)
        self.relu = nn.ReLU()
        self.two = nn.Linear(features, 1, bias=False)

    def forward(self, x):
        x = self.conv(self.quant(x)).mean((2, 3))
        return self.dequant(self.two(self.relu(self.one(self.drop(x)))))

    def fuse_model(self, is_qat=None):
        aoq.fuse_modules(self, [["one", "relu"]], inplace=True)


class Scaled(Small):
    """Has a parameter of its own, as detectors with a learnt scale for each level do."""

    def __init__(self):
        super().__init__()
        self.level_scale = nn.Parameter(torch.ones(1))


@pytest.fixture(scope="module")
def calibrated_small():
    torch.manual_seed(0)
    qconfig = aoq.QConfig(aoq.default_observer, aoq.default_per_channel_weight_observer)
    return quantize_static(Small().eval(), pictures(), qconfig=qconfig)


@pytest.fixture
def small(calibrated_small):
    torch.backends.quantized.engine = default_engine()
    return copy.deepcopy(calibrated_small)


def test_another_network_with_numbers_of_every_form(small, path):
    """Linear layers, no biases, one bias more, a scale of float64, both kinds of weight scales."""
    save_int8(small, path)
    assert files.read_int8(path)[0]["output_scales"].dtype == torch.float32
    assert type(load_int8(path, Small)) is Small and str(load_int8(path, Small)) == str(small)
    assert same(run(load_int8(path, Small)), run(small))
    small.two.scale = 0.3
    small.two.set_weight_bias(small.two.weight(), torch.tensor([0.5]))
    weight = torch.quantize_per_tensor(torch.randn(10, 4), 0.3, 0, torch.qint8)
    small.one.set_weight_bias(weight, small.one.bias())
    save_int8(small, path)
    loaded = load_int8(path, Small)
    assert files.read_int8(path)[0]["output_scales"].dtype == torch.float64
    assert loaded.two.scale == 0.3 and loaded.two.bias().item() == 0.5
    assert loaded.one.weight().q_scale() == small.one.weight().q_scale()
    assert loaded.two.weight().qscheme() == torch.per_channel_affine
    assert same(run(loaded), run(small))


def rewritten(path, **changes):
    """The same file with other notes and the right checksum."""
    arrays, notes = files.read_int8(path)
    notes |= changes
    save_file(
        arrays, path, {files.NOTES: json.dumps(notes | {"sha256": files._digest(arrays, notes)})}
    )


def test_an_engine_that_is_not_here_gives_way_to_the_default_one(int8, path):
    torch.backends.quantized.engine = default_engine()
    save_int8(int8, path)
    rewritten(path, engine="cray")
    with pytest.warns(UserWarning, match="blaze.int8: saved for the engine 'cray'.*is used"):
        loaded = load_int8(path)
    assert torch.backends.quantized.engine == default_engine() and same(run(loaded), run(int8))


def test_another_engine_rounds_a_little_differently(int8, path):
    torch.backends.quantized.engine = default_engine()
    save_int8(int8, path)
    for engine in HERE:
        rewritten(path, engine=engine)
        for here, there in zip(run(load_int8(path)), run(int8), strict=True):
            assert (here - there).square().mean() < 0.03 * there.square().mean()


def test_damage_is_noticed_or_changes_nothing(small, path):
    save_int8(small, path)
    good, chance = path.read_bytes(), random.Random(0)
    expected = files.read_int8(path)
    for place in (*range(0, 200), *range(200, len(good), 5)):
        path.write_bytes(
            good[:place] + bytes([good[place] ^ chance.randrange(1, 256)]) + good[place + 1 :]
        )
        try:
            arrays, notes = files.read_int8(path)
        except CheckpointError as error:
            assert "blaze.int8: " in str(error)
        else:  # a blank that became another blank
            assert notes == expected[1] and same(arrays.values(), expected[0].values())
    for content in (
        *(good[:length] for length in range(0, len(good), 7)),
        good + b"\0",
        b"\0" + good,
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="blaze.int8: "):
            files.read_int8(path)


class Malicious:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("made by the pickle",)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (b"hello", "text, but no sound int8 file"),
        (pickle.dumps(Malicious()), "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (save({"conv1.0.weight": torch.zeros(2)}), "a safetensors file.* of 1 arrays.* load_float"),
        (save({"a": torch.zeros(2)}, {files.NOTES: "{"}), "a safetensors file"),
        (save({"a": torch.zeros(2)}, {files.NOTES: "{}"}), "damaged: its numbers do not match"),
        (None, "no such file"),
        ("folder", "a folder"),
        ("float", "a zip archive, .* read by load_float"),
    ],
)
def test_other_files_are_called_what_they_are(path, monkeypatch, content, message):
    monkeypatch.chdir(path.parent)
    before = torch.backends.quantized.engine
    if content == "folder":
        path.mkdir()
    elif content == "float":
        save_float(Blaze(), path)
    elif content is not None:
        path.write_bytes(content)
    for read in (load_int8, byte_ledger) if path.is_file() else (load_int8,):
        with pytest.raises(
            CheckpointError, match=f"blaze.int8: .*{message}" if content else message
        ):
            read(path)
    assert torch.backends.quantized.engine == before
    assert not (path.parent / "made by the pickle").exists()


def test_load_float_says_that_the_file_is_int8(small, path):
    save_int8(small, path)
    with pytest.raises(CheckpointError, match="load_int8"):
        load_float(path)


def test_a_failed_save_leaves_the_old_file(small, path, monkeypatch):
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_int8(small, path)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def unfused_int8():
    model = QuantizableBlaze().eval()
    model.qconfig = quick()
    return aoq.convert(aoq.prepare(model))


def one_block_left_float(convert=aoq.convert):
    model = QuantizableBlaze().eval()
    model.fuse_model()
    model.qconfig = quick()
    model.conv7.qconfig = None
    return convert(aoq.prepare(model))


def with_zero_points():
    # qnnpack: onednn does not even pack such weights.
    model = quantize_static(Small().eval(), pictures(), "qnnpack", aoq.default_qconfig)
    weight = torch.quantize_per_tensor(torch.randn(10, 4), 0.1, 3, torch.qint8)
    model.one.set_weight_bias(weight, model.one.bias())
    return model


def signed():
    model = quantize_static(Small().eval(), pictures(), qconfig=aoq.default_qconfig)
    model.quant.dtype = torch.qint8
    return model


@pytest.mark.filterwarnings("ignore:.*must run observer:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Blaze, r"conv1\.0: torch\.nn\..*Conv2d is no int8 layer; .* convert"),
        (lambda: one_block_left_float(lambda m: m), r"conv1\.0: .*ConvReLU2d is no int8 layer"),
        (unfused_int8, r"conv1\.1: a batch norm is left; call fuse_model\(\) before prepare"),
        (one_block_left_float, r"conv7\.conv\.0\.0: .*ConvReLU2d is no int8 layer"),
        (lambda: nn.Linear(2, 2), r"the model: torch\.nn\..*Linear is no int8 layer"),
        (nn.ReLU, "ReLU: no int8 layer in it"),
        (
            lambda: nnq.dynamic.Linear(2, 2),
            "dynamic.*Linear is an int8 layer of a kind that the file",
        ),
        (lambda: nnq.Hardswish(1.0, 0), "Hardswish is an int8 layer of a kind that the file"),
        (
            lambda: quantize_static(Scaled().eval(), pictures(), qconfig=aoq.default_qconfig),
            "the model: Scaled has parameters or buffers of your own: level_scale; ",
        ),
        (with_zero_points, "one: expected symmetric qint8 weights"),
        (signed, "quant: expected quint8 activations"),
    ],
)
def test_what_the_file_cannot_hold_is_named(path, make, message):
    torch.backends.quantized.engine = default_engine()
    with pytest.raises(ValueError, match=message):
        save_int8(make(), path)
    assert not path.exists()


def test_another_class_than_the_files_is_refused(small, int8, path):
    save_int8(small, path)
    torch.backends.quantized.engine = before = HERE[-1]
    with pytest.raises(CheckpointError, match="blaze.int8: holds an int8 Small.*QuantizableBlaze"):
        load_int8(path)
    with pytest.raises(CheckpointError, match="give the model_factory"):
        load_int8(path, lambda: Small(11))
    with pytest.raises(TypeError, match="Linear: expected a float Blaze"):
        load_int8(path, lambda: nn.Linear(1, 1))
    assert torch.backends.quantized.engine == before


def test_one_key_of_metadata(small, path):
    """With more keys, safetensors would write them in any order."""
    save_int8(small, path)
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == [files.NOTES] and len(list(file.keys())) == 6


def test_the_ledger_of_float_models():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(2, 5))
    ledger = byte_ledger(model)
    assert tuple(ledger) == files.CATEGORIES
    assert ledger["weights"] == 4 * (3 * 8 * 9 + 2 * 5) and ledger["biases"] == 4 * (8 + 5)
    assert ledger["batch norm"] == 4 * 4 * 8 + 8, "the counter of batches is an int64"
    assert ledger["scales and zero points"] == 0
    assert sum(ledger.values()) == stored_bytes(model) and ledger["wrapping"] > 0
    assert byte_ledger(Blaze())["weights"] == 4 * WEIGHTS


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_ledger_of_int8_models(float_model, path, per_channel):
    weight = aoq.default_per_channel_weight_observer if per_channel else aoq.default_weight_observer
    model = quantize_static(
        float_model, pictures(), qconfig=aoq.QConfig(aoq.default_observer, weight)
    )
    save_int8(model, path)
    stored, compact = byte_ledger(model), byte_ledger(path)
    outputs = sum(hasattr(module, "zero_point") for module in model.modules())
    layers = sum(isinstance(module, nn.Conv2d) for module in Blaze().modules())
    for ledger in (stored, compact):
        assert ledger["weights"] == WEIGHTS and ledger["biases"] == 4 * CHANNELS
        assert ledger["batch norm"] == 0
    # In torch.save's file: a float64 scale and an int64 zero point for each channel.
    assert stored["scales and zero points"] == 12 * outputs + 16 * CHANNELS * per_channel
    scales = CHANNELS if per_channel else layers
    assert compact["scales and zero points"] == 4 * scales + layers + 5 * outputs
    assert sum(stored.values()) == stored_bytes(model)
    assert sum(compact.values()) == path.stat().st_size and 0 < compact["wrapping"] < 1000


@pytest.mark.filterwarnings("ignore:.*must run observer:UserWarning")
def test_the_ledger_of_layers_in_one_entry_and_of_batch_norms_that_are_left():
    torch.backends.quantized.engine = default_engine()
    ledger = byte_ledger(nn.Sequential(nnq.Linear(3, 5)))
    assert ledger["weights"] == 15 and ledger["biases"] == 20
    assert ledger["scales and zero points"] == 12
    assert byte_ledger(unfused_int8())["batch norm"] == byte_ledger(Blaze())["batch norm"]
