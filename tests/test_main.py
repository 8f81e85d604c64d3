"""The command line: what it makes, what it prints, and how it refuses."""

import argparse
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from test_widerface import write_mats

from blaze_utils import __main__, files, plots
from blaze_utils.__main__ import CHECKPOINT, COMMANDS, main, parser
from blaze_utils.detector.checkpoint import load_float
from blaze_utils.int8.int8_file import load_int8, save_int8
from blaze_utils.commands import pictures
from blaze_utils.data.datasets import FaceFolder, draw_dataset, read_image
from blaze_utils.int8.eager import quantize_static

SCENES = FaceFolder(CHECKPOINT.parents[1] / "val")


@pytest.fixture(autouse=True)
def settings_as_before():
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.backends.quantized.engine = engine
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path):
    """A folder with two photographs that can be read, one of them in a folder below."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, index in (("a.jpg", 0), ("sub/a.jpg", 1)):
        shutil.copy(SCENES.root / SCENES.names[index], tmp_path / "photos" / name)
    return tmp_path / "photos"


def spoil(photos):
    """Add three files that are no photographs."""
    data = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(data[: len(data) // 2])
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.webp").write_bytes(b"no image")


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    """An int8 file under a name that says nothing."""
    engine = torch.backends.quantized.engine
    path = tmp_path_factory.mktemp("int8") / "model.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_int8(quantize_static(load_float(CHECKPOINT), [SCENES[0].image]), path)
    torch.backends.quantized.engine = engine
    return path


def call(capsys, *arguments):
    """Exit status, stdout and the lines of stderr, without the progress bars."""
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, [line for line in err.splitlines() if line.startswith("blaze_utils: ")]


def refused(capsys, *arguments):
    """The one line that a command prints when it ends with status 1."""
    status, out, lines = call(capsys, *arguments)
    assert status == 1 and out == "" and len(lines) == 1
    assert lines[0].startswith("blaze_utils: error: ")
    return lines[0]


def test_every_example_in_the_help_can_be_parsed():
    for module in COMMANDS.values():
        options = parser().parse_args(shlex.split(module.EXAMPLE.replace("\\\n", "")))
        assert options.run is module.run


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_no_default_that_is_none(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and f"python -m blaze_utils {name} " in shown.split("example:")[1]
    assert "--json" in shown and "None" not in shown and "False" not in shown


@pytest.mark.parametrize("arguments", [
    ["quantize", "--images", "0"], ["detect", "a.jpg", "--score-threshold", "nan"],
    ["detect", "a.jpg", "--every", "x"], ["draw", "x", "--count", "1", "--seed", "1", "--quality",
    "101"], ["diagnose", "m:f", "--input", "1x"],
    ["evaluate", "--submission", "a", "--results", "b"],
])
def test_wrong_options_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err


# draw and train

def test_draw_makes_a_folder_that_can_be_read_back(tmp_path, capsys):
    arguments = ["draw", tmp_path / "scenes", "--count", 2, "--seed", 9, "--workers", 1]
    status, out, _ = call(capsys, *arguments)
    folder = FaceFolder(tmp_path / "scenes")
    assert status == 0 and "2 scenes" in out
    assert len(folder) == 2 and folder[0].image.shape == (256, 320, 3)
    assert json.loads(call(capsys, *arguments, "--json")[1])["scenes"] == 2


def test_train_stores_a_checkpoint_with_its_log_and_its_recipe(tmp_path, capsys):
    output = tmp_path / "out" / "small.pth"
    arguments = ["train", "--data", tmp_path / "scenes", "--scenes", 2, "--steps", 2]
    arguments += ["--workers", 1, "--batch-size", 2, "--loaders", 0, "--output", output, "--json"]
    status, out, _ = call(capsys, *arguments)
    assert status == 0 and load_float(output).training is False
    assert output.with_suffix(".csv").read_text().startswith("step,loss")
    recipe = json.loads(output.with_suffix(".json").read_text())
    assert recipe["steps"] == 2 and recipe["scenes"] == 2 and recipe["data_seed"] == 1
    assert recipe.items() <= json.loads(out).items()
    assert not output.with_suffix(".resume").exists()


def test_train_on_labelled_images_of_ones_own_from_a_checkpoint(tmp_path, capsys):
    own = tmp_path / "own"
    draw_dataset(own, 2, seed=4, workers=1, progress=False)
    (own / "drawn.json").unlink()
    output = tmp_path / "own.pth"
    arguments = ["train", "--data", own, "--start", CHECKPOINT, "--steps", 1, "--batch-size", 2]
    arguments += ["--loaders", 0, "--peak-lr", 1e-9, "--output", output]
    status, out, _ = call(capsys, *arguments)
    recipe = json.loads(output.with_suffix(".json").read_text())
    assert status == 0 and "own.pth" in out
    assert recipe["images"] == 2 and recipe["data"] == str(own) and "scenes" not in recipe
    for stored, start in zip(load_float(output).parameters(), load_float(CHECKPOINT).parameters()):
        torch.testing.assert_close(stored, start)


def test_train_refuses_before_it_works(tmp_path, photos, capsys):
    train = ["train", "--steps", 1, "--loaders", 0, "--data"]
    assert "is a folder" in refused(capsys, *train, photos, "--output", tmp_path)
    output = ["--output", tmp_path / "a.pth"]
    assert "without labels" in refused(capsys, *train, photos, *output)
    assert "'quark'" in refused(capsys, *train, photos, *output, "--device", "quark")
    assert not (tmp_path / "a.pth").exists()


# detect

def test_detect_prints_the_faces_and_draws_them_into_copies(photos, tmp_path, capsys):
    status, out, lines = call(capsys, "detect", photos, "--output", tmp_path / "found")
    assert status == 0 and lines == [f"blaze_utils: pictures in {tmp_path / 'found'}: 2"]
    assert out.split()[:3] == ["image", "face", "score"] and "sub/a.jpg" in out
    for name in ("a", "sub/a"):
        copy, original = (read_image(p) for p in (tmp_path / f"found/{name}.png",
                                                  photos / f"{name}.jpg"))
        assert copy.shape == original.shape and not np.array_equal(copy, original)


def test_detect_gives_json_of_all_faces(photos, capsys):
    arguments = ["detect", photos / "sub" / "a.jpg", "--json", "--no-pictures"]
    result = json.loads(call(capsys, *arguments, "--score-threshold", 0.9)[1])
    faces = result["images"][0]["faces"]
    assert result["images"][0]["image"] == "a.jpg" and result["not_read"] == []
    assert faces and all(face["score"] >= 0.9 for face in faces)
    assert np.shape(faces[0]["box"]) == (4,) and np.shape(faces[0]["landmarks"]) == (5, 2)
    assert all(np.less(face["box"][:2], face["box"][2:]).all() for face in faces)


def test_an_image_without_faces_has_a_row_and_a_long_name_is_whole(tmp_path, capsys):
    name = "n" * 100 + ".png"
    cv2.imwrite(str(tmp_path / name), np.zeros((40, 40, 3), np.uint8))
    status, out, _ = call(capsys, "detect", tmp_path / name, "--no-pictures")
    assert status == 0 and out.splitlines()[1].split() == [name, "-"]


def test_what_cannot_be_read_is_named_and_counted_and_the_rest_is_done(photos, tmp_path, capsys):
    spoil(photos)
    (tmp_path / "void").mkdir()
    inputs = [photos, tmp_path / "missing.jpg", tmp_path / "void"]
    status, out, lines = call(capsys, "detect", *inputs, "--json", "--output", tmp_path / "found")
    assert status == 1
    for name in ("cut.jpg", "empty.png", "text.webp", "missing.jpg", "void"):
        assert sum(name in line for line in lines) == 1
    assert lines[-1].endswith("could not be read: 5")
    result = json.loads(out)
    assert [image["image"] for image in result["images"]] == ["a.jpg", "sub/a.jpg"]
    assert len(result["not_read"]) == 5 and len(list((tmp_path / "found").rglob("*.*"))) == 2


def test_the_file_says_whether_a_detector_is_int8_not_its_name(photos, tmp_path, int8_file, capsys):
    found, colours = [], []
    for checkpoint in (CHECKPOINT, int8_file):
        arguments = ["detect", photos / "sub" / "a.jpg", "--checkpoint", checkpoint, "--json"]
        out = call(capsys, *arguments, "--output", tmp_path / "found")[1]
        found.append(json.loads(out)["images"][0]["faces"])
        pixels = read_image(tmp_path / "found" / "a.png").reshape(-1, 3)
        colours.append([(pixels == colour).all(axis=1).sum()
                        for colour in (pictures.FLOAT_COLOUR, pictures.INT8_COLOUR)])
    float_box, int8_box = (np.array(faces[0]["box"]) for faces in found)
    assert 0 < np.abs(float_box - int8_box).max() < 10
    assert colours[0][0] > 50 > colours[0][1] and colours[1][1] > 50 > colours[1][0]


def test_the_palette_is_that_of_the_notebooks():
    def hexadecimal(colour):
        return "#{2:02X}{1:02X}{0:02X}".format(*colour)

    assert hexadecimal(pictures.FLOAT_COLOUR) == plots.FLOAT
    assert hexadecimal(pictures.INT8_COLOUR) == plots.INT8
    assert tuple(map(hexadecimal, pictures.LANDMARK_COLOURS)) == plots.LANDMARK_COLOURS


def test_pictures_never_lie_beside_originals(photos, capsys):
    assert "holds inputs" in refused(capsys, "detect", photos / "a.jpg", "--output", photos)
    assert "holds inputs" in refused(capsys, "detect", photos, "--output", photos / "sub")
    assert sorted(path.name for path in photos.rglob("*.*")) == ["a.jpg", "a.jpg"]


def test_two_inputs_of_one_name_give_two_pictures(photos, tmp_path, capsys):
    inputs = [photos / "a.jpg", photos / "sub" / "a.jpg"]
    call(capsys, "detect", *inputs, "--output", tmp_path / "found")
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["a-2.png", "a.png"]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 256))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for index in range(6):
        writer.write(SCENES[index].image)
    writer.release()
    return path


def test_frames_of_a_video(video, tmp_path, capsys):
    arguments = ["detect", video, "--every", 2, "--output", tmp_path / "found", "--json"]
    status, out, _ = call(capsys, *arguments)
    names = [image["image"] for image in json.loads(out)["images"]]
    assert status == 0 and names == [f"film.avi/{number:06d}" for number in (0, 2, 4)]
    assert read_image(tmp_path / "found" / "film.avi" / "000004.png").shape == (256, 320, 3)


def test_damaged_videos_are_named(video, tmp_path, capsys):
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    inputs = [video, tmp_path / "text.mp4", tmp_path / "missing.mp4"]
    status, _, lines = call(capsys, "detect", *inputs, "--no-pictures")
    assert status == 1 and len(lines) == 4
    for name, reason in (("film.avi", "cut short, ends after"), ("text.mp4", "not a video"),
                         ("missing.mp4", "no such file")):
        assert any(name in line and reason in line for line in lines)


# evaluate

@pytest.fixture
def labelled(tmp_path):
    draw_dataset(tmp_path / "labelled", 2, seed=4, workers=1, progress=False)
    return tmp_path / "labelled"


def test_evaluate_prints_ap_and_a_submission_gives_the_same(labelled, tmp_path, int8_file, capsys):
    submission = tmp_path / "submission"
    status, out, _ = call(capsys, "evaluate", labelled, "--submission", submission, "--json")
    direct = json.loads(out)
    assert status == 0 and direct["images"] == 2 and direct["ap"]["hard"] > 0.5
    again = json.loads(call(capsys, "evaluate", labelled, "--results", submission, "--json")[1])
    assert again["ap"] == pytest.approx(direct["ap"], abs=1e-3)
    assert again["faces"] == direct["faces"]
    table = call(capsys, "evaluate", labelled, "--checkpoint", int8_file)[1]
    assert [line.split()[:2] for line in table.splitlines()[2:]] == [
        ["AP", "easy"], ["AP", "medium"], ["AP", "hard"]]


def test_evaluate_by_the_official_files(tmp_path, capsys):
    scene = SCENES[1]
    (tmp_path / "images" / "event").mkdir(parents=True)
    shutil.copy(SCENES.root / scene.name, tmp_path / "images" / "event" / "a.jpg")
    boxes = scene.labels.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    everything = np.arange(1, len(boxes) + 1).reshape(-1, 1)
    lists = {"easy": everything, "medium": everything, "hard": everything}
    (tmp_path / "mats").mkdir()
    write_mats(tmp_path / "mats", {"event": {"a": (boxes, lists), "b": (boxes, lists)}})
    official = ["--ground-truth", tmp_path / "mats", "--json"]
    status, out, lines = call(capsys, "evaluate", tmp_path / "images", *official)
    result = json.loads(out)
    assert status == 0 and result["images"] == 1 and result["faces"] == 2 * len(boxes)
    assert 0 < result["ap"]["easy"] <= 0.5, "half of the faces lie in an image that is not there"
    assert len(lines) == 1 and "event/b.jpg" in lines[0] and "1 of 2 images" in lines[0]


def test_photographs_without_labels_can_only_be_written(photos, tmp_path, capsys):
    assert "no label.txt" in refused(capsys, "evaluate", photos)
    arguments = ["evaluate", photos, "--submission", tmp_path / "out", "--json"]
    assert json.loads(call(capsys, *arguments)[1]) == {"images": 2, "faces": None}
    assert (tmp_path / "out" / "sub" / "a.txt").is_file()


def test_a_setting_without_faces_is_null_in_json(labelled, capsys, monkeypatch):
    monkeypatch.setattr("blaze_utils.commands.evaluate.widerface_ap", lambda *_: {"easy": np.nan})
    out = call(capsys, "evaluate", labelled, "--json")[1]
    assert json.loads(out)["ap"] == {"easy": None} and "NaN" not in out


# quantize

def test_quantize_stores_a_compact_file_and_compares(photos, tmp_path, capsys):
    spoil(photos)
    output = tmp_path / "new" / "small.safetensors"
    status, out, lines = call(capsys, "quantize", photos, "--output", output, "--json")
    result = json.loads(out)
    assert status == 0 and load_int8(output).training is False
    assert result["images"] == 2 and result["skipped"] == 3
    assert [("skipped: " in line) for line in lines] == [True] * 3, "no warning, no other line"
    assert result["int8_bytes"] == output.stat().st_size < 0.3 * result["float_bytes"]
    assert result["agreement_ap"] > 0.8 and min(result["sqnr_db"].values()) > 10
    assert result["float_ms"] > 0 and result["int8_ms"] > 0


def test_quantize_takes_no_more_images_than_asked_for(photos, tmp_path, capsys, monkeypatch):
    seen = {"agreement_ap": 0.5, "sqnr_db": {"loc": 1.0}, "float_ms": 2.0, "int8_ms": 1.0}
    monkeypatch.setattr("blaze_utils.commands.quantize._comparison", lambda *_: seen)
    arguments = ["quantize", photos, "--output", tmp_path / "a", "--images", 1]
    rows = dict(line.split("  ", 1) for line in call(capsys, *arguments)[1].splitlines())
    assert rows["calibration images"].strip() == "1" and "->" in rows["size in bytes"]


def test_quantize_says_why_it_does_not(photos, tmp_path, int8_file, capsys):
    output = ["--output", tmp_path / "a"]
    quantize = ["quantize", photos, *output]
    assert "int8 already" in refused(capsys, *quantize, "--checkpoint", int8_file)
    (tmp_path / "void").mkdir()
    assert "void: no images" in refused(capsys, "quantize", tmp_path / "void", *output)
    assert "is a folder" in refused(capsys, "quantize", photos, "--output", photos)
    for path in list(photos.rglob("*.jpg")):
        path.write_bytes(b"no image")
    status, _, lines = call(capsys, *quantize)
    assert status == 1 and len(lines) == 3 and "no image in it can be read" in lines[-1]
    assert not (tmp_path / "a").exists()


def test_an_engine_that_is_not_there_is_named(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=["none"]))
    arguments = ["quantize", photos, "--output", tmp_path / "a", "--engine", "qnnpack"]
    assert "'qnnpack'" in refused(capsys, *arguments)


# diagnose

MODELS = """
from torch import nn
from torch.ao.quantization import get_default_qconfig
from blaze_utils.detector.quantizable import QuantizableBlaze
from blaze_utils.int8.eager import default_engine

