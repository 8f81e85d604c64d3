"""Images, labels, folders."""
from blaze_utils.data.datasets import FaceFolder, PhotoFolder, open_dataset
from blaze_utils.data.images import DatasetError, Sample, read_image
from blaze_utils.data.labels import FaceLabels, LabelError, difficulty
