"""Tensors on disk: written whole or not at all, read without running what a file contains."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch

from blaze_utils.files import write_atomically


class CheckpointError(ValueError):
    """A stored model that cannot be used; the message names the file and the reason."""


def save_tensors(content: object, path: str | Path) -> None:
    """Store tensors, numbers, strings, and lists and dicts of them, as ``torch.save`` does.

    Whoever reads ``path`` finds the old file or the new one, never a part. Raises OSError where the
    folder does not exist or cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_tensors(path: str | Path) -> object:
    """Read a file of tensors onto the CPU, with ``weights_only=True``: it cannot run code.

    Raises:
        CheckpointError: the file is missing, damaged, not written by ``torch.save``, or a pickle
            that asks for anything else than tensors and plain values.
        OSError: the file is there but cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content = io.BytesIO(path.read_bytes())
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it asks for more than tensors and plain values and could run "
            f"code, or since it is no checkpoint at all ({_reason(error)})"
        ) from error
    # Given damaged bytes, torch's readers raise errors of nearly any class.
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged, cut short or no checkpoint ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if line.startswith(("WeightsUnpickler error:", "Trying to"))]
    return f"{type(error).__name__}: {(found or lines or ['no details'])[0].split('. ')[0]}"
