"""Runs a copy of the model under a ``Recorder``, and leaves no trace."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .anatomy import Anatomy, is_observer
from .calls import Call, tensors_in
from .recording import Recorder
from .watching import watch


@dataclass
class Recording:
    """What a run has done.

    Attributes:
        calls: in order.
        results: numbers of the values that the model has returned.
        returns_int8: one of them is int8 in the converted model.
        complete: the run was written down from beginning to end; if not, one of the next three says
            why (or the model was not run).
        not_copied: what ``copy.deepcopy`` raises.
        failure: what the model itself raises.
        not_followed: what was raised only because somebody was watching.
    """

    calls: list[Call] = field(default_factory=list)
    results: set[int] = field(default_factory=set)
    returns_int8: bool = False
    complete: bool = False
    not_copied: Exception | None = None
    failure: Exception | None = None
    not_followed: Exception | None = None


def record(model: nn.Module, inputs: tuple, anatomy: Anatomy) -> Recording:
    """Run a copy on the CPU, in evaluation mode, without observers, and write down what it does.

    Whatever the user's code raises on the way is a result, not an error.
    """
    recorder, recording = Recorder(), Recording()
    recording.calls = recorder.calls
    with _undisturbed():
        try:
            runnable = _runnable_copy(model)
        except Exception as error:
            recording.not_copied = error
            return recording
        try:
            output = _run(runnable, inputs, anatomy, recorder)
        except Exception as error:
            recording.failure = _own_failure(model, inputs)
            recording.not_followed = None if recording.failure else error
            return recording
        call = recorder.begin("return", tensors_in(output) + _hidden_tensors(output))
        recording.results, recording.returns_int8 = set(call.inputs), call.inside
        recording.complete = True
    return recording


def _runnable_copy(model: nn.Module) -> nn.Module:
    """A copy in which all observers are taken out: nothing needs to be observed in this run."""
    duplicate = copy.deepcopy(model)
    for module in list(duplicate.modules()):
        for name, child in module.named_children():
            if is_observer(child):
                setattr(module, name, nn.Identity())
    return duplicate


def _run(runnable: nn.Module, inputs: tuple, anatomy: Anatomy, recorder: Recorder) -> Any:
    watch(runnable.cpu().eval(), anatomy, recorder)
    arguments = tree_map(_on_cpu, inputs)
    for tensor in (*runnable.parameters(), *runnable.buffers()):
        recorder.assign(tensor)
    region_starts_here = anatomy.stage != "converted" and not anatomy.has_quant_stub
    for tensor in tensors_in(arguments):
        recorder.assign(tensor, recorder.quantized(tensor) if region_starts_here else None)
    with recorder:
        return runnable(*arguments)


def _hidden_tensors(output: Any) -> list[Tensor]:
    """Tensors in the attributes of what a model returns, if it has a class of its own for that."""
    leaves = [leaf for leaf in tree_leaves(output) if not isinstance(leaf, (Tensor, nn.Module))]
    return [tensor for leaf in leaves for tensor in tensors_in(getattr(leaf, "__dict__", None))]


def _on_cpu(leaf: Any) -> Any:
    """A copy of a tensor: a model may change its input in place."""
    return leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf


def _own_failure(model: nn.Module, inputs: tuple) -> Exception | None:
    """What the model itself raises, without anybody watching."""
    try:
        _runnable_copy(model).cpu().eval()(*tree_map(_on_cpu, inputs))
    except Exception as error:
        return error
    return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No gradients, no warnings, the random generators afterwards as they were before."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(cuda), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
