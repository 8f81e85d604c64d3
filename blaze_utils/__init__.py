"""What the notebooks import: a small face detector, and all it takes to make it int8.

Each room names what it offers in its ``__init__``; import from the room, as in
``from blaze_utils.detector import Blaze``. A room uses only rooms above it in this list:

``data``: folders of images with labels or without, as files are in the world. Here a bad file is
found.

``detector``: the network in float (``Blaze``) and its twin for eager quantization
(``QuantizableBlaze``), prior boxes, checkpoints, and the way from an image to its faces (NMS too).

``measure``: how good (average precision, SQNR) and how dear (time, bytes, operators) a model is.

``training``: augmentation, batches, loss and one training step, for QAT too.

``int8``: quantize, in eager mode and by export (PT2E); int8 files; other runtimes. A new engine or
runtime goes here.

``diagnose``: what stands between a model and int8 (``diagnose``), whether int8 is worth it
(``assess``), and one-line asserts to copy (``checks``).

``plots``: figures, in one palette.

``exercises``: says whether an answer to an exercise is right.

``__main__``: ``python -m blaze_utils``, for the reader's own photographs and models.

``standalone`` stands apart: one file that imports nothing of ours, for notebook 10 to copy.

Nothing is imported here, so that one room does not cost all of them.
"""

ROOMS = (
    "data",
    "detector",
    "measure",
    "training",
    "int8",
    "diagnose",
    "plots",
    "exercises",
    "__main__",
)
"""Each imports only from those before it; a test reads this."""

__version__ = "0.1.0"
