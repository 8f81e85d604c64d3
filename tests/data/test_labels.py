"""Label files as they are in the world, and the folders that they belong to."""

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blaze_utils.data import (
    DataError,
    FaceFolder,
    FaceLabels,
    difficulty,
    format_labels,
    read_labels,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*WIDER FACE's own list")
POINTS = "12 13 0 18 13 0 15 16 0 12 19 0 18 19 0"
WIDER = """\
0--Parade/a_1.jpg
3
1 2 3 4 2 1 1 0 2 1 
2 1 4 4 0 0 0 1 0 0 
0 0 9 9 0 0 0 0 1 0 
1--Riot/b_2.jpg
0
0 0 0 0 0 0 0 0 0 0 
1--Riot/c_3.jpg
1
5 6 7 8 0 0 0 0 0 0 
"""  # noqa: W291

# Text -> the boxes x1 y1 x2 y2 of each image.
READ = {
    "4 columns": ("# a.jpg\n10 20 30 40\n", {"a.jpg": [[10, 20, 40, 60]]}),
    "20 columns": (f"# a.jpg\n10 20 30 40 {POINTS} 0.8\n", {"a.jpg": [[10, 20, 40, 60]]}),
    "25 columns": (f"# a.jpg\n10 20 30 40 {POINTS} 1 0 0 1 0 1\n", {"a.jpg": [[10, 20, 40, 60]]}),
    "each face as it is": (
        f"# a.jpg\n1 2 3 4\n5 6 7 8 {POINTS} 1\n",
        {"a.jpg": [[1, 2, 4, 6], [5, 6, 12, 14]]},
    ),
    "nobody in it": (
        "# a.jpg\n# b.jpg\n1 2 3 4\n# c.jpg",
        {"a.jpg": [], "b.jpg": [[1, 2, 4, 6]], "c.jpg": []},
    ),
    "BOM, CRLF, UTF-8": (
        "\ufeff# Grüße 脸.jpg\r\n\r\n1 2 3 4\r\n",
        {"Grüße 脸.jpg": [[1, 2, 4, 6]]},
    ),
    "names of Windows": ("# e\\a.jpg\n1 2 3 4\n", {"e/a.jpg": [[1, 2, 4, 6]]}),
    "no space, tabs": ("#a.jpg\n1\t2\t3\t4\n", {"a.jpg": [[1, 2, 4, 6]]}),
    "no line end": ("# a.jpg\n1 2 3 4", {"a.jpg": [[1, 2, 4, 6]]}),
    "blank lines at the end": ("# a.jpg\n1 2 3 4\n\n \n", {"a.jpg": [[1, 2, 4, 6]]}),
    "WIDER FACE, blank line at the end": (
        "a.jpg\n1\n1 2 3 4 0 0 0 0 0 0 \n\n",
        {"a.jpg": [[1, 2, 4, 6]]},
    ),
    "fractions": ("# a.jpg\n0.5 0.5 3.25 1e1\n", {"a.jpg": [[0.5, 0.5, 3.75, 10.5]]}),
    "beyond the image": ("# a.jpg\n-3 -4 5 6\n", {"a.jpg": [[-3, -4, 2, 2]]}),
    "one small pixel": ("# a.jpg\n0 0 1 1\n", {"a.jpg": [[0, 0, 1, 1]]}),
    "WIDER FACE's list": (
        WIDER,
        {
            "0--Parade/a_1.jpg": [[1, 2, 4, 6], [2, 1, 6, 5], [0, 0, 9, 9]],
            "1--Riot/b_2.jpg": [],
            "1--Riot/c_3.jpg": [[5, 6, 12, 14]],
        },
    ),
    "WIDER FACE's list, no zeros": (
        "a.jpg\n0\nb.jpg\n1\n1 2 3 4 0 0 0 0 0 0",
        {"a.jpg": [], "b.jpg": [[1, 2, 4, 6]]},
    ),
}

# Text -> the number of the line, and what is said about it.
REFUSED = {
    "empty": ("", 1, "the file is empty"),
    "blank": ("\n \n", 1, "the file is empty"),
    "face first": ("1 2 3 4\n# a.jpg\n", 1, "expected '# name', got a face before the first name"),
    "YOLO": ("0 0.5 0.5 0.25 0.3\n", 1, "got YOLO's format, a class and coordinates relative"),
    "YOLO's numbers": (
        "# a.jpg\n0.1 0.1 0.2 0.3\n# b.jpg\n0.5 .5 1 1\n",
        2,
        "relative boxes, as in YOLO's format; expected pixels",
    ),
    "CSV": ("a.jpg,1,2,3,4\n", 1, "got a table with commas"),
    "semicolons": ("name;x;y\na.jpg;1;2\n", 1, "got a table with commas"),
    "commas": ("# a.jpg\n1,2,3,4\n", 2, "1 columns, and commas, expected 4, 10, 20 or 25"),
    "decimal commas": ("# a.jpg\n1,5 2 3 4\n", 2, "could not convert string to float: '1,5'"),
    "COCO": ('{"images": []}', 1, "got JSON"),
    "VOC": ("<annotation>\n", 1, "got XML or HTML"),
    "names alone": ("a.jpg\nb.jpg\n", 1, "expected '# name', got 'a.jpg'"),
    "SCRFD": ("# a.jpg 640 480\n1 2 3 4 5\n", 2, "5 columns"),
    "3 columns": ("# a.jpg\n1 2 3\n", 2, "3 columns"),
    "19 columns": (f"# a.jpg\n1 2 3 4\n10 10 10 12 {POINTS}\n", 3, "19 columns"),
    "a word": ("# a.jpg\n1 2 x 4\n", 2, "could not convert string to float: 'x'"),
    "NaN": ("# a.jpg\n1 nan 3 4\n", 2, "not finite"),
    "infinity": ("# a.jpg\n1 2 inf 4\n", 2, "not finite"),
    "too large": ("# a.jpg\n1 2 1000001 4\n", 2, "beyond 1e+06"),
    "twice": ("# a.jpg\n# b.jpg\n# a.jpg\n", 3, "a.jpg is listed twice"),
    "no name": ("# a.jpg\n#\n", 2, "no name"),
    "cut off in a face": (f"# a.jpg\n1 2 3 4 {POINTS} 1\n1 2 3 4 12 1", 3, "cut off within this"),
    "cut off at 4 columns": (f"# a.jpg\n1 2 3 4 {POINTS} 1\n1 2 3 4", 3, "cut off within this"),
    "WIDER FACE, cut off": (WIDER[:-21], 10, "cut off within the faces of 1--Riot/c_3.jpg"),
    "WIDER FACE, cut off in a face": (WIDER[:-7], 11, "10 columns, a face of 1--Riot/c_3.jpg"),
    "WIDER FACE, cut off at a count": (WIDER[:-27], 10, "'', expected the number of faces of 1"),
    "WIDER FACE, twice": (WIDER + WIDER, 12, "0--Parade/a_1.jpg is listed twice"),
    "WIDER FACE, one too many": (WIDER.replace("3\n", "2\n", 1), 6, "Riot/b_2.jpg', expected the"),
    "WIDER FACE, one too few": (WIDER.replace("3\n", "4\n", 1), 6, "10 columns, a face of 0--P"),
    "FDDB": (
        "2002/img_591\n1\n123.5 85.5 1.2 269.6 161.7  1\n",
        3,
        "expected 10 columns, a face of 2002/img_591",
    ),
}


def read_text(folder, text):
    (folder / "label.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(folder / "label.txt")


@pytest.mark.parametrize("case", READ)
def test_read(tmp_path, case):
    text, expected = READ[case]
    labels = read_text(tmp_path, text)
    assert {name: faces.boxes.tolist() for name, faces in labels.items()} == expected
    assert all(faces.landmarks.shape == (len(faces), 5, 2) for faces in labels.values())
    assert {array.dtype for faces in labels.values() for array in vars(faces).values()} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_and_line(tmp_path, case):
    text, line, reason = REFUSED[case]
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'label.txt'}:{line}: ") and reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content, kind",
    [
        ("# a.jpg\n".encode("utf-16"), "text in UTF-16"),
        ("# Grüße.jpg\n".encode("latin-1"), "a file of unknown kind"),
        (b"\x89PNG\r\n\x1a\n\xff", "an image"),
        (b"PK\x03\x04\xff\xff", "a zip archive"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, kind):
    with pytest.raises(DataError, match=f"label.txt: not UTF-8 text, but {kind}"):
        read_text(tmp_path, content)


@pytest.mark.parametrize(
    "text, line, counts",
    [
        ("# a.jpg\n1 2 3 4\n5 6 0 7\n# b.jpg\n0 0 0 0\n999999 5 0.001 3\n", 3, "3 of 4"),
        ("# a.jpg\n1 2 3 4\n# b.jpg\n1026 474 -2 23\n", 4, "1 of 2"),
        (WIDER.replace("2 1 4 4", "2 1 4 0"), 4, "1 of 4"),
    ],
)
def test_faces_without_area_are_left_out_and_counted_once(tmp_path, text, line, counts):
    with pytest.warns(UserWarning) as caught:
        labels = read_text(tmp_path, text)
    warning = caught[-1]
    assert len(caught) == 1 + text.startswith("0--")
    assert f"label.txt:{line}: left out" in str(warning.message)
    assert f"({counts} faces in this file)" in str(warning.message)
    good, all_faces = int(counts[-1]) - int(counts[0]), int(counts[-1])
    assert sum(len(faces) for faces in labels.values()) == good < all_faces


def test_what_is_not_given_is_normal(tmp_path):
    columns = ["", f" {POINTS} 0.75", f" {POINTS} -1", f" {POINTS} 0.5 0.1 0.2 0.3 0.4 0.5"]
    text = "".join(f"10 10 10 12{rest}\n" for rest in columns)
    labels = read_text(tmp_path, f"# a.jpg\n{text}")["a.jpg"]
    normal = [0, 0, 1, 0, 1]
    expected = [normal, [0.25, *normal[1:]], normal, [0.1, 0.2, 0.3, 0.4, 0.5]]
    found = [labels.occlusion, labels.blur, labels.light, labels.yaw, labels.inside]
    np.testing.assert_allclose(np.transpose(found), expected)
    assert np.isnan(labels.landmarks[0]).all() and labels.landmarks[1, 1].tolist() == [18, 13]


def test_invalid_faces_of_wider_face_are_ignored(tmp_path):
    with pytest.warns(UserWarning, match="WIDER FACE's own list, which has boxes but no landmarks"):
        faces = read_text(tmp_path, WIDER)["0--Parade/a_1.jpg"]
    assert faces.occlusion.tolist() == [0, 1, 0]
    assert difficulty(faces)["hard"].tolist() == [True, False, True]


@pytest.mark.parametrize(
    "point, known",
    [("-1 -1 0", False), ("-1 -1 -1", False), ("7 8 -1", False), ("-1 16 0", True)],
)
def test_unknown_landmarks_are_nan(tmp_path, point, known):
    text = f"# a.jpg\n10 10 10 12 {POINTS.replace('15 16 0', point)} 1\n"
    landmarks = read_text(tmp_path, text)["a.jpg"].landmarks[0]
    assert np.isnan(landmarks).all(axis=1).tolist() == [False, False, not known, False, False]


# All that hypothesis thinks of. Derandomized: the same cases every time.
NUMBERS = st.sampled_from(
    ["1", "0.5", "7.5", "1_0", "3", "1e-9"] * 20 + ["-1", "nan", "x", "9" * 30]
)
FACES = st.sampled_from([4, 4, 20, 25, 25, 10, 3]).flatmap(
    lambda columns: st.lists(NUMBERS, min_size=columns, max_size=columns).map(" ".join)
)
LINES = FACES | FACES | FACES | st.sampled_from(["# a.jpg", "#b.jpg", "# e/脸.jpg", "", " ", "#"])
FILES = st.lists(LINES, max_size=6).map(lambda lines: "\n".join(["# 0.jpg", *lines]).encode())


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=FILES | st.binary(max_size=60))
def test_any_file_is_read_or_refused_and_what_is_read_comes_back(tmp_path, content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            labels = read_text(tmp_path, content)
        except DataError as error:
            assert str(error).startswith(str(tmp_path / "label.txt:"))
            return
        text = "".join(format_labels(name, faces) for name, faces in labels.items())
        again = read_text(tmp_path, text)
    assert list(again) == list(labels)
    for one, other in zip(again.values(), labels.values(), strict=True):
        for name, array in vars(one).items():
            np.testing.assert_allclose(array, getattr(other, name), rtol=1e-5, atol=2e-4)


# Folders


@pytest.fixture
def colours():
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, :4], image[:, 4:] = (255, 0, 0), (10, 20, 30)
    return image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def test_face_folder_gives_samples_from_both_layouts(tmp_path, colours):
    save(tmp_path / "a.png", colours)
    save(tmp_path / "images" / "event" / "b.png", colours[:, ::-1])
    (tmp_path / "label.txt").write_text("# event/b.png\n1 2 3 4\n# a.png\n", encoding="utf-8")
    folder = FaceFolder(tmp_path)
    assert len(folder) == 2 and [sample.name for sample in folder] == ["event/b.png", "a.png"]
    np.testing.assert_array_equal(folder[0].image, colours[:, ::-1])
    assert folder[0].labels.boxes.tolist() == [[1, 2, 4, 6]] and len(folder[1].labels) == 0


def test_the_folders_of_wider_face_are_taken_as_they_are(tmp_path, colours):
    names = ["0--Parade/a_1.jpg", "1--Riot/b_2.jpg", "1--Riot/c_3.jpg"]
    for name in names:
        save(tmp_path / "WIDER_train" / "images" / name, np.tile(colours, (4, 4, 1)))
    split = tmp_path / "wider_face_split"
    split.mkdir()
    (split / "wider_face_train_bbx_gt.txt").write_text(WIDER)
    folder = FaceFolder(tmp_path / "WIDER_train")
    assert [sample.name for sample in folder] == names
    assert [len(sample.labels) for sample in folder] == [3, 0, 1]
    (tmp_path / "WIDER_train" / "images" / names[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"c_3\.jpg: not found, .*train_bbx_gt\.txt:9$"):
        FaceFolder(tmp_path / "WIDER_train")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="label.txt: not found; it names the images$"):
        FaceFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="label.txt: not found.*http.*data/README.md"):
        FaceFolder(tmp_path / "widerface" / "val")
    (tmp_path / "label.txt").write_text("\n# e\\a.png\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"a\.png: not found, but named in .*label\.txt:2"):
        FaceFolder(tmp_path)


@pytest.mark.parametrize("box", ["8 0 3 3", "0 6 3 3", "0 -9 4 9", "-3 0 3 3"])
def test_a_face_outside_of_its_image_is_named(tmp_path, colours, box):
    save(tmp_path / "a.png", colours)
    (tmp_path / "label.txt").write_text("# a.png\n-3 -3 5 5\n7 5 90 90\n", encoding="utf-8")
    assert len(FaceFolder(tmp_path)[0].labels) == 2, "boxes may reach beyond the image"
    (tmp_path / "label.txt").write_text(f"# a.png\n1 1 2 2\n{box}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"label.txt: a.png: the face \[.*8 x 6 pixels"):
        FaceFolder(tmp_path)[0]


# Labels in memory


def face(box=(0.0, 0.0, 40.0, 50.0), **attributes):
    """One face that is easy unless ``attributes`` say otherwise."""
    values = {"occlusion": 0.0, "blur": 0.0, "light": 1.0, "yaw": 0.0, "inside": 1.0, **attributes}
    return FaceLabels([box], np.full((1, 5, 2), np.nan), *([value] for value in values.values()))


@pytest.mark.parametrize(
    "attributes",
    [{"box": (0, 0, 3, 3)}, {"occlusion": 1.0}, {"blur": 400.0}, {"light": 0.0}, {"inside": 0.1}],
)
def test_each_attribute_alone_can_make_a_face_too_hard(attributes):
    assert all(mask.tolist() == [True] for mask in difficulty(face()).values())
    assert all(mask.tolist() == [False] for mask in difficulty(face(**attributes)).values())


def test_difficulties_are_nested_and_not_all_the_same():
    rng = np.random.default_rng(5)
    sides = rng.uniform(2, 80, (2000, 1))
    boxes = np.concatenate([np.zeros((2000, 2)), sides * [0.8, 1]], axis=1)
    attributes = [rng.uniform(0, most, 2000) for most in (1, 8, 1.5, 1.7, 1)]
    masks = difficulty(FaceLabels(boxes, np.zeros((2000, 5, 2)), *attributes))
    easy, medium, hard = masks["easy"], masks["medium"], masks["hard"]
    assert (easy <= medium).all() and (medium <= hard).all()
    assert 0 < easy.sum() < medium.sum() < hard.sum() < 2000
    assert {mask.shape for mask in difficulty(FaceLabels.empty()).values()} == {(0,)}


def test_select_takes_the_same_rows_of_everything():
    labels = FaceLabels(
        np.arange(12).reshape(3, 4), np.arange(30).reshape(3, 5, 2), *np.arange(15).reshape(5, 3)
    )
    picked = labels.select(np.array([True, False, True]))
    assert len(picked) == 2 and picked.boxes[1].tolist() == [8, 9, 10, 11]
    assert picked.landmarks[1, 0].tolist() == [20, 21] and picked.inside.tolist() == [12, 14]
