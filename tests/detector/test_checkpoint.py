"""Float checkpoints as they are in the world: what loads, what is refused, and what is said."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from blaze_utils.detector import Blaze, CheckpointError, QuantizableBlaze, load_float, save_float

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(is deprecated|are deprecated|pickle protocol):Warning"
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Blaze().eval()


@pytest.fixture(scope="module")
def weights(model):
    return model.state_dict()


def prefixed(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


def without_counts(weights):
    return {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}


def half_compiled(weights):
    return {name.replace("conv7.", "conv7._orig_mod."): value for name, value in weights.items()}


def averaged(weights):
    return {"n_averaged": torch.tensor(7), **prefixed(weights, "module.")}


OTHER = {"weight": torch.zeros(2)}

# What is stored, made from the weights of a Blaze. All of them load, and equal the original.
SAME = {
    "as it is": dict,
    "ordered": collections.OrderedDict,
    "DataParallel": lambda w: prefixed(w, "module."),
    "twice": lambda w: prefixed(w, "module.module."),
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "compiled and parallel": lambda w: prefixed(w, "module._orig_mod."),
    "compiled in part": half_compiled,
    "Lightning": lambda w: {"state_dict": prefixed(w, "model."), "epoch": 3, "callbacks": {}},
    "within another network": lambda w: {**prefixed(w, "net.blaze."), "loss.weight": torch.ones(2)},
    "AveragedModel": averaged,
    "PyTorch's tutorial": lambda w: {"epoch": 3, "model_state_dict": w, "loss": 0.4},
    "with an optimizer": lambda w: {
        "optimizer": {"state": {0: OTHER}, "param_groups": []},
        "net": w,
    },
    "state_dict": lambda w: {"state_dict": w, "best": True},
    "ema": lambda w: {"ema": prefixed(w, "module."), "updates": 9},
    "an int beside": lambda w: {**w, "epoch": 3},
    "no counts": without_counts,
    "no counts, wrapped": lambda w: {"model": prefixed(without_counts(w), "module.")},
    "parameters": lambda w: {k: nn.Parameter(v, v.is_floating_point()) for k, v in w.items()},
    "float64": lambda w: {k: v.double() for k, v in w.items()},
    "channels last": lambda w: {
        k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in w.items()
    },
}


@pytest.mark.parametrize("case", SAME)
def test_loads_and_equals_the_original(tmp_path, weights, case):
    path = tmp_path / "model.pth"
    zipped = case not in ("as it is", "compiled", "Lightning")  # the others as before PyTorch 1.6
    torch.save(SAME[case](weights), path, _use_new_zipfile_serialization=zipped)
    loaded = load_float(path)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_safetensors_load_whatever_the_file_is_called(tmp_path, weights):
    for case in ("as it is", "compiled", "AveragedModel", "no counts"):
        save_file(SAME[case](weights), tmp_path / "model.pth", {"format": "pt"})
        loaded = load_float(tmp_path / "model.pth").state_dict()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_half_precision_is_widened(tmp_path, weights):
    torch.save({k: v.half() if v.ndim else v for k, v in weights.items()}, tmp_path / "a.pth")
    loaded = load_float(tmp_path / "a.pth").state_dict()
    torch.testing.assert_close(loaded, weights, rtol=1e-3, atol=1e-3)
    assert loaded["conv1.0.weight"].dtype == torch.float32


def test_of_several_sets_that_fit_one_is_taken_and_named(tmp_path, weights):
    ema = {name: torch.ones_like(value) for name, value in weights.items()}
    torch.save({"model": weights, "ema": ema}, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"the first is taken: \['model: \*', 'ema: \*'\]"):
        assert torch.equal(
            load_float(tmp_path / "a.pth").conv1[0].weight, weights["conv1.0.weight"]
        )


class Malicious:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("made by the pickle",)


def torch_save(content):
    return lambda path, weights: torch.save(content(weights), path)


def raw(content):
    return lambda path, weights: path.write_bytes(content)


def cut(kept, write=torch.save):
    def write_and_cut(path, weights):
        write(weights, path)
        path.write_bytes(path.read_bytes()[:kept])

    return write_and_cut


def zipped(*names):
    def write(path, weights):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")

    return write


def our_int8(path, weights):
    save_file({"weights": torch.zeros(3, dtype=torch.int8)}, path, {"blaze_utils int8 1": "{}"})


def scripted(path, weights):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2)), str(path))


def exported(path, weights):
    torch.export.save(torch.export.export(nn.Linear(2, 1), (torch.zeros(1, 2),)), str(path))


# How the file is written, and what is said about it.
REFUSED = {
    "missing": (lambda path, weights: None, "no such file"),
    "a folder": (lambda path, weights: path.mkdir(), "a folder"),
    "empty": (raw(b""), "an empty file; expected a PyTorch checkpoint or a safetensors file"),
    "text": (raw(b"hello"), "text; expected"),
    "a web page": (raw(b"<html>404</html>\n"), "an HTML page .the download went wrong"),
    "Git LFS": (raw(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
    "an image": (raw(b"\xff\xd8\xff\xe0" + bytes(20)), "a JPEG image; expected"),
    "JSON": (raw(b'{"weight_map": {}}'), "JSON; expected"),
    "ONNX": (raw(b"\x08\x0a\x12\x07pytorch"), "an ONNX model; expected"),
    "TensorFlow Lite": (raw(b"\x1c\0\0\0TFL3" + bytes(9)), "a TensorFlow Lite model"),
    "Keras": (raw(b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
    "gzip": (raw(b"\x1f\x8b\x08\0"), "a packed archive"),
    "any bytes": (raw(bytes(range(1, 256)) * 8), "a file of unknown kind"),
    "npy": (lambda path, weights: np.save(path.open("wb"), np.zeros(3)), "a NumPy array; expected"),
    "npz": (lambda path, weights: np.savez(path.open("wb"), a=np.zeros(3)), "NumPy arrays .*npz"),
    "a zip": (zipped("notes.txt", "b"), r"a zip archive without weights \(in it: notes.txt, b\)"),
    "TorchScript": (scripted, "a TorchScript program, which holds code; expected"),
    "torch.export": (exported, "a program of torch.export; expected"),
    "our int8": (our_int8, "an int8 model, which load_int8 reads; expected"),
    **{f"cut at {n}": (cut(n), "a zip archive, .* damaged or cut short") for n in (9, 700_000)},
    "safetensors, cut": (cut(9000, save_file), "a safetensors file, but damaged, cut short"),
    "safetensors, cut in the header": (cut(900, save_file), "a safetensors file, but damaged"),
    "old format, cut": (
        cut(90_000, lambda w, p: torch.save(w, p, _use_new_zipfile_serialization=False)),
        "a Python pickle, but damaged, cut short",
    ),
    "code": (torch_save(lambda w: {"a": Malicious()}), r"refused: .*\(posix.mkdir|nt.mkdir\)"),
    "code, plain": (raw(pickle.dumps(Malicious(), 2)), r"refused: .*\(posix.mkdir|nt.mkdir\)"),
    "a whole model": (
        torch_save(lambda w: nn.Linear(2, 2)),
        r"refused: .*\(torch.*Linear\).*state_dict",
    ),
    "a plain pickle": (raw(pickle.dumps({"a": 1})), "a Python pickle, but damaged, .*not of named"),
    "NumPy": (torch_save(lambda w: {"a": np.zeros(3)}), r"refused: .*numpy.*_reconstruct"),
    "a list": (torch_save(lambda w: [w["loc.0.2.bias"]]), "holds a list, expected named tensors"),
    "a tensor": (torch_save(lambda w: w["loc.0.2.bias"]), "holds a Tensor, expected named tensors"),
    "nothing": (torch_save(lambda w: {}), r"holds no weights \(in it: nothing\)"),
    "no weights": (torch_save(lambda w: {"epoch": 3}), r"holds no weights \(in it: epoch\)"),
    "two levels down": (torch_save(lambda w: {"a": {"b": w}}), r"no weights \(in it: a\)"),
    "another network": (
        torch_save(lambda w: nn.Linear(2, 2).state_dict()),
        r"217 of its 255 names are missing \(conv1.0.weight, conv1.1.weight, conv1.1.bias, and "
        r"214 more\); the file has 2 \(weight, bias\)",
    ),
    "a part": (
        torch_save(lambda w: prefixed({k: w[k] for k in w if "conv1." in k}, "backbone.")),
        r"212 of its 255 names are missing .* the file has 6 \(backbone.conv1.0.weight, ",
    ),
    "another spelling": (
        torch_save(lambda w: {k.replace("loc", "bbox"): v for k, v in w.items()}),
        r"8 of its 255 names are missing \(loc.0.0.weight, .*the file has 255 \(bbox.0.0.weight",
    ),
    "one more": (
        torch_save(lambda w: {**w, "conv13.weight": w["loc.0.2.bias"]}),
        r"the file has names that the network has not \(conv13.weight\)",
    ),
    "another shape": (
        torch_save(lambda w: {**w, "conv2.conv.0.0.weight": torch.zeros(24, 1, 3, 3)}),
        r"conv2.conv.0.0.weight: the network has float32 .*, 5, 5\], the file float32 .*, 3, 3\]$",
    ),
    "integers": (
        torch_save(lambda w: {**w, "loc.0.2.bias": torch.zeros(8, dtype=torch.int8)}),
        r"loc.0.2.bias: the network has float32 \[8\], the file int8 \[8\]$",
    ),
    "int8": (
        torch_save(
            lambda w: {**w, "a": torch.quantize_per_tensor(torch.ones(1), 1, 0, torch.qint8)}
        ),
        "they are int8, of a converted model",
    ),
    "NaN": (
        torch_save(lambda w: {**w, "loc.0.2.bias": torch.full((8,), torch.nan)}),
        "loc.0.2.bias holds NaN",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(tmp_path, weights, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, reason = REFUSED[case]
    path = tmp_path / "model.pth"
    write(path, weights)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_float(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "weights_only" not in message, "no advice to load it unsafely"
    assert not (tmp_path / "made by the pickle").exists()


def test_another_class_is_filled_too(tmp_path, weights):
    save_float(QuantizableBlaze(), tmp_path / "a.pth")
    assert type(load_float(tmp_path / "a.pth", QuantizableBlaze)) is QuantizableBlaze
    torch.save(
        {"head.0.weight": torch.ones(1, 2), "head.0.bias": torch.zeros(1)}, tmp_path / "b.pth"
    )
    loaded = load_float(tmp_path / "b.pth", lambda: nn.Sequential(nn.Linear(2, 1)))
    assert loaded[0].weight.tolist() == [[1, 1]]


def test_the_same_weights_make_the_same_plain_file(tmp_path, model):
    save_float(model, tmp_path / "a.pth")
    last = load_float(tmp_path / "a.pth").to(memory_format=torch.channels_last)
    save_float(last, tmp_path / "b.pth")
    assert (tmp_path / "b.pth").read_bytes() == (tmp_path / "a.pth").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "b.pth"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, model, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_float(model, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.pth"]
