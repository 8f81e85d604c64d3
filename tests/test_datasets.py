"""Datasets: reading images, folders with and without labels, drawn scenes."""
import cv2
import numpy as np
import pytest

from blaze_utils.datasets import (
    DatasetError,
    FaceFolder,
    PhotoFolder,
    draw_dataset,
    read_image,
)
from blaze_utils.faces import draw_scene
from blaze_utils.labels import LabelError


def save(path, image):
    encoded, data = cv2.imencode(path.suffix, image)
    assert encoded
    path.write_bytes(data.tobytes())


@pytest.fixture
def colours():
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, :4], image[:, 4:] = (255, 0, 0), (10, 20, 30)
    return image


def test_read_image_is_bgr_whatever_was_stored(tmp_path, colours):
    stored = {
        "bgr": colours,
        "rgba": np.dstack([colours, np.full((6, 8), 255, np.uint8)]),
        "16 bit": colours.astype(np.uint16) * 257,
    }
    for name, image in stored.items():
        save(tmp_path / f"{name} 脸.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name} 脸.png"), colours, name)


def test_read_image_makes_three_channels_of_grey(tmp_path):
    save(tmp_path / "grey.png", np.full((5, 7), 99, np.uint8))
    assert read_image(tmp_path / "grey.png").shape == (5, 7, 3)


@pytest.mark.parametrize("content, reason", [
    (b"", "empty"), (b"this is no image", "not an image"), (b"\x89PNG\r\n\x1a\n", "not an image"),
])
def test_files_that_are_no_images_are_named(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_truncated_photograph_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(DatasetError, match="cut.jpg: not an image that OpenCV can decode, or a d"):
        read_image(path)


def test_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_face_folder_gives_samples_from_both_layouts(tmp_path, colours):
    (tmp_path / "images" / "event").mkdir(parents=True)
    save(tmp_path / "a.png", colours)
    save(tmp_path / "images" / "event" / "b.png", colours[:, ::-1].copy())
    (tmp_path / "label.txt").write_text("# event/b.png\n1 2 3 4\n# a.png\n", encoding="utf-8")
    folder = FaceFolder(tmp_path)
    assert len(folder) == 2
    assert [sample.name for sample in folder] == ["event/b.png", "a.png"]
    np.testing.assert_array_equal(folder[0].image, colours[:, ::-1])
    assert folder[0].labels.boxes.tolist() == [[1, 2, 4, 6]]
    assert len(folder[1].labels) == 0


def test_face_folder_errors_name_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="label.txt: not found"):
        FaceFolder(tmp_path)
    (tmp_path / "label.txt").write_text("# a.png\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="a.png: not found, but named in"):
        FaceFolder(tmp_path)
    (tmp_path / "label.txt").write_text("# a.png\n1 2 3\n", encoding="utf-8")
    with pytest.raises(LabelError, match="label.txt:2"):
        FaceFolder(tmp_path)


def test_photo_folder_takes_images_only_sorted_without_labels(tmp_path, colours):
    (tmp_path / "trip").mkdir()
    for name in ("z.png", "trip/a.JPG", "b.jpeg"):
        save(tmp_path / name, colours)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    photos = PhotoFolder(tmp_path)
    assert [(sample.name, sample.labels) for sample in photos] == [
        ("b.jpeg", None), ("trip/a.JPG", None), ("z.png", None)]


def test_photo_folder_empty_or_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images"):
        PhotoFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PhotoFolder(tmp_path / "nowhere")


def test_drawn_dataset_gives_the_scenes_of_draw_scene(tmp_path):
    folder = draw_dataset(tmp_path / "scenes", 2, seed=4, workers=1, quality=100, progress=False)
    image, labels = draw_scene(1, seed=4)
    assert folder.names == ["00000.jpg", "00001.jpg"]
    np.testing.assert_allclose(folder[1].labels.boxes, labels.boxes, atol=1e-3)
    difference = np.abs(folder[1].image.astype(int) - image)
    assert difference.mean() < 3, "more than JPEG loses"
