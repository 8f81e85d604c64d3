"""The command line: what it makes, what it prints, and how it refuses."""

import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from blaze_utils import __main__, detector, int8, plots
from blaze_utils.__main__ import CHECKPOINT, DATA, main
from blaze_utils.data import FaceFolder, read_image

SCENES = FaceFolder(DATA / "val")


@pytest.fixture(autouse=True)
def settings_as_before():
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.backends.quantized.engine = engine
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path):
    """A folder with two photographs, one of them in a folder below."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, index in (("a.jpg", 0), ("sub/a.jpg", 1)):
        shutil.copy(SCENES.root / SCENES.names[index], tmp_path / "photos" / name)
    return tmp_path / "photos"


def spoil(photos):
    """Add three files that are no photographs; returns their names."""
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:2000])
    (photos / "empty.png").write_bytes(b"")
    (photos / "telephone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    return ["cut.jpg", "empty.png", "telephone.heic"]


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    """An int8 file under a name that says nothing."""
    path = tmp_path_factory.mktemp("int8") / "model.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = int8.quantize_static(detector.load_float(CHECKPOINT), [SCENES[0].image])
    int8.save_int8(model, path)
    return path


def call(capsys, *arguments):
    """Exit status, stdout and the lines of stderr, without the progress bars."""
    status, (out, err) = main([str(one) for one in arguments]), capsys.readouterr()
    return status, out, [line for line in err.splitlines() if line.startswith("blaze_utils: ")]


def refused(capsys, *arguments):
    """The one line that a command prints when it ends with status 1."""
    status, out, lines = call(capsys, *arguments)
    assert status == 1 and out == "" and len(lines) == 1
    return lines[0].removeprefix("blaze_utils: error: ")


def test_detect_prints_the_faces_and_draws_them_into_copies(photos, tmp_path, capsys):
    __main__.write_picture(photos / "grey.png", np.full((40, 40, 3), 128, np.uint8))
    status, out, lines = call(capsys, "detect", photos, "--output", tmp_path / "found")
    assert status == 0 and lines == [f"blaze_utils: 3 pictures in {tmp_path / 'found'}"]
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["score", "x1", "y1", "x2", "y2", "image"] and ["-", "grey.png"] in rows
    found = detector.detect(detector.load_float(CHECKPOINT), SCENES[1].image, score_threshold=0.5)
    shown = np.array([row[:5] for row in rows if row[-1] == "sub/a.jpg"], float)
    np.testing.assert_allclose(shown[:, 0], found.scores, atol=6e-4)
    np.testing.assert_allclose(shown[:, 1:], found.boxes, atol=0.06)
    for name in ("a.jpg", "sub/a.jpg"):
        copy = read_image(tmp_path / "found" / f"{name}.png").astype(int)
        assert 0 < (copy != read_image(photos / name)).any(axis=2).mean() < 0.5


def test_what_cannot_be_read_is_named_and_the_rest_is_done(photos, tmp_path, capsys):
    names = [*spoil(photos), "missing.jpg", "void"]
    (tmp_path / "void").mkdir()
    inputs = [photos, tmp_path / "missing.jpg", tmp_path / "void"]
    status, out, lines = call(capsys, "detect", *inputs, "--output", tmp_path / "found")
    assert status == 1 and "a.jpg" in out and "sub/a.jpg" in out
    assert [sum(name in line for line in lines[1:]) for name in names] == [1] * 5
    assert len(list((tmp_path / "found").rglob("*.*"))) == 2


def test_the_file_says_whether_a_detector_is_int8_not_its_name(photos, tmp_path, int8_file, capsys):
    boxes, colours = [], []
    for checkpoint in (CHECKPOINT, int8_file):
        arguments = ["detect", photos / "a.jpg", "--checkpoint", checkpoint]
        out = call(capsys, *arguments, "--output", tmp_path / "found")[1]
        boxes.append(np.array(out.splitlines()[1].split()[1:5], float))
        pixels = read_image(tmp_path / "found" / "a.jpg.png")[..., ::-1].reshape(-1, 3)
        named = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (plots.FLOAT, plots.INT8)]
        colours.append([(pixels == colour).all(axis=1).sum() for colour in named])
    assert 0 < np.abs(boxes[0] - boxes[1]).max() < 10
    assert colours[0][0] > 50 > colours[0][1] and colours[1][1] > 50 > colours[1][0]


def test_copies_never_replace_a_photograph_or_each_other(photos, tmp_path, capsys):
    assert "holds photographs" in refused(capsys, "detect", photos, "--output", photos)
    assert "holds photographs" in refused(capsys, "detect", photos, "--output", tmp_path)
    call(capsys, "detect", *photos.rglob("a.jpg"), "--output", tmp_path / "found")
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["_a.jpg.png", "a.jpg.png"]


def test_evaluate_prints_ap(tmp_path, int8_file, capsys):
    labels = (DATA / "val" / "label.txt").read_text(encoding="utf-8").split("# ")[1:3]
    for label in labels:
        shutil.copy(SCENES.root / label.split()[0], tmp_path)
    (tmp_path / "label.txt").write_text("".join(f"# {label}" for label in labels))
    status, out, _ = call(capsys, "evaluate", tmp_path, "--checkpoint", int8_file)
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and rows[0][:2] == ["2", "images"]
    assert [row[1] for row in rows[1:]] == ["easy", "medium", "hard"]
    assert all(0.5 < float(row[2]) <= 1 for row in rows[1:])
    assert "label.txt" in refused(capsys, "evaluate", tmp_path / "nowhere")


def test_quantize_stores_an_int8_file_and_compares(photos, tmp_path, capsys):
    names, output = spoil(photos), tmp_path / "new" / "small.safetensors"
    status, out, lines = call(capsys, "quantize", photos, "--output", output)
    assert status == 1 and [sum(name in line for line in lines) for name in names] == [1] * 3
    assert __main__.holds_int8(output) and not int8.load_int8(output).training
    assert f"-> {output.stat().st_size:,}" in out and 0.8 < float(out.split()[-1]) <= 1


def test_quantize_writes_a_file_for_a_runtime(photos, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    output = tmp_path / "small.onnx"
    status, out, _ = call(capsys, "quantize", photos, "--to", "onnx", "--output", output)
    assert status == 0 and [path.name for path in tmp_path.glob("*.onnx")] == ["small.onnx"]
    assert f"-> {output.stat().st_size:,}" in out and 0.8 < float(out.split()[-1]) <= 1
    assert "ends in .pt2" in refused(capsys, "quantize", "--to", "pt2", "--output", output)


def test_quantize_says_why_it_does_not(photos, tmp_path, int8_file, capsys):
    quantize = ["quantize", photos, "--output", tmp_path / "a"]
    assert "int8 already" in refused(capsys, *quantize, "--checkpoint", int8_file)
    assert "is a folder" in refused(capsys, "quantize", photos, "--output", photos)
    assert "'tpu'" in refused(capsys, *quantize, "--engine", "tpu")
    for path in photos.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:2000])
    status, _, lines = call(capsys, *quantize)
    assert status == 1 and len(lines) == 3 and not (tmp_path / "a").exists()


def test_diagnose_a_model_of_the_readers(tmp_path, monkeypatch, capsys):
    (tmp_path / "readers_models.py").write_text("from torch import nn\nconv = nn.Conv2d(3, 3, 1)")
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(capsys, "diagnose", "readers_models:conv", "--input", "1x3x8x8")
    assert status == 1 and "NO_STUBS" in out
    assert "'no_such'" in refused(capsys, "diagnose", "no_such:model")
    assert "no attribute 'none'" in refused(capsys, "diagnose", "readers_models:none")


@pytest.mark.parametrize("command", ["evaluate", "detect", "quantize"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\0" * 8 + b"{damaged blaze_utils"])
def test_a_checkpoint_that_is_none_is_named(command, content, photos, tmp_path, capsys):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    assert "bad.pth" in refused(capsys, command, photos, "--checkpoint", path)


def test_a_full_disk_leaves_nothing_behind(photos, tmp_path, capsys, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(__main__.Path, "replace", full)
    status, _, lines = call(capsys, "detect", photos, "--output", tmp_path / "made")
    assert status == 1 and lines[-1].endswith("a.jpg.png: No space left on device")
    assert [path for path in (tmp_path / "made").rglob("*") if path.is_file()] == []


def test_no_traceback_and_no_word_from_opencv(photos, tmp_path):
    spoil(photos)
    command = [sys.executable, "-m", "blaze_utils", "detect", photos, "--output", tmp_path / "made"]
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "a.jpg" in done.stdout
    assert all(line.startswith("blaze_utils: ") for line in lines) and len(lines) == 4
