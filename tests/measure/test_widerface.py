"""WIDER FACE: the official .mat files against a plain port of the official evaluation."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from blaze_utils.data import DataError
from blaze_utils.measure import SETTINGS, load_widerface_ground_truth, widerface_ap

# The official files: cell arrays of cell arrays, columns, names without .jpg, indices from 1.


def cells(items):
    array = np.empty((len(items), 1), object)
    for index, item in enumerate(items):
        array[index, 0] = item
    return array


def write_mats(folder, events):
    """``events``: name -> {file: (boxes x y w h, {setting: indices from 1})}."""
    shared = {
        "event_list": cells(list(events)),
        "file_list": cells([cells(list(images)) for images in events.values()]),
        "face_bbx_list": cells(
            [cells([image[0] for image in images.values()]) for images in events.values()]
        ),
    }
    savemat(folder / "wider_face_val.mat", shared)
    for setting in SETTINGS:
        lists = cells(
            [cells([image[1][setting] for image in images.values()]) for images in events.values()]
        )
        savemat(folder / f"wider_{setting}_val.mat", {**shared, "gt_list": lists})


def random_faces(rng, count):
    # Sides of 0 and below, as a few of the official faces have.
    boxes = np.hstack([rng.integers(0, 80, (count, 2)), rng.integers(-2, 30, (count, 2))])
    hard = np.flatnonzero(rng.random(count) < 0.8) + 1
    medium, easy = hard[rng.random(len(hard)) < 0.6], hard[:1]
    lists = {"easy": easy, "medium": medium, "hard": hard}
    return boxes.astype(float), {
        key: value.reshape(-1, 1).astype(np.uint16) for key, value in lists.items()
    }


def random_events(seed):
    rng = np.random.default_rng(seed)
    names = {"0--Parade": 6, "1--Handshaking": 1, "61--Street Battle": 5}
    return {
        event: {
            f"{event[0]}_img_{number}": random_faces(rng, int(rng.integers(1, 9)))
            for number in range(count)
        }
        for event, count in names.items()
    }


def random_predictions(events, seed):
    rng = np.random.default_rng(seed)
    predictions = {}
    for event, images in events.items():
        for file, (boxes, _) in images.items():
            near = np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (2 * len(boxes), 4))
            rows = np.concatenate([near, rng.uniform(0, 60, (5, 4))])
            rows[:, 2:] = rows[:, :2] + np.maximum(rows[:, 2:], 0)
            scores = rng.random((len(rows), 1)) ** 3 * 0.97 + 0.02
            predictions[f"{event}/{file}.jpg"] = np.hstack([rows, scores])
    return predictions


# The evaluation as https://github.com/wondervictor/WiderFace-Evaluation does it, step by step.


def reference_ap(mat_folder, predictions, setting):
    content = loadmat(mat_folder / "wider_face_val.mat")
    wanted = loadmat(mat_folder / f"wider_{setting}_val.mat")["gt_list"]
    scores = np.concatenate([rows[:, 4] for rows in predictions.values()])
    points, faces = np.zeros((1000, 2)), 0
    for i, event in enumerate(content["event_list"]):
        for j, file in enumerate(content["file_list"][i][0]):
            rows = predictions[f"{event[0][0]}/{file[0][0]}.jpg"].copy()
            rows = rows[np.argsort(-rows[:, 4], kind="stable")]
            rows[:, 2:4] -= rows[:, :2]
            rows[:, 4] = (rows[:, 4] - scores.min()) / (scores.max() - scores.min())
            boxes = content["face_bbx_list"][i][0][j][0].astype(float)
            indices = wanted[i][0][j][0]
            faces += len(indices)
            if len(boxes) and len(rows):
                keep = np.zeros(len(boxes), bool)
                keep[indices.ravel().astype(int) - 1] = True
                points += reference_points(rows, boxes, keep)
    with np.errstate(invalid="ignore"):
        return reference_area(points[:, 1] / faces, points[:, 1] / points[:, 0])


def reference_overlap(a, b):
    """Boxes x y w h; the last pixel, x + w, belongs to the box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] + 1) * (a[3] + 1) + (b[2] + 1) * (b[3] + 1)
    return width * height / (both - width * height)


def reference_points(rows, boxes, keep):
    """At each threshold: the detections that count, and the faces found."""
    state, counts, found = np.zeros(len(boxes)), [], []
    for row in rows:
        overlaps = [reference_overlap(row, box) for box in boxes]
        best, count = int(np.argmax(overlaps)), True
        if overlaps[best] >= 0.5:
            count = bool(keep[best])
            state[best] = 1 if count else -1
        counts.append(count)
        found.append((state == 1).sum())
    points = np.zeros((1000, 2))
    for step in range(1000):
        reached = np.flatnonzero(rows[:, 4] >= 1 - (step + 1) / 1000)
        if len(reached):
            points[step] = sum(counts[: reached[-1] + 1]), found[reached[-1]]
    return points


