"""What the repository ships: scenes that its code draws, a detector that finds their faces."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.cbook import get_sample_data
from torchvision.ops import box_iou

from blaze_utils.data import FaceFolder, read_image
from blaze_utils.detector import detect, load_float
from blaze_utils.int8 import load_int8
from blaze_utils.int8.files import read_int8
from blaze_utils.measure import evaluate
from maintainers.notebooks import ROOT
from maintainers.scenes import draw_scene

DATA = ROOT / "data"
CHECKPOINT = DATA / "checkpoints" / "blaze_float.pth"
QAT = CHECKPOINT.parent / "qat"
FOLDERS = {"val": 300, "calibration": 128}
# What the shipped checkpoint reaches on every third scene of data/val; notebook 01 has them all.
AP = {"easy": 0.9987, "medium": 0.9917, "hard": 0.9107}


@pytest.fixture(scope="module")
def model():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, more only wait for each other
    yield load_float(CHECKPOINT)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_scenes_are_the_ones_that_the_code_draws(name):
    folder = FaceFolder(DATA / name)
    recipe = json.loads((DATA / name / "drawn.json").read_text(encoding="utf-8"))
    assert len(folder) == recipe["count"] == FOLDERS[name]
    for index in (0, 17):
        image, labels = draw_scene(index, recipe["seed"])
        quality = [cv2.IMWRITE_JPEG_QUALITY, recipe["quality"]]
        again = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        # Another processor may round differently, by a grey value or two.
        assert np.abs(again.astype(int) - folder[index].image).mean() < 1
        assert np.allclose(labels.boxes, folder[index].labels.boxes, atol=0.5)


def test_no_two_folders_share_a_scene():
    recipes = [json.loads((DATA / name / "drawn.json").read_text()) for name in FOLDERS]
    trained = json.loads(CHECKPOINT.with_suffix(".json").read_text())
    assert len({trained["data_seed"], *(recipe["seed"] for recipe in recipes)}) == 3


def test_the_checkpoint_reaches_its_ap(model):
    val = FaceFolder(DATA / "val")
    found = evaluate(model, [val[index] for index in range(0, len(val), 3)])
    assert found == pytest.approx(AP, abs=0.005)


def test_every_face_of_an_easy_scene_is_found(model):
    sample = FaceFolder(DATA / "val")[24]
    found = detect(model, sample.image)
    sure = found.boxes[found.scores > 0.5]
    assert len(sample.labels) >= 5
    overlap = box_iou(torch.from_numpy(sample.labels.boxes), sure)
    assert (overlap.max(dim=1).values > 0.5).all()


def test_grace_hopper_is_found_and_nobody_else(model):
    photo = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    found = detect(model, photo)
    assert found.scores[0] >= 0.9
    face = torch.tensor([[165.0, 95, 345, 340]])
    assert box_iou(face, found.boxes[:1]).item() > 0.5
    assert (found.scores > 0.5).sum() <= 2
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[0].tolist()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0] and left_mouth[1] > nose[1] > left_eye[1]


def test_the_runs_of_notebook_07_have_the_bits_and_scales_of_their_names():
    runs = pd.read_csv(QAT / "runs.csv").query("arm == 'QAT' and frozen == 'batch norm first'")
    names = {f"qat_{r.bits}bit_{r.scale}_seed{r.seed}.safetensors": r for r in runs.itertuples()}
    assert names.keys() == {path.name for path in QAT.glob("qat_*")}
    for name, run in names.items():
        arrays, _ = read_int8(QAT / name)
        # With 8 bits PyTorch's default uses -128 too.
        assert arrays["weights"].int().abs().max() <= 2 ** (run.bits - 1) - (run.bits < 8)
        assert arrays["per_channel"].bool().tolist() == [run.scale == "channel"] * 50


def test_qat_with_three_bits_reaches_its_ap():
    wanted = pd.read_csv(QAT / "runs.csv").query("bits == 3 and scale == 'channel'").iloc[0]
    engine = torch.backends.quantized.engine
    try:
        found = evaluate(
            load_int8(QAT / "qat_3bit_channel_seed0.safetensors"), FaceFolder(DATA / "val")
        )
    finally:
        torch.backends.quantized.engine = engine
    assert found == pytest.approx(wanted[list(found)].to_dict(), abs=0.005)
