"""Bad input, tried: every case is an error that names the culprit, or is handled."""
import errno
import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from blaze_utils import files
from blaze_utils.detector.checkpoint import save_float
from blaze_utils.data.datasets import DatasetError, FaceFolder, PhotoFolder, read_image
from blaze_utils.detector.finding import detect
from blaze_utils.data.labels import FaceLabels, LabelError, read_labels, write_labels
from blaze_utils.detector.model import Blaze
from blaze_utils.int8.eager import quantize_static
from blaze_utils.measure.scoreboard import ScoreboardError, read_rows
from blaze_utils.measure.submission import SubmissionError, read_submission, write_submission
from maintainers.train import initialise

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

# Images. `SCENE` is RGB, with a different colour in each quarter.

SCENE = np.zeros((32, 48, 3), np.uint8)
SCENE[:16, :24], SCENE[:16, 24:] = (200, 30, 40), (20, 180, 60)
SCENE[16:, :24], SCENE[16:, 24:] = (50, 60, 220), (120, 120, 120)
QUARTERS = (slice(8, None, 16), slice(12, None, 24))  # the pixels in their middles
BGR = SCENE[..., ::-1]


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def upright(path):
    """The colours of the four quarters; a JPEG changes them a little."""
    return read_image(path)[QUARTERS].astype(int)


