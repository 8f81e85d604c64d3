"""Random crops: image and labels move together, faces are sorted out."""

import numpy as np
import pytest

from blaze_utils.training import augment
from blaze_utils.training.augment import (
    choose_crop,
    cut,
    jitter_colours,
    mirror,
    random_crop,
    sort_out_faces,
)

FILL = (104.0, 117.0, 123.0)


def test_cut_moves_and_scales():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:40] = 255
    out = cut(image, left=20, top=5, side=30, size=60, fill=FILL)
    assert out.shape == (60, 60, 3)
    assert (out[14:26, 24:36] == 255).all()
    assert out[:8].max() == out[32:].max() == out[:, :18].max() == out[:, 42:].max() == 0


def test_cut_beyond_the_border_is_filled():
    image = np.zeros((40, 60, 3), np.uint8)
    out = cut(image, left=-10, top=30, side=80, size=80, fill=FILL)
    assert (out[:10, 10:70] == 0).all()
    for part in (out[10:], out[:, :10], out[:, 70:]):
        assert (part == FILL).all()


def test_mirror_swaps_left_and_right():
    image = np.zeros((10, 10, 3), np.uint8)
    image[2, 1] = 7
    boxes = np.array([[1.0, 2, 4, 6]])
    points = np.array([[[1.0, 3], [3, 3], [2, 4], [1.5, 5], [3.5, 5]]])
    flipped, boxes, points = mirror(image, boxes, points)
    assert (flipped[2, 8] == 7).all()
    assert boxes.tolist() == [[6, 2, 9, 6]]
    assert points.tolist() == [[[7, 3], [9, 3], [8, 4], [6.5, 5], [8.5, 5]]]


def spot_scene(rng):
    """A dark image with a bright square: its box, and its centre as every landmark."""
    image = np.full((120, 160, 3), 20, np.uint8)
    left, top = rng.integers(10, [120, 80])
    image[top : top + 24, left : left + 24] = 235
    box = np.array([[left, top, left + 24, top + 24]], np.float32)
    return image, box, np.broadcast_to((box[:, None, :2] + box[:, None, 2:]) / 2, (1, 5, 2))


# Occlusion, share inside and yaw of one face that nothing is wrong with.
WHOLE = np.zeros(1), np.ones(1), np.zeros(1)


def test_labels_follow_the_image(monkeypatch):
    monkeypatch.setattr(augment, "jitter_colours", lambda image, rng: image)
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        image, boxes, points = spot_scene(rng)
        out, boxes, points = random_crop(image, boxes, points, 128, rng, (0, 0, 0))
        assert out.shape == (128, 128, 3) and out.dtype == np.uint8
        assert boxes.dtype == points.dtype == np.float32
        clipped, kept, ignored = sort_out_faces(boxes, *WHOLE, 128)
        if ignored[0] or (clipped != boxes).any():
            continue
        seen += 1
        rows, columns = np.nonzero(out.min(axis=2) > 115)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], found, atol=3)
        np.testing.assert_allclose(points[0, 0], (boxes[0, :2] + boxes[0, 2:]) / 2, atol=1e-3)
    assert seen > 20


def test_same_generator_same_crop():
    image, boxes, points = spot_scene(np.random.default_rng(1))
    outs = [random_crop(image, boxes, points, 64, np.random.default_rng(5), FILL) for _ in range(2)]
    for one, other in zip(*outs, strict=True):
        assert np.array_equal(one, other)
    assert image.min() == 20 and image.max() == 235  # the input is left alone


def test_crops_look_for_faces(monkeypatch):
    monkeypatch.setattr(augment, "EMPTY_CROP_SHARE", 0.05)  # whatever it is tuned to
    rng = np.random.default_rng(0)

    def hits(boxes):
        crops = [choose_crop(100, 300, boxes, rng) for _ in range(200)]
        return sum(x < 60 < x + side and y < 50 < y + side for x, y, side in crops)

    assert hits(np.zeros((0, 4))) < 100
    assert hits(np.array([[55.0, 45, 65, 55]])) > 150


def test_images_without_faces_are_cropped():
    image = np.full((50, 70, 3), 9, np.uint8)
    out, boxes, points = random_crop(
        image, np.zeros((0, 4)), np.zeros((0, 5, 2)), 32, np.random.default_rng(0), FILL
    )
    assert out.shape == (32, 32, 3) and boxes.shape == (0, 4) and points.shape == (0, 5, 2)


def test_colours_change():
    grey = np.full((4, 4, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    means = np.array([jitter_colours(grey, rng).mean(axis=(0, 1)) for _ in range(100)])
    assert means.min() < 90 and means.max() > 170
    assert (means.max(axis=1) - means.min(axis=1)).max() > 10


@pytest.mark.parametrize(
    ("box", "attributes", "kept", "ignored"),
    [
        ([10, 10, 30, 40], (0.0, 1.0, 0.0), True, False),
        ([10, 10, 30, 40], (0.64, 1.0, 0.0), True, False),
        ([10, 10, 30, 40], (0.66, 1.0, 0.0), True, True),  # too hidden
        ([10, 10, 30, 40], (0.0, 1.0, 1.29), True, False),
        ([10, 10, 30, 40], (0.0, 1.0, 1.31), True, True),  # turned away
        ([10, 10, 14, 15.9], (0.0, 1.0, 0.0), True, True),  # too small
        ([10, 10, 14, 16.1], (0.0, 1.0, 0.0), True, False),
        ([-30, 10, 20, 40], (0.0, 1.0, 0.0), True, True),  # centre outside
        ([90, 10, 108, 40], (0.0, 1.0, 0.0), True, False),  # cut off, 56 % within
        ([90, 10, 109, 40], (0.0, 1.0, 0.0), True, True),  # cut off, 53 % within
        ([90, 10, 108, 40], (0.0, 0.9, 0.0), True, True),  # cut off twice
        ([98.5, 10, 130, 40], (0.0, 1.0, 0.0), False, True),
    ],
)
def test_which_faces_count(box, attributes, kept, ignored):
    out = sort_out_faces(np.array([box], np.float32), *(np.array([a]) for a in attributes), 100)
    assert (bool(out[1][0]), bool(out[2][0])) == (kept, ignored)
    assert (out[0] == np.clip(box, 0, 100).astype(np.float32)).all()


def test_no_faces_to_sort():
    boxes, kept, ignored = sort_out_faces(np.zeros((0, 4)), *[np.zeros(0)] * 3, 100)
    assert boxes.shape == (0, 4) and kept.shape == ignored.shape == (0,)
