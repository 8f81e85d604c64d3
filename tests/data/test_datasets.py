"""Datasets: reading images, folders with and without labels, drawn scenes."""
import cv2
import numpy as np
import pytest

from blaze_utils.data.datasets import (
    DatasetError, FaceFolder, PhotoFolder, WiderFace, draw_dataset, open_dataset, read_image,
)
from maintainers.scenes import draw_scene
from blaze_utils.data.labels import LabelError, difficulty


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


def test_a_face_outside_of_its_image_is_named(tmp_path, colours):
    save(tmp_path / "a.png", colours)
    text = "# a.png\n-3 -3 5 5\n7 5 90 90\n{}\n"
    for box, shown in [("8 0 3 3", r"\(8, 0\) to \(11, 3\)"), ("0 -9 4 9", r"\(0, -9\)")]:
        (tmp_path / "label.txt").write_text(text.format(box), encoding="utf-8")
        folder = FaceFolder(tmp_path)
        with pytest.raises(DatasetError, match=f"label.txt: a.png: .*{shown}.*8 x 6 pixels"):
            folder[0]
    (tmp_path / "label.txt").write_text(text.format(""), encoding="utf-8")
    assert len(FaceFolder(tmp_path)[0].labels) == 2, "boxes may reach beyond the image"


def test_a_missing_widerface_folder_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="label.txt: not found.*http.*data/README.md"):
        FaceFolder(tmp_path / "widerface" / "val")
    with pytest.raises(FileNotFoundError) as caught:
        FaceFolder(tmp_path / "own")
    assert "http" not in str(caught.value)


DOWNLOAD = "torchvision.datasets.WIDERFace.download"
WIDER_TEXT = """\
0--Parade/a_1.jpg
4
1 2 3 4 2 1 1 0 2 1
2 1 4 4 0 0 0 1 0 0
3 3 0 2 0 0 0 0 0 0
0 0 9 9 0 0 0 0 1 0
1--Riot/b_2.jpg
0
0 0 0 0 0 0 0 0 0 0
"""


@pytest.fixture
def wider(tmp_path, colours):
    """The folder above ``widerface``, filled as torchvision wants it, with a small val split."""
    base = tmp_path / "widerface"
    for name in ("WIDER_train", "WIDER_test", "wider_face_split"):
        (base / name).mkdir(parents=True)
    for name in ("0--Parade/a_1.jpg", "1--Riot/b_2.jpg"):
        path = base / "WIDER_val" / "images" / name
        path.parent.mkdir(parents=True)
        save(path, colours)
    (base / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_text(WIDER_TEXT)
    return tmp_path


def test_wider_face_gives_boxes_ignores_invalid_faces_and_counts_those_left_out(wider):
    dataset = WiderFace(wider)
    assert [sample.name for sample in dataset] == ["0--Parade/a_1.jpg", "1--Riot/b_2.jpg"]
    assert dataset[0].image.shape == (6, 8, 3)
    faces, nobody = dataset[0].labels, dataset[1].labels
    assert faces.boxes.tolist() == [[1, 2, 4, 6], [2, 1, 6, 5], [0, 0, 9, 9]]
    assert np.isnan(faces.landmarks).all()
    # Fails if torchvision names the columns of the annotation as its readme does one day.
    assert faces.occlusion.tolist() == [0, 1, 0]
    assert difficulty(faces)["hard"].tolist() == [True, False, True]
    assert len(nobody) == 0 and dataset.left_out == 2
    assert dataset.labels["0--Parade/a_1.jpg"] is faces


def test_wider_face_without_labels(wider):
    split = wider / "widerface" / "wider_face_split"
    (split / "wider_face_test_filelist.txt").write_text("0--Parade/a_1.jpg\n")
    (wider / "widerface" / "WIDER_test").rmdir()
    (wider / "widerface" / "WIDER_val").rename(wider / "widerface" / "WIDER_test")
    (wider / "widerface" / "WIDER_val").mkdir()
    assert WiderFace(wider, "test")[0].labels is None


def test_wider_face_missing_says_where_and_downloads_nothing(wider, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, lambda _: pytest.fail("it would download"))
    (wider / "widerface" / "WIDER_test").rmdir()
    with pytest.raises(FileNotFoundError, match="without WIDER_test.*http.*data/README.md.*empty"):
        WiderFace(wider)
    with pytest.raises(FileNotFoundError, match="nowhere.widerface: without WIDER_train"):
        WiderFace(wider / "nowhere")
    with pytest.raises(ValueError, match="split: expected train, val or test, got 'all'"):
        WiderFace(wider, "all")


def test_wider_face_is_downloaded_when_asked_for(wider, monkeypatch):
    missing = wider / "widerface" / "WIDER_test"
    missing.rmdir()
    monkeypatch.setattr(DOWNLOAD, lambda _: missing.mkdir())
    assert len(WiderFace(wider, download=True)) == 2


@pytest.mark.parametrize("text", ["a.jpg\nmany\n", "a.jpg\n1\n1 2 3\n", "a.jpg\n1\nx 2 3 4\n"])
def test_wider_face_annotations_that_torchvision_cannot_read(wider, text):
    split = wider / "widerface" / "wider_face_split"
    (split / "wider_face_val_bbx_gt.txt").write_text(text)
    with pytest.raises(DatasetError, match="wider_face_split: torchvision cannot read .* of val"):
        WiderFace(wider)


def test_wider_face_missing_image(wider):
    (wider / "widerface" / "WIDER_val" / "images" / "1--Riot" / "b_2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="b_2.jpg: not found, but named in"):
        WiderFace(wider)


def test_a_folder_is_opened_as_what_it_is(wider, colours):
    assert type(open_dataset(wider / "widerface")) is WiderFace
    photos = wider / "photos"
    photos.mkdir()
    save(photos / "a.png", colours)
    assert type(open_dataset(photos)) is PhotoFolder
    (photos / "label.txt").write_text("# a.png\n", encoding="utf-8")
    assert type(open_dataset(photos)) is FaceFolder
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_dataset(wider / "nowhere")


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
