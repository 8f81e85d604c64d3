"""Exported detectors: the files, float and int8, and the runtimes that take them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization as aoq

from blaze_utils.detector import join_heads
from blaze_utils.int8 import export, quantize_static, runtimes
from blaze_utils.measure import head_sqnr
from tests.int8.conftest import QUIET, pictures, run, same

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore::FutureWarning")]
SIZE, OTHER = (64, 96), (128, 32)


class Tiny(nn.Module):
    """A detector in the form of a Blaze, small enough to be exported in a moment."""

    def __init__(self):
        super().__init__()
        self.quant, self.dequant = aoq.QuantStub(), aoq.DeQuantStub()
        layers = nn.Conv2d(3, 8, 8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.stride8 = nn.Sequential(*layers)
        self.stride16 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        sizes = [priors * values for values in (4, 2, 10) for priors in (2, 6)]
        self.heads = nn.ModuleList(nn.Conv2d(8, size, 1) for size in sizes)

    def maps(self, x):
        low = self.stride8(self.quant(x))
        features = (low, self.stride16(low)) * 3
        maps = [self.dequant(head(x)) for head, x in zip(self.heads, features, strict=True)]
        return maps[0:2], maps[2:4], maps[4:6]

    def forward(self, x):
        return join_heads(self.maps(x))

    def fuse_model(self, is_qat=None):
        aoq.fuse_modules(self, [["stride8.0", "stride8.1", "stride8.2"]], inplace=True)
        aoq.fuse_modules(self, [["stride16.0", "stride16.1"]], inplace=True)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


def near(model, other, sizes=(SIZE,), least=12, most=80):
    """Whether int8 is as near to float as int8 can be, and not nearer."""
    ratios = [head_sqnr(model, other, pictures(5, 1, size)) for size in sizes]
    return all((ratio > least).all() and (ratio < most).all() for ratio in ratios)


@pytest.fixture(scope="module")
def float_onnx(tiny, tmp_path_factory):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    export.export_onnx(tiny, path)
    return path


def test_the_onnx_file_computes_what_the_model_does_at_any_size(tiny, float_onnx):
    assert near(tiny, runtimes.onnx_runtime(float_onnx), (SIZE, OTHER), 90, 200)


@pytest.mark.parametrize("engine", ["x86", "onednn", "qnnpack"])
def test_int8_goes_from_eager_mode_to_onnx_with_the_integers_it_has(tiny, tmp_path, engine):
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"no {engine} here")
    pytest.importorskip("onnxruntime")
    int8 = quantize_static(tiny, pictures(0, 4, SIZE), engine)
    export.export_int8_onnx(int8, tmp_path / "int8.onnx")
    model = runtimes.onnx_runtime(tmp_path / "int8.onnx")
    for size in (SIZE, OTHER):
        [picture] = pictures(5, 1, size)
        step = max(head.scale for head in int8.heads)
        for exact, found in zip(run(int8, picture), run(model, picture), strict=True):
            assert (exact - found).abs().max() <= 4 * step, "some rounds to the other side"
    assert runtimes.optimised_operators(tmp_path / "int8.onnx")["QLinearConv"] == 8


UINT8, INT8 = 2, 3  # of onnx.TensorProto


@pytest.mark.parametrize(
    ("options", "activations"),
    [({"unsigned": True}, UINT8), ({"unsigned": False}, INT8), ({}, None)],
)
def test_int8_onnx_is_near_float_with_the_types_asked_for(
    tiny, float_onnx, tmp_path, options, activations
):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "int8.onnx"
    export.quantize_onnx(float_onnx, path, pictures(0, 4, SIZE), **options)
    assert near(tiny, runtimes.onnx_runtime(path, signed=activations == INT8), (SIZE, OTHER))
    zeros = [x for x in onnx.load(path).graph.initializer if x.name.endswith("zero_point")]
    unsigned = (
        export.platform.machine() in export.X86 if activations is None else activations == UINT8
    )
    assert (UINT8 in {zero.data_type for zero in zeros}) is unsigned
    operators = runtimes.optimised_operators(path, signed=not unsigned)
    assert operators["QLinearConv"] == 8 and "Conv" not in operators


def test_the_file_for_tensorrt_has_no_zero_points_and_no_integer_biases(tiny, float_onnx, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "symmetric.onnx"
    export.quantize_onnx(float_onnx, path, pictures(0, 4, SIZE), symmetric=True)
    arrays = onnx.load(path).graph.initializer
    zeros = [onnx.numpy_helper.to_array(x) for x in arrays if x.name.endswith("zero_point")]
    assert zeros and {zero.dtype for zero in zeros} == {np.dtype("int8")}
    assert not any(zero.any() for zero in zeros)
    assert near(tiny, runtimes.onnx_runtime(path))


def test_openvino_takes_the_same_file(tiny, float_onnx):
    pytest.importorskip("openvino")
    model = runtimes.openvino(float_onnx)
    first = model(pictures(0, 1, SIZE)[0])
    kept = [output.clone() for output in first]
    model(pictures(1, 1, SIZE)[0])
    assert same(first, kept), "not overwritten by the next"
    assert near(tiny, model, (SIZE,), 60, 200)


@pytest.mark.parametrize("quantized", [False, True])
def test_an_executorch_program_takes_sizes_up_to_its_largest(tiny, tmp_path, quantized):
    pytest.importorskip("executorch")
    path = tmp_path / "tiny.pte"
    images = pictures(0, 4, SIZE) if quantized else None
    table = export.export_pte(tiny, path, images, most=128).set_index("op_type")
    assert table.loc["aten_convolution_default", "occurrences_in_delegated_graphs"] == 8
    model = runtimes.executorch(path)
    assert near(tiny, model, (SIZE, (128, 128)), *((12, 80) if quantized else (90, 200)))
    with runtimes.quiet_stderr(), pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, 256, 256))


def test_a_traced_module_is_stored_and_loaded_without_its_class(tiny, tmp_path):
    frozen = export.trace_frozen(tiny, pictures(0, 1, SIZE)[0])
    torch.jit.save(frozen, tmp_path / "tiny.pt")
    assert near(tiny, runtimes.torchscript(tmp_path / "tiny.pt"), (SIZE, OTHER), 90, 1e9)


def test_what_is_missing_is_named():
    assert export.missing("torch", "json") is None
    assert export.missing("torch", "no_such_package").startswith("no_such_package cannot")


def test_a_runtime_takes_the_place_of_a_model():
    arrays = [np.zeros((1, 5, values), np.float32) for values in (4, 2, 10)]
    model = runtimes.Runtime(lambda x: arrays, "a runtime")
    assert [output.shape[2] for output in model(torch.zeros(1, 3, 16, 16))] == [4, 2, 10]
    assert "a runtime" in repr(model) and not model.training


def test_nothing_reaches_stderr_while_it_is_quiet(capfd):
    with runtimes.quiet_stderr():
        print("python", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'descriptor')"], check=True)
    with pytest.raises(ValueError), runtimes.quiet_stderr():
        raise ValueError("stderr comes back all the same")
    print("afterwards", file=sys.stderr)
    assert capfd.readouterr().err == "afterwards\n"
