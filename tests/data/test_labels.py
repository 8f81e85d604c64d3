"""Labels: the text format there and back, its errors, and the nested difficulties."""
import numpy as np
import pytest

from blaze_utils.data.labels import FaceLabels, LabelError, difficulty, read_labels, write_labels

POINTS = "12 13 0 18 13 0 15 16 0 12 19 0 18 19 0"


def face(box=(0.0, 0.0, 40.0, 50.0), **attributes):
    """One face that is easy unless ``attributes`` say otherwise."""
    values = {"occlusion": 0.0, "blur": 0.0, "light": 1.0, "yaw": 0.0, "inside": 1.0, **attributes}
    return FaceLabels(np.array([box]), np.full((1, 5, 2), np.nan),
                      **{name: np.array([value]) for name, value in values.items()})


def read_text(tmp_path, text):
    path = tmp_path / "label.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read_labels(path)


def error_of(tmp_path, text):
    with pytest.raises(LabelError) as caught:
        read_text(tmp_path, text)
    return str(caught.value)


def test_four_columns_give_a_box_and_defaults(tmp_path):
    labels = read_text(tmp_path, "# a.jpg\n10 20 30 40\n")["a.jpg"]
    assert labels.boxes.dtype == np.float32
    assert labels.boxes.tolist() == [[10, 20, 40, 60]]
    assert np.isnan(labels.landmarks).all() and labels.landmarks.shape == (1, 5, 2)
    defaults = [labels.occlusion, labels.blur, labels.light, labels.yaw, labels.inside]
    assert np.concatenate(defaults).tolist() == [0, 0, 1, 0, 1]


def test_twenty_columns_give_landmarks_and_occlusion_from_quality(tmp_path):
    labels = read_text(tmp_path, f"# a.jpg\n10 10 10 12 {POINTS} 0.75\n")["a.jpg"]
    assert labels.landmarks[0, 1].tolist() == [18, 13]
    assert labels.occlusion.tolist() == [0.25]


def test_a_quality_below_zero_is_unknown(tmp_path):
    labels = read_text(tmp_path, f"# a.jpg\n10 10 40 48 {POINTS} -1.0\n")["a.jpg"]
    assert labels.occlusion.tolist() == [0] and difficulty(labels)["easy"].tolist() == [True]


def test_faces_without_width_or_height_are_left_out_and_counted(tmp_path):
    text = "# a.jpg\n1 2 3 4\n5 6 0 7\n# b.jpg\n0 0 0 0\n999999 5 0.001 3\n"
    with pytest.warns(UserWarning, match=r"label\.txt:3: left out.*\(3 in this file\)"):
        labels = read_text(tmp_path, text)
    assert [len(faces) for faces in labels.values()] == [1, 0]


@pytest.mark.parametrize("unknown", ["-1 -1 0", "-1 -1 -1", "7 8 -1"])
def test_unknown_landmark_is_nan(tmp_path, unknown):
    line = f"10 10 10 12 {POINTS} 1".replace("15 16 0", unknown)
    landmarks = read_text(tmp_path, f"# a.jpg\n{line}\n")["a.jpg"].landmarks[0]
    assert np.isnan(landmarks).all(axis=1).tolist() == [False, False, True, False, False]


def test_a_landmark_left_of_the_image_is_known(tmp_path):
    line = f"10 10 10 12 {POINTS} 1".replace("15 16 0", "-1 16 0")
    landmarks = read_text(tmp_path, f"# a.jpg\n{line}\n")["a.jpg"].landmarks[0]
    assert landmarks[2].tolist() == [-1, 16]


