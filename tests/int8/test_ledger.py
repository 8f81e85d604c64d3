"""The byte ledger: every byte of a stored model in one place, and in the right one."""
import pytest
import torch
from torch import nn

from blaze_utils.measure.cost import stored_bytes
from blaze_utils.detector.checkpoint import CheckpointError
from blaze_utils.int8.int8_file import save_int8
from blaze_utils.int8.ledger import CATEGORIES, byte_ledger
from blaze_utils.detector.model import Blaze
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.int8.eager import default_engine, quantize_static
from maintainers.train import initialise

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning",
                                        "ignore:.*quantize_per_tensor:UserWarning")
QCONFIGS = {
    "tensor": torch.ao.quantization.default_weight_observer,
    "channel": torch.ao.quantization.default_per_channel_weight_observer,
}
WEIGHTS = sum(m.weight.numel() for m in Blaze().modules() if isinstance(m, nn.Conv2d))
CHANNELS = sum(m.out_channels for m in Blaze().modules() if isinstance(m, nn.Conv2d))


@pytest.fixture(autouse=True)
def engine_as_before():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="module", params=sorted(QCONFIGS))
def int8(request):
    qconfig = torch.ao.quantization.QConfig(
        torch.ao.quantization.default_observer, QCONFIGS[request.param])
    before = torch.backends.quantized.engine
    model = quantize_static(
        initialise(Blaze(), seed=1).eval(), [torch.randn(1, 3, 32, 32)], qconfig=qconfig)
    torch.backends.quantized.engine = before
    return request.param, model


def test_float_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(2, 5))
    ledger = byte_ledger(model)
    assert tuple(ledger) == CATEGORIES
    assert ledger["weights"] == 4 * (3 * 8 * 9 + 2 * 5) and ledger["biases"] == 4 * (8 + 5)
    assert ledger["batch norm"] == 4 * 4 * 8 + 8, "the counter of batches is an int64"
    assert ledger["scales and zero points"] == 0
    assert sum(ledger.values()) == stored_bytes(model) and ledger["wrapping"] > 0


def test_the_float_network():
    ledger = byte_ledger(Blaze())
    assert ledger["weights"] == 4 * WEIGHTS
    parameters = sum(p.numel() for p in Blaze().parameters())
    buffers = sum(b.numel() * b.element_size() for b in Blaze().buffers())
    numbers = ledger["weights"] + ledger["biases"] + ledger["batch norm"]
    assert numbers == 4 * parameters + buffers
    assert sum(ledger.values()) == stored_bytes(Blaze())


def test_int8_as_torch_saves_it(int8):
    kind, model = int8
    ledger = byte_ledger(model)
    assert ledger["weights"] == WEIGHTS and ledger["biases"] == 4 * CHANNELS
    assert ledger["batch norm"] == 0
    per_output = 12 * sum(hasattr(m, "zero_point") for m in model.modules())
    per_channel = 16 * CHANNELS if kind == "channel" else 0  # float64 scale, int64 zero point
    assert ledger["scales and zero points"] == per_output + per_channel
    assert sum(ledger.values()) == stored_bytes(model)


def test_the_compact_file(int8, tmp_path):
    kind, model = int8
    path = tmp_path / "blaze.int8"
    torch.backends.quantized.engine = default_engine()
    save_int8(model, path)
    ledger = byte_ledger(path)
    assert tuple(ledger) == CATEGORIES and ledger == byte_ledger(str(path))
    assert sum(ledger.values()) == path.stat().st_size
    assert ledger["weights"] == WEIGHTS and ledger["biases"] == 4 * CHANNELS
    layers = sum(isinstance(m, nn.Conv2d) for m in Blaze().modules())
    outputs = sum(hasattr(m, "zero_point") for m in model.modules())
    scales = CHANNELS if kind == "channel" else layers
    assert ledger["scales and zero points"] == 4 * scales + layers + 5 * outputs
    assert 0 < ledger["wrapping"] < 1000


def test_an_unfused_model_keeps_its_batch_norms():
    torch.backends.quantized.engine = default_engine()
    model = QuantizableBlaze().eval()
    model.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(model)
    prepared(torch.randn(1, 3, 32, 32))
    ledger = byte_ledger(torch.ao.quantization.convert(prepared))
    assert ledger["batch norm"] == byte_ledger(Blaze())["batch norm"]


def test_an_int8_linear_layer():
    torch.backends.quantized.engine = default_engine()
    ledger = byte_ledger(nn.Sequential(torch.ao.nn.quantized.Linear(3, 5)))
    assert ledger["weights"] == 15 and ledger["biases"] == 20
    assert ledger["scales and zero points"] == 12


def test_a_damaged_file(tmp_path):
    path = tmp_path / "blaze.int8"
    path.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="blaze.int8: damaged"):
        byte_ledger(path)
