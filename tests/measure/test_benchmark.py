"""Benchmarks: what they report, not how fast this machine is."""
import time

import pytest
import torch
from torch import nn

from blaze_utils.measure.cost import compare, count_macs, count_operators, latency, stored_bytes
from blaze_utils.detector.model import Blaze, BlazeBlock

SHORT = {"min_run_time": 0.02}


def test_latency_is_the_time_of_one_call_in_milliseconds():
    result = latency(time.sleep, 0.005, min_run_time=0.1)
    assert 5 <= result.median_ms < 50
    assert result.iqr_ms >= 0 and result.runs >= 2


def test_latency_sets_the_threads_for_the_call_only_and_turns_gradients_off():
    seen = set()

    def note(x):
        seen.add((torch.get_num_threads(), torch.is_grad_enabled(), x))

    before = torch.get_num_threads()
    assert latency(note, "input", threads=3, **SHORT).threads == 3
    assert seen == {(3, False, "input")}
    assert torch.get_num_threads() == before


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="Linear is in training mode"):
        latency(nn.Linear(2, 2), torch.zeros(1, 2), **SHORT)
    with pytest.raises(ValueError, match="training mode"):
        compare({"a": nn.Linear(2, 2)}, torch.zeros(1, 2), **SHORT)


def test_compare_gives_one_row_each_with_the_ratio_to_the_first():
    functions = {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}
    table = compare(functions, rounds=3, min_run_time=0.05)
    assert list(table.index) == ["short", "long"]
    assert list(table.columns) == ["median_ms", "iqr_ms", "ratio", "runs"]
    assert table.ratio["short"] == 1.0
    assert table.ratio["long"] == table.median_ms["long"] / table.median_ms["short"] > 1
    assert (table.runs >= 3).all()


def test_compare_takes_turns_in_alternating_order():
    calls = []
    compare({name: lambda name=name: (time.sleep(0.001), calls.append(name)) for name in "ab"},
            rounds=3, min_run_time=0.003)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns == ["a", "b", "a", "b"]  # rounds ab, ba, ab; neighbours of one name run together


@pytest.mark.parametrize("functions, rounds", [({}, 3), ({"a": time.time}, 0)])
def test_compare_needs_functions_and_rounds(functions, rounds):
    with pytest.raises(ValueError, match="expected functions and rounds"):
        compare(functions, rounds=rounds)


def test_stored_bytes_is_the_size_of_the_file(tmp_path):
    model = nn.Linear(100, 50)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    # The archive repeats its own file name, so that sizes differ by a few letters.
    assert abs(stored_bytes(model) - (tmp_path / "model.pth").stat().st_size) < 200
    assert stored_bytes(model) > 4 * 5050


def test_macs_by_hand():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(),
                          nn.Linear(8 * 6 * 5, 7))
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


def test_operators_are_counted():
    counts = count_operators(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Sigmoid()), torch.zeros(3))
    assert counts["aten::relu"] == 2 and counts["aten::sigmoid"] == 1
    assert counts.index[0] in counts.index[counts == counts.max()]
