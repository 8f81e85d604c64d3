"""Prior boxes, encoding and matching."""

import torch

from blaze_utils.detector.anchors import (
    decode_boxes,
    decode_landmarks,
    encode_boxes,
    encode_landmarks,
    match,
    prior_boxes,
)


def test_priors_of_a_small_input():
    priors = prior_boxes((16, 32))
    assert priors.shape == (2 * 2 * 4 + 6 * 1 * 2, 4)
    assert priors.dtype == torch.float32
    assert priors[:3].tolist() == [[4, 4, 8, 8], [4, 4, 11, 11], [12, 4, 8, 8]]
    assert priors[8].tolist() == [4, 12, 8, 8]  # the second row of cells
    assert priors[16:22].tolist() == [[8, 8, s, s] for s in (14, 19, 26, 38, 64, 149)]
    assert priors[22].tolist() == [24, 8, 14, 14]


def test_a_cell_that_is_cut_off_counts():
    assert len(prior_boxes((17, 16))) == 2 * 3 * 2 + 6 * 2 * 1


def test_encoding_by_hand():
    prior = torch.tensor([[10.0, 20.0, 8.0, 8.0]])
    box = torch.tensor([[8.0, 12.0, 16.0, 28.0]])  # centre (12, 20), 8 wide, 16 high
    log2 = 0.6931472
    expected = torch.tensor([[2.5, 0.0, 0.0, log2 / 0.2]])
    torch.testing.assert_close(encode_boxes(box, prior), expected)
    torch.testing.assert_close(decode_boxes(expected, prior), box)
    points = torch.tensor([[[10.0, 20.0], [18.0, 20.0], [10.0, 16.0], [0.0, 0.0], [10.0, 28.0]]])
    expected = torch.tensor([[0, 0, 10, 0, 0, -5, -12.5, -25, 0, 10.0]])
    torch.testing.assert_close(encode_landmarks(points, prior), expected)
    torch.testing.assert_close(decode_landmarks(expected, prior), points)


def test_round_trips_with_a_batch():
    generator = torch.Generator().manual_seed(0)
    priors = prior_boxes((32, 32))
    corner = torch.rand(3, len(priors), 2, generator=generator) * 30
    side = torch.rand(3, len(priors), 2, generator=generator) * 50 + 1
    boxes = torch.cat([corner, corner + side], dim=-1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes)
    points = torch.rand(3, len(priors), 5, 2, generator=generator) * 60 - 10
    torch.testing.assert_close(decode_landmarks(encode_landmarks(points, priors), priors), points)


def test_an_unknown_landmark_stays_unknown():
    points = torch.full((1, 5, 2), torch.nan)
    assert encode_landmarks(points, torch.tensor([[8.0, 8.0, 8.0, 8.0]])).isnan().all()


# Five priors of 10 x 10 px side by side, with gaps, and a larger one around the first.
ROW = [[5.0 + 20 * i, 5.0, 10.0, 10.0] for i in range(5)]
PRIORS = torch.tensor([*ROW, [5.0, 5.0, 20.0, 20.0]])


def square(left, top=0.0, side=10.0):
    return [left, top, left + side, top + side]


def test_no_faces_is_all_background():
    labels, index = match(torch.zeros(0, 4), PRIORS)
    assert labels.tolist() == [0] * 6 and index.tolist() == [0] * 6


def test_a_face_matches_its_prior_alone():
    labels, index = match(torch.tensor([square(60), square(20)]), PRIORS)
    assert labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert index[[1, 3]].tolist() == [1, 0]


def test_overlap_bands():
    # IoU with prior 1: shifted by d of 10 px it is (10 - d) / (10 + d).
    def label(shift):
        # The face also fits prior 2 or the like better, so that prior 1 is not forced.
        boxes = torch.tensor([square(20 + shift)])
        priors = torch.cat([PRIORS, torch.tensor([[25.0 + shift, 5.0, 10.0, 10.0]])])
        return int(match(boxes, priors)[0][1])

    assert label(10 * (1 - 0.40) / (1 + 0.40)) == 1
    assert label(10 * (1 - 0.34) / (1 + 0.34)) == -1
    assert label(10 * (1 - 0.29) / (1 + 0.29)) == -1
    assert label(10 * (1 - 0.27) / (1 + 0.27)) == 0


def test_the_best_prior_of_a_face_learns_it_however_small_the_overlap():
    labels, index = match(torch.tensor([square(20), square(43, 3, 4)]), PRIORS)  # IoU 0.16
    assert labels.tolist() == [0, 1, 1, 0, 0, 0]
    assert index[2] == 1


def test_two_faces_with_the_same_best_prior():
    poor, good = square(26), square(21)
    for order in ([poor, good], [good, poor]):
        labels, index = match(torch.tensor(order), PRIORS)
        assert labels[1] == 1
        assert index[1] == order.index(good)


def test_a_small_face_keeps_its_prior_beside_a_large_one():
    large, small = square(-5, -5, 20), square(3, 3, 4)
    labels, index = match(torch.tensor([large, small]), PRIORS)
    assert labels[[0, 5]].tolist() == [1, 1]
    assert index[[0, 5]].tolist() == [1, 0]  # though the large one overlaps prior 0 more


def test_a_face_that_overlaps_nothing_changes_nothing():
    assert match(torch.tensor([square(500)]), PRIORS)[0].tolist() == [0] * 6


def test_ignored_faces_teach_nothing():
    boxes = torch.tensor([square(20), square(60)])
    labels, index = match(boxes, PRIORS, torch.tensor([True, False]))
    assert labels.tolist() == [0, -1, 0, 1, 0, 0]
    assert index[3] == 1  # counted among all faces, ignored ones included
    labels, _ = match(boxes, PRIORS, torch.tensor([True, True]))
    assert labels.tolist() == [0, -1, 0, -1, 0, 0]


def test_a_face_wins_over_an_ignored_one():
    labels, index = match(
        torch.tensor([square(20), square(21)]), PRIORS, torch.tensor([True, False])
    )
    assert labels[1] == 1 and index[1] == 1


def test_threshold():
    boxes = torch.tensor([square(0)])  # IoU with the prior around it: 100 / 400
    priors = PRIORS[[0, 5]]
    assert match(boxes, priors)[0].tolist() == [1, 0]
    assert match(boxes, priors, threshold=0.25)[0].tolist() == [1, 1]
