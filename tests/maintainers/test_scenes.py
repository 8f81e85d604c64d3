"""The drawn scenes: deterministic, and labelled where the faces are.

That the code still draws the shipped scenes is tested in test_shipped.py and test_draw.py.
"""

import numpy as np
import pytest

from maintainers.scenes import draw_scene
from maintainers.scenes.look import View, random_look
from maintainers.scenes.skull import Skull


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


@pytest.mark.parametrize("yaw", [-0.8, -0.3, 0.3, 0.8])
def test_landmarks_go_through_the_same_map_as_the_texture(yaw):
    """Project a texture point to a pixel, and read the texture coordinates of that pixel back."""
    light = np.array([0.0, -0.6, 0.8])
    view = View(yaw, 0.1, 0.0, light, ambient=0.6, tint=np.ones(3, np.float32))
    skull = Skull(random_look(np.random.default_rng(2)), view, scale=60)
    for tx, ty in [(-0.3, -0.15), (0.3, -0.15), (0.0, 0.2), (-0.2, 0.7), (0.2, 0.7)]:
        x, y = skull.project(tx, ty)
        column, row = round(x), round(y)
        if skull.front[row, column] < 0.3 or abs(skull.across[row, column]) > 0.9:
            continue  # turned away, or so near the outline that one pixel is a large step
        assert abs(skull.tx[row, column] - tx) < 0.15
        assert abs(skull.ty[row, column] - ty) < 0.1
