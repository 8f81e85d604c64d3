"""Store and load models, float and int8, safely: nothing in a file is run.

A float checkpoint is what ``torch.save(model.state_dict(), path)`` writes. Two habits of published
checkpoints are understood: keys that start with ``module.`` (trained with ``nn.DataParallel``), and
a dict that holds the weights under ``state_dict``. An int8 model has a compact file of its own
kind, see ``int8_file``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from blaze_utils.detector.model import Blaze
from blaze_utils.detector.storage import CheckpointError, load_tensors, save_tensors

__all__ = ["CheckpointError", "load_float", "save_float"]

PREFIX = "module."

SHOWN = 3
"""So many keys that do not fit are named in an error message."""


def _weights(stored: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, without wrapper and prefix."""
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not stored:
        raise CheckpointError(f"{path}: holds no weights (expected a dict of named tensors)")
    for key, value in stored.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key!r}: {type(value).__name__} is no named tensor")
    if all(key.startswith(PREFIX) for key in stored):
        return {key[len(PREFIX):]: value for key, value in stored.items()}
    return dict(stored)


def _differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps the weights found from fitting, in the order of the model, then of the file."""

    def shape(tensors: Mapping[str, Tensor], key: str) -> str:
        return str(list(tensors[key].shape)) if key in tensors else "nothing"

    keys = [*wanted, *(key for key in found if key not in wanted)]
    return [
        f"{key}: the network has {shape(wanted, key)}, the file {shape(found, key)}"
        for key in keys
        if shape(wanted, key) != shape(found, key)
    ]


def load_float(path: str | Path, model_factory: Callable[[], nn.Module] = Blaze) -> nn.Module:
    """Build a float model and fill it with stored weights.

    Args:
        path: a checkpoint: ours or the one published at https://github.com/zineos/blazeface.
        model_factory: gives the model to fill, for instance ``Blaze`` or a subclass.

    Returns:
        The model on the CPU, in evaluation mode. Every weight comes from the file.

    Raises:
        CheckpointError: the file is missing, damaged, a pickle that could run code (which is
            refused, not run), without weights, of a network with other keys or shapes (the first
            differences are named), or holds weights that are NaN or infinite.
    """
    path = Path(path)
    weights = _weights(load_tensors(path), path)
    model = model_factory()
    wrong = _differences(model.state_dict(), weights)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise CheckpointError(
            f"{path}: not the weights of {type(model).__name__}: {'; '.join(wrong[:SHOWN])}{more}"
        )
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} holds NaN or infinite values")
    model.load_state_dict(weights)
    return model.eval()


def save_float(model: nn.Module, path: str | Path) -> None:
    """Store a model's weights on ``path``, whole or not at all, as a plain ``state_dict``.

    Tensors are stored from the CPU and contiguous, whatever device and memory format the model has:
    the same weights make the same file. Raises OSError where the folder cannot be written.
    """
    weights = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    save_tensors(weights, path)
