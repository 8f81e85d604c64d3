"""Named arrays in one flat file: a short header, the bare bytes, and a checksum of all of them.

The layout is that of safetensors (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with
the length of the header, the header in JSON, then one array after another, little-endian. Readers
of that format open such a file. One thing is added: the last array, ``sha256``, is the digest of
every byte before it, so that damage anywhere is found before anything else is looked at. Nothing in
such a file is unpickled, and nothing in it can run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from blaze_utils.files import write_atomically
from blaze_utils.detector.storage import CheckpointError

DTYPES = {"F64": "<f8", "F32": "<f4", "I8": "|i1", "U8": "|u1"}
"""What the header calls a type of numbers, and what numpy calls it."""

NOTES, DIGEST = "__metadata__", "sha256"
DIGEST_BYTES = 32


def write_flat(
    path: str | Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    """Store one-dimensional arrays and a few notes on ``path``, whole or not at all.

    The same content makes the same bytes.

    Args:
        arrays: name -> array [n], float64, float32, int8 or uint8.
        notes: name -> text, for the header.

    Raises:
        ValueError: an array has another number of dimensions or another type.
        OSError: the folder does not exist or cannot be written; an older file stays as it is.
    """
    header: dict[str, object] = {NOTES: dict(notes)}
    body = b""
    # The widest numbers come first: then all of them lie at multiples of their size.
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        header[name], data = _entry(name, arrays[name], len(body))
        body += data
    ends = [len(body), len(body) + DIGEST_BYTES]
    header[DIGEST] = {"dtype": "U8", "shape": [DIGEST_BYTES], "data_offsets": ends}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content = len(text).to_bytes(8, "little") + text + body
    write_atomically(path, content + sha256(content).digest())


def _entry(name: str, array: np.ndarray, start: int) -> tuple[dict[str, object], bytes]:
    """What the header says about an array that begins at ``start``, and the array's bytes."""
    codes = [code for code, dtype in DTYPES.items() if array.dtype == np.dtype(dtype)]
    if array.ndim != 1 or not codes:
        raise ValueError(
            f"{name}: expected one dimension and one of float64, float32, int8, uint8, "
            f"got {array.dtype} {list(array.shape)}"
        )
    data = array.astype(DTYPES[codes[0]]).tobytes()
    offsets = [start, start + len(data)]
    return {"dtype": codes[0], "shape": [array.size], "data_offsets": offsets}, data


def read_flat(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the notes of a file that ``write_flat`` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, cut short or of another kind.
        OSError: the file is there but cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    data = path.read_bytes()
    if data.startswith(b"PK"):
        raise CheckpointError(f"{path}: a zip archive, as torch.save writes, and no flat file")
    if sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise CheckpointError(
            f"{path}: damaged, cut short or another kind of file "
            f"(it does not end with the SHA-256 of its {len(data)} bytes)"
        )
    try:
        return _parse(data)
    # The checksum is right: somebody wrote this header on purpose, in another form.
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its header is not that of a flat file ({type(error).__name__}: {error})"
        ) from error


def _parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    notes = {str(key): str(value) for key, value in header.pop(NOTES).items()}
    del header[DIGEST]
    body, arrays = data[begin:-DIGEST_BYTES], {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        # A copy, since an array upon bytes cannot be written to.
        arrays[name] = np.frombuffer(body[start:end], DTYPES[entry["dtype"]]).copy()
        if arrays[name].nbytes != end - start or [arrays[name].size] != entry["shape"]:
            raise ValueError(f"{name}: {len(body[start:end])} bytes do not fit {entry}")
    return arrays, notes