def ready():
    model = QuantizableBlaze().eval()
    model.fuse_model()
    model.qconfig = get_default_qconfig(default_engine())
    return model

class Bare(nn.Module):
    def __init__(self, weights_backbone="a large download"):
        super().__init__()
        assert weights_backbone is None
        self.conv = nn.Conv2d(3, 3, 1)
    def forward(self, image, other):
        return self.conv(image[0]) + other

def broken():
    return 1 / 0

def number():
    return 5

def needy(size):
    return size
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module of the reader's in the current folder."""
    (tmp_path / "readers_models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "readers_models", raising=False)


def test_diagnose_ends_with_0_if_nothing_stands_in_the_way(models, capsys):
    status, out, _ = call(capsys, "diagnose", "readers_models:ready", "--input", "1x3x64x64")
    assert status == 0 and "no findings" in out


def test_diagnose_ends_with_1_if_there_are_findings(models, capsys):
    arguments = ["diagnose", "readers_models:Bare", "--input", "[1x3x4x4]", "--input", "1x3x4x4"]
    status, out, _ = call(capsys, *arguments)
    assert status == 1 and out.startswith("Bare, float: ") and "NO_STUBS" in out
    status, out, _ = call(capsys, *arguments, "--json")
    codes = {finding["code"] for finding in json.loads(out)}
    assert status == 1 and {"NO_STUBS"} <= codes and "RUN_FAILED" not in codes


@pytest.mark.parametrize("name, reason", [
    ("readers_models", "expected MODULE:NAME"),
    ("no_such_module:Model", "ModuleNotFoundError"),
    ("readers_models:Missing", "AttributeError"),
    ("readers_models:broken", r"readers_models.py:22)"),
    ("readers_models:number", "gives a int"),
    ("readers_models:needy", "TypeError"),
])
def test_a_model_that_cannot_be_had_ends_with_2(models, name, reason, capsys):
    status, out, lines = call(capsys, "diagnose", name)
    assert status == 2 and out == "" and len(lines) == 1 and reason in lines[0]


# errors

@pytest.mark.parametrize("command", ["evaluate", "detect", "quantize"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\0" * 8 + b"{damaged"])
def test_a_checkpoint_that_is_none_is_named(command, content, photos, tmp_path, capsys):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    assert "bad.pth" in refused(capsys, command, photos, "--checkpoint", path)
    path.unlink()
    assert "bad.pth: no such file" in refused(capsys, command, photos, "--checkpoint", path)


@pytest.mark.parametrize("command, output", [
    ("quantize", "made.bin"), ("detect", "made"), ("evaluate", "made")])
def test_a_full_disk_leaves_nothing_behind(
    command, output, labelled, tmp_path, capsys, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    option = "--submission" if command == "evaluate" else "--output"
    arguments = [command, labelled, option, tmp_path / output]
    line = refused(capsys, *arguments)
    assert os.strerror(errno.ENOSPC) in line and "made" in line
    assert [path for path in tmp_path.rglob("made*/**/*") if path.is_file()] == []
    assert list(tmp_path.glob("made.*")) == []


def run_instead(monkeypatch, function):
    monkeypatch.setattr(__main__, "parser", lambda: argparse.Namespace(
        parse_args=lambda _: argparse.Namespace(run=function)))


def fail_with(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize("error, status, line", [
    (KeyboardInterrupt(), 130, "interrupted"),
    (RuntimeError("CUDA out\nof memory"), 1, "error: CUDA out of memory"),
    (MemoryError(), 1, "error: MemoryError"),
    (FloatingPointError("no longer finite"), 1, "error: no longer finite"),
    (PermissionError(errno.EACCES, "Permission denied", "a.pth"), 1,
     "error: a.pth: Permission denied"),
    (ValueError("Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most "
                "recent call last):\n  File x\nmaintainers.drawing.DatasetError: a.jpg: bad\n"), 1,
     "error: a.jpg: bad"),
])
def test_what_a_user_can_mend_is_one_line(error, status, line, capsys, monkeypatch):
    run_instead(monkeypatch, fail_with(error))
    assert call(capsys) == (status, "", [f"blaze_utils: {line}"])


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    run_instead(monkeypatch, fail_with(TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        main([])


def test_a_warning_is_one_line(capsys, monkeypatch):
    def run(options):
        warnings.warn("first\nsecond", stacklevel=1)
        return 0

    shown = warnings.showwarning
    run_instead(monkeypatch, run)
    assert call(capsys) == (0, "", ["blaze_utils: warning: first second"])
    assert warnings.showwarning is shown


def test_no_traceback_and_no_word_from_opencv(photos):
    spoil(photos)
    (photos / "text.mp4").write_bytes(b"no video" * 100)
    command = [sys.executable, "-m", "blaze_utils", "detect", str(photos / "text.mp4"),
               *map(str, sorted(photos.glob("*.*"))), "--no-pictures"]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8",
                          env={**os.environ, "TQDM_DISABLE": "1", "PYTHONUTF8": "1"})
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "a.jpg" in done.stdout
    assert all(line.startswith("blaze_utils: ") for line in lines) and len(lines) == 6
