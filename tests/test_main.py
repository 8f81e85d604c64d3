"""The command line: what it makes, what it prints, and how it refuses."""

import json

import cv2
import numpy as np
import pytest

from blaze_utils.__main__ import CHECKPOINT, main
from blaze_utils.checkpoint import load_float
from blaze_utils.datasets import FaceFolder


def test_draw_makes_a_folder_that_can_be_read_back(tmp_path, capsys):
    assert (
        main(["draw", str(tmp_path / "scenes"), "--count", "2", "--seed", "9", "--workers", "1"])
        == 0
    )
    folder = FaceFolder(tmp_path / "scenes")
    assert len(folder) == 2 and folder[0].image.shape == (256, 320, 3)
    assert "2 scenes" in capsys.readouterr().out


def test_train_stores_a_checkpoint_with_its_log_and_its_recipe(tmp_path):
    output = tmp_path / "out" / "small.pth"
    arguments = ["train", "--data", str(tmp_path / "scenes"), "--scenes", "2", "--steps", "2"]
    assert main([*arguments, "--output", str(output)]) == 0
    assert load_float(output).training is False
    assert output.with_suffix(".csv").read_text().startswith("step,loss")
    recipe = json.loads(output.with_suffix(".json").read_text())
    assert recipe["steps"] == 2 and recipe["scenes"] == 2 and recipe["data_seed"] == 1
    assert not output.with_suffix(".resume").exists()


def test_detect_prints_the_faces_and_draws_them_into_a_copy(tmp_path, capsys):
    scene = FaceFolder(CHECKPOINT.parents[1] / "val")[0]
    photograph = tmp_path / "photograph.png"
    cv2.imwrite(str(photograph), scene.image)
    assert main(["detect", str(photograph), "--output", str(tmp_path / "found")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("photograph.png: ") and "score" in printed
    copy = cv2.imread(str(tmp_path / "found" / "photograph.png"))
    assert copy.shape == scene.image.shape and not np.array_equal(copy, scene.image)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: None, "missing.jpg"),
        (lambda path: path.write_bytes(b""), "missing.jpg: the file is empty"),
        (lambda path: path.write_bytes(b"no image"), "missing.jpg: not an image"),
        (lambda path: path.mkdir(), "missing.jpg: no images"),
    ],
)
def test_an_input_that_cannot_be_used_is_named_and_ends_with_status_1(
    make, reason, tmp_path, capsys
):
    path = tmp_path / "missing.jpg"
    make(path)
    assert main(["detect", str(path)]) == 1
    assert reason in capsys.readouterr().err


def test_a_checkpoint_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    assert main(["evaluate", "--checkpoint", str(tmp_path / "bad.pth")]) == 1
    assert "bad.pth" in capsys.readouterr().err
