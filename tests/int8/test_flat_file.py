"""Flat files: the layout of safetensors, and what the reader refuses."""
import json
import os
from hashlib import sha256

import numpy as np
import pytest

from blaze_utils.int8.flat_file import read_flat, write_flat
from blaze_utils.detector.storage import CheckpointError

ARRAYS = {
    "bytes": np.array([1, -128, 127], np.int8),
    "codes": np.array([0, 255], np.uint8),
    "wide": np.array([0.1, -1e300]),
    "narrow": np.array([0.1, 3], np.float32),
    "nothing": np.empty(0, np.float32),
}
NOTES = {"format": "a test", "sign": "é ☃"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "arrays.flat"


def header_of(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), 8 + length


def sealed(header):
    """A file with any header and the right checksum, as only somebody who wants to can make it."""
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(32)
    return content + sha256(content).digest()


def test_round_trip(path):
    write_flat(path, ARRAYS, NOTES)
    arrays, notes = read_flat(path)
    assert notes == NOTES and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
        assert arrays[name].flags.writeable


def test_the_layout_is_that_of_safetensors(path):
    write_flat(path, ARRAYS, NOTES)
    data = path.read_bytes()
    header, begin = header_of(data)
    assert begin % 8 == 0 and header.pop("__metadata__") == NOTES
    entries = sorted(header.values(), key=lambda entry: entry["data_offsets"])
    ends = [0] + [entry["data_offsets"][1] for entry in entries]
    assert [entry["data_offsets"][0] for entry in entries] == ends[:-1], "no gap, no overlap"
    assert begin + ends[-1] == len(data)
    start, end = header["narrow"]["data_offsets"]
    assert header["narrow"]["dtype"] == "F32" and start % 4 == 0
    assert data[begin + start : begin + end] == np.array([0.1, 3], "<f4").tobytes()
    assert data[-32:] == sha256(data[:-32]).digest()


def test_the_same_content_makes_the_same_bytes(path, tmp_path):
    write_flat(path, ARRAYS, NOTES)
    other = tmp_path / "other.flat"
    write_flat(other, dict(reversed(ARRAYS.items())), NOTES)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.int8), np.array([1]), np.array(["a"])])
def test_other_arrays_are_refused(path, array):
    with pytest.raises(ValueError, match="name: expected one dimension and one of float64"):
        write_flat(path, {"name": array}, {})
    assert not path.exists()


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_flat(path, ARRAYS, NOTES)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_missing_file_and_a_folder(path):
    with pytest.raises(CheckpointError, match="arrays.flat: no such file"):
        read_flat(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_flat(path.parent)


DIGEST = {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}


def test_the_hand_made_header_can_be_right(path):
    path.write_bytes(sealed({"__metadata__": {}, "a": DIGEST, "sha256": DIGEST}))
    assert read_flat(path)[0]["a"].tolist() == [0] * 32


@pytest.mark.parametrize("header", [
    [],
    {"sha256": DIGEST},
    {"__metadata__": {}},
    {"__metadata__": 1, "sha256": DIGEST},
    {"__metadata__": {}, "sha256": DIGEST, "a": {}},
    {"__metadata__": {}, "sha256": DIGEST, "a": 1},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"dtype": "BF16"}},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"shape": [31]}},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"data_offsets": [0, 10**15]}},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"dtype": "F64", "data_offsets": [1, 32]}},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"data_offsets": [32, 0]}},
    {"__metadata__": {}, "sha256": DIGEST, "a": DIGEST | {"data_offsets": [-32, 0]}},
])
def test_a_header_of_another_form_is_refused(path, header):
    path.write_bytes(sealed(header))
    with pytest.raises(CheckpointError, match="arrays.flat: its header is not that of a flat file"):
        read_flat(path)
