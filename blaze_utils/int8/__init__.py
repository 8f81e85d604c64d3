"""Int8 models: eager quantization in one call, and the compact file.

Begin with ``quantize_static``; ``save_int8`` and ``load_int8`` keep what it gives. Three modules
are imported by name, since they bring much along: ``pt2e`` (quantization by export), ``export``
(files for other runtimes) and ``runtimes`` (which run those files). How good and how fast a model
is, is the room ``measure``; the float network is the room ``detector``.
"""

from blaze_utils.int8.eager import (
    calibrate,
    default_engine,
    default_qconfig,
    fuse_add,
    has_vnni,
    quantizable_copy,
    quantize_static,
    sensitivity,
    simulate,
    weight_bits_qconfig,
)
from blaze_utils.int8.files import byte_ledger, load_int8, save_int8

__all__ = [
    "byte_ledger",
    "calibrate",
    "default_engine",
    "default_qconfig",
    "fuse_add",
    "has_vnni",
    "load_int8",
    "quantizable_copy",
    "quantize_static",
    "save_int8",
    "sensitivity",
    "simulate",
    "weight_bits_qconfig",
]
