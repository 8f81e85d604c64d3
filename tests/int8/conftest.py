"""What the tests of this room share: a small detector, pictures, and the engine as before."""

import pytest
import torch

from blaze_utils.detector import Blaze
from blaze_utils.int8 import default_qconfig, quantize_static

QUIET = [
    pytest.mark.filterwarnings("ignore:.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*(quantize_per_tensor|reduce_range|maxpool2d)"),
]


def pictures(seed=0, count=2, size=(64, 64)):
    generator = torch.Generator().manual_seed(seed)
    return [60 * torch.randn(1, 3, *size, generator=generator) for _ in range(count)]


def quick(engine=None):
    """The default qconfig with min and max, which are found sooner than histograms."""
    default = default_qconfig(engine)
    bits7 = default.activation().quant_max == 127
    observer = torch.ao.quantization.MinMaxObserver.with_args(reduce_range=bits7)
    return torch.ao.quantization.QConfig(observer, default.weight)


def run(model, x=None):
    with torch.inference_mode():
        found = model(pictures(9, 1)[0] if x is None else x)
    return found if isinstance(found, tuple) else (found,)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def engine_as_before():
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.fixture(scope="session")
def float_model():
    """Random weights, and batch norms that know what comes."""
    torch.manual_seed(3)
    model = Blaze().train()
    with torch.no_grad():
        for picture in pictures(1, 8, (128, 128)):
            model(picture)
    return model.eval()


@pytest.fixture(scope="session")
def int8(float_model):
    before = torch.backends.quantized.engine
    model = quantize_static(float_model, pictures(), qconfig=quick())
    torch.backends.quantized.engine = before
    return model
