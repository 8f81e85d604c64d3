"""The multibox loss of RetinaFace: boxes, face or background, landmarks.

After Liu et al. 2016 (SSD, hard negative mining) and Deng et al. 2020 (RetinaFace, landmarks), with
the weights that trained the shipped detector.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

# The labels of priors, as ``anchors.match`` gives them; any other is left out of the loss.
FACE, BACKGROUND = 1, 0

BOX_WEIGHT, CLASS_WEIGHT, LANDMARK_WEIGHT = 2.0, 1.0, 0.25

NEGATIVES_PER_FACE = 7
"""Background priors that count in the loss, the hardest ones, for every prior that is a face."""

LEAST_NEGATIVES = 40
"""As many background priors count in each image at least, so that empty images teach too."""


class Losses(NamedTuple):
    """The loss and its three parts before weighting, each a 0-dimensional float tensor."""

    total: Tensor
    box: Tensor
    classes: Tensor
    landmark: Tensor


def _hard_negatives(cross_entropy: Tensor, labels: Tensor) -> Tensor:
    """Mark in each image the background priors with the greatest loss; bool [N, P]."""
    background = labels == BACKGROUND
    wanted = (NEGATIVES_PER_FACE * (labels == FACE).sum(dim=1)).clamp(min=LEAST_NEGATIVES)
    # Cross-entropy is never negative, so that the others come after all the background.
    candidates = cross_entropy.detach().masked_fill(~background, -1.0)
    rank = candidates.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return background & (rank < wanted[:, None])


def multibox_loss(
    outputs: tuple[Tensor, Tensor, Tensor],
    labels: Tensor,
    box_targets: Tensor,
    landmark_targets: Tensor,
) -> Losses:
    """Compare the network's outputs with what the priors should have said.

    Box and landmark loss are smooth L1 sums over the priors that are faces. The class loss is the
    cross-entropy of these and of the hardest background priors (7 for a face prior, at least 40 an
    image). Each is divided by the number of face priors in the batch (at least 1).

    Args:
        outputs: ``loc [N, P, 4]``, ``conf [N, P, 2]`` logits, ``landm [N, P, 10]``, float.
        labels: int64 ``[N, P]``: 1 face, 0 background, -1 left out, as from ``anchors.match``.
        box_targets: float ``[N, P, 4]``, encoded; read where the label is 1.
        landmark_targets: float ``[N, P, 10]``, encoded; NaN coordinates (unknown) are left out.

    Returns:
        Losses; ``total`` = 2 box + 1 classes + 0.25 landmark.
    """
    loc, conf, landm = outputs
    faces = labels == FACE
    count = faces.sum().clamp(min=1)
    box = F.smooth_l1_loss(loc[faces], box_targets[faces], reduction="sum") / count

    wanted = landmark_targets[faces]
    known = ~wanted.isnan()
    landmark = F.smooth_l1_loss(landm[faces][known], wanted[known], reduction="sum") / count

    # cross_entropy wants the classes in dimension 1; a label of -1 is masked out below.
    entropy = F.cross_entropy(conf.transpose(1, 2), labels.clamp(min=0), reduction="none")
    counted = faces | _hard_negatives(entropy, labels)
    classes = entropy[counted].sum() / count

    total = BOX_WEIGHT * box + CLASS_WEIGHT * classes + LANDMARK_WEIGHT * landmark
    return Losses(total, box.detach(), classes.detach(), landmark.detach())
