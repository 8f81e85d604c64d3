"""Drawing scenes into a folder: the same files however it is done, resumed, never mixed up."""
import json
import os

import cv2
import numpy as np
import pytest

from blaze_utils.data.images import DatasetError
from maintainers.drawing import draw_folder
from blaze_utils.data.labels import FaceLabels, read_labels


def draw_square(index, seed):
    """A stand-in for the real scenes: noise with one face, none in every third scene."""
    rng = np.random.default_rng([seed, index])
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    if index % 3 == 2:
        return image, FaceLabels.empty()
    box = np.array([[index, 2, index + 10, 14]])
    return image, FaceLabels(box, np.full((1, 5, 2), np.nan), *np.full((5, 1), 0.5))


def draw_until_three(index, seed):
    if index == 3:
        raise KeyboardInterrupt
    return draw_square(index, seed)


def never_draw(index, seed):
    raise AssertionError(f"scene {index} was drawn again")


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*") if path.is_file()}


def draw(root, draw_one=draw_square, count=5, seed=7, **options):
    draw_folder(root, count, seed, draw_one, progress=False, **{"workers": 1, **options})


def test_folder_holds_the_scenes_and_their_labels(tmp_path):
    draw(tmp_path / "scenes")
    labels = read_labels(tmp_path / "scenes" / "label.txt")
    assert list(labels) == [f"0000{index}.jpg" for index in range(5)]
    assert [len(faces) for faces in labels.values()] == [1, 1, 0, 1, 1]
    assert labels["00003.jpg"].boxes.tolist() == [[3, 2, 13, 14]]
    assert cv2.imread(str(tmp_path / "scenes" / "00003.jpg")).shape == (32, 48, 3)
    assert set(files(tmp_path / "scenes")) == {*labels, "label.txt", "drawn.json"}


def test_two_workers_write_the_same_files_as_one(tmp_path):
    draw(tmp_path / "one", workers=1)
    draw(tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_interrupted_drawing_goes_on_and_ends_with_the_same_files(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "stopped", draw_until_three)
    stopped = files(tmp_path / "stopped")
    assert "label.txt" not in stopped and "00002.jpg" in stopped
    drawn = []

    def draw_rest(index, seed):
        drawn.append(index)
        return draw_square(index, seed)

    draw(tmp_path / "stopped", draw_rest)
    draw(tmp_path / "whole")
    assert drawn == [3, 4]
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_complete_folder_is_not_drawn_again_unless_an_image_is_gone(tmp_path):
    draw(tmp_path)
    before = files(tmp_path)
    draw(tmp_path, never_draw)
    (tmp_path / "00004.jpg").unlink()
    draw(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", [{"seed": 8}, {"count": 4}, {"quality": 50}])
def test_folder_of_another_recipe_is_refused_and_left_alone(tmp_path, change):
    draw(tmp_path)
    before = files(tmp_path)
    with pytest.raises(DatasetError, match="delete the folder"):
        draw(tmp_path, **change)
    assert files(tmp_path) == before
    assert json.loads(before["drawn.json"])["seed"] == 7


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="not empty"):
        draw(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


@pytest.mark.parametrize("options", [{"count": 0}, {"workers": 0}])
def test_counts_below_one(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        draw(tmp_path, **options)