def test_images_without_faces_windows_line_ends_bom_and_utf8_names(tmp_path):
    text = "\ufeff# fest/Grüße 脸.jpg\r\n\r\n# b.jpg\r\n1 2 3 4\r\n# c.jpg".encode()
    labels = read_text(tmp_path, text)
    assert [(name, len(faces)) for name, faces in labels.items()] == [
        ("fest/Grüße 脸.jpg", 0), ("b.jpg", 1), ("c.jpg", 0)]
    assert labels["c.jpg"].boxes.shape == (0, 4)


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(3)
    corners = rng.uniform(-20, 300, (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.01, 200, (6, 2))], axis=1)
    landmarks = rng.uniform(0, 300, (6, 5, 2))
    landmarks[2, 3] = np.nan
    labels = FaceLabels(boxes, landmarks, *rng.uniform(0, 1, (5, 6)))
    path = tmp_path / "label.txt"
    write_labels(path, {"x/a b.jpg": labels, "none.jpg": FaceLabels.empty()})
    found = read_labels(path)
    assert list(found) == ["x/a b.jpg", "none.jpg"] and len(found["none.jpg"]) == 0
    for name, array in vars(labels).items():
        np.testing.assert_allclose(getattr(found["x/a b.jpg"], name), array, atol=2e-4)
    assert path.read_bytes().count(b"\r") == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text, line, reason", [
    ("", 1, "empty"),
    ("\n \n", 1, "empty"),
    ("1 2 3 4\n# a.jpg\n", 1, "before the first"),
    ("# a.jpg\n1 2 3\n", 2, "3 columns"),
    (f"# a.jpg\n1 2 3 4\n10 10 10 12 {POINTS}\n", 3, "19 columns"),
    ("# a.jpg\n1 2 x 4\n", 2, "'x' is not a number"),
    ("# a.jpg\n1 nan 3 4\n", 2, "not a finite"),
    ("# a.jpg\n1 2 inf 4\n", 2, "not a finite"),
    ("# a.jpg\n1 2 1e300 4\n", 2, "not a finite"),
    ("# a.jpg\n1 2 -3 4\n", 2, "must not be below 0"),
    ("# a.jpg\n1 2 3 -4\n", 2, "must not be below 0"),
    ("# a.jpg\n1 2 1000001 4\n", 2, "not a finite"),
    ("# a.jpg\n# b.jpg\n# a.jpg\n", 3, "already"),
    ("# a.jpg\n#\n", 2, "image name"),
])
def test_wrong_line_is_named(tmp_path, text, line, reason):
    message = error_of(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'label.txt'}:{line}: ")
    assert reason in message


def test_bytes_that_are_not_utf8_are_an_error_with_the_file(tmp_path):
    assert "label.txt: not UTF-8" in error_of(tmp_path, b"# a.jpg\n\xff\xfe\n")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_labels(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("labels, reason", [
    ({}, "no images"),
    ({"a\nb": face()}, "one line"),
    ({" a": face()}, "one line"),
    ({"a": face(box=(5, 5, 5, 9))}, "x1 < x2"),
    ({"a": face(light=np.nan)}, "not finite"),
])
def test_what_could_not_be_read_back_is_not_written(tmp_path, labels, reason):
    with pytest.raises(LabelError, match=reason):
        write_labels(tmp_path / "label.txt", labels)
    assert not list(tmp_path.iterdir())


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"landmarks: expected shape \[1, 5, 2\], got \[1, 10\]"):
        FaceLabels(np.zeros((1, 4)), np.zeros((1, 10)), *np.zeros((5, 1)))


def test_select_takes_the_same_rows_of_everything():
    labels = FaceLabels(np.arange(12).reshape(3, 4), np.arange(30).reshape(3, 5, 2),
                        *np.arange(15).reshape(5, 3))
    picked = labels.select(np.array([True, False, True]))
    assert len(picked) == 2
    assert picked.boxes[1].tolist() == [8, 9, 10, 11]
    assert picked.landmarks[1, 0].tolist() == [20, 21]
    assert picked.inside.tolist() == [12, 14]


def test_difficulties_are_nested_and_not_all_the_same():
    rng = np.random.default_rng(5)
    count = 2000
    sides = rng.uniform(2, 80, (count, 1))
    boxes = np.concatenate([np.zeros((count, 2)), sides * [0.8, 1]], axis=1)
    ranges = [(0, 1), (0, 8), (0, 1.5), (0, 1.7), (0, 1)]
    attributes = [rng.uniform(*limits, count) for limits in ranges]
    masks = difficulty(FaceLabels(boxes, np.zeros((count, 5, 2)), *attributes))
    easy, medium, hard = masks["easy"], masks["medium"], masks["hard"]
    assert (easy <= medium).all() and (medium <= hard).all()
    assert 0 < easy.sum() < medium.sum() < hard.sum() < count


@pytest.mark.parametrize("attributes", [
    {"box": (0, 0, 3, 3)}, {"occlusion": 1.0}, {"blur": 400.0}, {"light": 0.0}, {"inside": 0.1},
])
def test_each_attribute_alone_can_make_a_face_too_hard(attributes):
    assert all(mask.tolist() == [True] for mask in difficulty(face()).values())
    assert all(mask.tolist() == [False] for mask in difficulty(face(**attributes)).values())


def test_difficulty_of_no_faces():
    masks = difficulty(FaceLabels.empty())
    assert [masks[name].shape for name in ("easy", "medium", "hard")] == [(0,)] * 3