def reference_area(recall, precision):
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    for index in range(len(precision) - 1, 0, -1):
        precision[index - 1] = np.maximum(precision[index - 1], precision[index])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1])


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_reference_from_the_same_files(tmp_path, seed):
    events = random_events(seed)
    write_mats(tmp_path, events)
    predictions = random_predictions(events, seed + 50)
    predictions[next(iter(predictions))] = np.empty((0, 5))
    with pytest.warns(UserWarning, match="faces have a side of 0 or below"):
        truth = load_widerface_ground_truth(tmp_path)
    expected = {setting: reference_ap(tmp_path, predictions, setting) for setting in SETTINGS}
    assert widerface_ap(predictions, truth) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected.values())) == 3 and min(expected.values()) > 0.04


def faces(boxes=((1, 2, 3, 4),), **lists):
    lists = dict.fromkeys(SETTINGS, [1]) | lists
    return np.array(boxes), {key: np.array(value).reshape(-1, 1) for key, value in lists.items()}


def test_names_corners_masks_and_one_warning(tmp_path):
    nobody = (np.empty((0, 0)), dict.fromkeys(SETTINGS, np.empty((0, 0))))
    odd = faces([(1, 2, 3, 4), (1026, 474, -2, 23), (5, 6, 0, 0)], easy=[], hard=[2, 1])
    write_mats(tmp_path, {"0--Parade": {"b_2": nobody, "a_1": odd}})
    with pytest.warns(UserWarning) as caught:
        truth = load_widerface_ground_truth(tmp_path)
    assert len(caught) == 1
    assert "2 faces have a side of 0 or below, the first in 0--Parade/a_1.jpg" in str(caught[0])
    assert list(truth) == ["0--Parade/b_2.jpg", "0--Parade/a_1.jpg"]
    nothing, image = truth.values()
    assert image["boxes"].tolist() == [[1, 2, 4, 6], [1026, 474, 1024, 497], [5, 6, 5, 6]]
    assert [np.flatnonzero(image[setting]).tolist() for setting in SETTINGS] == [[], [0], [0, 1]]
    assert nothing["boxes"].shape == (0, 4) and nothing["hard"].shape == (0,)


def test_missing_files_say_where_to_get_them(tmp_path):
    write_mats(tmp_path, {"e": {"a": faces()}})
    (tmp_path / "wider_medium_val.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"medium_val\.mat: not found\. .*http.*README"):
        load_widerface_ground_truth(tmp_path)


@pytest.mark.parametrize("setting", ["face", "hard"])
@pytest.mark.parametrize("content", [b"", b"no matlab", b"MATLAB 5.0 MAT-file" + bytes(200), 300])
def test_damaged_files_are_named(tmp_path, setting, content):
    write_mats(tmp_path, {"e": {"a": faces()}})
    path = tmp_path / f"wider_{setting}_val.mat"
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(DataError, match=rf"wider_{setting}_val\.mat: damaged, or not WIDER FACE's"):
        load_widerface_ground_truth(tmp_path)


@pytest.mark.parametrize(
    "images, file",
    [
        ({"a": faces(boxes=[(1, 2, np.nan, 4)])}, "face"),
        ({"a": faces(boxes=[(1, 2, 3)])}, "face"),
        ({"a": faces(), "a.jpg": faces()}, "face"),
        ({"a": faces(hard=[2])}, "hard"),
        ({"a": faces(easy=[0])}, "easy"),
        ({"a": faces(easy=[1.5])}, "easy"),
    ],
)
def test_wrong_content_is_named(tmp_path, images, file):
    write_mats(tmp_path, {"e": images})
    with pytest.raises(DataError, match=rf"wider_{file}_val\.mat: .* not WIDER FACE's"):
        load_widerface_ground_truth(tmp_path)


@pytest.mark.parametrize("content", [{"gt_list": cells([cells([np.array([[1]])])])}, {"other": 1}])
def test_lists_of_other_images_are_named(tmp_path, content):
    write_mats(tmp_path, {"e": {"a": faces(), "b": faces()}})
    savemat(tmp_path / "wider_easy_val.mat", content)
    with pytest.raises(DataError, match=r"easy_val\.mat: damaged, or not WIDER FACE's"):
        load_widerface_ground_truth(tmp_path)
