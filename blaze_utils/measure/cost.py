"""What a model costs: latency, stored size, multiply-adds."""
from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

# The profiler's C++ part writes notes to stderr, which would land in notebooks; it reads this
# variable when it first runs.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
# On import, torch.utils.benchmark looks for a CUDA toolkit, and where it finds one without a GPU it
# says so on stderr, with the toolkit's path: nothing that a reader of a notebook needs.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402


class Latency(NamedTuple):
    """Time of one call in milliseconds: median and interquartile range over ``runs`` calls.

    ``threads`` is the number of threads that PyTorch's operators could use.
    """

    median_ms: float
    iqr_ms: float
    threads: int
    runs: int


def latency(
    function: Callable[..., Any], *inputs: Any, threads: int = 1, min_run_time: float = 1.0
) -> Latency:
    """Measure how long ``function(*inputs)`` takes, with ``torch.utils.benchmark``.

    Runs without gradients; waits for the GPU where there is one.  Short calls are timed in blocks,
    and the interquartile range is then that of the blocks' means.

    Args:
        function: a model in evaluation mode, or any callable.
        threads: for PyTorch's operators, restored afterwards; OpenCV and numpy keep their own.
        min_run_time: seconds to go on measuring, after a first call that does not count.

    Raises:
        ValueError: a model in training mode, which would be slower and change its statistics.
    """
    times, runs = _measure(_timer(function, inputs, threads), min_run_time)
    return _summary(times, threads, runs)


def compare(
    functions: Mapping[str, Callable[..., Any]],
    *inputs: Any,
    threads: int = 1,
    rounds: int = 10,
    min_run_time: float = 1.0,
) -> pd.DataFrame:
    """Measure several functions on the same inputs in turns.

    Each round times every function for a short while, every other round in reverse order, so that
    a machine that gets slower or faster does so for all of them.

    Args:
        functions: name -> function or model, as for ``latency``; at least one.
        rounds: at least 1.
        min_run_time: seconds for each function in all.

    Returns:
        One row per function, in the order given, indexed by name: ``median_ms``, ``iqr_ms``,
        ``ratio`` (median over that of the first function), ``runs``.

    Raises:
        ValueError: no functions, no rounds, or a model in training mode.
    """
    if not functions or rounds < 1:
        raise ValueError(f"expected functions and rounds, got {len(functions)} and {rounds}")
    timers = {name: _timer(function, inputs, threads) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    runs = dict.fromkeys(functions, 0)
    for turn in range(rounds):
        for name in list(timers)[:: -1 if turn % 2 else 1]:
            measured, calls = _measure(timers[name], min_run_time / rounds)
            times[name] += measured
            runs[name] += calls
    rows = {name: _summary(times[name], threads, runs[name]) for name in functions}
    table = pd.DataFrame(rows.values(), index=pd.Index(rows, name="function"))
    table["ratio"] = table["median_ms"] / table["median_ms"].iloc[0]
    return table[["median_ms", "iqr_ms", "ratio", "runs"]]


def _timer(function: Callable[..., Any], inputs: tuple[Any, ...], threads: int) -> Timer:
    # A frozen TorchScript module has no mode any more.
    if isinstance(function, nn.Module) and getattr(function, "training", False):
        raise ValueError(f"{type(function).__name__} is in training mode: call .eval() first")
    names = {"function": function, "inputs": inputs}
    return Timer("function(*inputs)", globals=names, num_threads=threads)


def _measure(timer: Timer, seconds: float) -> tuple[list[float], int]:
    """Times of one call in seconds, and the number of calls behind them."""
    with torch.inference_mode():
        measurement = timer.blocked_autorange(min_run_time=seconds)
    return measurement.times, len(measurement.times) * measurement.number_per_run


def _summary(times: list[float], threads: int, runs: int) -> Latency:
    low, median, high = 1000 * np.percentile(times, [25, 50, 75])
    return Latency(float(median), float(high - low), threads, runs)


def stored_bytes(model: nn.Module) -> int:
    """Size in bytes of the file that ``torch.save(model.state_dict(), file)`` would write."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def count_macs(model: nn.Module, example: torch.Tensor) -> pd.DataFrame:
    """Count the multiply-adds of one call for every module, with ``torch.utils.flop_counter``.

    A module's count includes its children's, also where the model calls only these, as with a list
    of modules; the model itself is the row with the empty name.
    Only products in convolutions and matrix multiplications count, as is usual: no batch norm, no
    bias, no activation.  Float models only: the counter does not know the int8 operators.

    Args:
        example: the input, of any batch size.

    Returns:
        One row per module, in the model's order, indexed by its dotted name: ``kind`` (the class),
        ``output`` (shape as a tuple; None if not a tensor or not called), ``parameters``, ``macs``.
    """
    shapes: dict[str, tuple[int, ...] | None] = {}
    hooks = [
        module.register_forward_hook(_shape_recorder(shapes, name))
        for name, module in model.named_modules()
    ]
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    flops, root = counter.get_flop_counts(), type(model).__name__
    rows = [
        {
            "module": name,
            "kind": type(module).__name__,
            "output": shapes.get(name),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "macs": _macs(module, f"{root}.{name}" if name else root, flops),
        }
        for name, module in model.named_modules()
    ]
    return pd.DataFrame(rows).set_index("module")


def _macs(module: nn.Module, name: str, flops: Mapping[str, Mapping[Any, int]]) -> int:
    if name in flops:
        return sum(flops[name].values()) // 2  # a multiply-add is two floating-point operations
    return sum(_macs(child, f"{name}.{key}", flops) for key, child in module.named_children())


def _shape_recorder(shapes: dict[str, tuple[int, ...] | None], name: str) -> Callable[..., None]:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        shapes[name] = tuple(output.shape) if isinstance(output, torch.Tensor) else None

    return record


def count_operators(model: nn.Module, example: torch.Tensor) -> pd.Series:
    """Count how often each of PyTorch's operators runs in one call, with PyTorch's profiler.

    Operators that are called by others count as well: ``aten::max_pool2d`` on a quantized tensor
    brings ``aten::quantized_max_pool2d`` along.

    Returns:
        int64 counts, indexed by the operator's name, most frequent first; names in order on ties.
    """
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as recorded:
        model(example)
    names = pd.Series([event.name for event in recorded.events()], dtype=object)
    return names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
