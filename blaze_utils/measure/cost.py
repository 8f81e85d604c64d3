"""What a model costs: time, page faults, operators, stored size, multiply-adds.

The protocol, the same in every notebook: all arms run in turns on one real scene, with one policy
for freed memory (``keep_heap``), and the time is told twice: as the clock on the wall saw it, and
as the processor spent it.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

if sys.platform != "win32":  # which does not count page faults in this way
    import resource


class Latency(NamedTuple):
    """Time of one call in milliseconds, over ``runs`` calls with ``threads`` threads.

    ``median_ms`` and ``iqr_ms`` (interquartile range) are of wall time. ``cpu_ms`` is the time of
    the processor, all threads together: its mean, as Windows tells it in steps of 15.6 ms.
    ``faults`` is the median number of page faults (NaN on Windows, which does not count them).
    """

    median_ms: float
    iqr_ms: float
    cpu_ms: float
    runs: int
    faults: float
    threads: int


def keep_heap() -> bool:
    """Let the process keep the memory that it frees; whether that could be done.

    By default glibc gives large free blocks back to the kernel. A network frees each feature map
    once it is used and asks for the next one at once: the kernel hands out fresh pages, zeroed, one
    page fault each. Float Blaze at 640x480 has 3,000 to 19,000 of them a call, a quarter to a third
    of its CPU time; how many depends on what the process did before. With both of these settings
    the median is 0 (glibc 2.36), with either one alone 36,000 to 55,000, as to set one stops glibc
    from adapting the other::

        M_TRIM_THRESHOLD = -1      never give the end of the heap back
        M_MMAP_THRESHOLD = 1 GB    take blocks up to this size from the heap (32 MB in versions of
                                   glibc that refuse more)

    A large ``M_TOP_PAD`` adds nothing. Musl, macOS and Windows are left alone. Cannot be undone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(m_trim_threshold, -1)
    return bool(kept and (mallopt(m_mmap_threshold, 2**30) or mallopt(m_mmap_threshold, 2**25)))


def page_faults(function: Callable[..., Any], *inputs: Any) -> int | None:
    """How often one call of ``function(*inputs)`` had to wait for a page of memory.

    Counts the faults without disk access of the whole process, with ``getrusage``: the median of
    five calls after a first one, as a kept heap still grows now and then (twice in 640 calls).
    Without gradients. The heap stays as it is: call ``keep_heap`` before to compare. None on
    Windows, which does not count them in this way.
    """
    with torch.inference_mode():
        counts = []
        for _ in range(6):
            function(*inputs)
            counts.append(_faults())
        return None if sys.platform == "win32" else int(np.median(np.diff(counts)))


def latency(
    function: Callable[..., Any], *inputs: Any, threads: int = 1, min_run_time: float = 1.0
) -> Latency:
    """Measure how long ``function(*inputs)`` takes, with ``torch.utils.benchmark``.

    Runs without gradients, after ``keep_heap()``; waits for the GPU where there is one. Short
    calls are timed in blocks, and the interquartile range is then that of the blocks' means.

    Args:
        function: a model in evaluation mode, or any callable.
        inputs: real ones. Time depends on the data: max pooling is faster on zeros.
        threads: for PyTorch's operators, restored afterwards; OpenCV and numpy keep their own.
        min_run_time: seconds to go on measuring, after a few calls that do not count.

    Raises:
        ValueError: a model in training mode, which would be slower and change its statistics.
    """
    return _Arm(function, inputs, threads).measure(min_run_time).summary()


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
        inputs, threads: as for ``latency``.
        rounds: at least 1.
        min_run_time: seconds for each function in all.

    Returns:
        One row per function, in the order given, indexed by name: ``median_ms``, ``iqr_ms``,
        ``cpu_ms``, ``ratio``, ``runs`` and ``faults``, as in ``Latency``. ``ratio`` is the time
        over that of the first function, below 1: faster. With one thread it is of CPU time, which
        other programs on the machine disturb least; with more it is of wall time, as threads that
        wait for each other also spend CPU time, and what one waits for is the wall time.

    Raises:
        ValueError: no functions, no rounds, or a model in training mode.
    """
    if not functions or rounds < 1:
        raise ValueError(f"expected functions and rounds, got {len(functions)} and {rounds}")
    arms = {name: _Arm(function, inputs, threads) for name, function in functions.items()}
    for turn in range(rounds):
        for name in list(arms)[:: -1 if turn % 2 else 1]:
            arms[name].measure(min_run_time / rounds)
    table = pd.DataFrame(
        [arm.summary() for arm in arms.values()], index=pd.Index(arms, name="function")
    )
    times = table["cpu_ms" if threads == 1 else "median_ms"]
    table["ratio"] = times / times.iloc[0]
    return table[["median_ms", "iqr_ms", "cpu_ms", "ratio", "runs", "faults"]]


class _Clock:
    """The clock of ``torch.utils.benchmark``; notes two counters before and after each block."""

    def __init__(self) -> None:
        self.wall = _benchmark().timer  # waits for the GPU where there is one
        self.notes: list[tuple[float, float]] = []  # CPU time in s, faults

    def __call__(self) -> float:
        if len(self.notes) % 2:  # the end of a block
            now = self.wall()
            self._note()
            return now
        self._note()  # before the wall clock is read, so that noting is not timed
        return self.wall()

    def _note(self) -> None:
        self.notes.append((time.process_time(), _faults()))


class _Arm:
    """One function, and what its calls have cost so far."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], threads: int) -> None:
        # A frozen TorchScript module has no mode any more.
        if isinstance(function, nn.Module) and getattr(function, "training", False):
            raise ValueError(f"{type(function).__name__} is in training mode: call .eval() first")
        keep_heap()
        self.clock, self.threads, self.runs = _Clock(), threads, 0
        self.timer = _benchmark().Timer(
            "function(*inputs)",
            globals={"function": function, "inputs": inputs},
            num_threads=threads,
            timer=self.clock,
        )
        self.blocks: list[np.ndarray] = []  # per call: wall time in s, CPU time in s, faults
        with torch.inference_mode():
            self.timer.timeit(1)  # calls it three times: TorchScript still compiles in the second

    def measure(self, seconds: float) -> _Arm:
        with torch.inference_mode():
            blocks = self.timer.blocked_autorange(min_run_time=seconds)
        # The notes before these belong to the search for a block size.
        notes = np.array(self.clock.notes[-2 * len(blocks.times) :])
        costs = (notes[1::2] - notes[::2]) / blocks.number_per_run
        self.blocks.append(np.column_stack([blocks.times, costs]))
        self.runs += len(blocks.times) * blocks.number_per_run
        return self

    def summary(self) -> Latency:
        wall, cpu, faults = np.concatenate(self.blocks).T
        low, median, high = (1000 * np.percentile(wall, [25, 50, 75])).tolist()
        cpu_ms, faults = 1000 * float(cpu.mean()), float(np.median(faults))
        return Latency(median, high - low, cpu_ms, self.runs, faults, self.threads)


