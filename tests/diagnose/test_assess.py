"""assess: every way is a row, the verdict follows its rule, the file loads without this package."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.ao.quantization as tq
from torch import nn

from blaze_utils.__main__ import main
from blaze_utils.diagnose import assess
from blaze_utils.diagnose.assess import WAYS, Bench, decide
from blaze_utils.int8.pt2e import lowering_obstacle

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="no x86"),
]
X = [torch.rand(1, 3, 32, 32, generator=torch.manual_seed(number)) for number in range(4)]
QUICK = ("float, as it is", "float, traced and frozen", "int8, eager", "int8, dynamic")


def network(stubs=True):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()
    layers += (nn.Linear(12544, 10),)
    return nn.Sequential(*([tq.QuantStub(), *layers, tq.DeQuantStub()] if stubs else layers))


@pytest.fixture
def quick(monkeypatch):
    torch.backends.quantized.engine = "x86"
    for name in set(WAYS) - set(QUICK):
        monkeypatch.delitem(WAYS, name)


def test_every_way_is_a_row_and_the_file_needs_nothing_of_ours(quick, tmp_path):
    def broken(bench):
        raise RuntimeError("no such way. At all\nand more")

    WAYS["int8, broken"] = broken
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = assess(model, X, tmp_path, min_run_time=0.05)
    del WAYS["int8, broken"]
    assert list(found.ways.index) == [*QUICK, "int8, broken"]
    assert found.ways.why_not["int8, broken"] == "no such way"
    assert (
        found.ways.decibels["int8, eager"] > 20 and found.ways.decibels["float, as it is"] == np.inf
    )
    assert (
        found.ways.megabytes["int8, eager"] < 0.4 * found.ways.megabytes["float, traced and frozen"]
    )
    assert found.ways.same_class.dropna().between(0, 1).all() and len(found.worst) == 3
    assert "random weights?" in found.about and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    text, page, data = repr(found), found._repr_html_(), json.loads(found.to_json())
    assert found.verdict in text and found.verdict in page and data["verdict"] == found.verdict
    assert data["ways"]["int8, broken"]["ratio"] is None
    file = found.ways.file["int8, eager"]
    assert outputs_elsewhere(file, tmp_path, "torch.jit.load").equal(torch.jit.load(file)(X[0])[0])


def outputs_elsewhere(file, folder, load):
    """The first output for the first input, of a file in a process that cannot import ours."""
    torch.save(X[0], folder / "x.pt")
    run = [sys.executable, "-W", "ignore", "-I", "-c", LOADS, file, folder, load]
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    return torch.load(folder / "y.pt")


LOADS = """
import operator, sys
import torch
sys.modules["blaze_utils"] = sys.modules["torchao"] = None
file, folder, load = sys.argv[1:]
with torch.no_grad():
    y = operator.attrgetter(load[6:])(torch)(file)(torch.load(folder + "/x.pt"))
torch.save(y[0].clone(), folder + "/y.pt")
"""


@pytest.mark.skipif(bool(lowering_obstacle()), reason=str(lowering_obstacle()))
def test_a_compiled_file_gives_the_same_in_another_process(tmp_path):
    with torch.no_grad():
        bench = Bench(network(stubs=False).eval(), X, tmp_path, 1)
        load, file = bench.pt2e()
        expected = load()(X[0])[0]
        assert bench.quality(load())[0]["output 0"] > 20
    assert outputs_elsewhere(file, tmp_path, "torch._inductor.aoti_load_package").equal(expected)


def test_the_command(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readers_network.py").write_text(
        "from torch import nn\ndef network():\n    return nn.Sequential(nn.Conv2d(3, 8, 3))\n"
    )
    command = ["assess", "readers_network:network", "--input", "1x3x16x16", "--json"]
    assert main([*command, "--output", str(tmp_path / "files")]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["about"] == "Sequential, 16 inputs [1, 3, 16, 16]"
    assert found["verdict"] == "Stay in float: no way to int8 works." and found["file"] is None
    assert "NO_STUBS" in found["ways"]["int8, eager"]["why_not"]
    assert "no --images: random inputs" in captured.err
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["float.pt"]


def test_a_model_without_stubs_says_what_diagnose_finds(quick, tmp_path):
    found = assess(network(stubs=False).eval(), X[0], tmp_path, min_run_time=0.05)
    assert "diagnose has" in found.ways.why_not["int8, eager"]
    with pytest.raises(ValueError, match="inputs: expected tensors, all of one shape"):
        assess(network(), [X[0], X[0][..., 1:]])


def test_where_it_hurts_is_measured_layer_by_layer(tmp_path):
    model = network(stubs=False).eval()
    model[3].weight.data[:, 0] *= 300  # one channel sets the scale of all
    with torch.no_grad():
        bench = Bench(model, X, tmp_path, 1)
        assert bench.alone("3") < bench.alone("0") - 5
        assert bench.quality(bench.flat)[0] == {"output 0": np.inf}
        assert bench.attempt(silent)[0] == {"why_not": "AssertionError in silent"}


def silent(bench):
    raise AssertionError


def ways(**rows):
    columns = ["ratio", "decibels", "same_class", "megabytes", "file"]
    index = [name.replace("_", " ") for name in rows]
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


@pytest.mark.parametrize(
    "verdict, rows",
    [
        ("Take 'int8 b': ≈ 0.50 of the time of 'float b'", {
            "int8_a": (0.3, 12, 1, 1, "a"), "int8_b": (0.4, 30, 1, 1, "b")}),
        ("Stay in float, because the fastest way that keeps the outputs, 'int8 a', takes ≈ 1.00", {
            "int8_a": (0.8, 30, 1, 1, "a")}),
        ("because no way keeps the outputs: the best, int8 a, has ≈ 12 dB", {
            "int8_a": (0.3, 12, 1, 1, "a"), "int8_b": (0.3, 11, 1, 1, "b")}),
        ("because no way keeps the outputs", {"int8_a": (0.3, 30, 0.9, 1, "a")}),
        ("the best, int8 a, has ≈ nan dB", {"int8_a": (0.3, np.nan, np.nan, 1, "a")}),
        ("no way to int8 works", {"int8_a": (np.nan, np.nan, np.nan, np.nan, None)}),
    ],
)  # fmt: skip
def test_the_verdict_follows_its_rule(verdict, rows):
    floats = {"float_a": (1.0, np.inf, 1, 4, None), "float_b": (0.8, 99, 1, 4, None)}
    said, file = decide(ways(**floats, **rows))
    assert verdict in said and file == ("b" if said.startswith("Take") else None)
