"""Photographs as they are in the world: read, skipped and named, or damaged and named."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from blaze_utils.data import DataError, PhotoFolder, read_image

# RGB, with another colour in each quarter; JPEG and its like change the colours a little.
SCENE = np.zeros((32, 48, 3), np.uint8)
SCENE[:16, :24], SCENE[:16, 24:] = (200, 30, 40), (20, 180, 60)
SCENE[16:, :24], SCENE[16:, 24:] = (50, 60, 220), (120, 120, 120)
BGR = SCENE[..., ::-1]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def pil(kind, mode="RGB", **options):
    image = Image.fromarray(SCENE)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def opencv(suffix, image=BGR):
    return cv2.imencode(suffix, image)[1].tobytes()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pil("JPEG", exif=exif, quality=95)


def png_header(width, height):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


BGRA = np.dstack([BGR, np.zeros((32, 48), np.uint8)])
GREY = SCENE[..., 0]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)

READ = {
    "a.jpg": (pil("JPEG", quality=95), BGR),
    "b.jfif": (pil("JPEG", quality=95), BGR),
    "c.JPEG": (pil("JPEG", quality=95), BGR),
    "d.jpe": (pil("JPEG", quality=95, progressive=True), BGR),
    "e without a suffix": (pil("JPEG", quality=95), BGR),
    "f.png, but a jpeg.png": (pil("JPEG", quality=95), BGR),
    "g.txt": (pil("PNG"), BGR),
    "grüße 脸/h.png": (pil("PNG"), BGR),
    ".hidden.png": (pil("PNG"), BGR),
    "cmyk.jpg": (pil("JPEG", "CMYK", quality=95), BGR),
    "cmyk.tif": (pil("TIFF", "CMYK"), BGR),
    "palette.png": (pil("PNG", "P"), BGR),
    "transparent.png": (opencv(".png", BGRA), BGR),
    "transparent.webp": (pil("WEBP", "RGBA", lossless=True), BGR),
    "16 bit.png": (opencv(".png", BGR.astype(np.uint16) * 256 + 7), BGR),
    "16 bit.tif": (opencv(".tif", BGR.astype(np.uint16) * 256 + 7), BGR),
    "grey.png": (opencv(".png", GREY), GREY[..., None].repeat(3, axis=2)),
    "grey 16 bit.png": (opencv(".png", GREY.astype(np.uint16) * 257), GREY[..., None]),
    "grey.jpg": (pil("JPEG", "L"), None),
    "one bit.png": (pil("PNG", "1"), None),
    "turned 3.jpg": (turned(3), BGR[::-1, ::-1]),
    "turned 6.jpg": (turned(6), np.rot90(BGR, -1)),
    "turned 8.jpg": (turned(8), np.rot90(BGR)),
    "animated.gif": (pil("GIF", save_all=True, append_images=[Image.new("RGB", (48, 32))]), BGR),
    "pages.tif": (pil("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]), BGR),
    "one pixel.png": (opencv(".png", BGR[:1, :1]), BGR[:1, :1]),
    **{f"i{suffix}": (opencv(suffix), BGR) for suffix in (".bmp", ".tiff", ".jp2", ".ppm")},
    "i.webp": (opencv(".webp"), None),
}
SUFFIXES = [".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif"]
if cv2.haveImageWriter("a.avif"):  # not in every build of OpenCV
    READ["i.avif"] = (opencv(".avif"), None)
    SUFFIXES.append(".avif")

SKIPPED = {
    "a.heic": (HEIC, "HEIC, which OpenCV cannot read (export it as JPEG)"),
    "phone.jpg": (HEIC, "HEIC, which OpenCV cannot read (export it as JPEG)"),
    "empty.jpg": (b"", "an empty file"),
    "notes.txt": (b"not a picture\n", "text"),
    "page.jpg": (b"<!DOCTYPE html>\n<html>404</html>", "an HTML page (the download went wrong)"),
    "a.xmp": (b"<x:xmpmeta/>", "XML"),
    "drawing.svg": (b'<svg xmlns=""></svg>', "XML"),
    "a.json": (b'{"faces": []}', "JSON"),
    "lfs.jpg": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "a pointer of Git LFS (git lfs pull gets the file itself)",
    ),
    "a.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(200), "a video"),
    "a.mov.jpg": (b"\0\0\0\x14ftypqt  " + bytes(90), "a video"),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "a.zip": (b"PK\x03\x04" + bytes(26), "a zip archive"),
    "weights": (b"\x80\x02}q\0.", "a Python pickle"),
    "zeros.png": (bytes(1000), "a file of unknown kind"),
}

DAMAGED = {
    "a.png": (b"\x89PNG\r\n\x1a\n", "damaged or cut short: this is an image"),
    "b.jpg": (b"\xff\xd8\xff", "damaged or cut short: this is a JPEG image"),
    "c.png": (png_header(60_000, 60_000), "cannot be decoded .*MAX_IMAGE_PIXELS"),
    "d.png": (png_header(0, 5), "damaged or cut short"),
    **{
        f"{share} of a{suffix}": (
            (data := opencv(suffix, NOISE))[: int(len(data) * share)],
            "damaged or cut short",
        )
        for suffix in SUFFIXES
        for share in (0.1, 0.5, 0.98)
    },
}


def write(folder, files):
    for name, (content, _) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_every_photograph_is_read_or_named(tmp_path):
    write(tmp_path, {**READ, **SKIPPED})
    for name in ("label.txt", "drawn.json", "Thumbs.db", ".DS_Store", "._a.jpg"):
        (tmp_path / name).write_bytes(b"of the system")
    with pytest.warns(UserWarning) as caught:
        photos = PhotoFolder(tmp_path)
    assert photos.names == sorted(READ)
    assert photos.skipped == {name: kind for name, (_, kind) in SKIPPED.items()}
    assert len(caught) == 1
    assert f"{len(SKIPPED)} files are not read" in str(caught[0].message)
    assert "a.heic, phone.jpg: HEIC, which OpenCV cannot read" in str(caught[0].message)
    assert [sample.name for sample in photos] == photos.names and photos[0].labels is None


@pytest.mark.parametrize("name", READ)
def test_what_is_read_has_the_colours_and_the_sides_that_a_viewer_shows(tmp_path, name):
    content, expected = READ[name]
    (tmp_path / "a").write_bytes(content)
    image = PhotoFolder(tmp_path)[0].image
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if expected is None:  # a format that changes the colours
        assert image.shape[:2] == (32, 48)
        return
    assert image.shape[:2] == expected.shape[:2]
    differences = np.abs(image.astype(int) - expected)
    assert np.median(differences) <= 4, "other colours, or turned the wrong way"


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_no_image_is_named_with_what_it_is(tmp_path, name):
    write(tmp_path, {"one/" + name: SKIPPED[name]})
    kind = SKIPPED[name][1]
    with pytest.raises(FileNotFoundError) as caught:
        PhotoFolder(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no images. one/{name}: {kind}"
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "one" / name)
    assert str(caught.value) == f"{tmp_path / 'one' / name}: no image: this is {kind}"


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_named_where_they_are_read(tmp_path, name):
    write(tmp_path, {name: DAMAGED[name]})
    with pytest.raises(DataError, match=DAMAGED[name][1]) as caught:
        PhotoFolder(tmp_path)[0]
    assert str(caught.value).startswith(str(tmp_path / name))


def test_folders_that_are_missing_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        PhotoFolder(tmp_path / "nowhere")
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        PhotoFolder(tmp_path)
    with pytest.raises(OSError, match="a.jpg"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")
@pytest.mark.parametrize("target", ["nowhere.jpg", "."])
def test_links_that_lead_to_no_file_are_named(tmp_path, target):
    (tmp_path / "a.jpg").symlink_to(tmp_path / target)
    with pytest.raises(FileNotFoundError, match="no images. a.jpg: a link that leads to no file"):
        PhotoFolder(tmp_path)
