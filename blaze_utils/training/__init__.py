"""Loss, augmentation, batches, the run."""
from blaze_utils.training.augment import cut
from blaze_utils.training.batches import TrainingBatches, batch_loader
from blaze_utils.training.loss import multibox_loss
from blaze_utils.training.run import TrainingRun
