"""Costs: what they report, not how fast this machine is."""

import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from blaze_utils.detector import Blaze, BlazeBlock
from blaze_utils.measure import (
    compare,
    count_macs,
    count_operators,
    keep_heap,
    latency,
    operator_times,
    page_faults,
    stored_bytes,
)

SHORT = {"min_run_time": 0.02}
GLIBC = platform.libc_ver()[0] == "glibc"


def busy(seconds):
    """Spend CPU time, where ``time.sleep`` spends none."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_latency_is_the_time_of_one_call_in_milliseconds():
    asleep = latency(time.sleep, 0.005, min_run_time=0.1)
    assert 5 <= asleep.median_ms < 50
    assert asleep.cpu_ms < 2 and asleep.iqr_ms >= 0 and asleep.runs >= 2
    assert latency(busy, 0.005, min_run_time=0.1).cpu_ms >= 4.5


def test_latency_sets_the_threads_for_the_call_only_and_turns_gradients_off():
    seen = set()

    def note(x):
        seen.add((torch.get_num_threads(), torch.is_grad_enabled(), x))

    before = torch.get_num_threads()
    assert latency(note, "input", threads=3, **SHORT).threads == 3
    assert seen == {(3, False, "input")}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("measure", [latency, lambda model, x: compare({"a": model}, x)])
def test_a_model_in_training_mode_is_refused(measure):
    with pytest.raises(ValueError, match="Linear is in training mode"):
        measure(nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("threads, time_of", [(1, "cpu_ms"), (2, "median_ms")])
def test_compare_gives_one_row_each_with_the_ratio_to_the_first(threads, time_of):
    functions = {"short": lambda: busy(0.002), "long": lambda: busy(0.006)}
    table = compare(functions, threads=threads, rounds=3, min_run_time=0.05)
    assert list(table.index) == ["short", "long"]
    assert list(table.columns) == ["median_ms", "iqr_ms", "cpu_ms", "ratio", "runs", "faults"]
    times = table[time_of]
    assert table.ratio["short"] == 1.0
    assert table.ratio["long"] == times["long"] / times["short"] > 1
    assert (table.runs >= 3).all()


def test_compare_takes_turns_in_alternating_order():
    calls = []
    functions = {name: lambda name=name: (time.sleep(0.001), calls.append(name)) for name in "ab"}
    compare(functions, rounds=3, min_run_time=0.003)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    # Warm-up ab, then rounds ab, ba, ab; neighbours of one name run together.
    assert turns == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.parametrize("functions, rounds", [({}, 3), ({"a": time.time}, 0)])
def test_compare_needs_functions_and_rounds(functions, rounds):
    with pytest.raises(ValueError, match="expected functions and rounds"):
        compare(functions, rounds=rounds)


# Feature maps of 8 MB one after the other; in a process of its own, as a kept heap stays kept.
FRESH = """
import torch
from blaze_utils.measure import keep_heap, latency, operator_times, page_faults
def network():
    maps = [torch.empty(2**21).fill_(0) for _ in range(4)]
before = page_faults(network) or 0
kept = keep_heap()
for _ in range(3):
    network()
print(before, kept, page_faults(network) or 0)
latency(network, min_run_time=0.01)
operator_times(torch.nn.ReLU().eval(), torch.zeros(3))
"""


def test_a_kept_heap_has_no_page_faults_and_nothing_lands_on_stderr():
    run = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    before, kept, after = run.stdout.split()
    assert run.stderr == ""
    assert kept == str(GLIBC)
    if GLIBC:
        # A kernel with huge pages has few faults to begin with.
        assert int(after) < min(100, max(int(before), 1))


def test_elsewhere_the_heap_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_heap() is False


@pytest.mark.parametrize("large", [0, 3])
def test_page_faults_are_those_of_a_usual_call(large):
    """Neither a first call that takes memory nor one that the heap happens to grow in counts."""
    kept = []
    take = lambda: kept.append(np.ones(2 ** (25 if len(kept) == large else 10), np.uint8))  # noqa: E731
    faults = page_faults(take)
    assert len(kept) > large
    assert faults is None if sys.platform == "win32" else faults < 1000  # the large one: 8192 pages


def test_stored_bytes_is_the_size_of_the_file(tmp_path):
    model = nn.Linear(100, 50)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    # The archive repeats its own file name, so that sizes differ by a few letters.
    assert abs(stored_bytes(model) - (tmp_path / "model.pth").stat().st_size) < 200
    assert stored_bytes(model) > 4 * 5050


def test_macs_by_hand():
    convolution = nn.Conv2d(4, 8, 3, padding=1, groups=2)
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 5, 7))
    table = count_macs(model, torch.zeros(1, 4, 6, 5))
    assert list(table.index) == ["", "0", "1", "2", "3"]
    assert table.macs["0"] == (6 * 5) * 8 * (4 // 2) * 9
    assert table.macs["3"] == 240 * 7
    assert table.macs["1"] == 0
    assert table.macs[""] == table.macs["0"] + table.macs["3"]
    assert table.output["0"] == (1, 8, 6, 5) and table.kind["3"] == "Linear"
    assert table.parameters["3"] == 240 * 7 + 7


def test_macs_of_the_network_block_by_block():
    model = Blaze().eval()
    table = count_macs(model, torch.zeros(1, 3, 64, 96))
    children = [name for name, _ in model.named_children()]
    assert table.macs[""] == table.macs[children].sum() > 0
    assert table.macs[table.kind == "Conv2d"].sum() == table.macs[""]
    assert table.macs["conv2"] == (32 * 48) * (24 * 25 + 24 * 24)
    assert table.output["conv12"] == (1, 96, 4, 6)
    assert table.output[""] is None, "the network gives a tuple"
    # The heads at stride 8 see 8 x 12 cells, those at stride 16 4 x 6: 2 and 6 boxes of 4 values.
    depthwise = 96 * 9
    assert table.macs["loc"] == 96 * (depthwise + 96 * 8) + 24 * (depthwise + 96 * 24)
    assert (table.kind == BlazeBlock.__name__).sum() == 11
    assert not any(module._forward_hooks for module in model.modules())


def test_macs_leave_the_model_without_hooks_after_an_error():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        count_macs(model, torch.zeros(1, 5))
    assert not any(module._forward_hooks for module in model.modules())


def test_operators_are_counted_and_timed():
    model, x = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.ReLU()), torch.zeros(1, 8, 64, 64)
    counts = count_operators(model, x)
    assert counts["aten::relu"] == 2 and counts["aten::conv2d"] == 1
    assert counts.index[0] in counts.index[counts == counts.max()]
    before = torch.get_num_threads()
    times = operator_times(model, x, runs=3)
    assert "convolution" in times.index[0] or "conv2d" in times.index[0]
    assert times.is_monotonic_decreasing and set(times.index) == set(counts.index)
    assert torch.get_num_threads() == before
