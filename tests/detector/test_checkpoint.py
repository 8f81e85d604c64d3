"""Float checkpoints: what loads, what is refused, and what the errors say."""

import os
import pickle

import pytest
import torch
from torch import nn

from blaze_utils.detector.checkpoint import CheckpointError, load_float, save_float
from blaze_utils.detector.model import Blaze
from maintainers.train import initialise


@pytest.fixture
def model():
    return initialise(Blaze(), seed=3).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_round_trip(model, path):
    save_float(model, path)
    loaded = load_float(path)
    assert same_weights(loaded, model)
    assert not loaded.training
    assert list(path.parent.iterdir()) == [path]


def test_stored_tensors_are_contiguous(model, path):
    save_float(model, path)
    plain = path.read_bytes()
    save_float(model.to(memory_format=torch.channels_last), path)
    assert all(t.is_contiguous() for t in torch.load(path, weights_only=True).values())
    assert path.read_bytes() == plain


def test_a_failed_save_leaves_the_old_file(model, path, monkeypatch):
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        save_float(model, path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_prefix_and_wrapper(model, path):
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    for content in (weights, {"state_dict": weights, "epoch": 3}):
        torch.save(content, path)
        assert same_weights(load_float(path), model)


def test_model_factory(path):
    torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, path)
    assert load_float(path, lambda: nn.Linear(2, 1)).weight.tolist() == [[1, 1]]


def test_missing_file(path):
    with pytest.raises(CheckpointError, match="model.pth: no such file"):
        load_float(path)


@pytest.mark.parametrize("kept", [0, 100, 20_000, 700_000])
def test_file_cut_short(model, path, kept):
    save_float(model, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model.pth: damaged"):
        load_float(path)


@pytest.mark.parametrize("content", [b"hello", b"<html>404</html>\n", bytes(range(256)) * 8])
def test_files_of_another_kind(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.pth: .*no checkpoint"):
        load_float(path)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, 2))])
def test_a_pickle_that_runs_code_is_refused(path, tmp_path, write):
    folder = tmp_path / "made by the pickle"
    write({"conv1.0.weight": Malicious(folder)}, path)
    with pytest.raises(CheckpointError, match="model.pth: refused.*mkdir") as caught:
        load_float(path)
    assert not folder.exists()
    assert "weights_only" not in str(caught.value)  # no advice to load it unsafely


def test_a_whole_model_is_refused(path):
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="model.pth: refused.*Linear"):
        load_float(path)


def test_another_networks_weights(path):
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"conv1.0.weight: .*\[24, 3, 3, 3\].*nothing"):
        load_float(path)


def test_another_shape(model, path):
    weights = model.state_dict() | {"conv2.conv.0.0.weight": torch.zeros(24, 1, 3, 3)}
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"conv2.conv.0.0.weight: .*5, 5\].*3, 3\]$"):
        load_float(path)


def test_a_key_too_many(model, path):
    torch.save(model.state_dict() | {"conv13.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"conv13.weight: .*has nothing, the file \[2\]"):
        load_float(path)


def test_not_finite(model, path):
    weights = model.state_dict()
    weights["loc.0.2.bias"][1] = torch.nan
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="loc.0.2.bias holds NaN"):
        load_float(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"epoch": 3}, {1: torch.zeros(1)}])
def test_no_weights(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="model.pth: "):
        load_float(path)