@pytest.mark.parametrize("mode, suffix, tolerance", [
    ("RGB", "jpg", 3), ("CMYK", "jpg", 3), ("CMYK", "tif", 1), ("RGBA", "png", 0),
    ("RGBA", "webp", 3), ("P", "png", 0), ("RGB", "tiff", 0), ("RGB", "bmp", 0),
])
def test_colour_images_of_every_kind_become_bgr(tmp_path, mode, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(SCENE)
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(path)
    np.testing.assert_allclose(upright(path), BGR[QUARTERS], atol=tolerance)


def test_transparency_is_dropped_not_blended(tmp_path):
    path = save(tmp_path / "a.png", np.dstack([SCENE, np.zeros((32, 48), np.uint8)]))
    np.testing.assert_array_equal(read_image(path), BGR)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bits_the_upper_eight_are_kept(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(cv2.imencode(path.suffix, BGR.astype(np.uint16) * 256 + 7)[1].tobytes())
    np.testing.assert_allclose(read_image(path).astype(int), BGR, atol=1)  # TIFF is rounded


@pytest.mark.parametrize("values, suffix", [
    (SCENE[..., 0], "png"), (SCENE[..., 0], "jpg"), (SCENE[..., 0].astype(np.uint16) * 257, "png"),
])
def test_grey_images_get_three_equal_channels(tmp_path, values, suffix):
    found = upright(save(tmp_path / f"a.{suffix}", values))
    np.testing.assert_allclose(found, SCENE[QUARTERS][..., :1].repeat(3, axis=2), atol=3)


@pytest.mark.parametrize("orientation, turned", [
    (1, BGR), (3, BGR[::-1, ::-1]), (6, np.rot90(BGR, -1)), (8, np.rot90(BGR)),
])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_rotation_noted_by_the_camera_is_applied(tmp_path, orientation, turned, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(save(tmp_path / f"a.{suffix}", SCENE, exif=exif))
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < 12, "turned the wrong way"


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(suffix):
    return cv2.imencode(f".{suffix}", NOISE)[1].tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_images_are_named(tmp_path, suffix, share):
    data = encoded(suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(DatasetError, match=rf"cut\.{suffix}: not an image .* or a damaged one"):
        read_image(path)


def test_an_image_with_changed_bytes_and_a_checksum_is_named(tmp_path):
    data = bytearray(encoded("png"))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(DatasetError, match="bad.png: not an image"):
        read_image(tmp_path / "bad.png")


def png_header(width, height):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("content, reason", [
    (b"", "the file is empty"),
    (b"this is no image", "not an image"),
    (b"\x89PNG\r\n\x1a\n", "not an image"),
    (bytes(1000), "not an image"),
    (png_header(60_000, 60_000), "cannot be decoded .*MAX_IMAGE_PIXELS"),
    (png_header(0, 5), "not an image"),
])
def test_files_that_are_no_images_are_named(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"bad.png: {reason}"):
        read_image(path)


def test_a_folder_with_an_images_name(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        PhotoFolder(tmp_path)
    with pytest.raises(OSError, match="a.jpg"):
        read_image(tmp_path / "a.jpg")


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}: no images"):
        PhotoFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="label.txt: not found"):
        FaceFolder(tmp_path)


@pytest.fixture(scope="module")
def model():
    return initialise(Blaze(), seed=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (17, 3), (10_000, 300)])
def test_faces_are_looked_for_in_images_of_any_size(tmp_path, model, size):
    path = save(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
    found = detect(model, read_image(path), score_threshold=0.0)
    limits = torch.tensor([size[1], size[0]] * 2)
    assert len(found) and (found.boxes >= 0).all() and (found.boxes <= limits).all()


# Calibration.

def test_a_model_in_training_mode_is_quantized_and_left_as_it_was(model):
    model.train()
    int8 = quantize_static(model, [NOISE])
    assert model.training and not int8.training


@pytest.mark.parametrize("images, reason", [
    ([], "there are none"),
    (NOISE, r"number 0: .*expected a uint8 array \[H, W, 3\] \(BGR\), got uint8 \(64, 3\)"),
    ([NOISE, NOISE[..., 0]], r"number 1: .*got uint8 \(64, 64\)"),
    ([NOISE.astype(np.float32)], "number 0: .*got float32"),
    (torch.zeros(1, 3, 64, 64), r"number 0: expected .*\[N, 3, H, W\].*got .* \[3, 64, 64\]"),
    ([torch.zeros(1, 1, 64, 64)], r"number 0: .*\[1, 1, 64, 64\]"),
    ([torch.full((1, 3, 64, 64), torch.nan)], "number 0: holds NaN"),
    ([torch.zeros(1, 3, 60, 64)], "multiples of 16 .*got 60 x 64"),
    (["a.jpg"], "number 0: .*got str"),
])
def test_images_that_cannot_calibrate_are_named(model, images, reason):
    with pytest.raises(ValueError, match=reason):
        quantize_static(model, images)


def test_an_engine_that_is_not_there_is_named_with_those_that_are(model):
    with pytest.raises(ValueError, match=r"engine: 'tpu' is not in this build .*which has \["):
        quantize_static(model, [NOISE], engine="tpu")


# A full disk.

class FullDisk(io.FileIO):
    def write(self, data):
        super().write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FACE = FaceLabels(np.array([[1, 2, 3, 4]]), np.zeros((1, 5, 2)), *np.zeros((5, 1)))


@pytest.mark.parametrize("store", [
    lambda path, model: save_float(model, path),
    lambda path, model: write_labels(path, {"a.jpg": FACE}),
    lambda path, model: write_submission(path.parent, {f"{path.stem}.jpg": [[1, 2, 3, 4, 0.5]]}),
])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, model, monkeypatch, store):
    path = tmp_path / "result.txt"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fdopen", lambda handle, mode: FullDisk(handle, mode))
    with pytest.raises(OSError, match="(?i)no space left"):
        store(path, model)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# The parsers, fed with all that hypothesis thinks of. Derandomized: the same cases every time.

fed = settings(derandomize=True, database=None, deadline=None, max_examples=200,
               suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = ["1", "0.5", "0.82", "1e-1", "1.0"] * 2 + ["1e-9", "0", "3", "7.5", "1_0"]
BAD = ["-1", "-0.0", "999999", "nan", "inf", "1e400", "x", "#", "9" * 30, "\u2028"]
WORDS = st.sampled_from(GOOD * 20 + BAD)  # most lines are fine, so that the next one is read too


def lines_of(*sizes):
    return st.one_of(*(st.lists(WORDS, min_size=size, max_size=size).map(" ".join)
                       for size in sizes))


def files_of(lines, odd):
    """Lines, at times an odd one among them, with either line end; or any bytes."""
    texts = st.tuples(st.lists(lines, max_size=3), st.lists(odd, max_size=1),
                      st.lists(lines, max_size=3), st.sampled_from(["\n", "\r\n"]))
    return texts.map(lambda parts: parts[3].join(sum(parts[:3], [])).encode()) | st.binary(
        max_size=60)


ODD = st.one_of(st.sampled_from(["", "  ", "\ufeff", "#"]), lines_of(3, 24), st.text(max_size=8))
NAME_LINES = st.sampled_from(["# a.jpg", "#b.jpg", "\ufeff# e/脸.jpg"])
FACES = lines_of(4, 20, 25)
LABEL_FILES = st.tuples(NAME_LINES, files_of(FACES | FACES | NAME_LINES, ODD)).map(
    lambda parts: parts[0].encode() + b"\n" + parts[1])
ROWS = st.lists(lines_of(5), max_size=3)
RESULTS = st.tuples(st.sampled_from(["a", "a.jpg", "e/a.png", "b"]), ROWS).map(
    lambda parts: "\n".join([parts[0], str(len(parts[1])), *parts[1]]).encode())
RESULT_FILES = st.one_of(RESULTS, RESULTS, files_of(lines_of(1, 5), ODD))
HEADER = "variant,engine,ap_easy,ap_medium,ap_hard,latency_ms,latency_ratio,kilobytes,notebook"
BOARDS = st.lists(st.lists(WORDS, min_size=9, max_size=9).map(",".join), max_size=3).map(
    lambda rows: "\n".join([HEADER, *rows, ""]).encode())


def accepted(path, content, read, error):
    """What ``read`` makes of a file; None if it refuses it with its own error, which names it."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except error as found:
        assert str(found).startswith(str(path))
        return None


@fed
@given(content=LABEL_FILES)
def test_label_files_are_read_or_refused_and_what_is_read_can_be_written(tmp_path, content):
    path = tmp_path / "label.txt"
    labels = accepted(path, content, lambda: read_labels(path), LabelError)
    if labels is None:
        return
    write_labels(path, labels)
    again = read_labels(path)
    assert list(again) == list(labels)
    for one, other in zip(again.values(), labels.values(), strict=True):
        for name, array in vars(one).items():
            np.testing.assert_allclose(array, getattr(other, name), rtol=1e-6, atol=0.2)
        assert np.isfinite(one.boxes).all() and (one.boxes[:, :2] < one.boxes[:, 2:]).all()


@fed
@given(content=RESULT_FILES)
def test_results_are_read_or_refused_and_what_is_read_can_be_written(tmp_path, content):
    path = tmp_path / "a.txt"
    found = accepted(path, content, lambda: read_submission(tmp_path), SubmissionError)
    if found is None:
        return
    (name, rows), = found.items()
    write_submission(tmp_path, found)
    assert name.startswith("a.") and path.exists()
    again = read_submission(tmp_path)[name]
    np.testing.assert_allclose(again, rows[np.argsort(-rows[:, 4], kind="stable")], rtol=1e-8)


NUMBERS = st.floats(-1e4, 1e4, width=32)
NAMES = st.text("aZ0é脸 ._-/\\\n\0\u2028", min_size=1, max_size=8)


@pytest.mark.skipif(os.name == "nt", reason="Windows alters names that end in a dot or a space")
@fed
@given(name=NAMES, folder=st.sampled_from(["", "0--Parade/", "a/b/"]),
       rows=st.lists(st.tuples(NUMBERS, NUMBERS, st.floats(0, 1e4), st.floats(0, 1e4),
                               st.floats(0, 1, width=32)), max_size=3))
def test_results_of_any_name_come_back_or_are_refused(tmp_path_factory, name, folder, rows):
    target = tmp_path_factory.mktemp("results")
    values = np.array(rows, float).reshape(-1, 5)
    values[:, 2:4] += values[:, :2]
    try:
        write_submission(target, {f"{folder}{name}.jpg": values})
    except SubmissionError as error:
        assert "image name" in str(error) and not list(target.iterdir())
    else:
        (found, back), = read_submission(target).items()
        assert found == f"{folder}{name}.jpg"
        order = np.argsort(-values[:, 4], kind="stable")
        np.testing.assert_allclose(back, values[order], rtol=1e-7, atol=1e-4)


@fed
@given(content=BOARDS | files_of(lines_of(9), ODD))
def test_scoreboards_are_read_or_refused(tmp_path, content):
    path = tmp_path / "scoreboard.csv"
    rows = accepted(path, content, lambda: read_rows(path), ScoreboardError)
    assert rows is None or len({row.variant for row in rows}) == len(rows)
