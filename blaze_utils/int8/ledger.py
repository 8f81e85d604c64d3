"""What the bytes of a stored model are spent on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from blaze_utils.measure.cost import stored_bytes
from blaze_utils.int8.int8_file import read_int8

WEIGHTS, BIASES, BATCH_NORM, SCALES, WRAPPING = CATEGORIES = (
    "weights", "biases", "batch norm", "scales and zero points", "wrapping",
)

KINDS = {"weight": WEIGHTS, "bias": BIASES, "scale": SCALES, "zero_point": SCALES}
BN_KEYS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def byte_ledger(stored: nn.Module | str | Path) -> dict[str, int]:
    """How many bytes of a stored model hold what.

    Args:
        stored: a model, float or int8, for the file that ``torch.save(model.state_dict(), file)``
            would write; or the path of a compact file of ``save_int8``.

    Returns:
        Bytes for each of ``CATEGORIES``, in that order. Their sum is the size of the file, for a
        model ``benchmark.stored_bytes(model)``. ``wrapping`` is all but the numbers of layers:
        names, shapes, the archive's lists and gaps. So is, with ``torch.save``, the scale of a
        weight that has one for the whole tensor: it stands amid the names, in the pickle.

    Raises:
        CheckpointError: the path is not that of a sound compact file.
    """
    ledger = dict.fromkeys(CATEGORIES, 0)
    if isinstance(stored, nn.Module):
        total = stored_bytes(stored)
        owners = dict(stored.named_modules())
        for name, value in stored.state_dict().items():
            owner, _, key = name.rpartition(".")
            _count(ledger, owners[owner], key, value)
    else:
        total = Path(stored).stat().st_size
        for name, array in read_int8(stored)[0].items():
            ledger[name if name in (WEIGHTS, BIASES) else SCALES] += array.nbytes
    ledger[WRAPPING] = total - sum(ledger.values())
    return ledger


def _count(ledger: dict[str, int], owner: nn.Module, key: str, value: object) -> None:
    """Add one entry of a ``state_dict`` to the ledger."""
    if isinstance(value, tuple):  # an int8 linear layer has its weight and bias in one entry
        _count(ledger, owner, "weight", value[0])
        _count(ledger, owner, "bias", value[1])
    elif isinstance(value, Tensor) and (key in KINDS or key in BN_KEYS):
        batch_norm = isinstance(owner, nn.modules.batchnorm._BatchNorm) and key in BN_KEYS
        ledger[BATCH_NORM if batch_norm else KINDS[key]] += value.numel() * value.element_size()
        if value.is_quantized and value.qscheme() == torch.per_channel_affine:
            ledger[SCALES] += value.q_per_channel_scales().nbytes
            ledger[SCALES] += value.q_per_channel_zero_points().nbytes