def _benchmark() -> ModuleType:
    # On import it looks for a CUDA toolkit, and where it finds one without a GPU it says so on
    # stderr, with the toolkit's path: nothing that a reader of a notebook needs.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import benchmark

    return benchmark


def _faults() -> float:
    if sys.platform == "win32":
        return np.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def operator_times(
    model: nn.Module, example: torch.Tensor, threads: int = 1, runs: int = 10
) -> pd.Series:
    """Time that each of PyTorch's operators takes in one call, with PyTorch's profiler.

    Time spent in operators that an operator calls is theirs, so that the sum is the time of the
    call without the Python between. Profiling adds about a microsecond an operator.

    Args:
        model: in evaluation mode; a TorchScript module too.
        example: a real input, as for ``latency``.
        threads: for PyTorch's operators; restored afterwards.
        runs: how many calls are averaged, after three that do not count.

    Returns:
        Milliseconds (self CPU time), indexed by the operator's name, largest first.
    """
    keep_heap()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(3):  # TorchScript still compiles in the second
                model(example)
            recorded = _profile(model, example, runs)
    finally:
        torch.set_num_threads(before)
    times = {row.key: row.self_cpu_time_total / runs / 1000 for row in recorded.key_averages()}
    series = pd.Series(times, name="self CPU ms", dtype=float).rename_axis("operator")
    return series.sort_values(ascending=False)


def count_operators(model: nn.Module, example: torch.Tensor) -> pd.Series:
    """Count how often each of PyTorch's operators runs in one call, with PyTorch's profiler.

    Operators that are called by others count as well: ``aten::max_pool2d`` on a quantized tensor
    brings ``aten::quantized_max_pool2d`` along.

    Returns:
        int64 counts, indexed by the operator's name, most frequent first; names in order on ties.
    """
    with torch.inference_mode():
        recorded = _profile(model, example, runs=1)
    names = pd.Series([event.name for event in recorded.events()], dtype=object)
    return names.value_counts().sort_index().sort_values(ascending=False, kind="stable")


def _profile(model: nn.Module, example: torch.Tensor, runs: int) -> profile:
    # The profiler's C++ part writes notes to stderr, which would land in notebooks; it reads this
    # variable when it first runs.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(runs):
            model(example)
    return recorded


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
    bias, no activation. Float models only: the counter does not know the int8 operators.

    Args:
        example: the input, of any batch size.

    Returns:
        One row per module, in the model's order, indexed by its dotted name: ``kind`` (the class),
        ``output`` (shape as a tuple; None if not a tensor or not called), ``parameters``, ``macs``.
    """
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep_shape(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            shapes[module] = tuple(output.shape)

    hooks = [module.register_forward_hook(keep_shape) for module in model.modules()]
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
            "output": shapes.get(module),
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
