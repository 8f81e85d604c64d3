"""Eager int8, PT2E, files, runtimes."""
from blaze_utils.int8.eager import (
    calibrate, default_engine, quantize_static, sensitivity, simulate, weight_bits_qconfig,
)
from blaze_utils.int8.int8_file import load_int8, save_int8
from blaze_utils.int8.ledger import byte_ledger
