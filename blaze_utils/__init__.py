"""Helpers behind the notebook series on quantizing a face detector with PyTorch.

The modules form floors; each imports only from the floors below its own. Nothing is imported here,
so that ``import blaze_utils.detector.anchors`` costs no more than that module.
"""

__version__ = "0.1.0"
