"""The drawn scenes: deterministic, labelled where the faces are, with all that they promise."""

import numpy as np
import pytest

from maintainers.scenes import draw_scene
from maintainers.scenes.head import draw_head, landmarks
from maintainers.scenes.look import View, random_look
from maintainers.scenes.skull import Skull
from maintainers.scenes.tools import noise, paint, polygon_mask, smoothstep, support


def view(yaw=0.0, pitch=0.0):
    light = np.array([0.0, -0.6, 0.8])
    return View(yaw, pitch, 0.0, light, ambient=0.6, tint=np.ones(3, np.float32))


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(index, seed=5) for index in range(24)]


def test_a_scene_depends_on_seed_and_index_alone(scenes):
    np.random.seed(0)  # the global generator must not matter
    image, labels = draw_scene(3, seed=5)
    assert np.array_equal(image, scenes[3][0])
    assert np.array_equal(labels.boxes, scenes[3][1].boxes)
    assert not np.array_equal(image, draw_scene(3, seed=6)[0])


def test_scenes_have_the_size_asked_for():
    image, labels = draw_scene(0, seed=5, size=(128, 192))
    assert image.shape == (128, 192, 3) and image.dtype == np.uint8
    assert (labels.boxes[:, [2, 3]] <= [192, 128]).all()


def test_labels_lie_within_the_picture_and_their_ranges(scenes):
    faces = [labels for _, labels in scenes if len(labels)]
    assert 0 < len(faces) <= len(scenes)
    for labels in faces:
        boxes = labels.boxes
        assert (boxes[:, :2] >= 0).all() and (boxes[:, [2, 3]] <= [320, 256]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
        for share in (labels.occlusion, labels.inside):
            assert ((share >= 0) & (share <= 1)).all()
        assert np.isfinite(labels.landmarks).all()


def test_whole_faces_are_taller_than_wide_and_hold_their_landmarks(scenes):
    ratios, held = [], []
    for _, labels in scenes:
        seen = labels.select((labels.inside > 0.999) & (labels.yaw < 0.5))
        width, height = (seen.boxes[:, 2:] - seen.boxes[:, :2]).T
        ratios.extend(width / height)
        low, high = seen.boxes[:, None, :2], seen.boxes[:, None, 2:]
        held.extend(((seen.landmarks > low) & (seen.landmarks < high)).all((1, 2)))
    assert 0.7 < np.median(ratios) < 0.95
    assert np.mean(held) > 0.98


def test_a_frontal_head_is_symmetric_and_upright():
    look = random_look(np.random.default_rng(1))
    points = landmarks(Skull(look, view(), scale=50))
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    middle = (left_eye[0] + right_eye[0]) / 2
    assert abs(nose[0] - middle) < 1 and abs((left_mouth[0] + right_mouth[0]) / 2 - middle) < 1
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


@pytest.mark.parametrize("yaw", [-0.8, -0.3, 0.3, 0.8])
def test_landmarks_go_through_the_same_map_as_the_texture(yaw):
    """Project a texture point to a pixel, and read the texture coordinates of that pixel back."""
    look = random_look(np.random.default_rng(2))
    skull = Skull(look, view(yaw, pitch=0.1), scale=60)
    for tx, ty in [(-0.3, -0.15), (0.3, -0.15), (0.0, 0.2), (-0.2, 0.7), (0.2, 0.7)]:
        x, y = skull.project(tx, ty)
        column, row = round(x), round(y)
        if skull.front[row, column] < 0.3 or abs(skull.across[row, column]) > 0.9:
            continue  # turned away, or so near the outline that one pixel is a large step
        assert abs(skull.tx[row, column] - tx) < 0.15
        assert abs(skull.ty[row, column] - ty) < 0.1


def test_turning_moves_the_nose_to_that_side():
    look = random_look(np.random.default_rng(3))
    noses = [landmarks(Skull(look, view(yaw), scale=50))[2, 0] for yaw in (-1.0, 0.0, 1.0)]
    assert noses[0] < noses[1] - 10 and noses[2] > noses[1] + 10


def test_a_head_is_opaque_where_its_face_is():
    rng = np.random.default_rng(4)
    head = draw_head(rng, random_look(rng), view(0.4), face_width=60)
    assert head.alpha[head.face > 0.99].min() > 0.95
    assert head.image.min() >= 0 and head.image.max() <= 255
    x1, y1, x2, y2 = head.box.astype(int)
    assert head.face[y1:y2, x1:x2].sum() > 0.95 * head.face.sum()


def test_people_differ():
    looks = [random_look(np.random.default_rng(seed)) for seed in range(200)]
    assert len({look.style for look in looks}) == 8
    assert {look.accessory for look in looks} == {"none", "glasses", "sunglasses", "mask", "hat"}
    brightness = [look.skin.mean() for look in looks]
    assert min(brightness) < 60 and max(brightness) > 200


def test_occluded_faces_are_labelled_so():
    shares = np.concatenate([draw_scene(index, seed=8)[1].occlusion for index in range(30)])
    assert (shares < 0.1).mean() > 0.3 and (shares > 0.3).any()


def test_tools():
    assert smoothstep(np.array([0.0, 0.5, 1.0]), 0, 1).tolist() == [0, 0.5, 1]
    mask = polygon_mask(10, 12, np.array([(2, 3), (6, 3), (6, 7), (2, 7)]))
    assert support(mask, 0.5) == (slice(3, 8), slice(2, 7))
    assert support(np.zeros((3, 3))) is None
    image = np.zeros((10, 12, 3), np.float32)
    paint(image, mask, (10, 20, 30))
    assert image[5, 4].tolist() == [10, 20, 30] and image[0, 0].tolist() == [0, 0, 0]
    assert noise(np.random.default_rng(0), 7, 9, 3, channels=3).shape == (7, 9, 3)
