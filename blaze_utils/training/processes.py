"""Training on several processes, as ``torchrun`` starts them; in a single one nothing here acts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=2)
"""So long the processes wait for each other, for instance while the first one draws scenes."""

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
"""What the processes talk through, for each type of device."""


def in_group() -> bool:
    """Whether this process belongs to a group of training processes."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """The number of processes that train together; 1 without a group."""
    return dist.get_world_size() if in_group() else 1


def is_first() -> bool:
    """Whether this is the one process that shows, logs and saves."""
    return not in_group() or dist.get_rank() == 0


def share() -> slice:
    """Which items of every batch are this process's: all of them without a group."""
    return slice(dist.get_rank(), None, count()) if in_group() else slice(None)


@contextmanager
def group(device: str) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started, and leave them at the end.

    Args:
        device: ``cpu`` or ``cuda`` (under ``torchrun`` each process takes a GPU of its own), or any
            device if there is no ``torchrun``.

    Yields:
        The device to train on.

    Raises:
        ValueError: there is no such device, or processes on it cannot work together.
    """
    chosen = _device(device)
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield chosen
        return
    if chosen.type not in BACKENDS:
        raise ValueError(f"device: several processes train on cpu or cuda, not on {device!r}")
    if chosen.type == "cuda":
        chosen = _device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    store, rank, world_size = _meeting_place()
    dist.init_process_group(
        BACKENDS[chosen.type], store=store, rank=rank, world_size=world_size, timeout=PATIENCE
    )
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def _meeting_place() -> tuple[dist.Store, int, int]:
    """The store in which the processes leave their addresses, this one's rank, and their number.

    When ``torchrun --max-restarts`` starts all processes anew, it hands them the old store, in
    which they may read addresses of the dead (https://github.com/pytorch/pytorch/issues/135712). So
    each start gets its own corner. The number of starts is the same for all on one machine only.
    """
    from torch.distributed.rendezvous import rendezvous  # not in every build of PyTorch

    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    if os.environ["LOCAL_WORLD_SIZE"] == str(world_size):
        store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return store, rank, world_size


def _device(name: str) -> torch.device:
    """The device of that name, if this machine has it."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: {name!r} is none that PyTorch knows") from error
    backend = getattr(torch, device.type, None)
    if device.type != "cpu" and (
        not hasattr(backend, "device_count") or (device.index or 0) >= backend.device_count()
    ):
        raise ValueError(f"device: there is no {name!r} on this machine")
    return device


def wait() -> None:
    """Go on when all processes have come here."""
    if in_group():
        dist.barrier()


def parallel(model: nn.Module) -> nn.Module:
    """The model as the processes train it together, with the first one's weights and buffers.

    After ``backward`` each process has the mean of all gradients. Before each forward pass the
    buffers of the first process go to the others (PyTorch's default); so each batch norm
    normalises by the statistics of its own share, and the running ones are the first process's.
    """
    return nn.parallel.DistributedDataParallel(model) if in_group() else model


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if not in_group():
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / count()
