"""Drawing scenes into a folder: the shipped files again, resumed, never mixed up."""

import json
import shutil

import cv2
import numpy as np
import pytest

from maintainers.draw import draw_folder, main
from maintainers.notebooks import ROOT

VAL = ROOT / "data" / "val"


def files(root):
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "whole"
    # OpenCV's threads have started: a process that is forked now would wait for them forever.
    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 3)
    draw_folder(folder, 4, seed=2, quality=85, workers=2)
    return folder


def test_the_labels_are_those_of_the_shipped_scenes(whole):
    drawn = (whole / "label.txt").read_text(encoding="utf-8").splitlines()
    stored = (VAL / "label.txt").read_text(encoding="utf-8").splitlines()
    for one, other in zip(drawn, stored, strict=False):  # 4 scenes of 300
        if one.startswith("#"):
            assert one == other
        else:  # another processor may round the last digit otherwise
            pairs = zip(map(float, one.split()), map(float, other.split()), strict=True)
            assert all(abs(a - b) <= 1e-3 * max(1, abs(a)) for a, b in pairs)
    assert set(files(whole)) == {*(f"0000{i}.jpg" for i in range(4)), "label.txt", "drawn.json"}


def test_interrupted_drawing_goes_on_and_ends_with_the_same_files(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "stopped")
    (tmp_path / "stopped" / "label.txt").unlink()
    (tmp_path / "stopped" / "00003.jpg").unlink()
    (tmp_path / "stopped" / "parts").mkdir()
    blocks = (whole / "label.txt").read_text(encoding="utf-8").split("# ")[1:]
    for index, block in enumerate(blocks[:3]):
        (tmp_path / "stopped" / "parts" / f"0000{index}.txt").write_text("# " + block)
    (tmp_path / "stopped" / "00000.jpg").write_bytes(b"finished")  # so it is not drawn again
    draw_folder(tmp_path / "stopped", 4, seed=2, quality=85, workers=1)
    assert files(tmp_path / "stopped") == {**files(whole), "00000.jpg": b"finished"}


def test_a_complete_folder_is_left_alone_and_another_recipe_refused(whole):
    before = files(whole)
    draw_folder(whole, 4, seed=2, quality=85)
    with pytest.raises(SystemExit, match="name another folder"):
        main([str(whole), "--count", "4", "--seed", "3", "--quality", "85"])
    assert files(whole) == before and json.loads(before["drawn.json"])["seed"] == 2


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="other files"):
        draw_folder(tmp_path, 1, seed=2)
    assert files(tmp_path) == {"holiday.jpg": b"mine"}
