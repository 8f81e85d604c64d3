"""From an image to its faces: preprocessing, the network, decoding, non-maximum suppression."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision.ops import clip_boxes_to_image, nms
from tqdm import tqdm

from blaze_utils.data import Sample
from blaze_utils.detector.anchors import decode_boxes, decode_landmarks, prior_boxes
from blaze_utils.detector.model import MEAN_BGR, SIZE_MULTIPLE


@dataclass(frozen=True, eq=False)
class Detections:
    """The N faces found in one image, scores falling: float32 tensors on the CPU; N may be 0.

    Attributes:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the image given, clipped to it.
        scores: [N] probability of being a face, 0 to 1.
        landmarks: [N, 5, 2] x, y in the same pixels, not clipped; in the order of ``FaceLabels``.
    """

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def preprocess(image: np.ndarray, long_side: int | None = 640) -> tuple[Tensor, float]:
    """Make the network's input from an image.

    The image is reduced, never enlarged, so that its longer side is at most ``long_side``, then
    padded at the bottom and on the right with the mean colour to multiples of 16.

    Args:
        image: uint8 [H, W, 3], BGR.
        long_side: in pixels, at least 1; None keeps the size.

    Returns:
        The input, float32 [1, 3, H', W'], BGR minus ``MEAN_BGR``; and the scale: a point of the
        image times the scale is the point in the input (sides are rounded to whole pixels, so to
        within half a pixel at the far edge).

    Raises:
        ValueError: the image is of another type or shape or has no pixels; ``long_side`` below 1.
    """
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if not is_array or image.shape[2:] != (3,) or not image.size:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ValueError(f"image: expected a uint8 array [H, W, 3] (BGR), got {found}")
    if long_side is not None and long_side < 1:
        raise ValueError(f"long_side: expected at least 1 or None, got {long_side}")
    height, width = image.shape[:2]
    scale = 1.0 if long_side is None else min(1.0, long_side / max(height, width))
    if scale < 1.0:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(image.astype(np.float32) - np.asarray(MEAN_BGR, np.float32))
    right, bottom = (-side % SIZE_MULTIPLE for side in (image.shape[1], image.shape[0]))
    # After the mean is subtracted, the mean colour is 0.
    padded = nn.functional.pad(pixels.permute(2, 0, 1), (0, right, 0, bottom))
    return padded.unsqueeze(0).contiguous(), scale


def detect(
    model: nn.Module,
    image: np.ndarray,
    long_side: int | None = 640,
    score_threshold: float = 0.02,
    nms_threshold: float = 0.4,
) -> Detections:
    """Find the faces in an image.

    The model runs in evaluation mode, on the device where it is, without gradients; afterwards
    every module is in the mode that it was in.

    Args:
        model: a ``Blaze`` or anything with its inputs and outputs, int8 or float.
        image: uint8 [H, W, 3], BGR, as ``cv2.imread`` gives it.
        long_side: larger images are reduced to it, see ``preprocess``; None keeps the size.
        score_threshold: detections below it are left out.
        nms_threshold: of two boxes that overlap by more than this IoU, the one with the higher
            score stays; of equal scores, the one that comes first in ``prior_boxes``.

    Raises:
        ValueError: as ``preprocess``.
    """
    x, scale = preprocess(image, long_side)
    with evaluating(model), torch.inference_mode():
        loc, conf, landm = (output[0].cpu() for output in model(x.to(_device(model))))
        scores = conf.softmax(dim=-1)[:, 1]
        kept = scores >= score_threshold
        priors = prior_boxes((x.shape[2], x.shape[3]))[kept]
        boxes, scores = decode_boxes(loc[kept], priors) / scale, scores[kept]
        landmarks = decode_landmarks(landm[kept], priors) / scale
        best = nms(boxes, scores, nms_threshold)
        inside = clip_boxes_to_image(boxes[best], image.shape[:2])
    return Detections(inside, scores[best], landmarks[best])


def predict(
    model: nn.Module,
    dataset: Sequence[Sample],
    long_side: int | None = 640,
    score_threshold: float = 0.02,
    nms_threshold: float = 0.4,
) -> dict[str, np.ndarray]:
    """Detect the faces in every image of a folder; ``TQDM_DISABLE=1`` silences the progress bar.

    Args:
        model, long_side, score_threshold, nms_threshold: as for ``detect``.
        dataset: a ``FaceFolder``, ``PhotoFolder`` or list of ``Sample``; labels are not looked at.

    Returns:
        Name of the image -> float32 [N, 5], x1, y1, x2, y2, score, scores falling: what
        ``measure`` takes.

    Raises:
        OSError, DataError: an image cannot be read.
    """
    predictions = {}
    for index in tqdm(range(len(dataset)), "detecting", unit="image"):
        sample = dataset[index]
        found = detect(model, sample.image, long_side, score_threshold, nms_threshold)
        rows = torch.cat([found.boxes, found.scores[:, None]], dim=1)
        predictions[sample.name] = rows.numpy()
    return predictions


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; at the end put every module back into its own mode.

    The mode of an exported graph (PT2E) is not its flag ``training``: torchao's ``eval()`` rewrites
    the batch norms and dropouts in its code and leaves the flag. ``train()`` writes them back.
    """
    modes = {module: module.training for module in model.modules()}
    code = {module: module.code for module in modes if isinstance(module, GraphModule)}
    if any(modes.values()):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for graph in code:
            if graph.code != code[graph]:
                graph.train()


def _device(model: nn.Module) -> torch.device:
    """Where the model's tensors are; int8 modules may have none, and run on the CPU."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
