"""Exported detectors: files, the runtimes that take them, and the program that needs nothing else."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from blaze_utils import standalone
from blaze_utils.int8 import export, runtimes
from blaze_utils.detector.checkpoint import load_float
from blaze_utils.data import FaceFolder
from blaze_utils.detector.finding import detect, preprocess
from blaze_utils.detector.model import join_heads
from blaze_utils.measure.sqnr import head_sqnr

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Tiny(nn.Module):
    """A detector in the form of a Blaze, small enough to be exported in a moment."""

    def __init__(self):
        super().__init__()
        self.stride8 = nn.Sequential(nn.Conv2d(3, 8, 8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stride16 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv2d(8, priors * values, 1)
                                   for values in (4, 2, 10) for priors in (2, 6))

    def maps(self, x):
        low = self.stride8(x)
        features = (low, self.stride16(low)) * 3
        maps = [head(feature) for head, feature in zip(self.heads, features)]
        return maps[0:2], maps[2:4], maps[4:6]

    def forward(self, x):
        return join_heads(self.maps(x))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


def images(count=4, size=(64, 96)):
    generator = torch.Generator().manual_seed(1)
    return [100 * torch.rand(1, 3, *size, generator=generator) - 50 for _ in range(count)]


@pytest.fixture(scope="module")
def float_onnx(tiny, tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    export.export_onnx(tiny, path)
    return path


def test_the_onnx_file_computes_what_the_model_does_at_any_size(tiny, float_onnx):
    pytest.importorskip("onnxruntime")
    model = runtimes.onnx_runtime(float_onnx)
    for image in images(1) + images(1, (128, 32)):
        for exact, found in zip(tiny(image), model(image)):
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unsigned", [True, False, None])
def test_int8_onnx_is_near_float_with_the_types_asked_for(tiny, float_onnx, tmp_path, unsigned):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export.quantize_onnx(float_onnx, tmp_path / "int8.onnx", images(), unsigned)
    ratios = head_sqnr(tiny, runtimes.onnx_runtime(tmp_path / "int8.onnx"), images())
    assert (ratios > 12).all() and (ratios < 80).all()
    stored = onnx.load(tmp_path / "int8.onnx").graph
    kinds = {array.data_type for array in stored.initializer if array.name.endswith("zero_point")}
    expected = export.platform.machine() in export.X86 if unsigned is None else unsigned
    assert (onnx.TensorProto.UINT8 in kinds) is expected and onnx.TensorProto.INT8 in kinds


def test_openvino_takes_the_same_file(tiny, float_onnx):
    pytest.importorskip("openvino")
    model = runtimes.openvino(float_onnx)
    first = model(images()[0])
    kept = [output.clone() for output in first]
    model(images()[1])
    assert all(torch.equal(a, b) for a, b in zip(first, kept))  # not overwritten by the next
    for exact, found in zip(tiny(images()[0]), first):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_an_executorch_program_takes_sizes_up_to_its_largest(tiny, tmp_path):
    pytest.importorskip("executorch")
    path = tmp_path / "tiny.pte"
    export.export_pte(tiny, path, images(), most=128)
    model = runtimes.executorch(path)
    for size in ((64, 96), (128, 128)):
        assert (head_sqnr(tiny, model, images(1, size)) > 12).all()
    with runtimes.quiet_stderr(), pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, 256, 256))


def test_a_traced_module_is_stored_and_loaded_without_its_class(tiny, tmp_path):
    frozen = export.trace_frozen(tiny, images()[0])
    torch.jit.save(frozen, tmp_path / "tiny.pt")
    model = runtimes.torchscript(tmp_path / "tiny.pt")
    for image in images(1) + images(1, (128, 160)):
        for exact, found in zip(tiny(image), model(image)):
            torch.testing.assert_close(found, exact)


def test_what_is_missing_is_named():
    assert export.missing("torch", "json") is None
    assert export.missing("torch", "no_such_package").startswith("no_such_package cannot")


def test_a_runtime_takes_the_place_of_a_model():
    arrays = [np.zeros((1, 5, values), np.float32) for values in (4, 2, 10)]
    model = runtimes.Runtime(lambda x: arrays, "a runtime")
    assert [list(output.shape) for output in model(torch.zeros(1, 3, 16, 16))] == [
        [1, 5, 4], [1, 5, 2], [1, 5, 10]]
    assert "a runtime" in repr(model) and not model.training


def test_nothing_reaches_stderr_while_it_is_quiet(capfd):
    with runtimes.quiet_stderr():
        print("python", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'descriptor')"], check=True)
    print("afterwards", file=sys.stderr)
    assert capfd.readouterr().err == "afterwards\n"


def test_stderr_comes_back_after_an_error(capfd):
    with pytest.raises(ZeroDivisionError), runtimes.quiet_stderr():
        1 / 0
    print("afterwards", file=sys.stderr)
    assert capfd.readouterr().err == "afterwards\n"


@pytest.fixture(scope="module")
def detector():
    return load_float(ROOT / "data" / "checkpoints" / "blaze_float.pth")


def as_network(model):
    def network(x):
        with torch.inference_mode():
            return [output.numpy() for output in model(torch.from_numpy(x))]

    return network


@pytest.mark.parametrize("resized", [None, (300, 200), (1280, 720)])
def test_the_standalone_program_finds_what_the_package_finds(detector, resized):
    picture = FaceFolder(ROOT / "data" / "val")[3].image
    picture = picture if resized is None else cv2.resize(picture, resized)
    expected = detect(detector, picture)
    sure = expected.scores >= standalone.SCORE
    assert sure.any()
    faces = standalone.find(as_network(detector), picture)
    boxes = torch.tensor([face["box"] for face in faces])
    points = torch.tensor([face["landmarks"] for face in faces])
    scores = torch.tensor([face["score"] for face in faces])
    height, width = picture.shape[:2]
    limits = torch.tensor([width, height] * 2)
    torch.testing.assert_close(boxes.clamp(min=0).minimum(limits), expected.boxes[sure], rtol=0, atol=0.1)
    torch.testing.assert_close(points, expected.landmarks[sure], rtol=0, atol=0.1)
    torch.testing.assert_close(scores, expected.scores[sure], rtol=0, atol=2e-3)


def test_the_standalone_input_is_the_packages(detector):
    picture = FaceFolder(ROOT / "data" / "val")[0].image[:250, :311]
    x, scale = standalone.network_input(picture)
    expected, expected_scale = preprocess(picture)
    np.testing.assert_allclose(x, expected.numpy(), atol=1e-4)
    assert scale == expected_scale == 1


def test_the_standalone_join_is_the_packages(tiny):
    maps = [m for head in tiny.maps(images()[0]) for m in head]
    joined = standalone.join([m.detach().numpy() for m in maps])
    for exact, found in zip(tiny(images()[0]), joined):
        np.testing.assert_array_equal(found, exact.detach().numpy())


def test_an_image_without_faces_gives_none(detector):
    assert standalone.find(as_network(detector), np.full((64, 64, 3), 110, np.uint8)) == []


def test_the_standalone_program_prints_and_draws(detector, tmp_path, capsys):
    model, picture = tmp_path / "model.pt", tmp_path / "found.png"
    torch.jit.save(export.trace_frozen(detector, torch.zeros(1, 3, 64, 64)), model)
    source = str(ROOT / "data" / "val" / "00003.jpg")
    standalone.main(str(model), source, str(picture))
    faces = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert faces and all(set(face) == {"box", "score", "landmarks"} for face in faces)
    assert cv2.imread(str(picture)).shape == (256, 320, 3)


def test_the_standalone_program_imports_nothing_of_the_package():
    source = Path(standalone.__file__).read_text(encoding="utf-8")
    assert "import blaze_utils" not in source and "from blaze_utils" not in source


def test_the_standalone_program_names_what_it_cannot_read(tmp_path):
    with pytest.raises(SystemExit, match="model.h5: expected a name that ends in"):
        standalone.load(Path("model.h5"))
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(SystemExit, match="text.jpg: not an image"):
        standalone.main("model.onnx", str(tmp_path / "text.jpg"))
