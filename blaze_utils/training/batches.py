"""The batches of a training run: random crops of a dataset, matched with the prior boxes.

Which images a step sees, and how they are cropped, is a function of (seed, step) alone: it does not
depend on workers, threads or the steps before.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from blaze_utils.data import Sample
from blaze_utils.detector.anchors import encode_boxes, encode_landmarks, match, prior_boxes
from blaze_utils.detector.model import MEAN_BGR
from blaze_utils.training.augment import random_crop, sort_out_faces

CROP_SIZES = (160, 192, 224, 256, 320)
"""Sides of the square crops in pixels; one is drawn for each batch, with these chances."""
CROP_SIZE_CHANCES = (0.25, 0.40, 0.20, 0.10, 0.05)


class TrainingBatches(Dataset):
    """Random crops of a dataset, a whole batch an item: item k is what training step k sees.

    Args:
        dataset: ``dataset[i]`` gives a ``Sample`` (name, image, labels).
        batch_size: images a batch. Each epoch sees every image once, in an order of its own; a
            batch may span two epochs.
        seed: item k depends on (seed, k) and nothing else.

    An item is ``images`` uint8 ``[B, S, S, 3]`` BGR, ``labels`` int64 ``[B, P]`` (1 face, 0
    background, -1 left out), ``box_targets`` ``[B, P, 4]`` and ``landmark_targets`` ``[B, P, 10]``
    float32, encoded; S is one of ``CROP_SIZES``.

    Raises:
        ValueError: the dataset is empty; or, from an item, an image has no labels.
    """

    def __init__(self, dataset: Sequence, batch_size: int = 16, seed: int = 0) -> None:
        if len(dataset) == 0:
            raise ValueError("the dataset to train on is empty")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed

    def indices(self, step: int) -> list[int]:
        """Which images of the dataset step ``step`` sees."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        count = len(self.dataset)
        epochs = {place // count for place in places}
        orders = {e: np.random.default_rng([self.seed, 0, e]).permutation(count) for e in epochs}
        return [int(orders[place // count][place % count]) for place in places]

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, 1, step])
        size = int(rng.choice(CROP_SIZES, p=CROP_SIZE_CHANCES))
        priors = prior_boxes((size, size))
        items = [self._item(self.dataset[i], size, priors, rng) for i in self.indices(step)]
        return tuple(torch.stack(column) for column in zip(*items, strict=True))

    @staticmethod
    def _item(
        sample: Sample, size: int, priors: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, ...]:
        faces = sample.labels
        if faces is None:
            raise ValueError(f"{sample.name}: an image without labels cannot be trained on")
        image, boxes, landmarks = random_crop(
            sample.image, faces.boxes, faces.landmarks, size, rng, fill=MEAN_BGR
        )
        boxes, kept, ignored = sort_out_faces(boxes, faces.occlusion, faces.inside, faces.yaw, size)
        boxes, landmarks = torch.from_numpy(boxes[kept]), torch.from_numpy(landmarks[kept])
        labels, face = match(boxes, priors, torch.from_numpy(ignored[kept]))
        if len(boxes) == 0:
            targets = torch.zeros(len(priors), 4), torch.zeros(len(priors), 10)
        else:
            targets = encode_boxes(boxes[face], priors), encode_landmarks(landmarks[face], priors)
        return torch.from_numpy(image), labels, *targets


def _use_one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def batch_loader(batches: TrainingBatches, steps: range, num_workers: int) -> DataLoader:
    """Load the batches of ``steps`` in order, ahead of time in ``num_workers`` processes (0: none).

    Each worker uses one thread: the others are the network's.
    """
    return DataLoader(
        batches,
        batch_size=None,  # an item is a batch already
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_use_one_thread,
        # A forked worker inherits OpenMP's state without its threads, and waits for them forever if
        # the network has run before in this process.
        multiprocessing_context="spawn" if num_workers else None,
        generator=torch.Generator(),  # so that the global one is not drawn from
    )
