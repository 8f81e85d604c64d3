"""The program that notebook 10 copies: it finds what the package finds, and needs nothing of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from blaze_utils import standalone
from blaze_utils.data import FaceFolder
from blaze_utils.detector import detect, load_float, preprocess
from blaze_utils.int8 import export

ROOT = Path(__file__).resolve().parents[1]


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
    torch.testing.assert_close(
        boxes.clamp(min=0).minimum(limits), expected.boxes[sure], rtol=0, atol=0.1
    )
    torch.testing.assert_close(points, expected.landmarks[sure], rtol=0, atol=0.1)
    torch.testing.assert_close(scores, expected.scores[sure], rtol=0, atol=2e-3)


def test_the_standalone_input_is_the_packages(detector):
    picture = FaceFolder(ROOT / "data" / "val")[0].image[:250, :311]
    x, scale = standalone.network_input(picture)
    expected, expected_scale = preprocess(picture)
    np.testing.assert_allclose(x, expected.numpy(), atol=1e-4)
    assert scale == expected_scale == 1


def test_the_standalone_join_is_the_packages(detector):
    x = torch.zeros(1, 3, 64, 96)
    maps = [level for head in detector.maps(x) for level in head]
    joined = standalone.join([m.detach().numpy() for m in maps])
    for exact, found in zip(detector(x), joined, strict=True):
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
