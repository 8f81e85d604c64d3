"""Prior boxes, the encoding of boxes and landmarks relative to them, and matching.

Priors are rows ``cx, cy, w, h``; boxes are rows ``x1, y1, x2, y2``; all in pixels of the network's
input. The encoding is SSD's (Liu et al. 2016, section 2.2) with RetinaFace's landmarks beside it
(Deng et al. 2020): centre offsets in prior sizes over 0.1, log size ratios over 0.2.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

LEVELS = ((8, (8.0, 11.0)), (16, (14.0, 19.0, 26.0, 38.0, 64.0, 149.0)))
"""(stride, sides of the square priors) of each level, all in pixels."""

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2

NEUTRAL_IOU = 0.28
"""A prior that overlaps a face by this or more but matches none is neither face nor background."""

IGNORED_IOU = 0.3
"""A prior that overlaps an ignored face by more than this is not background."""

FACE, BACKGROUND, IGNORE = 1, 0, -1


def _level_priors(height: int, width: int, stride: int, sides: tuple[float, ...]) -> Tensor:
    rows, columns = -(-height // stride), -(-width // stride)
    cy, cx, side = torch.meshgrid(
        (torch.arange(rows) + 0.5) * stride,
        (torch.arange(columns) + 0.5) * stride,
        torch.tensor(sides),
        indexing="ij",
    )
    return torch.stack([cx, cy, side, side], dim=-1).reshape(-1, 4)


def prior_boxes(size: tuple[int, int]) -> Tensor:
    """Prior boxes for a network input.

    Args:
        size: (height, width) in pixels; a level has ceil(size / stride) rows and columns.

    Returns:
        float32 ``[P, 4]``, rows cx, cy, w, h in pixels: stride 8 first, then stride 16; within a
        level by rows, then columns, then sizes; centres at (index + 0.5) * stride; not clipped.
    """
    return torch.cat([_level_priors(*size, stride, sides) for stride, sides in LEVELS])


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """Encode boxes relative to the priors in the same rows: the inverse of ``decode_boxes``.

    Args:
        boxes: float ``[..., P, 4]`` x1, y1, x2, y2 in pixels; width and height above 0 (a side of 0
            encodes to -inf).
        priors: float ``[P, 4]`` cx, cy, w, h in pixels.

    Returns:
        float ``[..., P, 4]``: (cx - prior cx) / prior w / 0.1, likewise y, log(w / prior w) / 0.2,
        likewise h. Empty input gives empty output.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    side = boxes[..., 2:] - boxes[..., :2]
    offset = (centre - priors[:, :2]) / (CENTRE_VARIANCE * priors[:, 2:])
    return torch.cat([offset, torch.log(side / priors[:, 2:]) / SIZE_VARIANCE], dim=-1)


def decode_boxes(loc: Tensor, priors: Tensor) -> Tensor:
    """Boxes in pixels from the network's ``loc``.

    Args:
        loc: float ``[..., P, 4]``, encoded as by ``encode_boxes``.
        priors: float ``[P, 4]`` cx, cy, w, h in pixels.

    Returns:
        float ``[..., P, 4]`` x1, y1, x2, y2 in pixels, not clipped to the image.
    """
    centre = priors[:, :2] + loc[..., :2] * (CENTRE_VARIANCE * priors[:, 2:])
    half = priors[:, 2:] * torch.exp(loc[..., 2:] * SIZE_VARIANCE) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_landmarks(landmarks: Tensor, priors: Tensor) -> Tensor:
    """Encode five points relative to the priors in the same rows: inverse of ``decode_landmarks``.

    Args:
        landmarks: float ``[..., P, 5, 2]`` x, y in pixels; NaN (unknown) stays NaN.
        priors: float ``[P, 4]`` cx, cy, w, h in pixels.

    Returns:
        float ``[..., P, 10]``: x, y of each point as (x - prior cx) / prior w / 0.1.
    """
    offset = landmarks - priors[:, None, :2]
    return (offset / (CENTRE_VARIANCE * priors[:, None, 2:])).flatten(-2)


def decode_landmarks(landm: Tensor, priors: Tensor) -> Tensor:
    """Landmarks ``[..., P, 5, 2]`` in pixels from the network's ``landm`` ``[..., P, 10]``."""
    offset = landm.unflatten(-1, (5, 2)) * (CENTRE_VARIANCE * priors[:, None, 2:])
    return priors[:, None, :2] + offset


def _claimed(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Give each face (row of ``iou`` [N, P]) its best prior, whatever the overlap.

    Returns bool [P], whether a face claims the prior, and int64 [P], which one. Of faces that claim
    the same prior the one with the greater overlap gets it; a face that overlaps none claims none.
    """
    best, prior = iou.max(dim=1)
    claims = torch.zeros_like(iou)
    claims[torch.arange(len(iou), device=iou.device), prior] = best
    overlap, face = claims.max(dim=0)
    return overlap > 0, face


def match(
    boxes: Tensor, priors: Tensor, ignored: Tensor | None = None, threshold: float = 0.35
) -> tuple[Tensor, Tensor]:
    """Decide for every prior whether it learns a face, background or nothing.

    A prior is a face where its overlap (IoU) with a face is at least ``threshold``, or where it is
    the best prior of a face, so that every face teaches at least one prior. It is left out of the
    loss where it overlaps a face by ``NEUTRAL_IOU`` or more, or an ignored face by more than
    ``IGNORED_IOU``. A face wins over both.

    Args:
        boxes: float ``[N, 4]`` x1, y1, x2, y2 in pixels, N may be 0.
        priors: float ``[P, 4]`` cx, cy, w, h in pixels.
        ignored: bool ``[N]``, True for faces that are neither face nor background; None: none.
        threshold: least IoU of a match.

    Returns:
        labels int64 ``[P]``: 1 face, 0 background, -1 left out; and index int64 ``[P]``, the row in
        ``boxes`` of the matched face (0 where the label is not 1). Between equal overlaps the face
        that comes first wins.
    """
    labels = torch.full((len(priors),), BACKGROUND, device=priors.device)
    index = torch.zeros_like(labels)
    if ignored is None:
        ignored = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    iou = box_iou(boxes, box_convert(priors, "cxcywh", "xyxy"))
    if bool(ignored.any()):
        labels[iou[ignored].amax(dim=0) > IGNORED_IOU] = IGNORE
    wanted = torch.nonzero(~ignored).flatten()
    if len(wanted):
        overlap, face = iou[wanted].max(dim=0)
        claimed, claimant = _claimed(iou[wanted])
        positive = claimed | (overlap >= threshold)
        labels[(overlap >= NEUTRAL_IOU) & ~positive] = IGNORE
        labels[positive] = FACE
        index = torch.where(positive, wanted[torch.where(claimed, claimant, face)], index)
    return labels, index
