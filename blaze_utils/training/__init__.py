"""Training: loss, augmentation, batches, and the run that takes the steps.

``TrainingBatches`` makes the batches, ``batch_loader`` loads them ahead of time, ``multibox_loss``
compares outputs with targets, ``TrainingRun`` takes the steps; begin with ``run.py``. The shipped
detector was trained by ``maintainers/train.py``, which adds the starting weights and the files.
"""

from blaze_utils.training.augment import cut
from blaze_utils.training.batches import TrainingBatches, batch_loader
from blaze_utils.training.loss import multibox_loss
from blaze_utils.training.run import TrainingRun

__all__ = ["TrainingBatches", "TrainingRun", "batch_loader", "cut", "multibox_loss"]
